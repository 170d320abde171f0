"""Correspondence loss (ours): patches that see the same 3D point should look alike to global attention.

For each patch of a frame, the patch of another frame that holds its reprojected centre is the positive among all
patches of that frame (InfoNCE). Exact depth and poses of the rooms make this supervision free; it is an auxiliary
of small-scale training and adds nothing to the model.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from vidllm.geometry.cameras import project
from vidllm.model.patches_3d import back_project


def correspondences(
    depth: Float[Tensor, "B F H W"],
    extrinsics: Float[Tensor, "B F 3 4"],
    intrinsics: Float[Tensor, "B F 3 3"],
    grid: tuple[int, int],
    patch_size: int,
    other: Int[Tensor, " F"],
) -> tuple[Int[Tensor, "B F P"], Bool[Tensor, "B F P"]]:
    """For each patch of frame i: index of the patch of frame ``other[i]`` that sees its centre, and whether it does."""
    height, width = depth.shape[-2:]
    points, valid = back_project(depth, intrinsics, extrinsics, grid, patch_size)
    uv, z = project(points, intrinsics[:, other], extrinsics[:, other])
    inside = (uv[..., 0] >= 0) & (uv[..., 0] < width) & (uv[..., 1] >= 0) & (uv[..., 1] < height) & (z > 0.05)
    u = uv[..., 0].nan_to_num(0).clamp(0, width - 1).long()
    v = uv[..., 1].nan_to_num(0).clamp(0, height - 1).long()
    seen = depth[:, other].flatten(2).gather(2, v * width + u)
    agrees = (seen - z).abs() < 0.05 * z.clamp(min=0.05)
    return (v // patch_size) * grid[1] + u // patch_size, inside & agrees & valid


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
