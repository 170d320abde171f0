"""Frames made small to be compared, and what they hold between their pixels."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

SIDE = 128  # pixels of the shorter side at which frames are compared


def made_small(
    images: Float[Tensor, "F 3 H W"], depth: Float[Tensor, "F H W"]
) -> tuple[Float[Tensor, "F 3 h w"], Float[Tensor, "F h w"], Float[Tensor, "3 3"]]:
    """Pictures (areas averaged) and depth (nearest) with a shorter side of ``SIDE`` at most; what takes K to them."""
    height, width = depth.shape[-2:]
    small = max(1.0, min(height, width) / SIDE)
    size = round(height / small), round(width / small)
    to_small = torch.diag(depth.new_tensor([size[1] / width, size[0] / height, 1.0]))
    nearest = F.interpolate(depth[:, None], size, mode="nearest-exact")[:, 0]
    return F.interpolate(images, size, mode="area"), nearest, to_small


def sampled(maps: Float[Tensor, "F C h w"], uv: Float[Tensor, "F k n 2"]) -> Float[Tensor, "F C k n"]:
    """Bilinear values at pixels, whose centres lie at +0.5; beyond the borders the outermost pixels go on."""
    grid = uv / uv.new_tensor([maps.shape[-1], maps.shape[-2]]) * 2 - 1
    return F.grid_sample(maps, grid, mode="bilinear", padding_mode="border", align_corners=False)
