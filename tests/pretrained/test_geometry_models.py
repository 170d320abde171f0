"""Other people's reconstruction networks: their numbers, their place in the cascade, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from helpers import line_of_failure
from made_weights import Record, made_images
from parity import assert_parity, geometry_network
from published_files import write_llava_3d, write_shards, write_vggt
from safetensors.torch import load_file, save_file

from vidllm.baselines.geometry import build_geometry, depth_anything_3
from vidllm.cli import main
from vidllm.geometry.cameras import decode_pose
from vidllm.model.loading import load_pretrained
from vidllm.model.priors import KnownScale
from vidllm.pretrained import Ingredients, geometry_models, import_model
from vidllm.pretrained.geometry_models import GEOMETRY
from vidllm.pretrained.licences import Licence
from vidllm.profiling import count

EVERY = 7  # pixels of a map that a record keeps


@pytest.fixture(scope="module")
def records(golden: Path) -> Path:
    return golden / "geometry"


@pytest.fixture(scope="module")
def da3(records: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Depth Anything 3 as published."""
    record, folder = Record(records / "da3.npz"), tmp_path_factory.mktemp("da3")
    (folder / "config.json").write_text(json.dumps(record.settings))
    save_file(record.weights(), folder / "model.safetensors")
    return folder


@pytest.fixture(scope="module")
def llava(golden: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_llava_3d(tmp_path_factory.mktemp("published") / "llava", golden)


@pytest.fixture(scope="module")
def cascade(da3: Path, llava: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cascade") / "m"
    given = Ingredients(geometry="da3-small", geometry_weights=da3, llava_3d=llava, shorter_side=112)
    report = import_model("cascade", given, folder)
    assert not report.initial and {source for source, _ in report.loaded.values()} == {"da3-small", "LLaVA-3D"}
    return folder


@torch.no_grad()
def test_depth_anything_3_gives_its_authors_numbers(records: Path, da3: Path, monkeypatch: pytest.MonkeyPatch):
    references: list[int] = []
    choose = depth_anything_3.reference_frame
    monkeypatch.setattr(depth_anything_3, "reference_frame", lambda x: references.extend(choose(x)) or choose(x))
    network, expected = geometry_network("da3-small", da3), Record(records / "da3.npz").outputs
    for frames, height, width in ((1, 56, 56), (2, 42, 70), (5, 70, 42)):
        found = network(made_images(frames, height, width))
        extrinsics, intrinsics = decode_pose(found.pose_encoding, (height, width), None)
        assert_parity(found.depth.flatten(-2)[..., ::EVERY], expected[f"depth.{frames}"], f"DA3 depth, {frames} frames")
        assert_parity(found.confidence.flatten(-2)[..., ::EVERY], expected[f"confidence.{frames}"], "DA3 confidence")
        assert_parity(extrinsics, expected[f"extrinsics.{frames}"], "DA3 extrinsics")
        assert_parity(intrinsics, expected[f"intrinsics.{frames}"], "DA3 intrinsics")
    assert len(references) == 1 and references[0] != 0  # of five frames alone


@torch.no_grad()
def test_the_order_of_the_frames_changes_nothing_but_the_order(da3: Path):
    network, images = geometry_network("da3-small", da3), made_images(5, 42, 42)
    order = torch.tensor([3, 0, 4, 1, 2])
    found, turned = network(images), network(images[:, order])
    for name in ("depth", "confidence", "pose_encoding"):
        torch.testing.assert_close(getattr(turned, name), getattr(found, name)[:, order], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("sizes", "parameters"),
    [
        ({}, 26_179_819),
        ({"hidden_size": 768, "num_heads": 12, "features": 128, "out_channels": [96, 192, 384, 768]}, 103_022_955),
    ],
)
def test_published_sizes(sizes: dict, parameters: int):
    with torch.device("meta"):
        network = build_geometry({"kind": "depth_anything_3", **sizes})
    unread = network.encoder.embeddings.mask_token.numel()
    assert count(network) - unread == parameters


@torch.no_grad()
def test_the_cascade_takes_its_geometry(cascade: Path, da3: Path):
    model, _ = load_pretrained(cascade)
    images = made_images(3, 56, 84)
    found = geometry_network("da3-small", da3)(images)
    seen = model.encode_scene(images, KnownScale(factor=2.0))
    torch.testing.assert_close(seen.geometry.depth_m, 2 * found.depth)
    torch.testing.assert_close(seen.geometry.confidence, found.confidence)
    assert seen.geometry.extrinsics[0, 0].allclose(torch.eye(4)[:3], atol=1e-5)
    assert seen.prefix.tokens.shape[0] == 1 and bool(seen.prefix.tokens.isfinite().all())
    with pytest.raises(ValueError, match="has no metric depth model and cannot know metres"):
        model.encode_scene(images)


@torch.no_grad()
def test_a_network_in_metres_needs_no_metric_depth(cascade: Path, monkeypatch: pytest.MonkeyPatch):
    model, _ = load_pretrained(cascade)
    monkeypatch.setattr(type(model.geometry_model), "metric", True)
    geometry = model.encode_scene(made_images(2, 42, 42)).geometry
    assert bool(geometry.scale.valid.all()) and float(geometry.scale.scale) == 1.0


@torch.no_grad()
def test_a_reconstruction_by_itself(
    cascade: Path, da3: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """It has the cascade's geometry, patches where the depth is, and one line for who asks it."""
    place, images = tmp_path / "m", made_images(3, 56, 84)
    given = ["--geometry", "da3-small", "--geometry-weights", str(da3), "--shorter-side", "112"]
    assert main(["import", "--preset", "reconstruction", *given, "-o", str(place)]) == 0
    assert "no language model: it reconstructs, and answers nothing" in capsys.readouterr().out
    model, _ = load_pretrained(place)
    assert {name.split(".")[0] for name in model.state_dict()} == {"geometry_model"}
    found, whole = (m.encode_scene(images, KnownScale(factor=2.0)) for m in (model, load_pretrained(cascade)[0]))
    for name in ("depth_m", "extrinsics", "intrinsics", "up", "scene_from_world"):
        torch.testing.assert_close(getattr(found.geometry, name), getattr(whole.geometry, name))
    first = found.geometry.depth_m[0, 0, :14, :14]
    patch = model.patch_positions(found.geometry, (4, 6))[0][0, 0, 0]
    in_camera = torch.linalg.inv(found.geometry.scene_from_world[0]) @ torch.cat((patch, torch.ones(1)))
    assert first.min() <= in_camera[2] <= first.max()
    room = str(Path(__file__).parents[2] / "examples" / "room.mp4")
    asked = ["ask", room, "How many chairs are there?", "--frames", "2", "--scale", "1.0", "--model", str(place)]
    told = line_of_failure([*asked, "--no-refine"], capsys)
    assert "this model reconstructs and has no language model to ask" in told


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"llava_3d": "x"}, "a reconstruction has no language model: leave"),
        ({"geometry": None}, "give the reconstruction network"),
        ({"metric": "x", "metric_depth": "y"}, "give one metric depth model"),
    ],
)
def test_reconstructions_that_do_not_fit(da3: Path, tmp_path: Path, changes: dict, told: str):
    given = {"geometry": "da3-small", "geometry_weights": da3, **changes}
    with pytest.raises(ValueError, match=told):
        import_model("reconstruction", Ingredients(**given), tmp_path / "m")


@pytest.mark.slow
def test_from_the_command_line(cascade: Path, da3: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    room, alone = str(Path(__file__).parents[2] / "examples" / "room.mp4"), tmp_path / "m"
    import_model("reconstruction", Ingredients(geometry="da3-small", geometry_weights=da3, shorter_side=112), alone)
    told = ["--scale", "1.0", "--no-refine"]
    assert main(["ask", room, "How many chairs are there?", "--frames", "2", "--model", str(cascade), *told]) == 0
    for name, model in (("whole", cascade), ("alone", alone)):
        out = tmp_path / name
        assert main(["reconstruct", room, "--frames", "6", "--window", "4", "--model", str(model), *told,
                     "-o", str(out)]) == 0  # fmt: skip
        assert (out / "cameras.json").is_file()
    assert (tmp_path / "whole" / "cameras.json").read_text() == (tmp_path / "alone" / "cameras.json").read_text()


def test_what_does_not_fit_is_told_in_one_line(
    da3: Path, llava: Path, golden: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):  # fmt: skip
    def told(name: str, place: Path, *more: str) -> str:
        return line_of_failure(["import", "--preset", "cascade", "--geometry", name, "--geometry-weights", str(place),
                      "--llava-3d", str(llava), "-o", str(tmp_path / "m"), *more], capsys)  # fmt: skip

    assert "--geometry: expected one of da3-small, da3-base" in told("da3-tiny", da3)
    assert "give one reconstruction network" in told("da3-small", da3, "--vggt", str(da3))
    assert "its keys begin with " in told("da3-small", write_vggt(tmp_path / "vggt", golden))
    assert "not a VGGT-Omega checkpoint (aggregator." in told("vggt-omega", tmp_path / "vggt")
    weights = load_file(da3 / "model.safetensors")
    (tmp_path / "sharded").mkdir()
    write_shards(tmp_path / "sharded", weights)
    assert "config.json does not say which of 6 layers" in told("da3-small", tmp_path / "sharded")
    shutil.copy(da3 / "config.json", tmp_path / "sharded")
    (tmp_path / "sharded" / "model-00002-of-00003.safetensors").unlink()
    assert "1 of 3 shards missing" in told("da3-small", tmp_path / "sharded")
    index = {"weight_map": {"a": "../elsewhere.safetensors"}}
    (tmp_path / "sharded" / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "a file outside its folder" in told("da3-small", tmp_path / "sharded")
    fewer = {name: tensor for name, tensor in weights.items() if name != "model.cam_dec.fc_t.bias"}
    save_file(fewer, tmp_path / "fewer.safetensors")
    shutil.copy(da3 / "config.json", tmp_path)
    assert "lacks weights: geometry_model.camera_head.translation.bias" in told(
        "da3-small", tmp_path / "fewer.safetensors"
    )
    for taps in ([0, 2, 3, 5], [2, 3, 4, 6], [2, 2, 3, 4]):
        (tmp_path / "config.json").write_text(json.dumps({"config": {"net": {"out_layers": taps}}}))
        assert "tap_layers: expected blocks from 2 to 5 in order" in told("da3-small", tmp_path / "fewer.safetensors")
    single = {name: tensor for name, tensor in weights.items() if "_norm" not in name}
    save_file(single, tmp_path / "fewer.safetensors")
    assert "of single pictures; give it as --metric-depth" in told("da3-small", tmp_path / "fewer.safetensors")
    monkeypatch.setattr("vidllm.pretrained.depth_anything_3.WIDTHS", {64: "da3-large"})
    assert "holds da3-large (width 64), expected da3-small" in told("da3-small", da3)
    assert not (tmp_path / "m").exists()


def test_terms_that_ask_for_agreement(
    da3: Path, llava: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    terms = Licence("Mine", "research only, says its author.", False, agreement=True)
    mine = geometry_models.GeometryImporter(**{**vars(GEOMETRY["da3-small"]), "licence": terms})
    monkeypatch.setitem(GEOMETRY, "da3-small", mine)
    command = ["import", "--preset", "cascade", "--geometry", "da3-small", "--geometry-weights", str(da3),
               "--llava-3d", str(llava), "--dry-run", "-o", str(tmp_path / "m")]  # fmt: skip
    told = line_of_failure(command, capsys)
    assert "Mine asks to agree to its terms: research only, says its author. Add --accept-licence" in told
    assert main([*command, "--accept-licence"]) == 0
    assert "licence   Mine" in capsys.readouterr().out
