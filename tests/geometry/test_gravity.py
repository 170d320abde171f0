"""The scene frame is level, right-handed and looks where the first camera looks."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from vidllm.geometry.gravity import scene_from_world


def test_rigid_z_up_and_heading():
    up = F.normalize(torch.randn(100, 3, dtype=torch.float64), dim=-1)
    transform = scene_from_world(up)
    r = transform[:, :3, :3]
    torch.testing.assert_close(r @ r.transpose(-1, -2), torch.eye(3, dtype=r.dtype).expand_as(r))
    torch.testing.assert_close(torch.linalg.det(r), torch.ones(100, dtype=r.dtype))
    torch.testing.assert_close((r @ up[..., None])[..., 0], torch.tensor([0.0, 0, 1], dtype=r.dtype).expand(100, 3))
    assert transform[:, :3, 3].abs().max() == 0
    forward = r[:, :, 2]  # image of the optical axis
    assert (forward[:, 0] > 0).all()
    torch.testing.assert_close(forward[:, 1], torch.zeros(100, dtype=r.dtype), atol=1e-12, rtol=0)


def test_level_camera():
    r = scene_from_world(torch.tensor([0.0, -2.0, 0.0]))[:3, :3]
    torch.testing.assert_close(r @ torch.tensor([1.0, 0, 0]), torch.tensor([0.0, -1, 0]))  # right is -y
    torch.testing.assert_close(r @ torch.tensor([0.0, 0, 1]), torch.tensor([1.0, 0, 0]))


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_looking_straight_down_or_up_continues_the_tilt(sign: float):
    straight = scene_from_world(torch.tensor([0.0, 0.0, sign]))
    nearly = scene_from_world(torch.tensor([0.0, -0.01, sign]))
    assert torch.isfinite(straight).all()
    torch.testing.assert_close(straight, nearly, atol=0.02, rtol=0)


def test_gradient_is_finite_when_vertical():
    up = torch.tensor([0.0, 0.0, 1.0], requires_grad=True)
    scene_from_world(up).sum().backward()
    assert up.grad is not None and torch.isfinite(up.grad).all()
