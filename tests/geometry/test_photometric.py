"""A planted unit and a planted focal length are found in pictures of a textured wall."""

from __future__ import annotations

import torch
from torch import Tensor

from vidllm.geometry.cameras import pixel_centres
from vidllm.geometry.photometric import find_units

UNIT = 0.37  # units of depth a metre
SIZE, FOCAL = (48, 64), 50.0


def turned(pitch: float, yaw: float) -> Tensor:
    return torch.linalg.matrix_exp(torch.tensor([[0.0, 0, yaw], [0, 0, -pitch], [-yaw, pitch, 0]]))


def corner(steps: float = 0.12) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Six views of two textured walls that meet: images, true depth (m), K, extrinsics (m)."""
    height, width = SIZE
    k = torch.tensor([[FOCAL, 0, width / 2], [0, FOCAL, height / 2], [0, 0, 1.0]])
    rays = torch.cat([(pixel_centres(height, width) - k[:2, 2]) / FOCAL, torch.ones(height, width, 1)], -1)
    images, depths, extrinsics = [], [], []
    for number in range(6):
        turn = turned(0.01 * number, 0.03 * number)
        centre = torch.tensor([steps, 0.02, 0.05]) * number
        directions = rays @ turn  # camera-from-world rotation, so rows times R are world directions
        walls = torch.tensor([[0.5, 0.1, 1.0], [-0.6, 0.0, 1.0]])
        distance = ((2.5 - walls @ centre) / (directions @ walls.T)).amin(-1)
        points = centre + directions * distance[..., None]
        images.append(torch.stack([0.5 + 0.4 * torch.sin(f * points @ torch.tensor(a)) for f, a in (
            (7.0, [1.0, 0.4, 0.2]), (5.0, [0.1, 1.0, 0.5]), (9.0, [0.6, -0.7, 0.3]))]))  # fmt: skip
        depths.append(distance)  # directions have z = 1 in the camera
        pose = torch.eye(4)
        pose[:3, :3], pose[:3, 3] = turn, -turn @ centre
        extrinsics.append(pose)
    return torch.stack(images), torch.stack(depths), k.expand(6, 3, 3), torch.stack(extrinsics)


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


def test_a_wrong_focal_length_is_found_too():
    images, depth, k, extrinsics = corner()
    wrong = k.clone()
    wrong[:, (0, 1), (0, 1)] *= 0.8
    found = find_units(images, depth * UNIT, wrong, extrinsics, find_focal=True)
    assert abs(float(found.focal) * 0.8 - 1) < 0.03
    assert abs(float(found.scale) / UNIT - 1) < 0.06


def test_what_pictures_cannot_tell_is_nan():
    images, depth, k, extrinsics = corner()
    still = find_units(images[:1], depth[:1], k[:1], extrinsics[:1])
    assert still.scale.isnan() and still.per_frame.isnan().all()
    grey = find_units(torch.full_like(images, 0.5), depth, k, extrinsics)
    assert grey.scale.isnan()
    assert find_units(images, torch.full_like(depth, torch.nan), k, extrinsics).scale.isnan()
