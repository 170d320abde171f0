"""Correspondence loss (ours): patches that show the same 3D point should have similar features.

The positive of a patch is the patch of another frame that contains its reprojected centre, among all patches of that
frame (InfoNCE), from exact depth and poses. It is an auxiliary loss and adds nothing to the model.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from vidllm.geometry.cameras import project
from vidllm.model.patches_3d import back_project


@dataclass(frozen=True)
class Matches:
    """Where each patch's centre is seen in its partner frame.

    Attributes:
        place: (B,F,P,2) continuous column and row in the partner's patch grid (0 = centre of the first).
        valid: (B,F,P) whether the partner sees the point.
        grid: rows and columns of patches.
    """

    place: Float[Tensor, "B F P 2"]
    valid: Bool[Tensor, "B F P"]
    grid: tuple[int, int]

    @property
    def index(self) -> Int[Tensor, "B F P"]:
        """The patch that contains the point."""
        column, row = (self.place + 0.5).floor().long().unbind(-1)
        rows, columns = self.grid
        return row.clamp(0, rows - 1) * columns + column.clamp(0, columns - 1)

    def corners(self) -> tuple[Int[Tensor, "B F P 4"], Float[Tensor, "B F P 4"]]:
        """The four patches around the point and their bilinear weights (which sum to 1)."""
        rows, columns = self.grid
        low = self.place.floor()
        part = self.place - low
        indices, weights = [], []
        for down in (0, 1):
            for right in (0, 1):
                column, row = ((low[..., i] + step).long() for i, step in ((0, right), (1, down)))
                indices.append(row.clamp(0, rows - 1) * columns + column.clamp(0, columns - 1))
                share = [part[..., i] if step else 1 - part[..., i] for i, step in ((0, right), (1, down))]
                weights.append(share[0] * share[1])
        return torch.stack(indices, -1), torch.stack(weights, -1)


def correspondences(
    depth: Float[Tensor, "B F H W"],
    extrinsics: Float[Tensor, "B F 3 4"],
    intrinsics: Float[Tensor, "B F 3 3"],
    grid: tuple[int, int],
    patch_size: int,
    other: Int[Tensor, " F"],
) -> Matches:
    """For each patch of frame i: where frame ``other[i]`` sees its centre, and whether it does."""
    height, width = depth.shape[-2:]
    points, valid = back_project(depth, intrinsics, extrinsics, grid, patch_size)
    uv, z = project(points, intrinsics[:, other], extrinsics[:, other])
    inside = (uv[..., 0] >= 0) & (uv[..., 0] < width) & (uv[..., 1] >= 0) & (uv[..., 1] < height) & (z > 0.05)
    u = uv[..., 0].nan_to_num(0).clamp(0, width - 1).long()
    v = uv[..., 1].nan_to_num(0).clamp(0, height - 1).long()
    seen = depth[:, other].flatten(2).gather(2, v * width + u)
    agrees = (seen - z).abs() < 0.05 * z.clamp(min=0.05)
    limits = uv.new_tensor([width, height])
    place = torch.minimum(uv.nan_to_num(0).clamp(min=0), limits) / patch_size - 0.5
    return Matches(place, inside & agrees & valid, grid)


def correspondence_loss(
    tokens: Float[Tensor, "B F P C"],
    target: Int[Tensor, "B F P"],
    valid: Bool[Tensor, "B F P"],
    other: Int[Tensor, " F"],
    temperature: float = 0.1,
) -> Tensor:
    """Cross-entropy of each patch over the patches of its partner frame, cosine similarity over ``temperature``."""
    unit = F.normalize(tokens.float(), dim=-1)
    logits = torch.einsum("bfpc,bfqc->bfpq", unit, unit[:, other]) / temperature
    each = F.cross_entropy(logits.flatten(0, 2), target.flatten(), reduction="none")
    weight = valid.flatten().float()
    return (each * weight).sum() / weight.sum().clamp(min=1)
