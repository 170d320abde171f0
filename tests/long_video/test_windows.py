"""Windows: one is the whole, their patches stay under the cap, and chained ones follow a long walk."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from helpers import micro_model, video

from vidllm.geometry.cameras import invert_extrinsics, pixel_centres
from vidllm.geometry.gravity import scene_from_world
from vidllm.geometry.rotations import quaternion_to_matrix, rotation_angle_deg
from vidllm.geometry.sim3 import Sim3
from vidllm.long_video import windows
from vidllm.long_video.reconstruction import VoxelMap, WindowedReconstruction
from vidllm.long_video.windows import Chain, window_sizes, windows_of
from vidllm.model.configuration import PatchesConfig, WindowsConfig
from vidllm.model.outputs import Geometry, SceneScale, VisualPrefix
from vidllm.model.patches_3d import PositionEmbedding, voxel_pool
from vidllm.model.priors import KnownLength, KnownScale

# ---- which frames ---------------------------------------------------------------------------------------------------


def test_windows_come_in_order_and_every_frame_is_new_once():
    found = list(windows_of(range(11), 5, 2))
    assert found == [([0, 1, 2, 3, 4], 0), ([3, 4, 5, 6, 7], 2), ([6, 7, 8, 9, 10], 2)]
    for count in range(1, 30):
        windows = list(windows_of(range(count), 5, 2))
        assert [i for window, shared in windows for i in window[shared:]] == list(range(count))
        assert all(len(window) == min(5, count) for window, _ in windows)
        assert all(a[0][-b[1]:] == b[0][: b[1]] and b[1] >= 2 for a, b in pairwise(windows))


def test_frames_are_taken_when_they_are_needed_and_only_a_window_of_them_is_held():
    taken = []
    found = windows_of((taken.append(i) or i for i in range(100)), 8, 4)
    next(found)
    assert len(taken) == 8
    next(found)
    assert len(taken) == 12


def test_an_overlap_that_cannot_be_joined_is_refused():
    config = WindowsConfig()
    assert window_sizes(None, None, 32, config) == (32, 8)
    assert window_sizes(4, None, 32, config) == (4, 2)
    assert window_sizes(None, 5, 32, WindowsConfig(size=16)) == (16, 5)
    for window, overlap, message in ((8, 1, "at least 2"), (8, 0, "at least 2"), (8, 8, "at least 9"), (2, None, "3")):
        with pytest.raises(ValueError, match=message):
            window_sizes(window, overlap, 32, config)


# ---- geometry -------------------------------------------------------------------------------------------------------

HALF_ROOM = torch.tensor([3.0, 2.5, 1.4], dtype=torch.float64)
SIZE = (20, 26)
INTRINSICS = torch.tensor([[18.0, 0, 13], [0, 18, 10], [0, 0, 1]], dtype=torch.float64)


def walk(frames):
    """A walk round an empty room that looks about: camera-from-room (F,4,4) and exact depth (F,H,W)."""
    t = torch.linspace(0, 1, frames, dtype=torch.float64)
    eye = torch.stack([1.5 * (2 * math.pi * t).cos(), 1.2 * (2 * math.pi * t).sin(), 0.2 * (9 * t).sin()], -1)
    yaw = 2 * math.pi * t + 0.5 * (12 * t).sin()
    forward = torch.stack([yaw.cos(), yaw.sin(), torch.full_like(yaw, -0.15)], -1)
    forward = forward / forward.norm(dim=-1, keepdim=True)
    right = torch.linalg.cross(forward, torch.tensor([[0.0, 0.0, 1.0]], dtype=torch.float64).expand_as(forward))
    right = right / right.norm(dim=-1, keepdim=True)
    rotation = torch.stack([right, torch.linalg.cross(forward, right), forward], 1)
    pose = torch.eye(4, dtype=torch.float64).repeat(frames, 1, 1)
    pose[:, :3, :3], pose[:, :3, 3] = rotation, -(rotation @ eye[..., None])[..., 0]
    uv1 = torch.cat([pixel_centres(*SIZE, dtype=torch.float64), torch.ones(*SIZE, 1, dtype=torch.float64)], -1)
    rays = (uv1 @ torch.linalg.inv(INTRINSICS).T) @ rotation[:, None]
    depth = ((rays.sign() * HALF_ROOM - eye[:, None, None]) / rays).amin(-1)
    return pose, depth


def oracle(pose, depth, scale=1.0, noise=0.0, wrong=0.0):
    """A window of the truth as a model might give it: its own world, metres off by ``scale``, with noise."""
    first = pose @ torch.linalg.inv(pose[:1])
    count = len(pose)
    shake = quaternion_to_matrix(torch.cat([0.003 * noise * torch.randn(count, 3), torch.ones(count, 1)], -1)).double()
    extrinsics = first[:, :3].clone()
    extrinsics[1:, :, :3] = shake[1:] @ extrinsics[1:, :, :3]
    extrinsics[1:, :, 3] += 0.01 * noise * torch.randn(count - 1, 3)
    extrinsics[..., 3] *= scale
    seen = depth * scale * (1 + 0.02 * noise * torch.randn(depth.shape))
    seen = torch.where(torch.rand(depth.shape) < wrong, 2 * seen, seen)
    up = (pose[0, :3, 2] + 0.02 * noise * torch.randn(3)).float()[None]
    votes = SceneScale(torch.ones(1), torch.ones(1, count), torch.zeros(1), torch.ones(1, dtype=torch.bool))
    return Geometry(
        extrinsics=extrinsics[None].float(), intrinsics=INTRINSICS.expand(1, count, 3, 3).float(),
        depth_m=seen[None].float(), confidence=torch.ones(1, *depth.shape), metric_depth_m=None, scale=votes, up=up,
        scene_from_world=scene_from_world(up),
    )  # fmt: skip


def chained(frames, size, overlap, noise=0.0, wrong=0.0, scales=None, votes=True):
    """Truth, and what the chain makes of its windows: camera-from-world (F,4,4), depth (F,H,W) in metres, chain."""
    pose, depth = walk(frames)
    chain, cameras, depths = Chain(), [], []
    for number, (window, shared) in enumerate(windows_of(range(frames), size, overlap)):
        scale = 1.0 if scales is None else scales[number % len(scales)]
        placed = chain.add(oracle(pose[window], depth[window], scale, noise, wrong), shared, votes)
        cameras.append(placed.extrinsics[0, shared:])
        depths.append(placed.depth_m[0, shared:])
    extrinsics = torch.eye(4).repeat(frames, 1, 1)
    extrinsics[:, :3] = torch.cat(cameras)
    extrinsics[:, :3, 3] *= chain.factor
    return pose @ torch.linalg.inv(pose[:1]), depth, extrinsics, torch.cat(depths) * chain.factor, chain


def camera_errors(extrinsics, truth):
    """Largest distance in metres and angle in degrees."""
    centres = [invert_extrinsics(e.double())[:, :3, 3] for e in (extrinsics, truth)]
    angle = rotation_angle_deg(extrinsics[:, :3, :3].double(), truth[:, :3, :3])
    return float((centres[0] - centres[1]).norm(dim=-1).max()), float(angle.max())


def test_exact_windows_of_any_scale_are_chained_exactly():
    truth, depth, extrinsics, found, chain = chained(60, 8, 3, scales=(1.0, 0.4, 3.0), votes=False)
    assert all(joint.residual < 1e-5 for joint in chain.registrations) and len(chain.registrations) == 11
    distance, angle = camera_errors(extrinsics, truth)
    assert distance < 1e-3 and angle < 0.01  # float32, over eleven registrations
    assert torch.allclose(found.double(), depth, rtol=1e-4)


def test_noisy_windows_with_wrong_depth_drift_little():
    """A walk of 10 m round a room: cameras stay within 12 cm and 2.5 degrees, depth within 3% (median)."""
    scales = (1.0, 1.2, 0.8, 1.05, 0.95)
    truth, depth, extrinsics, found, chain = chained(90, 12, 4, noise=1.0, wrong=0.1, scales=scales)
    path = invert_extrinsics(truth)[:, :3, 3].diff(dim=0).norm(dim=-1).sum()
    assert 8 < float(path) < 12
    distance, angle = camera_errors(extrinsics, truth)
    assert distance < 0.12 and angle < 2.5
    assert abs(float((found.double() / depth).median()) - 1) < 0.03
    assert float(chain.up @ walk(90)[0][0, :3, 2].float()) > math.cos(math.radians(2))


def drifted():
    """Scale of the last of 18 windows whose frames shrink by 2% and lean by half a degree each; the largest tilt."""
    pose, depth = walk(90)
    chain, tilts = Chain(), []
    for window, shared in windows_of(range(90), 8, 3):
        seen, t = oracle(pose[window], depth[window]), torch.linspace(0, 1, 8)
        lean = quaternion_to_matrix(torch.stack([math.radians(0.25) * t, 0 * t, 0 * t, torch.ones_like(t)], -1))
        extrinsics = seen.extrinsics[0].clone()
        extrinsics[:, :, :3] = extrinsics[:, :, :3] @ lean
        shrunk = seen.depth_m * (1 - 0.02 * t[:, None, None])
        placed = chain.add(replace(seen, extrinsics=extrinsics[None], depth_m=shrunk), shared)
        up = placed.extrinsics[0, 0, :, :3].double().T @ pose[window[0], :3, 2]
        tilts.append(float(torch.rad2deg(torch.acos((up @ pose[0, :3, 2]).clamp(max=1)))))
    return float((placed.depth_m[0, 0] / depth[window[0]]).median()), max(tilts)


def test_what_all_windows_say_holds_scale_and_tilt(monkeypatch):
    """Without it the scale goes down with every joint, and the tilts of a walk to one side add up."""
    held, tilt = drifted()
    monkeypatch.setattr(windows, "PULL", 0.0)
    free, free_tilt = drifted()
    assert free < 0.8 < held
    assert tilt < 0.8 * free_tilt


def test_the_scale_is_the_median_of_what_the_windows_say():
    *_, chain = chained(33, 8, 3, scales=(1.0, 1.0, 1.0, 5.0))
    assert chain.factor == pytest.approx(1.0, rel=1e-3)
    *_, chain = chained(33, 8, 3, scales=(5.0, 1.0, 1.0, 1.0))  # the first window is the one that errs
    assert chain.factor == pytest.approx(0.2, rel=0.06)
    assert float(chain.scale.scale[0]) == pytest.approx(chain.factor) and float(chain.scale.spread[0]) < 0.03


# ---- the model ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model():
    return micro_model()


def run(model, images, size, overlap, known=None):
    windows = WindowedReconstruction(model, known)
    for window, shared in windows_of(range(images.shape[1]), size, overlap):
        windows.add(images[:, window], shared)
    return windows


ENDS = (3.0, 3.0), (30.0, 20.0)
KNOWN = (None, KnownScale(factor=2.0), KnownScale(length=KnownLength(1, *ENDS, 2.0)))


@pytest.mark.parametrize("known", KNOWN)
def test_a_single_window_is_the_whole_to_the_last_bit(model, known):
    images = video(5)
    windows = WindowedReconstruction(model, known)
    new, found = windows.add(images, 0), windows.snapshot()
    with torch.inference_mode():
        scene = model.encode_scene(images, known)
        geometry, prefix = scene.geometry, scene.prefix
    assert torch.equal(found.extrinsics, geometry.extrinsics[0]) and torch.equal(new.depth, geometry.depth_m[0])
    assert torch.equal(found.intrinsics, geometry.intrinsics[0]) and torch.equal(new.confidence, geometry.confidence[0])
    assert torch.equal(found.scene_from_world, geometry.scene_from_world[0]) and found.factor == 1
    assert torch.equal(found.scale.scale, geometry.scale.scale)
    torch.testing.assert_close(found.scale.spread, geometry.scale.spread, rtol=0, atol=0, equal_nan=True)
    for name in ("tokens", "mask", "patches", "patch_positions", "patch_mask", "patch_index"):
        assert torch.equal(getattr(found.prefix, name), getattr(prefix, name))


def test_patches_stay_under_their_cap_and_the_prefix_keeps_its_length(model):
    windows, lengths = WindowedReconstruction(model), []
    images = video(22)
    for window, shared in windows_of(range(22), 6, 2):
        windows.add(images[:, window], shared)
        found = windows.snapshot()
        lengths.append(found.prefix.tokens.shape[1])
        assert len(windows.patches) <= model.config.patches.max_patches
        assert float(windows.patches.counts.sum()) == windows.frames * 6  # every patch of every frame counts once
    assert max(lengths) <= model.config.patches.max_patches + model.config.adapter.bridge_tokens
    assert len(found) == 22 and bool(found.prefix.tokens.isfinite().all()) and len(found.residuals) == len(lengths) - 1


def test_a_known_scale_holds_for_the_whole_chain(model, monkeypatch):
    monkeypatch.setattr(windows, "PULL", 0.0)  # the plain chain alone is pulled towards its windows' metres
    images = video(12)
    plain, scaled = (run(model, images, 6, 2, known).snapshot() for known in (None, KnownScale(factor=3.0)))
    assert float(scaled.scale.scale[0]) == 3 and bool(scaled.scale.spread.isnan())
    ratio = scaled.extrinsics[-1, :, 3].norm() / plain.extrinsics[-1, :, 3].norm()
    assert float(ratio) == pytest.approx(3 / float(plain.scale.scale[0]), rel=1e-3)


def test_a_known_length_of_a_late_frame_gives_the_scale_of_all(model):
    images, length = video(12), KnownLength(9, *ENDS, 2.0)
    windows = WindowedReconstruction(model, KnownScale(length=length))
    parts = [windows.add(images[:, window], shared) for window, shared in windows_of(range(12), 6, 2)]
    found = windows.snapshot()
    depth = torch.cat([part.depth for part in parts]) * found.factor
    pose = torch.eye(4)[None, None, :3].expand(1, 12, 3, 4)
    again = KnownScale(length=length).metres_per_unit(depth[None], found.intrinsics[None], pose, torch.ones(1, 3))
    assert float(again) == pytest.approx(1, rel=1e-4)


def test_asking_before_the_first_window_is_refused(model):
    with pytest.raises(ValueError, match="no window"):
        WindowedReconstruction(model).snapshot()


# ---- patches --------------------------------------------------------------------------------------------------------


def prefix_of(features, positions, config):
    valid = torch.ones(1, len(features), dtype=torch.bool)
    found = voxel_pool(features[None], positions[None], valid, config.voxel_size_m, config.max_patches)
    return VisualPrefix(found.features, found.mask, found.features, found.positions, found.mask, found.inverse)


def test_merging_windows_is_pooling_all_their_patches_at_once():
    config = PatchesConfig(voxel_size_m=0.5, max_patches=1000)
    features, positions = torch.randn(300, 7), 2 * torch.rand(300, 3)
    patches = VoxelMap(config, None)
    for part in (slice(0, 100), slice(100, 130), slice(130, 300)):
        patches.add(prefix_of(features[part], positions[part], config))
    whole = prefix_of(features, positions, config)
    assert torch.allclose(patches.pooled.features, whole.patches, atol=1e-5)
    assert torch.allclose(patches.pooled.positions, whole.patch_positions, atol=1e-5)


def test_patches_that_move_take_their_position_embedding_along():
    embedding, config = PositionEmbedding(7), PatchesConfig(voxel_size_m=0.001)
    tokens, positions = torch.randn(20, 7), torch.rand(20, 3)
    similarity = torch.eye(4, dtype=torch.float64)
    similarity[:3] = torch.cat([1.3 * quaternion_to_matrix(torch.randn(4)).double(), torch.rand(3, 1)], 1)
    moved = positions @ similarity[:3, :3].float().T + similarity[:3, 3].float()
    with torch.no_grad():
        patches = VoxelMap(config, embedding)
        patches.add(prefix_of(tokens + embedding(positions), positions, config))
        patches.move(similarity)
        order = (patches.pooled.positions[0][:, None] - moved).norm(dim=-1).argmin(1)
        assert torch.allclose(patches.pooled.positions[0], moved[order], atol=1e-5)
        assert torch.allclose(patches.pooled.features[0], (tokens + embedding(moved))[order], atol=1e-4)


def test_a_chain_is_rigid_where_windows_agree(model):
    """Sim(3) of the identity: the second of two equal windows changes nothing."""
    geometry = oracle(*(x[:6] for x in walk(30)))
    chain = Chain()
    first = chain.add(geometry, 0)
    again = chain.add(replace(geometry), 6)
    assert torch.allclose(first.extrinsics, again.extrinsics, atol=1e-6)
    assert torch.allclose(chain.registrations[0].transform.scale, Sim3.identity().scale)
