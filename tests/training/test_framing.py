"""Frames at another size: a point of the scene is found at the same place of picture, depth and camera."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vidllm.geometry.cameras import unproject
from vidllm.training.data import RoomsData
from vidllm.training.pictures import crop_for_side, crop_intrinsics, crop_maps, crop_pictures, crop_to


def ramp(height, width):
    """A picture whose first two channels are the normalised place of each pixel."""
    v, u = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    return torch.stack([u / width, v / height, torch.zeros_like(u)])[None]


@pytest.mark.parametrize("zoom", [1.0, 1.3])
def test_a_crop_keeps_rays_pictures_and_depth_together(zoom):
    height, width = 120, 160
    k = torch.tensor([[100.0, 0, 83], [0, 110.0, 57], [0, 0, 1]])
    crop = crop_to(height, width, (56, 70), zoom)
    image = crop_pictures(ramp(height, width), crop)[0]
    moved = crop_intrinsics(k, (height, width), crop)
    assert image.shape == (3, 56, 70)
    u, v = 31.5, 20.5  # a pixel's centre in the crop
    ray = (torch.linalg.inv(moved) @ torch.tensor([u, v, 1.0]))
    back = k @ ray
    there = image[:, 20, 31]
    assert torch.allclose(back[:2] / torch.tensor([width, height]), there[:2], atol=2e-3)
    depth = crop_maps(ramp(height // 2, width // 2)[0, :1], crop, shrink=2.0)[0]
    assert abs(float(depth[20, 31]) - float(there[0])) < 2 / width


def test_the_shorter_side_is_whole_patches():
    assert (crop_for_side(210, 168, 112).height, crop_for_side(210, 168, 112).width) == (140, 112)
    with pytest.raises(ValueError, match="multiple of 14 pixels, received 100"):
        crop_for_side(210, 168, 100)


def test_rooms_at_a_smaller_side_show_the_same_points(rooms_folder):
    data = RoomsData(rooms_folder)
    whole, small = (data.draw(np.random.default_rng(3), 2, 3, window=True, side=side) for side in (None, 42))
    assert small.images.shape[-2:] in ((42, 42), (42, 56), (56, 42)) and small.images.dtype == torch.float32
    assert small.category.shape[-1] == small.images.shape[-2] * small.images.shape[-1] // 196
    assert float(small.images.max()) <= 1 and abs(float(small.images.mean() - whole.images.mean())) < 0.03
    middles = []
    for batch in (whole, small):
        points = unproject(batch.depth_m, batch.intrinsics, batch.extrinsics[:, :, :3])
        middles.append(points[batch.depth_m > 0].median(0).values)
    assert torch.allclose(*middles, atol=0.2)
