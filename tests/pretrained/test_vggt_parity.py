"""Loaded with VGGT's weights, the reconstruction branch gives VGGT's numbers."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from parity import assert_parity
from safetensors.torch import load_file, save_file
from torch import Tensor

from vidllm.geometry.cameras import encode_pose, unproject
from vidllm.pretrained import VGGTReconstruction, load_vggt


@pytest.fixture(scope="module")
def folder(golden: Path) -> Path:
    return golden / "vggt_tiny_a"


@pytest.fixture(scope="module")
def constructor(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "README.json").read_text())["constructor"]


@pytest.fixture(scope="module")
def weights(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "weights.safetensors")


@pytest.fixture(scope="module")
def model(folder: Path, constructor: dict[str, Any]) -> VGGTReconstruction:
    return load_vggt(folder / "weights.safetensors", constructor)


@pytest.fixture(scope="module")
def images(folder: Path) -> Tensor:
    return load_file(folder / "inputs.safetensors")["images"].float()


@pytest.fixture(scope="module")
def reference(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "outputs.safetensors")


@torch.no_grad()
def test_outputs(model: VGGTReconstruction, images: Tensor, reference: dict[str, Tensor]):
    found = model(images)
    assert set(found) == {
        "pose_enc", "extrinsics", "intrinsics", "depth", "depth_conf", "world_points", "world_points_conf"
    }  # fmt: skip
    for name, value in found.items():
        assert_parity(value, reference[name], f"VGGT {name}")
    again = encode_pose(found["extrinsics"], found["intrinsics"], (56, 84))
    assert_parity(again, reference["pose_enc_roundtrip"], "VGGT pose_enc_roundtrip")
    points = unproject(found["depth"][..., 0], found["intrinsics"], found["extrinsics"], offset=0.0)
    assert_parity(points, reference["world_points_from_depth"], "VGGT world_points_from_depth")
    assert_parity(model(images[0])["depth"], reference["depth"], "VGGT depth, without a batch")


@torch.no_grad()
def test_intermediate_tokens(model: VGGTReconstruction, images: Tensor, reference: dict[str, Tensor]):
    seen = model.encoder(images)
    assert_parity(seen.tokens[0], reference["vit_x_norm_patchtokens"], "VGGT encoder")
    attended = model.attention(seen.tokens, seen.grid, [0, 1, 3])
    for layer, tokens in attended.intermediate_features.items():
        assert_parity(tokens, reference[f"aggregated_tokens.{layer}"][:, :, 5:], f"VGGT attention, pair {layer}")
    assert_parity(attended.special, reference["aggregated_tokens.3"][:, :, :5], "VGGT camera and register tokens")
    for iteration, pose in enumerate(model.camera_head(attended.special[:, :, 0])):
        assert_parity(pose, reference[f"pose_enc_iter.{iteration}"], f"VGGT camera head, refinement {iteration}")


@torch.no_grad()
def test_without_the_point_head(constructor: dict[str, Any], weights: dict[str, Tensor], images: Tensor):
    fewer = {key: tensor for key, tensor in weights.items() if not key.startswith("point_head.")}
    fewer["track_head.anything"] = torch.zeros(1)
    config = {part: values for part, values in constructor.items() if part != "point_head"}
    assert "world_points" not in load_vggt(fewer, config)(images)
    with pytest.raises(ValueError, match=r"unexpected: point_head\.decoder"):
        load_vggt(weights, config)


@torch.no_grad()
def test_batches_frames_and_portrait(model: VGGTReconstruction, images: Tensor):
    one = model(images[:, :1])
    two = model(torch.cat((images[:, :1], images[:, 1:2])))
    for name, value in one.items():
        torch.testing.assert_close(two[name][:1], value, atol=1e-4, rtol=1e-4)
    assert model(images.transpose(-1, -2))["depth"].shape == (1, 3, 84, 56, 1)


def test_file_formats(tmp_path: Path, constructor: dict[str, Any], weights: dict[str, Tensor]):
    torch.save({"model": weights}, tmp_path / "checkpoint.pt")
    keys = sorted(weights)
    for part, some in (("00001", keys[::2]), ("00002", keys[1::2])):
        save_file({key: weights[key] for key in some}, tmp_path / f"model-{part}-of-00002.safetensors")
    for path in (tmp_path / "checkpoint.pt", tmp_path):
        loaded = load_vggt(path, constructor)
        assert not loaded.training
        assert all(p.dtype == torch.float32 and not p.is_meta for p in loaded.parameters())
    with pytest.raises(ValueError, match="no weights"):
        load_vggt(tmp_path / "absent", constructor)


def test_keys_that_do_not_fit_are_all_named(constructor: dict[str, Any], weights: dict[str, Tensor]):
    broken = dict(weights)
    del broken["camera_head.token_norm.weight"]
    broken["aggregator.surprise"] = torch.zeros(1)
    broken["depth_head.norm.weight"] = torch.zeros(3)
    with pytest.raises(ValueError) as error:
        load_vggt(broken, constructor)
    for expected in ("missing: camera_head.token_norm.weight", "unexpected: aggregator.surprise", "is (3,), expected"):
        assert expected in str(error.value)


@pytest.mark.parametrize(
    ("part", "field", "value"),
    [
        ("aggregator", "aa_order", ["global", "frame"]),
        ("aggregator", "aa_block_size", 2),
        ("aggregator", "qkv_bias", False),
        ("aggregator", "init_values", 0),
        ("aggregator", "unknown", 1),
        ("vit", "embed_dim", 32),
        ("camera_head", "dim_in", 64),
        ("camera_head", "fl_act", "tanh"),
        ("depth_head", "down_ratio", 2),
        ("depth_head", "activation", "square"),
        ("depth_head", "intermediate_layer_idx", [0, 1, 2, 4]),
        ("depth_head", "patch_size", 16),
        ("point_head", "feature_only", True),
    ],
)
def test_what_we_do_not_compute_raises(
    constructor: dict[str, Any], weights: dict[str, Tensor], part: str, field: str, value: Any
):
    config = copy.deepcopy(constructor)
    config[part][field] = value
    with pytest.raises(ValueError):
        load_vggt(weights, config)


def test_vggt_1b_has_the_published_size():
    from vidllm.pretrained.vggt import vggt_parts

    with torch.device("meta"):
        model = VGGTReconstruction(vggt_parts())
    assert sum(p.numel() for p in model.parameters()) == 1_190_596_120
