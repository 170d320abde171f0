"""Similarities: their algebra, and that a joint is found through noise and through depth that is wrong."""

from __future__ import annotations

import pytest
import torch

from vidllm.geometry.cameras import project, unproject
from vidllm.geometry.rotations import nearest_rotation, quaternion_to_matrix, rotation_angle_deg
from vidllm.geometry.sim3 import Sim3, Views, mean_direction, register

F, H, W = 4, 20, 26


def rand(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def similarity(scale=1.7):
    return Sim3(torch.tensor(scale, dtype=torch.float64), quaternion_to_matrix(rand(4)), rand(3))


def views():
    """Four cameras that look at rough surfaces 2 to 4 units away."""
    intrinsics = torch.tensor([[24.0, 0, 13], [0, 24, 10], [0, 0, 1]], dtype=torch.float64).expand(F, 3, 3)
    turns = quaternion_to_matrix(torch.cat([0.1 * rand(F, 3), torch.ones(F, 1, dtype=torch.float64)], -1))
    depth = 2 + 2 * torch.rand(F, H, W, dtype=torch.float64)
    return Views(depth, torch.ones_like(depth), intrinsics, torch.cat([turns, 0.2 * rand(F, 3, 1)], -1))


def inverse(place):
    scale, rotation = 1 / place.scale, place.rotation.T
    return Sim3(scale, rotation, -scale * (rotation @ place.translation))


def seen_from(place, world):
    """The same views in a world from which ``place`` leads back."""
    back = inverse(place)
    return Views(world.depth * back.scale, world.confidence, world.intrinsics, back.move_cameras(world.extrinsics))


def errors(found, true):
    """Of scale (relative), rotation (degrees) and translation."""
    angle = rotation_angle_deg(found.rotation, true.rotation)
    return abs(float(found.scale / true.scale) - 1), float(angle), float((found.translation - true.translation).norm())


def test_the_algebra_of_similarities():
    a, b, points = similarity(), similarity(0.6), rand(5, 3)
    assert torch.allclose(a.after(b).apply(points), a.apply(b.apply(points)))
    assert torch.allclose(inverse(a).apply(a.apply(points)), points)
    assert torch.equal(Sim3.identity().apply(points), points)


def test_moved_cameras_see_moved_points_at_the_same_pixels():
    world, place = views(), similarity()
    points = unproject(world.depth, world.intrinsics, world.extrinsics)
    uv, depth = project(points, world.intrinsics, world.extrinsics)
    moved_uv, moved_depth = project(place.apply(points), world.intrinsics, place.move_cameras(world.extrinsics))
    assert torch.allclose(uv, moved_uv) and torch.allclose(depth * place.scale, moved_depth)
    assert torch.equal(Sim3.identity().move_cameras(world.extrinsics), world.extrinsics)


def test_a_joint_is_exact_without_noise_at_any_scale():
    for scale in (0.01, 1.0, 300.0):
        world, place = views(), similarity(scale)
        found = register(world, seen_from(place, world))
        assert max(errors(found.transform, place)) < 1e-9 * max(1, scale) and found.residual < 1e-8


@pytest.mark.parametrize(("wrong", "bounds"), [(0.0, (1e-3, 0.05, 5e-3)), (0.4, (5e-3, 0.1, 0.02))])
def test_noise_averages_out_and_wrong_depth_is_left_out(wrong, bounds):
    world, place = views(), similarity()
    later = seen_from(place, world)
    depth = later.depth * (1 + 0.02 * rand(F, H, W))
    depth = torch.where(torch.rand(F, H, W) < wrong, 2.5 * depth, depth)
    found = register(world, Views(depth, later.confidence, later.intrinsics, later.extrinsics))
    assert all(e < b for e, b in zip(errors(found.transform, place), bounds, strict=True))
    assert 0.005 < found.residual < 0.03  # the median, which the wrong pixels do not reach


def test_one_frame_with_a_wrong_camera_is_outvoted():
    world, place = views(), similarity()
    later = seen_from(place, world)
    pose = later.extrinsics.clone()
    pose[1, :, 3] += 0.4
    found = register(world, Views(later.depth, later.confidence, later.intrinsics, pose))
    assert max(errors(found.transform, place)) < 1e-3


def test_unknown_and_unsure_pixels_do_not_count():
    world, place = views(), similarity()
    later = seen_from(place, world)
    depth, confidence = later.depth.clone(), later.confidence.clone()
    depth[:, :4], depth[:, 4:6], depth[:, 6:8] = float("nan"), 0.0, -1.0
    depth[:, 8:10], confidence[:, 8:10] = 50.0, 0.1
    found = register(world, Views(depth, confidence, later.intrinsics, later.extrinsics))
    assert max(errors(found.transform, place)) < 1e-8


def test_large_maps_are_thinned_on_a_grid_that_keeps_the_rays():
    depth = torch.full((2, 150, 90), 2.0, dtype=torch.float64) + 0.01 * torch.arange(90)
    intrinsics = torch.tensor([[80.0, 0, 45], [0, 80, 75], [0, 0, 1]], dtype=torch.float64).expand(2, 3, 3)
    pose = torch.eye(4, dtype=torch.float64)[:3].repeat(2, 1, 1)
    pose[1, 0, 3] = -0.3
    world, place = Views(depth, torch.ones_like(depth), intrinsics, pose), similarity()
    assert max(errors(register(world, seen_from(place, world)).transform, place)) < 1e-8


def test_what_cannot_be_joined_is_refused():
    world = views()
    with pytest.raises(ValueError, match="same shared frames"):
        register(world, world[:2])
    with pytest.raises(ValueError, match="no pixel of known depth"):
        register(world, Views(0 * world.depth, world.confidence, world.intrinsics, world.extrinsics))


def test_the_median_direction_ignores_a_minority_and_keeps_a_single_one():
    up = torch.tensor([0.1, -1.0, 0.2], dtype=torch.float64)
    assert torch.equal(mean_direction(up[None]), up)
    most = up + 0.01 * rand(7, 3)
    found = mean_direction(torch.cat([most, torch.eye(3, dtype=torch.float64)[:2]]))
    assert float(found @ up / up.norm()) > 0.9999
    assert abs(float(found.norm()) - 1) < 1e-12


def test_the_mean_rotation_is_between():
    half = torch.tensor([0.0, 0.0, 0.2, 1.0], dtype=torch.float64)
    turn = quaternion_to_matrix(half)
    mean = nearest_rotation(turn + turn.T)[0]
    assert torch.allclose(mean, torch.eye(3, dtype=torch.float64))
