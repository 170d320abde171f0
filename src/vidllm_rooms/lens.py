"""What a phone's lens and shutter leave in its pictures: radial distortion and rows that are read out one by one.

Depth, ids and cameras stay those of a pinhole that sees all rows at the time of the middle one: the difference is the
error that a real camera makes. A picture is sampled from a wider one of that pinhole, at the places where its pixels
look: a row sees the camera at its own time, by the velocity of the path, and points at the depth of where it looks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

K1 = (-0.08, 0.05)  # what is left after a phone's own correction
READOUT = (0.0, 0.06)  # intervals between frames, from the first row to the last
MOST_MARGIN = 0.12  # of the longer side: what lies beyond repeats the border


@dataclass(frozen=True)
class Lens:
    """A radius r, in half diagonals, is seen at r (1 + ``k1`` r^2); rows are read within ``readout`` intervals."""

    k1: float
    readout: float

    def undistorted(self, offset: Float[Tensor, "*batch 2"], half_diagonal: float) -> Float[Tensor, "*batch 2"]:
        """Offsets from the middle, in pixels, of where pixels at these offsets look."""
        seen = offset.norm(dim=-1, keepdim=True) / half_diagonal
        radius = seen
        for _ in range(10):
            radius = seen / (1 + self.k1 * radius.square())
        return offset / (1 + self.k1 * radius.square())

    def margin(self, extrinsics: np.ndarray, focal: float, height: int, width: int) -> int:
        """Pixels on every side by which the pinhole's picture has to be wider, for points a metre off."""
        corner = torch.tensor([width / 2, height / 2])
        beyond = float((self.undistorted(corner, float(corner.norm())) - corner).max())
        turn, shift = velocities(extrinsics)
        fastest = float((np.linalg.norm(turn, axis=-1) + np.linalg.norm(shift, axis=-1)).max())
        needed = max(beyond, 0.0) + focal * fastest * self.readout / 2
        return min(math.ceil(needed), int(MOST_MARGIN * max(height, width)))


def draw_lens(rng: np.random.Generator) -> Lens:
    """One camera's lens and shutter."""
    return Lens(float(rng.uniform(*K1)), float(rng.uniform(*READOUT)))


def velocities(extrinsics: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(radians (F, 3) about the camera's axes, metres (F, 3)): how the room moves before the camera in an interval.

    By central differences of the extrinsics (F, 4, 4); at the ends by what there is, and 0 for a single frame.
    """
    number = np.arange(len(extrinsics))
    before, after = np.maximum(number - 1, 0), np.minimum(number + 1, len(extrinsics) - 1)
    step = extrinsics[after] @ np.linalg.inv(extrinsics[before])
    r, intervals = step[:, :3, :3], np.maximum(after - before, 1)[:, None]
    sine = np.stack([r[:, 2, 1] - r[:, 1, 2], r[:, 0, 2] - r[:, 2, 0], r[:, 1, 0] - r[:, 0, 1]], -1) / 2
    length = np.linalg.norm(sine, axis=-1, keepdims=True)
    angle = np.arctan2(length[:, 0], (np.trace(r, axis1=1, axis2=2) - 1) / 2)[:, None]
    return sine * angle / np.maximum(length, 1e-12) / intervals, step[:, :3, 3] / intervals


def looks_at(
    lens: Lens, depth_m: Float[Tensor, "F h w"], extrinsics: np.ndarray, focal: float, margin: int
) -> Float[Tensor, "F H W 2"]:
    """Where the pixels of the picture look, in pixels (u, v) of the pinhole's, which is wider by ``margin``."""
    height, width = (side - 2 * margin for side in depth_m.shape[1:])
    v, u = (torch.arange(side, dtype=torch.float32, device=depth_m.device) + 0.5 for side in (height, width))
    offset = torch.stack(torch.meshgrid(u - width / 2, v - height / 2, indexing="xy"), -1)
    ray = F.pad(lens.undistorted(offset, math.hypot(width, height) / 2) / focal, (0, 1), value=1.0)
    inner = depth_m[:, margin : margin + height, margin : margin + width, None]
    points = torch.where(inner > 0, inner, 10.0) * ray
    turn, shift = (torch.from_numpy(x).to(points)[:, None, None] for x in velocities(extrinsics))
    time = (lens.readout * (v / height - 0.5))[:, None, None]
    points = points - time * (torch.linalg.cross(turn.expand_as(points), points) + shift)
    middle = torch.tensor([width / 2 + margin, height / 2 + margin]).to(points)
    return middle + focal * points[..., :2] / points[..., 2:].clamp_min(1e-3)


def through_lens(
    linear: Float[Tensor, "F h w 3"], looks: Float[Tensor, "F H W 2"]
) -> Float[Tensor, "F H W 3"]:
    """The picture whose pixels look at these places (u, v) of a wider one, by bilinear sampling."""
    height, width = linear.shape[1:3]
    grid = 2 * looks / torch.tensor([width, height]).to(looks) - 1
    image = F.grid_sample(linear.permute(0, 3, 1, 2), grid, padding_mode="border", align_corners=False)
    return image.permute(0, 2, 3, 1)
