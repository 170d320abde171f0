"""The patch-point loss: distances, and on request directions from the first camera."""

from __future__ import annotations

import pytest
import torch

from vidllm.training.supervision.base import NEAR, AuxiliaryHeads


def test_bearing_adds_the_distance_of_directions() -> None:
    heads = AuxiliaryHeads(4, 3, 3, 3)
    told = torch.tensor([[[[0.0, 0.0, 2.0], [0.1, 0.0, 0.0]]]])
    heads.point = torch.nn.Identity()
    true = torch.tensor([[[[0.0, 3.0, 0.0], [0.0, 0.0, 0.1]]]])
    valid = torch.ones(1, 1, 2, dtype=torch.bool)
    distance = (13**0.5 + 0.1 * 2**0.5) / 2
    assert float(heads.point_loss(told, true, valid)) == pytest.approx(distance, rel=1e-6)
    bearing = (2**0.5 + 0.1 / NEAR * 2**0.5) / 2  # the second pair is nearer than NEAR: shortened directions
    assert float(heads.point_loss(told, true, valid, 0.5)) == pytest.approx(distance + 0.5 * bearing, rel=1e-6)
    assert float(heads.point_loss(told, told, valid, 1.0)) == 0.0
