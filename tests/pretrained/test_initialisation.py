"""Before any training: Vid-LLM's geometry is VGGT's, its language half is LLaVA-3D's on CLIP's tokens, so the whole is
the cascade when its language stream is CLIP's."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from published_files import write_llava_3d, write_vggt
from safetensors.torch import load_file
from torch import Tensor

from vidllm.baselines import llava_3d
from vidllm.baselines.cascade import CascadeForConditionalGeneration
from vidllm.model.huggingface import VidLLMForConditionalGeneration
from vidllm.model.loading import load_pretrained
from vidllm.model.priors import KnownScale
from vidllm.pretrained import Ingredients, import_model, load_vggt
from vidllm.scene import VidLLM

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from before_distillation import start_of_distillation

PATCH, SIDE = 14, 56


@pytest.fixture(scope="module")
def places(golden: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("init")
    made = {"vggt": write_vggt(folder / "vggt", golden),
            "llava": write_llava_3d(folder / "llava", golden, mm_hidden_size=64)}  # fmt: skip
    for preset in ("cascade", "tiny"):
        given = Ingredients(vggt=made["vggt"], llava_3d=made["llava"], shorter_side=SIDE)
        import_model(preset, given, folder / preset)
        made[preset] = folder / preset
    return made


@pytest.fixture(scope="module")
def cascade(places: dict[str, Path]) -> CascadeForConditionalGeneration:
    model = load_pretrained(places["cascade"])[0]
    assert isinstance(model, CascadeForConditionalGeneration)
    return model


@pytest.fixture(scope="module")
def vid_llm(places: dict[str, Path]) -> VidLLMForConditionalGeneration:
    return load_pretrained(places["tiny"])[0]


@pytest.fixture(scope="module")
def images(golden: Path) -> Tensor:
    return load_file(golden / "vggt_tiny_a" / "inputs.safetensors")["images"].float()


@torch.no_grad()
def test_both_reconstruct_as_vggt(
    places: dict[str, Path], cascade: CascadeForConditionalGeneration, vid_llm: VidLLMForConditionalGeneration,
    images: Tensor,
):  # fmt: skip
    constructor = json.loads((places["vggt"] / "config.json").read_text())
    vggt = load_vggt(places["vggt"] / "model.safetensors", constructor)(images)
    for model in (cascade, vid_llm):
        features = model.encode(images)
        cameras = model.predict_cameras(features)
        depth, confidence = model.predict_depth(cameras, features.image_size)
        torch.testing.assert_close(cameras.pose_encodings[-1], vggt["pose_enc"], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(depth, vggt["depth"][..., 0], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(confidence, vggt["depth_conf"], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_the_whole_is_the_cascade_on_clips_tokens(
    cascade: CascadeForConditionalGeneration, vid_llm: VidLLMForConditionalGeneration, places: dict[str, Path]
):
    """Given one depth a patch, our rays through patch centres are LLaVA-3D's through corners of a shifted camera."""
    images = torch.rand(1, 3, 3, SIDE, SIDE)
    features = cascade.encode(images)
    geometry = cascade.encode_scene(images, KnownScale(factor=2.0), features=features).geometry
    tiles = torch.rand(1, 3, SIDE // PATCH, SIDE // PATCH) * 3 + 1
    depth = tiles.repeat_interleave(PATCH, 2).repeat_interleave(PATCH, 3)
    geometry = replace(geometry, depth_m=depth)
    shifted = geometry.intrinsics.clone()
    shifted[..., :2, 2] += PATCH / 2 - llava_3d.PIXEL_OFFSET
    centres = vid_llm.patch_positions(replace(geometry, intrinsics=shifted), (SIDE // PATCH,) * 2)
    ours = vid_llm.pool_patches(features.streams.language, None, *centres)
    theirs = cascade.build_visual_tokens(features, geometry)
    torch.testing.assert_close(ours.patch_positions, theirs.patch_positions, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours.tokens, theirs.tokens, atol=1e-5, rtol=1e-5)
    ids = torch.tensor([[1, vid_llm.config.video_token_id, 7, 8, vid_llm.config.coord_token_id, 9]])
    point = torch.tensor([[[0.5, -1.0, 0.3]]])
    logits = [m.language_model(inputs_embeds=m.prepare(ids, coordinates=point, prefix=prefix).embeddings).logits
              for m, prefix in ((vid_llm, ours), (cascade, theirs))]  # fmt: skip
    torch.testing.assert_close(*logits, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_the_adapter_passes_both_streams_through(vid_llm: VidLLMForConditionalGeneration, images: Tensor):
    features = vid_llm.encode(images)
    assert torch.equal(features.streams.geometry, features.encoder.tokens)
    assert torch.equal(features.streams.language, features.encoder.tokens)
    assert not vid_llm.config.adapter.geometry_rider and not vid_llm.config.adapter.language_rider


def test_a_cascade_reads_a_video_and_answers(places: dict[str, Path], tmp_path: Path):
    model = VidLLM(*load_pretrained(places["cascade"]))
    clip = (torch.rand(4, 40, 60, 3) * 255).to(torch.uint8).numpy()
    with pytest.raises(ValueError, match="cannot know metres"):
        model.reconstruct(clip, 3)
    scene = model.reconstruct(clip, 3, KnownScale(factor=1.5))
    twice = model.reconstruct(clip, 3, KnownScale(factor=3.0))
    assert scene.scale.value == 1.5 and not any("metric scale" in doubt for doubt in scene.scale.warnings)
    torch.testing.assert_close(twice.depth, 2 * scene.depth)
    torch.testing.assert_close(twice.points, 2 * scene.points, atol=1e-3, rtol=1e-4)
    assert isinstance(scene.ask("how many chairs are there ?", max_new_tokens=4), str)
    question = "how many chairs are there ?"
    assert scene.ask_all([(question, None)], 4) == [scene.ask(question, None, 4)]
    assert isinstance(scene.describe((0.1, 0.2, 0.3), 3), str)
    assert scene.save(tmp_path / "out")
    with pytest.raises(ValueError, match="without a grounding decoder"):
        scene.ground("the chair")


@torch.no_grad()
def test_a_vid_llms_metric_depth_gives_the_cascade_metres(places: dict[str, Path], tmp_path: Path, images: Tensor):
    given = Ingredients(vggt=places["vggt"], llava_3d=places["llava"], metric=places["tiny"], shorter_side=SIDE)
    report = import_model("cascade", given, tmp_path / "m")
    assert {source for name, (source, _) in report.loaded.items() if name.startswith("metric.")} == {
        "metric depth model"
    }
    model, _ = load_pretrained(tmp_path / "m")
    geometry = model.encode_scene(images).geometry
    assert bool(geometry.scale.valid.all()) and geometry.metric_depth_m is not None
    ratio = (geometry.metric_depth_m / geometry.depth_m).log().flatten().median().exp()
    assert 0.5 < float(ratio) < 2.0
    assert torch.equal(model.encode_scene(images, KnownScale(factor=1.0)).geometry.scale.scale, torch.ones(1))


# ---- the whole, before any training -------------------------------------------------------------------------------


def test_every_weight_of_the_cascade_but_clips_is_in_the_vid_llm(
    cascade: CascadeForConditionalGeneration, vid_llm: VidLLMForConditionalGeneration
):
    theirs, ours = cascade.state_dict(), vid_llm.state_dict()
    assert {name.split(".")[0] for name in theirs.keys() - ours.keys()} == {"clip", "point_head"}  # tiny predicts none
    assert {name.split(".")[0] for name in ours.keys() - theirs.keys()} == {
        "adapter", "gravity_head", "metric_depth", "grounding"
    }  # fmt: skip
    for name in theirs.keys() & ours.keys():
        assert torch.equal(theirs[name], ours[name]), name


@torch.no_grad()
def test_the_whole_reconstructs_and_answers_as_the_cascade_when_its_language_stream_is_clips(
    cascade: CascadeForConditionalGeneration, vid_llm: VidLLMForConditionalGeneration
):
    """From pictures to next-token logits; LLaVA-3D's room frame and patch corners stand in for ours."""
    images, known = torch.rand(1, 3, 3, SIDE, SIDE), KnownScale(factor=2.0)
    found = cascade.encode_scene(images, known)
    theirs, prefix = found.geometry, found.prefix
    features = vid_llm.encode(images)
    geometry = vid_llm.encode_scene(images, known, features=features).geometry
    for name in ("extrinsics", "intrinsics", "depth_m", "confidence"):
        torch.testing.assert_close(getattr(geometry, name), getattr(theirs, name), atol=1e-5, rtol=1e-5)
    corners = geometry.depth_m[..., ::PATCH, ::PATCH]
    intrinsics = geometry.intrinsics.clone()
    intrinsics[..., :2, 2] += PATCH / 2 - llava_3d.PIXEL_OFFSET
    geometry = replace(
        geometry, depth_m=corners.repeat_interleave(PATCH, -2).repeat_interleave(PATCH, -1), intrinsics=intrinsics,
        scene_from_world=theirs.scene_from_world,
    )  # fmt: skip
    clip = cascade.clip_features(llava_3d.clip_images(images, cascade.clip_side))
    swapped = replace(features, streams=replace(features.streams, language=clip))
    ours = vid_llm.build_visual_tokens(swapped, geometry)
    torch.testing.assert_close(ours.tokens, prefix.tokens, atol=1e-5, rtol=1e-5)
    ids = torch.tensor([[1, vid_llm.config.video_token_id, 6, 7, 8, 9, 10, 11]])
    said = [model.language_model(inputs_embeds=model.prepare(ids, prefix=p).embeddings).logits
            for model, p in ((vid_llm, ours), (cascade, prefix))]  # fmt: skip
    torch.testing.assert_close(*said, atol=1e-5, rtol=1e-5)
    own = vid_llm.build_visual_tokens(features, geometry)  # distillation has to bring the encoder's tokens to CLIP's
    read = vid_llm.language_model(inputs_embeds=vid_llm.prepare(ids, prefix=own).embeddings).logits
    assert float((read[:, -1] - said[1][:, -1]).abs().max()) > 1e-3


@torch.no_grad()
def test_what_distillation_has_to_close_is_the_language_stream_alone(
    cascade: CascadeForConditionalGeneration, vid_llm: VidLLMForConditionalGeneration
):
    images = torch.rand(1, 2, 3, SIDE, SIDE)
    found = start_of_distillation(vid_llm, cascade, images)
    assert found["geo"] < 1e-9 and found["lang"] > 0.05 and found["structure"] > 1e-3
    twin = start_of_distillation(cascade, cascade, images)
    assert max(twin.values()) < 1e-6
