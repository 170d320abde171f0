"""Frames that show one view are known as such, whatever noise and light do; frames of a moving camera are not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from vidllm.geometry.picture_motion import REMEMBERED, PictureMotion


def photo(height: int = 120, width: int = 160) -> torch.Tensor:
    """A picture with coarse and fine texture (3, H, W)."""
    rng = np.random.default_rng(3)
    total = torch.zeros(1, 3, height, width)
    for cells in (4, 9, 20):
        coarse = torch.from_numpy(rng.random((1, 3, cells, cells + 2)).astype(np.float32))
        total += F.interpolate(coarse, (height, width), mode="bicubic")
    return (total[0] / 3).clamp(0, 1)


def moved(picture: torch.Tensor, pixels: float) -> torch.Tensor:
    """The picture moved to the left by pixels."""
    shift = torch.eye(2, 3)[None].clone()
    shift[0, 0, 2] = 2 * pixels / picture.shape[-1]
    grid = F.affine_grid(shift, [1, *picture.shape], align_corners=False)
    return F.grid_sample(picture[None], grid, padding_mode="border", align_corners=False)[0]


def views(*pictures: torch.Tensor) -> list[int]:
    motion = PictureMotion()
    for picture in pictures:
        motion.add(picture[None])
    return motion.views


@pytest.mark.parametrize("count", [1, 2, 32])
@pytest.mark.parametrize("level", [0.0, 0.5, 1.0, None])
def test_one_picture_again_and_again_is_one_view(level, count):
    picture = photo() if level is None else torch.full((3, 120, 160), level)
    assert views(*[picture] * count) == [0] * count
    assert views(*[torch.rand(3, 56, 70)] * count) == [0] * count


def test_noise_of_a_sensor_and_flickering_light_are_no_motion():
    picture = photo()
    noisy = [(picture + 4 / 255 * torch.randn_like(picture)).clamp(0, 1) for _ in range(4)]
    assert views(*noisy) == [0] * 4
    dark = [(0.02 + 1 / 255 * torch.randn_like(picture)).clamp(0, 1) for _ in range(4)]
    assert views(*dark) == [0] * 4
    assert views(picture, 0.6 * picture, 0.8 * picture + 0.1) == [0, 0, 0]


def test_motion_of_two_hundredths_of_the_side_is_seen():
    for picture in (photo(), photo(518, 700), photo(56, 70)):
        side = min(picture.shape[1:])
        assert views(picture, moved(picture, 0.02 * side), moved(picture, 0.1 * side)) == [0, 1, 2]
        assert views(picture, moved(picture, 0.005 * side)) == [0, 0]


def test_views_are_found_again_and_other_pictures_are_others():
    first, second, third = photo(), moved(photo(), 9), torch.rand(3, 120, 160)
    assert views(first, second, first, third, second, third) == [0, 1, 0, 2, 1, 2]
    noise = [torch.rand(3, 56, 70) for _ in range(REMEMBERED + 5)]
    assert views(*noise, noise[0]) == [*range(REMEMBERED + 5), 0]
