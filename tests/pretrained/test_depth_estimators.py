"""Any depth estimator of transformers that gives metres serves the cascade; others are refused with the reason."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from published_files import write_llava_3d, write_vggt
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForDepthEstimation,
    DepthAnythingConfig,
    DepthProConfig,
    DPTConfig,
    GLPNConfig,
    ZoeDepthConfig,
)

from vidllm.baselines.cascade import CascadeForConditionalGeneration
from vidllm.baselines.depth_estimator import METRIC, DepthEstimator, DepthInput
from vidllm.cli import main
from vidllm.model.loading import load_pretrained
from vidllm.model.priors import KnownScale
from vidllm.pretrained import Ingredients, import_model

DINO = {"model_type": "dinov2", "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 14,
        "image_size": 28}  # fmt: skip


def anything(kind: str = "metric") -> DepthAnythingConfig:
    backbone = {**DINO, "num_hidden_layers": 4, "out_indices": [1, 2, 3, 4], "reshape_hidden_states": False}
    return DepthAnythingConfig(
        backbone_config=backbone, reassemble_hidden_size=16, neck_hidden_sizes=[8, 8, 8, 8], fusion_hidden_size=8,
        head_hidden_size=8, depth_estimation_type=kind, max_depth=20,
    )  # fmt: skip


def zoe() -> ZoeDepthConfig:
    backbone = {"model_type": "beit", "image_size": 32, "patch_size": 16, "num_hidden_layers": 4, "hidden_size": 16,
                "intermediate_size": 32, "num_attention_heads": 2, "use_relative_position_bias": True,
                "reshape_hidden_states": False, "out_features": ["stage1", "stage2", "stage3", "stage4"]}  # fmt: skip
    return ZoeDepthConfig(
        backbone_config=backbone, neck_hidden_sizes=[8, 8, 8, 8], fusion_hidden_size=8, bottleneck_features=8,
        num_relative_features=8, bin_embedding_dim=8,
        bin_configurations=[{"n_bins": 8, "min_depth": 0.001, "max_depth": 10.0}],
    )  # fmt: skip


def glpn() -> GLPNConfig:
    return GLPNConfig(depths=[1, 1, 1, 1], hidden_sizes=[8, 8, 8, 8], num_attention_heads=[1, 1, 2, 2],
                      decoder_hidden_size=8)  # fmt: skip


def pro() -> DepthProConfig:
    small = {**DINO, "patch_size": 4, "image_size": 16}
    return DepthProConfig(
        patch_size=16, fusion_hidden_size=8, intermediate_hook_ids=[1, 0], intermediate_feature_dims=[8, 8],
        scaled_images_feature_dims=[8, 8, 8], use_fov_model=True, image_model_config=small, patch_model_config=small,
        fov_model_config=small,
    )  # fmt: skip


CONFIGS = {"depth_anything": anything, "zoedepth": zoe, "glpn": glpn, "depth_pro": pro}
SMALL = {"size": {"height": 56, "width": 56}, "ensure_multiple_of": 14, "keep_aspect_ratio": True}
PICTURES = {"depth_anything": SMALL, "zoedepth": {**SMALL, "ensure_multiple_of": 32}}


def save(folder: Path, kind: str) -> Path:
    torch.manual_seed(1)
    AutoModelForDepthEstimation.from_config(CONFIGS[kind]()).save_pretrained(folder)
    if kind in PICTURES:
        (folder / "preprocessor_config.json").write_text(json.dumps(PICTURES[kind]))
    return folder


@pytest.fixture(scope="module")
def places(golden: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("published")
    return {"vggt": write_vggt(folder / "vggt", golden), "llava": write_llava_3d(folder / "llava", golden)}


def ingredients(places: dict[str, Path], estimator: Path) -> Ingredients:
    return Ingredients(vggt=places["vggt"], llava_3d=places["llava"], metric_depth=estimator, shorter_side=56)


@torch.no_grad()
@pytest.mark.parametrize("kind", sorted(METRIC))
def test_an_estimators_metres_become_the_cascades(places: dict[str, Path], tmp_path: Path, kind: str):
    folder = save(tmp_path / "depth", kind)
    report = import_model("cascade", ingredients(places, folder), tmp_path / "m")
    assert not report.initial and not any("no metric depth model" in note for note in report.notes)
    model, _ = load_pretrained(tmp_path / "m")
    assert isinstance(model, CascadeForConditionalGeneration) and isinstance(model.metric, DepthEstimator)
    theirs = AutoModelForDepthEstimation.from_pretrained(folder).eval()
    for name, tensor in model.metric.network.state_dict().items():
        assert torch.equal(tensor, theirs.state_dict()[name]), name
    images = torch.rand(1, 2, 3, 42, 56)
    k = torch.tensor([[60.0, 0, 28], [0, 60, 21], [0, 0, 1]]).expand(1, 2, 3, 3)
    found = model.metric(images, k)
    assert found.shape == (1, 2, 42, 56) and bool((found >= 0).all())
    torch.testing.assert_close(found[:, 1:], model.metric(images[:, 1:], k[:, 1:]))  # frame by frame
    geometry = model.encode_scene(images).geometry
    assert geometry.metric_depth_m is not None
    torch.testing.assert_close(geometry.metric_depth_m, model.metric(images, geometry.intrinsics))
    assert torch.equal(model.encode_scene(images, KnownScale(factor=1.0)).geometry.scale.scale, torch.ones(1))


@torch.no_grad()
def test_depth_is_what_transformers_itself_gives(tmp_path: Path):
    """Depth Anything at its own size: our normalisation and grid against theirs."""
    theirs = AutoModelForDepthEstimation.from_pretrained(save(tmp_path / "d", "depth_anything")).eval()
    wants = DepthInput(56, 56, True, 14, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    ours = DepthEstimator(theirs.config.to_dict(), vars(wants)).eval()
    ours.network.load_state_dict(theirs.state_dict())
    images = torch.rand(1, 1, 3, 56, 70)
    mean, std = (torch.tensor(v)[:, None, None] for v in (wants.mean, wants.std))
    expected = theirs((images[0] - mean) / std).predicted_depth
    torch.testing.assert_close(ours(images, torch.eye(3).expand(1, 1, 3, 3))[0], expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_depth_pro_knows_the_focal_length_from_us(tmp_path: Path):
    theirs = AutoModelForDepthEstimation.from_pretrained(save(tmp_path / "d", "depth_pro"), use_fov_model=False).eval()
    theirs.head.layers[-2].weight.mul_(1e-4)
    torch.nn.init.constant_(theirs.head.layers[-2].bias, 0.5)
    ours = DepthEstimator(theirs.config.to_dict(), vars(DepthInput(64, 64, False, 1, (0.5,) * 3, (0.5,) * 3))).eval()
    ours.network.load_state_dict(theirs.state_dict())
    images, k = torch.rand(1, 1, 3, 64, 64), torch.diag(torch.tensor([64.0, 64.0, 1.0]))[None, None]
    near, far = ours(images, k), ours(images, 2 * k)
    torch.testing.assert_close(far, 2 * near, atol=1e-5, rtol=1e-4)
    inverse = theirs((images[0] - 0.5) / 0.5).predicted_depth[:, None]
    inverse = torch.nn.functional.interpolate(inverse, (64, 64), mode="bilinear")[:, 0]
    torch.testing.assert_close(near[0], 1 / inverse, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("wants", "size", "expected"),
    [
        (METRIC["depth_anything"], (480, 640), (518, 686)),  # DPTImageProcessor's lower bound of 518
        (METRIC["zoedepth"], (480, 640), (384, 512)),
        (METRIC["depth_pro"], (480, 640), (1536, 1536)),
        (METRIC["glpn"], (480, 650), (480, 640)),
    ],
)
def test_pictures_get_the_size_that_was_trained(wants: DepthInput, size: tuple[int, int], expected: tuple[int, int]):
    assert wants.size(*size) == expected


def test_what_gives_no_metres_is_refused(
    places: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    def told(place: str | Path) -> str:
        capsys.readouterr()
        assert main(["import", "--preset", "cascade", "--vggt", str(places["vggt"]), "--llava-3d",
                     str(places["llava"]), "--metric-depth", str(place), "-o", str(tmp_path / "m")]) == 2  # fmt: skip
        lines = capsys.readouterr().err.strip().splitlines()
        assert len(lines) == 1, lines
        return lines[0]

    AutoModelForDepthEstimation.from_config(anything("relative")).save_pretrained(tmp_path / "relative")
    assert "gives relative depth; take one of its metric models" in told(tmp_path / "relative")
    (tmp_path / "dpt").mkdir()
    save_file({"x": torch.zeros(1)}, tmp_path / "dpt" / "model.safetensors")
    (tmp_path / "dpt" / "config.json").write_text(json.dumps({"model_type": DPTConfig.model_type}))
    assert "a dpt model cannot give metres: its depth is relative" in told(tmp_path / "dpt")
    assert "a None model" not in told(places["vggt"]) and "model_type" in told(places["vggt"])
    folder = save(tmp_path / "glpn", "glpn")
    file = folder / "model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    assert "truncated" in told(folder)
    file.write_bytes(whole)
    fewer = load_file(file)
    fewer.pop(sorted(fewer)[0])
    save_file(fewer, file, {"format": "pt"})
    assert "lacks 1 weights" in told(folder)
    assert not (tmp_path / "m").exists()


def test_terms_are_told(places: dict[str, Path], tmp_path: Path):
    folder = save(tmp_path / "depth", "zoedepth")
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    report = import_model("cascade", ingredients(places, folder), tmp_path / "m")
    assert "licence   ZoeDepth" in str(report) and "its card says mit" in str(report)
    with pytest.raises(ValueError, match="give one metric depth model"):
        import_model("cascade", Ingredients(**{**vars(ingredients(places, folder)), "metric": folder}), tmp_path / "n")
