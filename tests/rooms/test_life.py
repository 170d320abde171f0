"""The look "life": the plain one stays as it was; near, turning and shaken cameras with exact ground truth."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors import safe_open

from vidllm.geometry.cameras import project, unproject
from vidllm_rooms.camera_paths import CameraPath, draw_life_path, poses_of
from vidllm_rooms.render import primitives_of, render_clip, render_linear
from vidllm_rooms.sensors import Lens, looks_at, photograph_life, through_lens, velocities
from vidllm_rooms.shading import prepare
from vidllm_rooms.shards import render_scene, write_shard
from vidllm_rooms.world.layout import build_room


@pytest.fixture(scope="module")
def clips():
    return [render_scene(seed, 4, 56, 70, "life")[0] for seed in range(20000, 20006)]


def test_clutter_is_added_to_the_same_room():
    plain, life = build_room(20016), build_room(20016, "life")
    assert life.objects == plain.objects and life.lights == plain.lights and life.polygon == plain.polygon
    extra = life.shell[len(plain.shell) :]
    assert life.shell[: len(plain.shell)] == plain.shell and len(extra) > 20
    assert all(part.owner == 0 and min(part.size) > 0 for part in extra)
    assert all(part.centre[2] - part.size[2] / 2 >= -0.01 for part in extra)


def test_half_of_what_is_filmed_is_near(clips):
    depth = np.concatenate([np.median(clip.depth_m, (1, 2)) for clip in clips])
    assert (depth < 1.2).mean() > 0.2 and min(clip.depth_m[clip.depth_m > 0].min() for clip in clips) > 0.05
    fields = [np.degrees(2 * np.arctan(35 / clip.intrinsics[0, 0, 0])) for clip in clips]
    assert min(fields) >= 44.9 and max(fields) <= 100.1 and np.ptp(fields) > 10


def test_frames_agree_about_the_room(clips):
    """A point of one frame lies in the next one where its depth says."""
    shares = []
    for clip in clips:
        k, e = torch.tensor(clip.intrinsics).float(), torch.tensor(clip.extrinsics).float()[:, :3]
        points = unproject(torch.tensor(clip.depth_m)[None], k[None], e[None])[0, 0].flatten(0, 1)
        uv, z = project(points[None, None], k[None, 1:2], e[None, 1:2])
        u, v = uv[0, 0].floor().long().unbind(-1)
        inside = (u >= 0) & (u < 70) & (v >= 0) & (v < 56) & (z[0, 0] > 0)
        seen = torch.tensor(clip.depth_m)[1][v[inside], u[inside]]
        if int(inside.sum()) > 300:
            shares.append(float(((seen - z[0, 0][inside]).abs() < 0.05 * z[0, 0][inside]).float().mean()))
    assert len(shares) >= 4 and np.median(shares) > 0.7


def test_a_path_turns_more_than_plain_ones_and_is_the_seeds():
    room = build_room(20001, "life")
    turned = []
    for seed in range(8):
        rotation = draw_life_path(room, np.random.default_rng(seed), 8, 56, 70).extrinsics[:, :3, :3]
        again = draw_life_path(room, np.random.default_rng(seed), 8, 56, 70).extrinsics[:, :3, :3]
        assert np.array_equal(rotation, again) and np.allclose(rotation @ rotation.transpose(0, 2, 1), np.eye(3))
        cosine = (np.trace(rotation[0].T @ rotation[-1]) - 1) / 2
        turned.append(np.degrees(np.arccos(np.clip(cosine, -1, 1))))
    assert max(turned) > 40


def test_pictures_of_one_camera_differ_from_clip_to_clip():
    linear = torch.rand(2, 28, 42, 3)
    pictures = [photograph_life(linear, np.random.default_rng(seed)) for seed in (0, 0, 1)]
    assert torch.equal(pictures[0], pictures[1]) and not torch.allclose(pictures[0], pictures[2], atol=0.05)
    assert all(float(p.min()) >= 0 and float(p.max()) <= 1 for p in pictures)


def test_a_shard_says_its_look(tmp_path):
    path = write_shard(tmp_path, [20001], 2, 28, 42, "life")
    assert path.name == "rooms_000020001_001_28x42_life.safetensors"
    with safe_open(str(path), "pt") as file:
        assert file.metadata()["look"] == "life" and json.loads(file.metadata()["scenes"])[0]["seed"] == 20001


STILL = np.eye(4)[None]
FOCAL = 40.0


def turning(degrees: float, frames: int = 3) -> np.ndarray:
    """Extrinsics of a camera on the spot that turns to the left by so much between frames."""
    yaw = np.radians(degrees) * np.arange(frames)
    return poses_of(np.tile((0.0, 0.0, 1.5), (frames, 1)), yaw, np.zeros(frames), np.zeros(frames))


@pytest.mark.parametrize("k1", [-0.08, 0.05])
def test_distortion_is_the_radial_law_and_leaves_the_middle(k1):
    pinhole = looks_at(Lens(k1, 0.0), torch.ones(1, 31, 41), STILL, FOCAL, 0)[0]
    middle, half_diagonal = torch.tensor([20.5, 15.5]), float(np.hypot(41, 31) / 2)
    v, u = torch.meshgrid(torch.arange(31) + 0.5, torch.arange(41) + 0.5, indexing="ij")
    radius = (pinhole - middle).norm(dim=-1)
    seen = radius * (1 + k1 * (radius / half_diagonal) ** 2)
    torch.testing.assert_close(seen, (torch.stack([u, v], -1) - middle).norm(dim=-1), atol=1e-3, rtol=0)
    torch.testing.assert_close(pinhole[15, 20], middle, atol=1e-4, rtol=0)
    assert (radius[0, 0] > half_diagonal - 1) == (k1 < 0)
    assert Lens(k1, 0.0).margin(STILL, FOCAL, 31, 41) == (3 if k1 < 0 else 0)  # r (1 - 0.08 r^2) = 1 at r = 1.11


def test_rows_see_a_moving_camera_at_their_own_time():
    """A wall two metres ahead shifts by velocity times time; the middle row stays."""
    lens, extrinsics = Lens(0.0, 0.1), np.tile(np.eye(4), (3, 1, 1))
    extrinsics[:, 0, 3] = [0.0, 0.4, 0.8]
    still = looks_at(lens, torch.full((1, 31, 41), 2.0), STILL, FOCAL, 0)
    moved = looks_at(lens, torch.full((3, 31, 41), 2.0), extrinsics, FOCAL, 0)
    time = 0.1 * ((torch.arange(31) + 0.5) / 31 - 0.5)
    expected = (-time * 0.4 * FOCAL / 2)[None, :, None].expand(3, 31, 41)
    torch.testing.assert_close((moved - still)[..., 0], expected, atol=1e-4, rtol=0)
    assert torch.allclose(moved[:, 15], still[:, 15]) and torch.allclose(moved[..., 1], still[..., 1], atol=1e-4)


def test_rows_of_a_turning_camera_are_those_of_cameras_turned_so_far():
    degrees, readout, height, width = 30.0, 0.1, 32, 40
    turn, shift = velocities(turning(degrees))
    np.testing.assert_allclose(np.linalg.norm(turn, axis=-1), np.radians(degrees), rtol=1e-9)
    np.testing.assert_allclose(shift[1], 0, atol=1e-9)
    lens = Lens(0.0, readout)
    looks = looks_at(lens, torch.full((3, height, width), 3.0), turning(degrees), FOCAL, 0)[1]
    times = readout * ((np.arange(height) + 0.5) / height - 0.5)
    for row in (0, 9, height - 1):
        then, now = (turning(degrees * (1 + t), 2)[1][:3, :3] for t in (times[row], 0.0))
        ray = np.stack([(np.arange(width) + 0.5 - width / 2) / FOCAL, np.full(width, (row + 0.5 - 16) / FOCAL)], -1)
        seen = np.column_stack([ray, np.ones(width)]) @ (now @ then.T).T
        expected = FOCAL * seen[:, :2] / seen[:, 2:] + (width / 2, height / 2)
        np.testing.assert_allclose(looks[row].numpy(), expected, atol=2e-2)


def test_a_plain_lens_changes_no_pixel_and_ground_truth_is_the_pinhole_s():
    linear = torch.rand(2, 16, 20, 3)
    looks = looks_at(Lens(0.0, 0.0), torch.ones(2, 16, 20), np.tile(np.eye(4), (2, 1, 1)), FOCAL, 0)
    torch.testing.assert_close(through_lens(linear, looks), linear, atol=1e-5, rtol=0)
    room = build_room(20003, "life")
    clip, table = render_clip(room, frames=3, height=42, width=56), primitives_of(room)
    path = CameraPath(clip.extrinsics, clip.intrinsics, 60.0)
    _, depth, instance = render_linear(table, prepare(room, table), path, 42, 56)
    np.testing.assert_allclose(clip.depth_m, depth.numpy(), rtol=1e-4)
    assert (clip.instance == instance.numpy()).mean() > 0.999
