"""Up and the floor from geometry: planted planes are found, and the room's frame stands on the floor."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from vidllm.geometry.gravity import floor_height, room_frame, up_from_cameras, up_from_points
from vidllm.geometry.rotations import quaternion_to_matrix

UP = torch.tensor([0.0, -1.0, 0.0])


def room(noise: float = 0.002) -> Tensor:
    """Floor 1.4 below the world's origin, two walls and a table; image down is +y."""
    flat = torch.rand(3000, 2) * 4 - 2
    floor = torch.stack([flat[:, 0], torch.full((3000,), 1.4), flat[:, 1] + 2], -1)
    wall = torch.stack([flat[:1500, 0], flat[:1500, 1] * 0.6 + 0.2, torch.full((1500,), 4.0)], -1)
    side = torch.stack([torch.full((1500,), -2.0), flat[:1500, 1] * 0.6 + 0.2, flat[:1500, 0] + 2], -1)
    table = torch.stack([flat[:500, 0] * 0.2, torch.full((500,), 0.7), flat[:500, 1] * 0.2 + 2], -1)
    points = torch.cat([floor, wall, side, table])
    return points + noise * torch.randn_like(points)


def tilted(degrees: float) -> Tensor:
    half = math.radians(degrees) / 2
    return quaternion_to_matrix(torch.tensor([math.sin(half), 0.0, 0.0, math.cos(half)]))


@pytest.mark.parametrize("degrees", [-25.0, 0.0, 10.0, 30.0])
def test_a_tilted_camera_finds_the_floors_normal(degrees: float):
    rotation = tilted(degrees)
    found = up_from_points(room() @ rotation.T, UP)
    assert float(found @ (rotation @ UP)) > math.cos(math.radians(0.5))


def test_height_and_frame():
    points = room(0.0)
    torch.testing.assert_close(floor_height(points, UP), torch.tensor(-1.4), atol=0.01, rtol=0)
    transform = room_frame(points, UP)
    inside = points @ transform[:3, :3].T + transform[:3, 3]
    assert abs(float(inside[:3000, 2].median())) < 0.01 and abs(float(inside[:, 0].median())) < 0.05
    torch.testing.assert_close(transform[:3, :3] @ transform[:3, :3].T, torch.eye(3))
    assert float(torch.linalg.det(transform[:3, :3])) == pytest.approx(1.0, abs=1e-5)


def test_points_without_a_level_plane_keep_the_cameras_up():
    wall = torch.cat([torch.rand(500, 2) * 3, torch.full((500, 1), 2.0)], -1)
    assert torch.equal(up_from_points(wall, UP), UP)
    assert torch.equal(up_from_points(wall[:4], UP), UP)
    with pytest.raises(ValueError, match="no finite point"):
        floor_height(torch.full((3, 3), torch.nan), UP)


def test_cameras_that_look_down_average_to_up():
    poses = torch.eye(4).repeat(1, 2, 1, 1)
    poses[0, 1, :3, :3] = tilted(20.0)
    found = up_from_cameras(poses)
    assert found.shape == (1, 3) and float(found[0] @ UP) > math.cos(math.radians(11))
