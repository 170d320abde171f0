"""The whole model: where its parts meet, what flows back through them, and how Hugging Face handles it."""

from __future__ import annotations

import math

import pytest
import torch
from helpers import COORD, LOC, VIDEO, micro_config, micro_model, scatter, video
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForImageTextToText, AutoModelForMultimodalLM, AutoProcessor

from vidllm.model.configuration import DenseHeadConfig, MetricDepthConfig, PatchesConfig
from vidllm.model.generation import splice
from vidllm.model.huggingface import VidLLMConfig, VidLLMForConditionalGeneration, VidLLMProcessor
from vidllm.model.loading import register
from vidllm.model.text import build_tokenizer

GEOMETRY = ("attention", "camera_head", "depth_head", "point_head", "gravity_head", "metric_depth")
IDS = torch.tensor([[1, 6, VIDEO, 7, 8, 9, LOC]])


@pytest.fixture(scope="module")
def model():
    return micro_model()


def logits(model, ids=IDS, images=None, **kwargs):
    with torch.no_grad():
        return model(input_ids=ids, pixel_values=video() if images is None else images, **kwargs).logits


def close(a, b, tolerance=1e-5):
    a, b = a.detach(), b.detach()
    assert a.shape == b.shape
    assert float((a - b).abs().max()) <= tolerance * max(1.0, float(b.abs().max()))


# ---- Hugging Face ---------------------------------------------------------------------------------------------------


def test_saving_and_loading_gives_the_same_bits_through_every_class(model, tmp_path):
    register()
    model.save_pretrained(tmp_path)
    VidLLMProcessor.from_config(micro_config(), build_tokenizer(["how many chairs?"], 300)).save_pretrained(tmp_path)
    assert type(AutoConfig.from_pretrained(tmp_path)) is VidLLMConfig
    assert AutoConfig.from_pretrained(tmp_path).to_dict()["encoder"] == model.config.to_dict()["encoder"]
    assert type(AutoProcessor.from_pretrained(tmp_path)) is VidLLMProcessor
    wanted = logits(model)
    for kind in (VidLLMForConditionalGeneration, AutoModelForImageTextToText, AutoModelForMultimodalLM):
        assert torch.equal(logits(kind.from_pretrained(tmp_path, dtype=torch.float32).eval()), wanted)


def test_weights_that_a_checkpoint_lacks_are_constructed_not_left_empty(model, tmp_path):
    model.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    lost = {n for n in saved if not n.startswith(("language_model", "encoder", "depth_head"))}
    kept = {n: t for n, t in saved.items() if n not in lost}
    save_file(kept, tmp_path / "model.safetensors", metadata={"format": "pt"})
    loaded, report = VidLLMForConditionalGeneration.from_pretrained(tmp_path, output_loading_info=True)
    assert set(report["missing_keys"]) == lost
    state, fresh = loaded.state_dict(), VidLLMForConditionalGeneration(micro_config()).state_dict()
    assert all(torch.equal(state[n], t) for n, t in kept.items() if not n.startswith("encoder"))
    for name in lost:
        assert bool(state[name].isfinite().all()), name
        if fresh[name].numel() > 200:
            assert math.isclose(float(state[name].std()), float(fresh[name].std()), rel_tol=0.3, abs_tol=1e-4), name
        constant = bool((fresh[name] == fresh[name].flatten()[0]).all())  # norms, gammas, zero biases
        if constant and fresh[name].numel() > 1:
            assert torch.equal(state[name], fresh[name]), name
    assert state["gravity_head.fc2.bias"].tolist() == [0, -1, 0]
    assert state["camera_head.base_pose"].tolist() == fresh["camera_head.base_pose"].tolist()


def test_the_vocabulary_grows_and_stays_tied():
    model = micro_model()
    before = logits(model)
    model.resize_token_embeddings(50, mean_resizing=False)
    assert model.config.text_config.vocab_size == 50
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    close(logits(model)[..., :40], before)
    untied = micro_config()
    untied.text_config.tie_word_embeddings = False
    other = VidLLMForConditionalGeneration(untied)
    other.resize_token_embeddings(50, mean_resizing=False)
    assert other.get_output_embeddings().weight.shape == (50, 32)
    assert other.get_output_embeddings().weight is not other.get_input_embeddings().weight


def test_greedy_generation_is_the_argmax_of_forward(model):
    images, ids = video(), IDS[:, :6]
    said = model.generate(input_ids=ids, pixel_values=images, max_new_tokens=6, do_sample=False)
    assert said.shape[1] <= 6
    for token in said[0].tolist():
        assert token == int(logits(model, ids, images)[0, -1].argmax())
        ids = torch.cat([ids, torch.tensor([[token]])], 1)
    prefix = model.encode_scene(images).prefix
    again = model.generate(input_ids=IDS[:, :6], prefix=prefix, max_new_tokens=6, do_sample=False)
    assert torch.equal(again, said)


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # peft still asks by the old name
def test_lora_wraps_the_language_model():
    model = micro_model()
    wrapped = get_peft_model(model, LoraConfig(r=2, target_modules=r"language_model.*\.(q_proj|v_proj)"))
    out = wrapped(input_ids=IDS, pixel_values=video(), labels=IDS)
    out.loss.backward()
    trained = {n for n, p in wrapped.named_parameters() if p.grad is not None}
    assert trained and all("lora_" in n and "language_model" in n for n in trained)


# ---- batches, precision, kernels ------------------------------------------------------------------------------------


def test_a_batch_of_one_equals_a_batch_of_many(model):
    images = video(batch=2)
    rows = [[1, 6, VIDEO, 7, 8, 9, 10, 11], [1, 6, VIDEO, 12]]
    ids, mask = torch.zeros(2, 8, dtype=torch.long), torch.zeros(2, 8, dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, -len(row) :], mask[i, -len(row) :] = torch.tensor(row), 1
    together = logits(model, ids, images, attention_mask=mask)
    for i, row in enumerate(rows):
        alone = logits(model, torch.tensor([row]), images[i : i + 1])
        close(together[i, -alone.shape[1] :][None], alone)
    said = model.generate(
        input_ids=ids, attention_mask=mask, pixel_values=images, max_new_tokens=4, min_new_tokens=4, do_sample=False
    )
    for i, row in enumerate(rows):
        alone = model.generate(
            input_ids=torch.tensor([row]), pixel_values=images[i : i + 1], max_new_tokens=4, min_new_tokens=4,
            do_sample=False,
        )
        assert said[i].tolist() == alone[0].tolist()


def test_bfloat16_stays_near_float32(model):
    images = video()
    with torch.no_grad():
        full = model.encode_scene(images).geometry
        half_model = micro_model().to(torch.bfloat16)
        found = half_model.encode_scene(images.bfloat16())
        half, prefix = found.geometry, found.prefix
        out = half_model(input_ids=IDS, pixel_values=images.bfloat16())
    assert prefix.tokens.dtype is torch.bfloat16 and bool(out.logits.isfinite().all())
    close(half.extrinsics, full.extrinsics, 0.05)
    assert float((half.depth_m / full.depth_m - 1).abs().median()) < 0.05
    close(half.up, full.up, 0.05)


def test_written_out_attention_equals_the_fused_kernel(model):
    fused = logits(model)
    with_grad = model(input_ids=IDS, pixel_values=video()).logits  # under autograd a CPU takes plain products
    close(with_grad.detach(), fused)
    eager = micro_model()
    eager.language_model.set_attn_implementation("eager")
    close(logits(eager), fused)


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing_enable:FutureWarning")  # all versions know it
def test_gradient_checkpointing_changes_nothing():
    def gradients(model):
        model.train()
        geometry = model.encode_scene(video()).geometry
        loss = model(input_ids=IDS, pixel_values=video(), labels=IDS).loss + geometry.depth_m.mean()
        loss.backward()
        return loss.detach(), {n: p.grad for n, p in model.named_parameters() if p.grad is not None}

    plain = micro_model()
    saving = micro_model()
    saving.gradient_checkpointing_enable()
    assert saving.attention.gradient_checkpointing and saving.encoder.gradient_checkpointing
    (loss, wanted), (other, found) = gradients(plain), gradients(saving)
    close(other, loss)
    assert set(found) == set(wanted)
    for name, gradient in wanted.items():
        close(found[name], gradient, 1e-4)


# ---- what flows back ------------------------------------------------------------------------------------------------


def test_the_language_loss_never_reaches_the_geometry():
    model = micro_model()
    found = model.encode_scene(video())
    geometry, prefix = found.geometry, found.prefix
    assert geometry.depth_m.requires_grad
    hidden = model.prepare(IDS, prefix=prefix)
    out = model.language_model(inputs_embeds=hidden.embeddings, labels=torch.full_like(hidden.token_ids, 7))
    boxes = model.ground(prefix, torch.randn(1, 1, 32))
    (out.loss + boxes.boxes.sum() + boxes.logits.exp().sum()).backward()
    for name, parameter in model.named_parameters():
        if name.startswith(GEOMETRY):
            assert parameter.grad is None or not bool(parameter.grad.any()), name
    for part in ("adapter", "encoder", "projector", "position_embedding", "language_model", "grounding"):
        grads = [p.grad for p in getattr(model, part).parameters() if p.grad is not None]
        assert any(bool(g.any()) for g in grads), part
    assert bool(model.adapter.exchange.read_geometry.query.weight.grad.any())  # through the bridge, both streams


# ---- symmetries and shapes ------------------------------------------------------------------------------------------


def test_permuting_the_later_frames_permutes_the_geometry(model):
    images, order = video(frames=4), torch.tensor([0, 3, 1, 2])
    with torch.no_grad():
        straight, turned = (model.encode_scene(x).geometry for x in (images, images[:, order]))
    close(turned.extrinsics, straight.extrinsics[:, order])
    close(turned.depth_m, straight.depth_m[:, order], 1e-4)
    close(turned.intrinsics, straight.intrinsics[:, order])
    close(turned.up, straight.up)
    close(turned.scale.scale, straight.scale.scale)


@pytest.mark.parametrize(
    ("adapter", "parts"),
    [
        ({"variant": "none"}, {}),
        ({"variant": "concat_self_attention"}, {}),
        ({"variant": "cross_attention"}, {}),
        ({"bridge_per_frame": True}, {}),
        ({"fuse_streams": True}, {}),
        ({"geometry_rider": False, "language_rider": False}, {}),
        ({}, {"patches": PatchesConfig(max_patches=64, positions=False)}),
        ({}, {"metric_depth": MetricDepthConfig(enabled=False)}),
        ({}, {"dense_head": DenseHeadConfig(8, (8, 8, 8, 8), (0, 1, 2, 3), point_head=False)}),
    ],
)
def test_every_ablation_runs(adapter, parts):
    model = micro_model(adapter=adapter, **parts)
    features = model.encode(video())
    geometry = model.metric_geometry(features, model.predict_cameras(features))
    prefix = model.build_visual_tokens(features, geometry)
    riders = 0
    if model.config.adapter.language_rider and features.streams.bridge is not None:
        riders = 9 if model.config.adapter.bridge_per_frame else 3
    assert prefix.tokens.shape[1] == riders + prefix.patches.shape[1]
    assert bool(model(input_ids=IDS, pixel_values=video()).logits.isfinite().all())
    assert (geometry.metric_depth_m is None) == (not model.config.metric_depth.enabled)
    if model.metric_depth is None:
        assert geometry.scale.scale.tolist() == [1.0]
        with pytest.raises(ValueError, match="no metric depth"):
            model.predict_metric_depth(features, geometry.intrinsics)
    if model.point_head is None:
        with pytest.raises(ValueError, match="no point head"):
            model.predict_points(model.predict_cameras(features), features.image_size)
    else:
        assert model.predict_points(model.predict_cameras(features), features.image_size)[0].shape == (1, 3, 28, 42, 3)


def test_without_positions_the_patches_do_not_depend_on_the_geometry():
    model = micro_model(patches=PatchesConfig(max_patches=64, voxel_size_m=1e-4, positions=False))
    features = model.encode(video())
    geometry = model.metric_geometry(features, model.predict_cameras(features))
    first = model.build_visual_tokens(features, geometry)
    geometry.depth_m = geometry.depth_m * 2
    second = model.build_visual_tokens(features, geometry)
    close(second.patches.sum(1), first.patches.sum(1), 1e-4)
    assert not torch.allclose(second.patch_positions, first.patch_positions)


@pytest.mark.parametrize(("frames", "height", "width"), [(1, 28, 28), (2, 56, 28), (1, 14, 42)])
def test_one_frame_portrait_and_small_pictures(model, frames, height, width):
    with torch.no_grad():
        found = model.encode_scene(video(frames, height, width))
        geometry, prefix = found.geometry, found.prefix
    assert geometry.depth_m.shape == geometry.confidence.shape == (1, frames, height, width)
    assert geometry.extrinsics.shape == (1, frames, 3, 4) and geometry.intrinsics.shape == (1, frames, 3, 3)
    close(geometry.extrinsics[0, 0], torch.eye(4)[:3])
    close(geometry.intrinsics[0, :, 0, 2], torch.full((frames,), width / 2))
    assert bool(prefix.tokens.isfinite().all()) and bool(prefix.mask.all())
    assert bool((geometry.depth_m > 0).all())


def test_the_scale_multiplies_depth_and_translation_alike(model):
    features = model.encode(video())
    cameras = model.predict_cameras(features)
    geometry = model.metric_geometry(features, cameras)
    relative, _ = model.predict_depth(cameras, features.image_size)
    scale = geometry.scale.scale
    close(geometry.depth_m, relative * scale[:, None, None, None])
    model_without = micro_model()
    model_without.metric_depth = None
    unscaled = model_without.metric_geometry(features, cameras)
    close(geometry.extrinsics[..., 3], unscaled.extrinsics[..., 3] * scale[:, None, None])
    close(geometry.extrinsics[..., :3], unscaled.extrinsics[..., :3])


def test_the_patch_size_is_the_encoders():
    config = micro_config()
    config.encoder.patch_size = 7
    config.encoder.image_size = 14
    model = scatter(VidLLMForConditionalGeneration(config)).eval()
    with torch.no_grad():
        assert model.encode_scene(video(2, 21, 14)).geometry.depth_m.shape == (1, 2, 21, 14)


# ---- points and places in the text ----------------------------------------------------------------------------------


def test_coordinates_stand_where_their_tokens_are(model):
    ids = torch.tensor([[1, COORD, 7, COORD], [1, 7, 8, COORD]])
    points = torch.tensor([[[1.0, 2, 3], [4, 5, 6]], [[7, 8, 9], [0, 0, 0]]])
    embedded = model.embed_text(ids, points)
    wanted = model.coordinate_embedding(points)
    assert torch.equal(embedded[0, 1], wanted[0, 0]) and torch.equal(embedded[0, 3], wanted[0, 1])
    assert torch.equal(embedded[1, 3], wanted[1, 0])
    assert torch.equal(embedded[:, 2], model.get_input_embeddings()(ids[:, 2]))
    with pytest.raises(ValueError, match="2 <coord> tokens but 1 coordinates"):
        model.embed_text(ids, points[:, :1])


def test_loc_states_are_those_of_the_loc_tokens(model):
    with torch.no_grad():
        out = model(input_ids=IDS, pixel_values=video(), output_hidden_states=True)
    assert torch.equal(out.loc_hidden, out.hidden_states[-1][:, -1])
    assert model(input_ids=IDS[:, :-1], pixel_values=video()).loc_hidden.shape == (0, 32)


def test_the_scene_replaces_its_token_and_nothing_else():
    ids = torch.tensor([[0, 1, VIDEO, 7], [1, 8, VIDEO, 9]])
    mask = torch.tensor([[0, 1, 1, 1], [1, 1, 1, 1]])
    embeddings = torch.randn(2, 4, 5)
    scene, alive = torch.randn(2, 2, 5), torch.tensor([[True, True], [True, False]])
    whole = splice(ids, embeddings, mask, ids, (scene, alive), VIDEO)
    assert whole.token_ids.tolist() == [[1, -1, -1, 7], [1, 8, -1, 9]]
    assert whole.labels.tolist() == [[1, -100, -100, 7], [1, 8, -100, 9]]
    assert torch.equal(whole.embeddings[0], torch.stack([embeddings[0, 1], *scene[0], embeddings[0, 3]]))
    assert torch.equal(whole.embeddings[1], torch.stack([*embeddings[1, :2], scene[1, 0], embeddings[1, 3]]))
    short = splice(ids[:, 1:], embeddings[:, 1:], mask[:, 1:], None, (scene[:, :1].repeat(1, 3, 1),
                   torch.tensor([[True, False, False], [True, True, True]])), VIDEO)  # fmt: skip
    assert short.attention_mask.tolist() == [[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]] and short.labels is None
    assert short.position_ids.tolist() == [[0, 0, 0, 1, 2], [0, 1, 2, 3, 4]]


@pytest.mark.parametrize(
    ("row", "with_scene", "reason"),
    [([1, 7], True, "exactly one <video>"), ([VIDEO, VIDEO], True, "received 2"), ([VIDEO], False, "no video was")],
)
def test_a_scene_without_a_place_or_a_place_without_a_scene_is_refused(model, row, with_scene, reason):
    with pytest.raises(ValueError, match=reason):
        model(input_ids=torch.tensor([row]), pixel_values=video() if with_scene else None)
