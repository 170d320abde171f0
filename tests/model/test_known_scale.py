"""What the user knows becomes metres: a planted scale is found from a height, a length or a factor."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from vidllm.model.priors import KnownLength, KnownScale

UNIT = 0.37  # units a metre of the planted reconstruction
UP = torch.tensor([[0.0, -1.0, 0.0]])


def planted() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Two level cameras 1.5 m over a floor, a wall 3 m ahead: depth, K, extrinsics at ``UNIT`` units a metre."""
    k = torch.tensor([[40.0, 0, 32], [0, 40, 32], [0, 0, 1]]).expand(1, 2, 3, 3)
    v = (torch.arange(64) + 0.5 - 32) / 40
    ray = torch.where(v > 0, 1.5 / v.clamp(min=1e-6), torch.inf).clamp(max=3.0)
    depth = ray[None, None, :, None].expand(1, 2, 64, 64) * UNIT
    extrinsics = torch.eye(4)[:3].repeat(1, 2, 1, 1)
    extrinsics[0, 1, 0, 3] = 0.4 * UNIT
    return depth, k, extrinsics, UP


@pytest.mark.parametrize(
    "known",
    [
        KnownScale(factor=1 / UNIT),
        KnownScale(camera_height_m=1.5),
        KnownScale(length=KnownLength(1, (12.0, 10.0), (52.0, 10.0), 3.0)),  # 40 pixels at 3 m, focal length 40
    ],
)
def test_a_planted_scale_is_found(known: KnownScale):
    assert float(known.metres_per_unit(*planted())) == pytest.approx(1 / UNIT, rel=0.02)


def test_what_cannot_be_known_is_told():
    for given in ({}, {"factor": 1.0, "camera_height_m": 1.0}):
        with pytest.raises(ValueError, match="give one of"):
            KnownScale(**given)
    for wrong in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="positive"):
            KnownScale(factor=wrong)
    depth, k, extrinsics, up = planted()
    for length, told in (
        (KnownLength(2, (1.0, 1.0), (9.0, 9.0), 1.0), "frames are 0 to 1"),
        (KnownLength(0, (1.0, 1.0), (1.0, 1.0), 1.0), "coincide"),
        (KnownLength(0, (1.0, 1.0), (99.0, 1.0), 1.0), "outside the frame"),
    ):
        with pytest.raises(ValueError, match=told):
            KnownScale(length=length).metres_per_unit(depth, k, extrinsics, up)
    depth = depth.clone()
    depth[:, :, :40] = torch.nan  # the floor alone
    with pytest.raises(ValueError, match="not above the floor"):
        KnownScale(camera_height_m=1.5).metres_per_unit(depth, k, extrinsics, -up)
