"""Laws of rotations."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from vidllm.geometry.rotations import matrix_to_quaternion, quaternion_to_matrix, rotation_angle_deg, rotation_z


def quaternions(n: int) -> torch.Tensor:
    q = F.normalize(torch.randn(n, 4, dtype=torch.float64), dim=-1)
    return torch.where(q[:, 3:] < 0, -q, q)


def test_matrices_are_proper_rotations():
    r = quaternion_to_matrix(quaternions(100))
    torch.testing.assert_close(r @ r.transpose(-1, -2), torch.eye(3, dtype=r.dtype).expand_as(r))
    torch.testing.assert_close(torch.linalg.det(r), torch.ones(100, dtype=r.dtype))


def test_round_trip_and_length_does_not_matter():
    q = quaternions(200)
    torch.testing.assert_close(matrix_to_quaternion(quaternion_to_matrix(q)), q)
    torch.testing.assert_close(quaternion_to_matrix(-3.7 * q), quaternion_to_matrix(q))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_half_turns_round_trip(axis: int):
    q = torch.zeros(4)
    q[axis] = 1.0
    r = quaternion_to_matrix(q)
    torch.testing.assert_close(matrix_to_quaternion(r).abs(), q)
    assert rotation_angle_deg(torch.eye(3), r).item() == pytest.approx(180.0, abs=1e-4)


def test_known_rotation_and_zero_quaternion():
    quarter = torch.tensor([0.0, 0.0, math.sin(math.pi / 4), math.cos(math.pi / 4)])
    torch.testing.assert_close(quaternion_to_matrix(quarter), rotation_z(torch.tensor(math.pi / 2)))
    torch.testing.assert_close(quaternion_to_matrix(torch.zeros(4)), torch.eye(3))


def test_composition_of_z_rotations_and_small_angles():
    a, b = torch.tensor(0.3), torch.tensor(-1.1)
    torch.testing.assert_close(rotation_z(a) @ rotation_z(b), rotation_z(a + b))
    tiny = rotation_z(torch.tensor(1e-5))
    assert rotation_angle_deg(torch.eye(3), tiny).item() == pytest.approx(math.degrees(1e-5), rel=1e-3)
