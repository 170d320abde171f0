"""Depth Anything 3 and MoGe-2 as the cascade's metric depth: their numbers, their metres, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from made_weights import Record, made_images
from parity import assert_parity
from published_files import write_llava_3d, write_vggt
from safetensors.torch import save_file
from torch import Tensor

from vidllm.baselines.depth_estimator import DepthEstimator
from vidllm.baselines.geometry import MetricNetwork, build_metric
from vidllm.baselines.geometry.depth_anything_3 import DepthAnything3Metric
from vidllm.baselines.geometry.moge_2 import MoGe2, depth_shift
from vidllm.geometry.cameras import unproject
from vidllm.io.weight_files import open_checkpoint
from vidllm.model.loading import load_pretrained
from vidllm.pretrained import Ingredients, import_model
from vidllm.pretrained.conversion import load_strictly, plan, planned
from vidllm.pretrained.depth_estimators import PREFIX, depth_estimator_fields, depth_estimator_source
from vidllm.profiling import count

EVERY = 7  # pixels of a map that a record keeps


def write(folder: Path, golden: Path, name: str, **changes: Any) -> Path:
    """A network as published: Depth Anything 3 as safetensors, MoGe-2 with its settings in one file."""
    record = Record(golden / "geometry" / f"{name}.npz")
    folder.mkdir(parents=True)
    settings = record.settings | changes
    if name == "moge":
        torch.save({**settings, "model": record.weights()}, folder / "model.pt")
    else:
        save_file(record.weights(), folder / "model.safetensors")
        (folder / "config.json").write_text(json.dumps(settings))
    return folder


def load(place: Path) -> MetricNetwork:
    """The network by itself."""
    checkpoint = open_checkpoint(place)
    settings = dict(depth_estimator_fields(checkpoint)["metric_model"])
    network, source = build_metric({"kind": settings.pop("model_type"), **settings}), depth_estimator_source(checkpoint)
    report = plan({PREFIX + name: tensor.shape for name, tensor in network.state_dict().items()}, [source])
    load_strictly(network, {name.removeprefix(PREFIX): t for name, t in planned(report, [source])}, "parity")
    return network.eval()


def sampled(values: Tensor) -> Tensor:
    return values.flatten(-2)[..., ::EVERY]


@torch.no_grad()
def test_depth_anything_3_gives_its_authors_numbers(golden: Path, tmp_path: Path):
    network, images = load(write(tmp_path / "d", golden, "da3_metric")), made_images(2, 42, 70)[0]
    assert isinstance(network, DepthAnything3Metric)
    expected = Record(golden / "geometry" / "da3_metric.npz").outputs
    depth, sky = network.canonical(images)
    assert_parity(sampled(depth)[None], expected["depth"], "DA3 metric depth")
    assert_parity(sampled(sky)[None], expected["sky"], "DA3 sky")
    metres = network(images, torch.tensor([[590.0, 610.0], [300.0, 300.0]]))
    assert torch.equal(metres.isinf(), sky >= 0.3) and bool((sky >= 0.3).any()) and bool((sky < 0.3).any())
    seen = sky < 0.3
    torch.testing.assert_close(metres[seen], (depth * torch.tensor([2.0, 1.0])[:, None, None])[seen])


@torch.no_grad()
def test_moge_2_gives_its_authors_numbers(golden: Path, tmp_path: Path):
    network, images = load(write(tmp_path / "d", golden, "moge")), made_images(2, 48, 64)[0]
    assert isinstance(network, MoGe2)
    expected = Record(golden / "geometry" / "moge.npz").outputs
    points, mask, scale = network.affine(images)
    assert_parity(sampled(points.movedim(-1, 1)), expected["points"], "MoGe-2 points")
    assert_parity(sampled(mask), expected["mask"], "MoGe-2 mask")
    assert_parity(scale, expected["scale"], "MoGe-2 metres a unit")


def test_the_shift_puts_points_on_their_pixels():
    """Points of a known camera whose depth was moved: the shift moves it back, whatever the masked pixels say."""
    torch.manual_seed(0)
    depth = 1 + 2 * torch.rand(2, 48, 64)
    focal = torch.tensor([[60.0, 66.0], [50.0, 50.0]])
    k = torch.diag_embed(torch.cat((focal, torch.ones(2, 1)), -1))
    k[:, 0, 2], k[:, 1, 2] = 32, 24
    points = unproject(depth, k)
    moved = points - torch.tensor([0.0, 0, 0.8])
    mask = torch.rand(2, 48, 64) > 0.3
    moved[~mask] = 100.0
    torch.testing.assert_close(depth_shift(moved, mask, focal), torch.full((2,), 0.8), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(depth_shift(points, mask, focal), torch.zeros(2), atol=1e-5, rtol=0)
    assert torch.equal(depth_shift(moved, torch.zeros_like(mask), focal), torch.zeros(2))


@pytest.mark.parametrize(
    ("settings", "parameters"),
    [
        ({"kind": "depth_anything_3_metric", "hidden_size": 1024, "depth": 24, "num_heads": 16, "cross_from": 24,
          "tap_layers": [4, 11, 17, 23], "features": 256, "out_channels": [256, 512, 1024, 1024]}, 334_171_394),
        ({"kind": "moge_2"}, 326_209_221),
    ],
)  # fmt: skip
def test_published_sizes(settings: dict[str, Any], parameters: int):
    with torch.device("meta"):
        network: Any = build_metric(settings)
    unread = network.encoder.embeddings.mask_token.numel() if "depth" in settings["kind"] else 0
    assert count(network) - unread == parameters


@torch.no_grad()
@pytest.mark.parametrize("name", ["da3_metric", "moge"])
def test_their_metres_become_the_cascades(golden: Path, tmp_path: Path, name: str):
    place = write(tmp_path / "d", golden, name)
    given = Ingredients(vggt=write_vggt(tmp_path / "vggt", golden), llava_3d=write_llava_3d(tmp_path / "l", golden),
                        metric_depth=place, shorter_side=56)  # fmt: skip
    report = import_model("cascade", given, tmp_path / "m")
    assert not report.initial and not any("no metric depth model" in note for note in report.notes)
    model, _ = load_pretrained(tmp_path / "m")
    assert isinstance(model.metric, DepthEstimator)
    theirs = load(place).state_dict()
    for key, tensor in model.metric.network.state_dict().items():
        assert torch.equal(tensor, theirs[key]), key
    images = made_images(2, 42, 56)
    k = torch.tensor([[60.0, 0, 28], [0, 60, 21], [0, 0, 1]]).expand(1, 2, 3, 3)
    found = model.metric(images, k)
    assert found.shape == (1, 2, 42, 56) and bool(found.isfinite().any())
    geometry = model.encode_scene(images).geometry
    assert geometry.metric_depth_m is not None and bool(geometry.depth_m.isfinite().all())


@pytest.mark.parametrize(
    ("name", "changes", "told"),
    [
        ("da3_metric", {"model_name": "da3mono-large"}, "names no metric Depth Anything 3"),
        ("da3_metric", {"config": {}}, "does not say which of 6 layers"),
        ("moge", {"model_config": {}}, "no model_config with the weights"),
        ("moge", {"model_config": {"encoder": {"intermediate_layers": 4}, "remap_output": "sinh"}}, "remap_output"),
        ("moge", {"model_config": {"encoder": {"intermediate_layers": 4}, "remap_output": "exp",
                                   "neck": {"activation": "silu"}}}, "neck.activation 'silu' is not supported"),
    ],
)  # fmt: skip
def test_other_forms_are_refused(golden: Path, tmp_path: Path, name: str, changes: dict[str, Any], told: str):
    with pytest.raises(ValueError, match=told):
        depth_estimator_fields(open_checkpoint(write(tmp_path / "d", golden, name, **changes)))


def test_a_moge_without_metres_is_refused(golden: Path, tmp_path: Path):
    record = Record(golden / "geometry" / "moge.npz")
    fewer = {name: tensor for name, tensor in record.weights().items() if not name.startswith("scale_head")}
    torch.save({**record.settings, "model": fewer}, tmp_path / "model.pt")
    with pytest.raises(ValueError, match=r"not a MoGe-2 that gives metres \(scale.0.weight is missing\)"):
        depth_estimator_fields(open_checkpoint(tmp_path))
