"""Registration by features: depth brought to the points, metres from it, and what is said where it cannot be."""

from __future__ import annotations

import importlib.util
from types import SimpleNamespace

import pytest
import torch
from small_model import noise_clip, save_small_model

import vidllm
from vidllm import feature_registration
from vidllm.cli import main
from vidllm.feature_registration import SparseModel, placed, registered, sparse_model
from vidllm.geometry.gravity import scene_from_world
from vidllm.geometry.rotations import rotation_angle_deg
from vidllm.io.video import write_video
from vidllm.model.outputs import Geometry, SceneScale


def learned(frames: int) -> tuple[Geometry, torch.Tensor]:
    """Depth in metres that is wrong by a factor of each frame, at 10 x 14 pixels; and the truth."""
    true = 1 + torch.rand(frames, 10, 14, generator=torch.Generator().manual_seed(0))
    factors = torch.tensor([1.0, 1.2, 0.9, 1.0, 1.0])[:frames, None, None]
    up = torch.tensor([[0.0, -1.0, 0.0]])
    one = torch.ones(1)
    scale = SceneScale(one, one.expand(1, frames), 0 * one, one.bool())
    poses, k = torch.eye(4)[:3].expand(1, frames, 3, 4), torch.eye(3).expand(1, frames, 3, 3)
    depth = (true * factors)[None]
    return Geometry(
        extrinsics=poses, intrinsics=k, depth_m=depth, confidence=torch.ones_like(depth), metric_depth_m=None,
        scale=scale, up=up, scene_from_world=scene_from_world(up),
    ), true  # fmt: skip


def sparse(true: torch.Tensor, numbers: list[int], unit: float) -> SparseModel:
    """The truth in another unit, in pictures of twice the size, as points in the middle of every depth pixel."""
    rows, columns = torch.meshgrid(torch.arange(10), torch.arange(14), indexing="ij")
    uv = 2 * torch.stack([columns + 0.5, rows + 0.5], -1).flatten(0, 1)
    points = [torch.cat([uv, true[i].reshape(-1, 1) * unit], -1) for i in numbers]
    poses = torch.eye(4).repeat(len(numbers), 1, 1).double()
    poses[:, 0, 3] = -unit * torch.tensor([0.1 * i for i in numbers]).double()
    k = torch.tensor([[20.0, 0, 14], [0, 20, 10], [0, 0, 1]]).double()
    return SparseModel(numbers, poses, k, points)


def test_depth_comes_to_the_points_and_the_metres_from_the_learned_depth():
    geometry, true = learned(5)
    found = placed(geometry, sparse(true, [0, 1, 2, 4], unit=7.0), torch.diag(torch.tensor([0.5, 0.5, 1.0])))
    torch.testing.assert_close(found.depth_m[0], true[[0, 1, 2, 4]])
    torch.testing.assert_close(found.extrinsics[0, :, 0, 3], torch.tensor([0.0, -0.1, -0.2, -0.4]))
    torch.testing.assert_close(found.intrinsics[0, 0], torch.tensor([[10.0, 0, 7], [0, 10, 5], [0, 0, 1]]))
    assert found.registration == "sfm" and found.scale.per_image.shape == (1, 4)


def test_the_first_registered_frame_is_the_world_and_up_turns_into_it():
    geometry, true = learned(3)
    turned = geometry.extrinsics.clone()
    turned[0, 1, :3, :3] = torch.tensor([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])
    geometry.extrinsics = turned
    found = placed(geometry, sparse(true, [1, 2], unit=1.0), torch.eye(3))
    torch.testing.assert_close(found.extrinsics[0, 0], torch.eye(4)[:3])
    torch.testing.assert_close(found.up[0], torch.tensor([0.0, 0, -1]))


def test_frames_without_points_keep_their_depth():
    geometry, true = learned(3)
    model = sparse(true, [0, 1, 2], unit=1.0)
    model.points[1] = model.points[1][:3]
    found = placed(geometry, model, torch.diag(torch.tensor([0.5, 0.5, 1.0])))
    torch.testing.assert_close(found.depth_m[0, 1], geometry.depth_m[0, 1])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_small_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def film(tmp_path):
    write_video(tmp_path / "noise.mp4", noise_clip(4))
    return tmp_path / "noise.mp4"


@pytest.mark.slow
def test_without_the_extra_one_line_says_so(folder, film, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(feature_registration, "is_installed", lambda: False)
    command = ["reconstruct", str(film), "--model", str(folder), "-o", str(tmp_path / "out"), "--format", "cameras"]
    assert main([*command, "--registration", "sfm", "--scale", "2"]) == 2
    assert "leave it out if these are given" in capsys.readouterr().err
    assert main([*command, "--registration", "sfm"]) == 2
    assert capsys.readouterr().err.strip().endswith("pip install 'vidllm[sfm]'")
    assert main(command) == 0  # auto: the frames are noise, so that they do not agree
    assert "pip install 'vidllm[sfm]'" in capsys.readouterr().err
    assert main([*command, "--registration", "learned"]) == 0
    assert "sfm" not in capsys.readouterr().err


def test_frames_that_features_cannot_register_keep_the_learned_cameras(folder, monkeypatch):
    scene = vidllm.load(folder).reconstruct(noise_clip(5), 5)
    monkeypatch.setattr(feature_registration, "is_installed", lambda: True)
    monkeypatch.setattr(feature_registration, "sparse_model", lambda pictures: SimpleNamespace(numbers=[0, 1]))
    assert registered(scene, noise_clip(5)) is None
    assert scene.summary()["registration"] == "learned"


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("pycolmap") is None, reason="pycolmap is not installed (vidllm[sfm])")
def test_a_textured_room_is_registered():
    from vidllm_rooms.shards import render_scene

    clip = render_scene(1001, 10, 240, 320)[0]
    model = sparse_model(clip.rgb)
    assert model is not None and len(model.numbers) >= 5
    true = torch.from_numpy(clip.extrinsics)[model.numbers].double()
    ours, theirs = (e[:, :3, :3] @ e[0, :3, :3].T for e in (model.extrinsics, true))
    assert float(rotation_angle_deg(ours, theirs).median()) < 3
