"""The losses against values worked out by hand, and what autocast must not touch."""

from __future__ import annotations

import math

import pytest
import torch

from vidllm.geometry.cameras import intrinsics_from_fov, invert_extrinsics, relative_to_first
from vidllm.geometry.rotations import quaternion_to_matrix, rotation_angle_deg
from vidllm.model.patches_3d import back_project
from vidllm.training.losses import (
    camera_losses,
    depth_loss,
    gradient_loss,
    masked_mean,
    metric_depth_loss,
    normalise,
    point_loss,
)
from vidllm.training.supervision.base import Matches, correspondences
from vidllm.training.supervision.geometry import correspondence_loss

ALL = torch.ones(1, 2, 4, 4, dtype=torch.bool)


# ---- metric depth (Eq 9) --------------------------------------------------------------------------------------------


def test_metric_loss_without_alpha_is_the_mean_squared_log_error():
    true, told = torch.rand(2, 3, 5, 6) + 0.5, torch.rand(2, 3, 5, 6) + 0.5
    valid = torch.rand(2, 3, 5, 6) > 0.3
    error = (told + 1e-3).log() - (true + 1e-3).log()
    each = torch.stack([e[v].square().mean() for e, v in zip(error.flatten(0, 1), valid.flatten(0, 1), strict=True)])
    torch.testing.assert_close(metric_depth_loss(told, true, valid, alpha=0.0), each.mean())


def test_metric_loss_by_hand():
    true = torch.ones(1, 1, 2)
    told = torch.tensor([[[math.e, math.exp(-3.0)]]])
    valid = torch.ones(1, 1, 2, dtype=torch.bool)
    # errors 1 and -3: mean -1, residuals 2 and -2; b^2 = 1, spread = 4 / (1 + 2)
    assert float(metric_depth_loss(told, true, valid, alpha=1.0, eps=0.0)) == pytest.approx(1 + 4 / 3, rel=1e-6)
    assert float(metric_depth_loss(told, true, valid & False)) == 0.0
    # an image without ground truth has no say in the mean over images
    both = metric_depth_loss(torch.cat([told, told]), torch.cat([true, true]), torch.cat([valid, valid & False]))
    torch.testing.assert_close(both, metric_depth_loss(told, true, valid))


def test_metric_loss_bends_under_outliers_but_keeps_the_scale():
    true = torch.ones(1, 10, 10)
    valid = torch.ones(1, 10, 10, dtype=torch.bool)
    scaled = true * 2.0
    assert float(metric_depth_loss(scaled, true, valid, 5.0)) == pytest.approx(
        float(metric_depth_loss(scaled, true, valid, 0.0)), rel=1e-4
    )
    torn = true.clone()
    torn[0, 0, 0] = 100.0
    assert float(metric_depth_loss(torn, true, valid, 1.0)) < 0.3 * float(metric_depth_loss(torn, true, valid, 0.0))


# ---- camera ---------------------------------------------------------------------------------------------------------


def test_camera_loss_by_hand():
    target = torch.zeros(1, 2, 9)
    near, far = target.clone(), target.clone()
    near[..., 0], near[..., 7] = 0.3, 0.4  # |T| mean 0.1, FL mean 0.2
    far[..., 3:7] = 1.0  # R mean 1
    # two refinements, the last weighs 1, the one before 0.6; the sum over their number
    both = camera_losses([far, near], target)["camera"]
    assert float(both) == pytest.approx((0.6 * 1.0 + 0.1 + 0.5 * 0.2) / 2, rel=1e-6)
    away = target.clone()
    away[..., 0] = 1e6
    assert float(camera_losses([away], target)["camera"]) == pytest.approx(100 / 3, rel=1e-6)
    assert float(camera_losses([target], target)["camera"]) == 0.0
    # weights of translation and rotation
    told = camera_losses([near], target, weights=(5.0, 3.0, 2.0))["camera"]
    assert float(told) == pytest.approx(5 * 0.1 + 2 * 0.2, rel=1e-6)
    assert float(camera_losses([far], target, weights=(5.0, 3.0, 2.0))["camera"]) == pytest.approx(3.0, rel=1e-6)


# ---- depth and points -----------------------------------------------------------------------------------------------


def test_depth_loss_by_hand():
    target, sure = torch.ones(1, 2, 4, 4), torch.full((1, 2, 4, 4), 2.0)
    told = target + 0.5  # the same error everywhere: no gradient term
    wanted = 0.5 * 2 - 0.2 * math.log(2) + 0.5
    assert float(depth_loss(told, sure, target, ALL)) == pytest.approx(wanted, rel=1e-6)
    near = 1.0 * 2 - 0.2 * math.log(2) + 1.0  # (1 + 1/D) = 2 at one unit
    assert float(depth_loss(told, sure, target, ALL, inverse_depth=True)) == pytest.approx(near, rel=1e-6)
    assert float(depth_loss(told, sure, target, ~ALL)) == 0.0
    one = torch.zeros_like(ALL)
    one[0, 0, 0, 0] = True
    wild = told.clone()
    wild[0, 0, 0, 0] = 1e9  # both terms stop at 100
    assert float(depth_loss(wild, sure, target, one)) == pytest.approx(200.0, rel=1e-6)


def test_gradient_loss_by_hand():
    ramp = torch.arange(4.0).expand(1, 2, 4, 4)  # 1 a pixel across: 12 differences of 1, and one of 2 a row at stride 2
    scales = [12 / 16, 2 * 2 / 4, 0.0, 0.0]
    flat = torch.zeros(1, 2, 4, 4, 1)
    assert float(gradient_loss("grad", ramp[..., None], ramp, flat, ALL)) == pytest.approx(sum(scales) / 4, rel=1e-6)
    holes = ALL.clone()
    holes[..., 1] = False  # a difference needs both its pixels
    told = gradient_loss("grad", ramp[..., None], ramp, flat, holes)
    assert float(told) == pytest.approx((4 / 12 + 2 * 2 / 4) / 4, rel=1e-6)


def test_point_loss_is_a_distance():
    target = torch.zeros(1, 2, 4, 4, 3)
    told = target + torch.tensor([3.0, 0.0, 4.0])
    sure = torch.ones(1, 2, 4, 4)
    assert float(point_loss(told, sure, target, ALL)) == pytest.approx(10.0, rel=1e-6)
    assert float(masked_mean(told[..., 0], ~ALL)) == 0.0


# ---- targets --------------------------------------------------------------------------------------------------------


def cameras(batch=2, frames=3, height=28, width=42):
    quaternion = torch.randn(batch, frames, 4) * 0.1 + torch.tensor([0, 0, 0, 1.0])
    extrinsics = torch.eye(4).repeat(batch, frames, 1, 1)
    extrinsics[..., :3, :3] = quaternion_to_matrix(quaternion)
    extrinsics[..., :3, 3] = torch.randn(batch, frames, 3)
    fov = torch.full((batch, frames), 1.0)
    return extrinsics, intrinsics_from_fov(fov, fov * 1.2, height, width)


def test_normalised_scenes_have_a_mean_distance_of_one():
    extrinsics, k = cameras()
    depth = torch.rand(2, 3, 28, 42) * 4 + 0.5
    depth[:, :, :5] = 0  # unknown
    targets = normalise(depth, extrinsics, k)
    distance = targets.points.norm(dim=-1)
    for b in range(2):
        assert float(distance[b][targets.valid[b]].mean()) == pytest.approx(1.0, rel=1e-4)
    torch.testing.assert_close(targets.extrinsics[:, 0], torch.eye(4)[:3].expand(2, 3, 4), atol=1e-6, rtol=0)
    still = torch.tensor([0, 0, 0, 0, 0, 0, 1.0]).expand(2, 7)
    torch.testing.assert_close(targets.pose[:, 0, :7], still, atol=1e-5, rtol=0)
    torch.testing.assert_close(
        targets.pose[..., :3] * targets.scale[:, None, None], targets.extrinsics[..., 3], atol=1e-5, rtol=1e-5
    )
    torch.testing.assert_close(targets.depth * targets.scale[:, None, None, None], depth)
    # the same scene ten times as large, and from another world, has the same targets
    larger = extrinsics.clone()
    larger[..., :3, 3] *= 10
    again = normalise(depth * 10, larger @ invert_extrinsics(cameras()[0][:, :1]), k)
    torch.testing.assert_close(again.depth, targets.depth, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_leaves_geometry_alone(dtype):
    extrinsics, k = cameras()
    depth = torch.rand(2, 3, 28, 42) * 4 + 0.5
    other = torch.tensor([1, 2, 0])
    def everything():
        targets = normalise(depth, extrinsics, k)
        points, _ = back_project(depth, k, extrinsics, (2, 3), 14)
        turned = rotation_angle_deg(extrinsics[..., :3, :3], extrinsics[:, :1, :3, :3].expand(-1, 3, -1, -1))
        matches = correspondences(depth, targets.extrinsics, k, (2, 3), 14, other)
        return [*targets.__dict__.values(), points, turned, matches.place, matches.valid, relative_to_first(extrinsics)]

    plain = everything()
    with torch.autocast("cpu", dtype=dtype):
        cast = everything()
    for a, b in zip(cast, plain, strict=True):
        assert a.dtype == b.dtype and torch.equal(a, b)


# ---- correspondence -------------------------------------------------------------------------------------------------


def test_correspondences_on_a_wall_are_exact():
    # a wall 2 m away, focal length 28 pixels, the second camera one patch's width (14 px = 1 m) to the right
    k = torch.tensor([[28.0, 0, 28], [0, 28, 14], [0, 0, 1]]).expand(1, 2, 3, 3)
    extrinsics = torch.eye(4).repeat(1, 2, 1, 1)
    extrinsics[0, 1, 0, 3] = -1.0
    depth = torch.full((1, 2, 28, 56), 2.0)
    matches = correspondences(depth, extrinsics[..., :3, :], k, (2, 4), 14, torch.tensor([1, 0]))
    index, seen = matches.index, matches.valid
    assert seen[0, 0].tolist() == [False, True, True, True] * 2
    assert index[0, 0][seen[0, 0]].tolist() == [0, 1, 2, 4, 5, 6]
    assert seen[0, 1].tolist() == [True, True, True, False] * 2
    assert index[0, 1][seen[0, 1]].tolist() == [1, 2, 3, 5, 6, 7]
    blocked = depth.clone()
    blocked[0, 1] = 1.0  # something stands before the second camera
    seen = correspondences(blocked, extrinsics[..., :3, :], k, (2, 4), 14, torch.tensor([1, 0])).valid
    assert not bool(seen[0, 0].any())


def test_corners_share_a_match_between_patches():
    place = torch.tensor([[0.25, 0.5], [-0.4, 1.0], [3.0, 0.0], [2.5, 1.4]])[None, None]
    matches = Matches(place, torch.ones(1, 1, 4, dtype=torch.bool), (2, 4))
    corners, shares = matches.corners()
    centres = torch.stack(torch.meshgrid(torch.arange(2.0), torch.arange(4.0), indexing="ij")[::-1], -1).flatten(0, 1)
    torch.testing.assert_close(shares.sum(-1), torch.ones(1, 1, 4))
    told = (centres[corners] * shares[..., None]).sum(-2)
    torch.testing.assert_close(told[0, 0], place[0, 0].clamp(min=0).minimum(torch.tensor([3.0, 1.0])))
    assert matches.index.flatten().tolist() == [4, 4, 3, 7]


def test_correspondence_loss_wants_partners_alike():
    tokens = torch.eye(4).expand(1, 2, 4, 4)
    other, valid = torch.tensor([1, 0]), torch.ones(1, 2, 4, dtype=torch.bool)
    right, wrong = torch.arange(4).expand(1, 2, 4), torch.arange(4).roll(1).expand(1, 2, 4)
    low, high = (float(correspondence_loss(tokens, t, valid, other)) for t in (right, wrong))
    assert low == pytest.approx(math.log(1 + 3 * math.exp(-10)), abs=1e-5) and high == pytest.approx(10 + low, rel=1e-4)
    assert float(correspondence_loss(tokens, wrong, ~valid, other)) == 0.0
