"""Cameras: SE(3), pose encoding, projection against Eq 3."""

from __future__ import annotations

import math

import pytest
import torch

from vidllm.geometry.cameras import (
    decode_pose,
    encode_pose,
    fov_from_intrinsics,
    intrinsics_from_fov,
    invert_extrinsics,
    pixel_centres,
    project,
    relative_to_first,
    to_homogeneous,
    unproject,
)
from vidllm.geometry.rotations import quaternion_to_matrix

SIZE = (10, 14)


def cameras(*batch: int) -> tuple[torch.Tensor, torch.Tensor]:
    rotation = quaternion_to_matrix(torch.randn(*batch, 4, dtype=torch.float64))
    translation = torch.randn(*batch, 3, 1, dtype=torch.float64)
    fov = 0.5 + torch.rand(*batch, 2, dtype=torch.float64)
    return torch.cat((rotation, translation), -1), intrinsics_from_fov(fov[..., 0], fov[..., 1], *SIZE)


def test_pixel_centres_are_half_in():
    uv = pixel_centres(2, 3)
    assert uv.shape == (2, 3, 2)
    assert uv[1, 2].tolist() == [2.5, 1.5]
    torch.testing.assert_close(uv.mean((0, 1)), torch.tensor([1.5, 1.0]))


def test_inverse_and_relative_to_first():
    extrinsics, _ = cameras(2, 5)
    identity = torch.eye(4, dtype=torch.float64)
    product = to_homogeneous(extrinsics) @ invert_extrinsics(extrinsics)
    torch.testing.assert_close(product, identity.expand_as(product))
    relative = relative_to_first(extrinsics)
    torch.testing.assert_close(relative[:, 0], identity.expand(2, 4, 4))
    torch.testing.assert_close(relative @ to_homogeneous(extrinsics[:, :1]), to_homogeneous(extrinsics))


def test_pose_encoding_round_trip():
    extrinsics, intrinsics = cameras(3, 4)
    encoding = encode_pose(extrinsics, intrinsics, SIZE)
    back_extrinsics, back_intrinsics = decode_pose(encoding, SIZE)
    torch.testing.assert_close(back_extrinsics, extrinsics)
    torch.testing.assert_close(back_intrinsics, intrinsics)
    fov_h, fov_w = fov_from_intrinsics(intrinsics, *SIZE)
    torch.testing.assert_close(encoding[..., 7], fov_h)
    torch.testing.assert_close(encoding[..., 8], fov_w)


def test_field_of_view_of_90_degrees():
    right = torch.tensor(math.pi / 2)
    k = intrinsics_from_fov(right, right, 20, 40)
    torch.testing.assert_close(k, torch.tensor([[20.0, 0, 20], [0, 10, 10], [0, 0, 1]]))


def test_zero_field_of_view_is_guarded_only_on_our_side():
    encoding = torch.tensor([0.0, 0, 0, 0, 0, 0, 1, 0, 0])
    assert torch.isfinite(decode_pose(encoding, SIZE)[1]).all()
    assert torch.isinf(decode_pose(encoding, SIZE, fov_limits=None)[1][0, 0])


def test_projection_inverts_equation_3():
    extrinsics, intrinsics = cameras(2, 3)
    depth = 0.5 + torch.rand(2, 3, *SIZE, dtype=torch.float64)
    uv, back = project(unproject(depth, intrinsics, extrinsics), intrinsics, extrinsics)
    torch.testing.assert_close(uv, pixel_centres(*SIZE, dtype=torch.float64).expand_as(uv))
    torch.testing.assert_close(back, depth)


def test_equation_3_literally():
    extrinsics, intrinsics = cameras()
    depth = 0.5 + torch.rand(*SIZE, dtype=torch.float64)
    rotation, translation = extrinsics[:, :3], extrinsics[:, 3]
    pixel = torch.tensor([6.5, 2.5, 1.0], dtype=torch.float64)
    inverse = torch.linalg.inv(rotation)
    expected = inverse @ torch.linalg.inv(intrinsics) @ pixel * depth[2, 6] - inverse @ translation
    torch.testing.assert_close(unproject(depth, intrinsics, extrinsics)[2, 6], expected)


def test_camera_frame_points_and_bf16():
    _, intrinsics = cameras()
    depth = torch.ones(*SIZE, dtype=torch.float64)
    points = unproject(depth, intrinsics)
    torch.testing.assert_close(points[..., 2], depth)
    assert unproject(depth.bfloat16(), intrinsics.bfloat16()).dtype == torch.bfloat16
    uv, _ = project(points, intrinsics)
    torch.testing.assert_close(uv, pixel_centres(*SIZE, dtype=torch.float64))


def test_point_in_the_camera_centre_stays_finite():
    _, intrinsics = cameras()
    assert torch.isfinite(project(torch.zeros(4, 3, dtype=torch.float64), intrinsics)[0]).all()


def test_homogeneous_rejects_other_shapes():
    with pytest.raises(ValueError, match="expected rigid transforms"):
        to_homogeneous(torch.zeros(2, 4))
