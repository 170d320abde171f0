"""The look "life": the plain one stays as it was; near, turning and shaken cameras with exact ground truth."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors import safe_open

from vidllm.geometry.cameras import project, unproject
from vidllm_rooms.camera_paths import draw_life_path
from vidllm_rooms.sensors import photograph_life
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
