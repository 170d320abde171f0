"""Imported into the cascade, LLaVA-3D's weights give LLaVA-3D's numbers, stage by stage."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from parity import assert_parity
from published_files import write_llava_3d, write_tokenizer, write_vggt
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoTokenizer

from vidllm.baselines import llava_3d
from vidllm.baselines.cascade import CascadeForConditionalGeneration
from vidllm.model.loading import load_pretrained
from vidllm.model.outputs import VisualPrefix
from vidllm.model.patches_3d import voxel_pool
from vidllm.model.text import add_special_tokens_for
from vidllm.pretrained import Ingredients, import_model


@pytest.fixture(scope="module")
def model(golden: Path, tmp_path_factory: pytest.TempPathFactory) -> CascadeForConditionalGeneration:
    folder = tmp_path_factory.mktemp("import")
    vggt, llava = write_vggt(folder / "vggt", golden), write_llava_3d(folder / "llava", golden)
    import_model("cascade", Ingredients(vggt=vggt, llava_3d=llava, shorter_side=56), folder / "cascade")
    loaded = load_pretrained(folder / "cascade")[0]
    assert isinstance(loaded, CascadeForConditionalGeneration)
    return loaded


@pytest.fixture(scope="module")
def inputs(golden: Path) -> dict[str, Tensor]:
    return load_file(golden / "llava3d_tiny" / "inputs.safetensors")


@pytest.fixture(scope="module")
def reference(golden: Path) -> dict[str, Tensor]:
    return load_file(golden / "llava3d_tiny" / "outputs.safetensors")


@pytest.fixture(scope="module")
def points(inputs: dict[str, Tensor]) -> Tensor:
    depth = inputs["scene0.depth_units"].float() / 1000
    return llava_3d.patch_points(depth, inputs["scene0.intrinsics"], inputs["scene0.poses"], 14)


@pytest.fixture(scope="module")
def features(model: CascadeForConditionalGeneration, inputs: dict[str, Tensor]) -> Tensor:
    pixels = inputs["scene0.pixels"].float() / 255  # already resized and cropped: only normalised here
    with torch.no_grad():
        return model.clip_features(llava_3d.clip_images(pixels, 56))


@pytest.fixture(scope="module")
def prefix(model: CascadeForConditionalGeneration, features: Tensor, points: Tensor) -> VisualPrefix:
    with torch.no_grad():
        positions = points.flatten(2, 3)
        return model.pool_patches(features, None, positions, positions.isfinite().all(-1))


def test_clip_features(features: Tensor, reference: dict[str, Tensor]):
    assert_parity(features[0], reference["scene0.clip_features"], "LLaVA-3D clip_features")


def test_points_and_their_embedding(
    model: CascadeForConditionalGeneration, points: Tensor, reference: dict[str, Tensor]
):
    assert_parity(points, reference["scene0.world_xyz"], "LLaVA-3D world_xyz")
    with torch.no_grad():
        assert_parity(model.position_embedding(points[:, :1]), reference["scene0.pos_embed"], "LLaVA-3D pos_embed")


def test_voxels_and_projector(prefix: VisualPrefix, reference: dict[str, Tensor]):
    assert torch.equal(prefix.patch_index, reference["scene0.point_to_voxel"].long())
    assert_parity(prefix.patches[0], reference["scene0.pooled_voxel_features"], "LLaVA-3D pooled voxels")
    assert_parity(prefix.tokens[0], reference["scene0.projected"], "LLaVA-3D projected")


def test_halves_round_to_even(inputs: dict[str, Tensor], reference: dict[str, Tensor]):
    xyz = inputs["unit.xyz"]
    pooled = voxel_pool(torch.zeros(1, xyz.shape[1], 1), xyz, torch.ones(xyz.shape[:2], dtype=torch.bool), 0.2, 2560)
    assert torch.equal(pooled.inverse, reference["unit.point_to_voxel"])


@torch.no_grad()
def test_clicks_and_the_whole_sequence(
    model: CascadeForConditionalGeneration, prefix: VisualPrefix, inputs: dict[str, Tensor],
    reference: dict[str, Tensor],
):  # fmt: skip
    clicks = inputs["prompt_b.clicks"]
    assert_parity(model.coordinate_embedding(clicks), reference["prompt_b.prompt_features"], "LLaVA-3D clicks")
    ids = inputs["prompt_b.input_ids"].clone()
    ids[ids == -200], ids[ids == -300] = model.config.video_token_id, model.config.coord_token_id
    whole = model.prepare(ids, coordinates=clicks[None], prefix=prefix)
    assert_parity(whole.embeddings, reference["prompt_b.inputs_embeds"], "LLaVA-3D whole sequence")
    through = model.language_model(inputs_embeds=reference["prompt_b.inputs_embeds"]).logits
    assert_parity(model.language_model(inputs_embeds=whole.embeddings).logits, through, "LLaVA-3D logits")


def test_prompts_are_llava_3ds(tmp_path: Path):
    write_tokenizer(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    add_special_tokens_for(tokenizer)
    head, tail = llava_3d.encode_parts(tokenizer, "USER: <video>\nhow many chairs ? ASSISTANT:")
    assert head[0] == tokenizer.bos_token_id and head[-1] == tokenizer.convert_tokens_to_ids("<video>")
    assert tokenizer.decode(tail).startswith("how many chairs ?")
    assert llava_3d.encode_parts(tokenizer, "USER: <video>\n") == (head, [])
    assert llava_3d.phrased("How many chairs?").endswith("Answer the question using one word or one phrase.")
    assert "<coord>" in llava_3d.phrased("Describe the object at <coord>.")
    with pytest.raises(ValueError, match="without a grounding decoder"):
        llava_3d.encode_parts(tokenizer, "USER: <video>\nFind: x ASSISTANT: <loc>")


def test_depth_crop_keeps_the_rays():
    depth = torch.rand(1, 2, 56, 84) + 1
    k = torch.tensor([[70.0, 0, 42], [0, 60, 28], [0, 0, 1]]).expand(1, 2, 3, 3)
    square, cropped = llava_3d.clip_depth(depth, k, 28)
    assert square.shape == (1, 2, 28, 28)
    torch.testing.assert_close(cropped[0, 0], torch.tensor([[35.0, 0, 14], [0, 30, 14], [0, 0, 1]]))
    portrait, _ = llava_3d.clip_depth(depth.transpose(-1, -2), k, 28)
    torch.testing.assert_close(portrait.transpose(-1, -2), square)
    assert llava_3d.clip_images(torch.rand(1, 2, 3, 84, 56), 28).shape == (1, 2, 3, 28, 28)
