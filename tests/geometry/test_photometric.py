"""A planted unit and a planted focal length are found in pictures of a textured wall."""

from __future__ import annotations

import pytest
import torch
from textured_corner import corner

from vidllm.geometry.photometric import find_units

UNIT = 0.37  # units of depth a metre


def test_the_unit_of_depth_is_found():
    images, depth, k, extrinsics = corner()
    found = find_units(images, depth * UNIT, k, extrinsics)
    assert abs(float(found.scale) / UNIT - 1) < 0.01 and float(found.focal) == 1
    torch.testing.assert_close(found.per_frame, torch.full((6,), UNIT), atol=0, rtol=0.03)


def test_a_frame_of_another_depth_has_another_unit():
    images, depth, k, extrinsics = corner()
    factors = torch.tensor([1.0, 1.05, 0.95, 1.0, 1.1, 0.9])
    found = find_units(images, depth * UNIT * factors[:, None, None], k, extrinsics)
    torch.testing.assert_close(found.per_frame / UNIT, factors, atol=0.03, rtol=0)


@pytest.mark.slow
def test_a_wrong_focal_length_is_found_too():
    images, depth, k, extrinsics = corner()
    wrong = k.clone()
    wrong[:, (0, 1), (0, 1)] *= 0.8
    found = find_units(images, depth * UNIT, wrong, extrinsics, find_focal=True)
    assert abs(float(found.focal) * 0.8 - 1) < 0.03
    assert abs(float(found.scale) / UNIT - 1) < 0.06


def test_what_pictures_cannot_tell_is_nan():
    images, depth, k, extrinsics = (part[:3] for part in corner())
    still = find_units(images[:1], depth[:1], k[:1], extrinsics[:1])
    assert still.scale.isnan() and still.per_frame.isnan().all()
    grey = find_units(torch.full_like(images, 0.5), depth, k, extrinsics)
    assert grey.scale.isnan()
    assert find_units(images, torch.full_like(depth, torch.nan), k, extrinsics).scale.isnan()
