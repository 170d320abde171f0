"""Ground truth as VGGT trains on it: first camera = world, lengths divided by the mean distance of the points."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from vidllm.geometry.cameras import encode_pose, relative_to_first, unproject

MIN_DEPTH = 1e-8


@dataclass
class GeometryTargets:
    """Normalised targets of one batch and what undoes the normalisation.

    pose (B,F,9); depth (B,F,H,W) and points (B,F,H,W,3) over ``scale`` (B,) metres; valid (B,F,H,W);
    depth_m in metres; extrinsics (B,F,3,4) metric, relative to the first camera; intrinsics (B,F,3,3).
    """

    pose: Tensor
    depth: Tensor
    points: Tensor
    valid: Tensor
    scale: Tensor
    depth_m: Tensor
    extrinsics: Tensor
    intrinsics: Tensor


def normalise(
    depth_m: Float[Tensor, "B F H W"],
    extrinsics: Float[Tensor, "B F _ 4"],
    intrinsics: Float[Tensor, "B F 3 3"],
    pixel_offset: float = 0.5,
) -> GeometryTargets:
    """Lengths over the scene's mean distance, as VGGT's released training code divides them (VGGT, section 3.4).

    ``s = clamp(sum_valid |X| / (N_valid + 1e-3), 1e-6, 1e6)`` over all frames of a scene. ``pixel_offset`` places the
    pixel centres: 0.5 is ours, 0 is VGGT's.
    """
    relative = relative_to_first(extrinsics)[..., :3, :]
    valid = depth_m > MIN_DEPTH
    points = unproject(depth_m, intrinsics, relative, pixel_offset)
    distance = points.norm(dim=-1) * valid
    scale = (distance.sum((1, 2, 3)) / (valid.sum((1, 2, 3)) + 1e-3)).clamp(1e-6, 1e6)
    s = scale[:, None, None, None]
    scaled = torch.cat([relative[..., :3], relative[..., 3:] / s], -1)
    pose = encode_pose(scaled, intrinsics, (depth_m.shape[-2], depth_m.shape[-1]))
    return GeometryTargets(pose, depth_m / s, points / s[..., None], valid, scale, depth_m, relative, intrinsics)


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over the mask; zero (with a graph) when it is empty."""
    weight = mask.to(values.dtype)
    return (values * weight).sum() / weight.sum().clamp(min=1.0)
