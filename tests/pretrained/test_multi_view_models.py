"""Pi3, Pi3X, MapAnything and VGGT-Omega: their authors' numbers, their place in the cascade, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from helpers import line_of_failure
from made_weights import Record, made_images
from parity import assert_parity, geometry_network
from published_files import write_llava_3d
from safetensors.torch import save_file
from torch import Tensor

from vidllm.baselines.geometry import build_geometry
from vidllm.baselines.geometry.parts import central_intrinsics
from vidllm.cli import main
from vidllm.geometry.cameras import decode_pose, invert_extrinsics, unproject
from vidllm.geometry.rotations import quaternion_to_matrix
from vidllm.model.loading import load_pretrained
from vidllm.model.priors import KnownScale
from vidllm.pretrained import Ingredients, import_model
from vidllm.profiling import count

RECORDS = Path(__file__).parents[1] / "golden" / "geometry"
EVERY = 7  # pixels of a map that a record keeps
NAMES = {"pi3": "pi3", "pi3x": "pi3x", "map-anything": "map_anything", "vggt-omega": "vggt_omega"}
SIZES = ((1, 56, 56), (3, 42, 70))  # frames, height and width of the records
SIDES = {"pi3x": 14, "map-anything": 14, "vggt-omega": 16}  # of a patch


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Each network as published."""
    folders = {}
    for name, record in NAMES.items():
        folders[name] = tmp_path_factory.mktemp(record)
        seen = Record(RECORDS / f"{record}.npz")
        (folders[name] / "config.json").write_text(json.dumps(seen.settings))
        save_file(seen.weights(), folders[name] / "model.safetensors")
    return folders


@pytest.fixture(scope="module")
def llava(golden: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_llava_3d(tmp_path_factory.mktemp("published") / "llava", golden)


def sampled(values: Tensor) -> Tensor:
    return values.flatten(-2)[..., ::EVERY]


@torch.no_grad()
@pytest.mark.parametrize("name", ["pi3", "pi3x"])
def test_pi3_gives_its_authors_numbers(name: str, published: dict[str, Path]):
    network, expected = geometry_network(name, published[name]), Record(RECORDS / f"{name}.npz").outputs
    for frames, height, width in SIZES:
        points, logits, pose, metres = network.predict(made_images(frames, height, width))
        assert_parity(metres, expected[f"metres.{frames}"], f"{name} metres a unit, {frames} frames")
        pose[..., :3, 3] *= metres[:, None, None]
        local = points * metres[:, None, None, None, None]
        assert_parity(sampled(local.movedim(-1, 2)), expected[f"points.{frames}"], f"{name} local points")
        assert_parity(sampled(logits), expected[f"logits.{frames}"], f"{name} logits of confidence")
        assert_parity(pose, expected[f"pose.{frames}"], f"{name} cameras")
        focal = central_intrinsics(points)[..., (0, 1), (0, 1)]
        assert_parity(focal, expected[f"focal.{frames}"], f"{name} focal lengths")
    found = network(made_images(3, 42, 70))
    extrinsics, _ = decode_pose(found.pose_encoding, (42, 70))
    torch.testing.assert_close(found.depth, local[..., 2])
    torch.testing.assert_close(invert_extrinsics(extrinsics), pose, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.confidence, 1 + logits.exp())


@torch.no_grad()
def test_map_anything_gives_its_authors_numbers(published: dict[str, Path]):
    network = geometry_network("map-anything", published["map-anything"])
    expected = Record(RECORDS / "map_anything.npz").outputs
    for frames, height, width in SIZES:
        points, confidence, mask, pose, metres = network.predict(made_images(frames, height, width))
        assert_parity(metres, expected[f"metres.{frames}"], f"MapAnything metres a unit, {frames} frames")
        local = points * metres[:, None, None, None, None]
        assert_parity(sampled(local.movedim(-1, 2)), expected[f"points.{frames}"], "MapAnything local points")
        assert_parity(sampled(confidence), expected[f"confidence.{frames}"], "MapAnything confidence")
        assert_parity(sampled(mask.logit()), expected[f"mask.{frames}"], "MapAnything mask")
        moved = pose[..., :3, 3] * metres[:, None, None]
        assert_parity(moved, expected[f"translation.{frames}"], "MapAnything translations")
        rotations = quaternion_to_matrix(expected[f"quaternion.{frames}"])
        assert_parity(pose[..., :3, :3], rotations, "MapAnything rotations")


@torch.no_grad()
def test_vggt_omega_gives_its_authors_numbers(published: dict[str, Path]):
    network = geometry_network("vggt-omega", published["vggt-omega"])
    expected = Record(RECORDS / "vggt_omega.npz").outputs
    for frames, height, width in ((1, 64, 64), (3, 48, 80)):
        found = network(made_images(frames, height, width))
        assert_parity(found.pose_encoding, expected[f"pose.{frames}"], f"VGGT-Omega cameras, {frames} frames")
        assert_parity(sampled(found.depth), expected[f"depth.{frames}"], "VGGT-Omega depth")
        assert_parity(sampled(found.confidence), expected[f"confidence.{frames}"], "VGGT-Omega confidence")


def test_intrinsics_of_local_points_project_these_onto_their_pixels():
    k = torch.tensor([[70.0, 0, 35], [0, 60, 21], [0, 0, 1]]).expand(1, 2, 3, 3)
    points = unproject(torch.rand(1, 2, 42, 70) + 1, k)
    torch.testing.assert_close(central_intrinsics(points), k, atol=1e-3, rtol=1e-5)


@pytest.mark.parametrize(
    ("kind", "parameters"),
    [("pi3", 958_702_876), ("pi3x", 992_471_473), ("map_anything", 1_163_101_182), ("vggt_omega", 1_143_813_161)],
)
def test_published_sizes(kind: str, parameters: int):
    """Of the parts that are computed; the encoders' unread mask token counts."""
    with torch.device("meta"):
        assert count(build_geometry({"kind": kind})) == parameters


@torch.no_grad()
@pytest.mark.parametrize("name", ["pi3x", "map-anything", "vggt-omega"])
def test_the_cascade_takes_its_geometry(name: str, published: dict[str, Path], llava: Path, tmp_path: Path):
    given = Ingredients(geometry=name, geometry_weights=published[name], llava_3d=llava, shorter_side=64,
                        accept_licence=True)  # fmt: skip
    report = import_model("cascade", given, tmp_path / "m")
    assert not report.initial and {source for source, _ in report.loaded.values()} == {name, "LLaVA-3D"}
    assert {unused.reason for unused in report.unused} <= {"not part of this model", f"{name} goes before"}
    model, processor = load_pretrained(tmp_path / "m")
    assert processor.image_processor.patch_size == SIDES[name]
    images = made_images(3, 3 * SIDES[name], 5 * SIDES[name])
    found = geometry_network(name, published[name])(images)
    seen = model.encode_scene(images, KnownScale(factor=2.0))
    torch.testing.assert_close(seen.geometry.depth_m, 2 * found.depth)
    assert seen.geometry.extrinsics[0, 0].allclose(torch.eye(4)[:3], atol=1e-5)
    assert bool(seen.prefix.tokens.isfinite().all())
    if name == "vggt-omega":
        with pytest.raises(ValueError, match="has no metric depth model and cannot know metres"):
            model.encode_scene(images)
    else:  # in metres by itself
        torch.testing.assert_close(model.encode_scene(images).geometry.depth_m, found.depth)


@pytest.mark.slow
def test_from_the_command_line(
    published: dict[str, Path], llava: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    made, room = tmp_path / "m", str(Path(__file__).parents[2] / "examples" / "room.mp4")
    command = ["import", "--preset", "cascade", "--geometry", "pi3x", "--geometry-weights", str(published["pi3x"]),
               "--llava-3d", str(llava), "--shorter-side", "112", "-o", str(made)]  # fmt: skip
    assert main(command) == 0
    assert "Taken together: **not for commercial use**" in (made / "README.md").read_text()
    capsys.readouterr()
    assert main(["info", str(made), "--json"]) == 0
    told = {part["part"]: part["parameters"] for part in json.loads(capsys.readouterr().out)["parts"]}
    assert told["geometry model"] == count(geometry_network("pi3x", published["pi3x"])) and "encoder" not in told
    assert main(["info", str(made), "--frames", "4"]) == 2
    assert "not for a cascade" in capsys.readouterr().err
    assert main(["ask", room, "How many chairs are there?", "--frames", "2", "--model", str(made)]) == 0
    out = tmp_path / "out"
    assert main(["reconstruct", room, "--frames", "6", "--window", "4", "--model", str(made), "-o", str(out)]) == 0
    assert (out / "cameras.json").is_file()


@pytest.mark.slow
def test_what_does_not_fit_is_told_in_one_line(
    published: dict[str, Path], llava: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    def told(name: str, *more: str, weights: Path | None = None) -> str:
        given = [] if weights is None else ["--geometry-weights", str(weights)]
        return line_of_failure(["import", "--preset", "cascade", "--geometry", name, *given, "--llava-3d", str(llava),
                                "-o", str(tmp_path / "m"), *more], capsys)  # fmt: skip

    def changed(name: str, **weights: Tensor) -> Path:
        whole = Record(RECORDS / f"{NAMES[name]}.npz").weights() | weights
        save_file({key: tensor for key, tensor in whole.items() if tensor.numel()}, tmp_path / f"{name}.safetensors")
        return tmp_path / f"{name}.safetensors"

    assert "holds pi3, expected pi3x; say --geometry pi3" in told("pi3x", weights=published["pi3"])
    for name in NAMES:
        other = published["pi3x" if name == "vggt-omega" else "vggt-omega"]
        assert "its keys begin with " in told(name, weights=other)
    assert "VGGT-Omega asks to agree to its terms" in told("vggt-omega", weights=published["vggt-omega"])
    assert "Give the file as --geometry-weights" in told("vggt-omega", "--accept-licence")
    lacking = changed("pi3x", **{"camera_head.fc_t.bias": torch.zeros(0)})
    assert "lacks weights: geometry_model.camera_head.fc_t.bias" in told("pi3x", weights=lacking)
    deeper = changed("vggt-omega", **{"aggregator.frame_blocks.24.norm1.weight": torch.ones(64)})
    assert "expected 24 pairs of blocks, found 25" in told("vggt-omega", weights=deeper)
    open_bias = changed("vggt-omega", **{"camera_head.trunk.0.attn.qkv.bias_mask": torch.ones(384)})
    assert "camera_head.trunk.0.attn.qkv.bias_mask leaves out other biases" in told("vggt-omega", weights=open_bias)
    first = changed("map-anything", **{"encoder.model.blocks.0.mlp.w12.weight": torch.zeros(0)})
    assert "version 1 has another form" in told("map-anything", weights=first)
    assert not (tmp_path / "m").exists()


@torch.no_grad()
def test_no_frame_is_the_first_for_pi3x(published: dict[str, Path]):
    network, images, order = geometry_network("pi3x", published["pi3x"]), made_images(4, 42, 42), [2, 0, 3, 1]
    found, turned = network(images), network(images[:, order])
    for name in ("depth", "confidence", "pose_encoding"):
        torch.testing.assert_close(getattr(turned, name), getattr(found, name)[:, order], atol=1e-4, rtol=1e-4)
