"""The scene frame: level, z up, origin at the first camera, x along its view (docs/method.md, section 0).

The world frame is the first camera's (x right, y down, z forward). Language and the boxes of all benchmarks use a level
frame, so a rotation that depends only on the up direction transforms the world to the scene frame.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from vidllm.geometry.precision import full_precision

#: Below this sine of the angle between optical axis and vertical, the optical axis no longer gives a heading.
_VERTICAL = 1e-3


def _unit(vector: Tensor) -> Tensor:
    return vector / vector.norm(dim=-1, keepdim=True).clamp_min(1e-12)


def scene_from_world(up: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 4 4"]:
    """Rigid transform from the world (first camera's) frame into the scene frame.

    ``up`` points against gravity, in the world frame, of any non-zero length. x follows the horizontal projection of
    the optical axis; for a camera that looks straight down it follows the image's up direction, straight up the
    image's down direction (the limits of tilting a level camera).
    """
    z = _unit(up)
    forward, image_down = z.new_tensor([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
    heading = torch.where(z[..., 2:] > 0, image_down, -image_down)
    horizontal, fallback = (way - (way * z).sum(-1, keepdim=True) * z for way in (forward, heading))
    vertical = horizontal.detach().norm(dim=-1, keepdim=True) < _VERTICAL
    x = _unit(torch.where(vertical, fallback, horizontal))
    y = torch.linalg.cross(z, x, dim=-1)
    rotation = torch.stack((x, y, z), dim=-2)
    transform = torch.eye(4, dtype=up.dtype, device=up.device).repeat(*up.shape[:-1], 1, 1)
    transform[..., :3, :3] = rotation
    return transform


# ---- up and the floor from geometry alone --------------------------------------------------------------------------
#
# For reconstructions whose model does not tell them. People hold cameras upright: the mean of the image's up
# directions is near gravity's. The plane that most points lie on, among those within 35 degrees of level, makes it
# exact; low points mark the floor.


FLOOR_QUANTILE = 0.02  # share of points that may lie below the floor (errors of depth)
MAX_TILT = math.radians(35)  # between the cameras' mean up and the plane's normal
PLANES, SAMPLE = 384, 4096  # planes tried, points that vote
PLANE_WIDTH = 0.015  # half thickness of a plane over the points' median distance from their middle


@full_precision()
def up_from_cameras(extrinsics: Float[Tensor, "B F _ 4"]) -> Float[Tensor, "B 3"]:
    """Unit mean of the cameras' up directions (image up) in the world frame; extrinsics are camera-from-world."""
    return _unit(-extrinsics[..., 1, :3].float().mean(1))


@full_precision()
def up_from_points(points: Float[Tensor, "N 3"], up: Float[Tensor, " 3"]) -> Float[Tensor, " 3"]:
    """``up`` corrected to the normal of the most populated nearly level plane; unchanged if there is none.

    Deterministic: the same points give the same plane.
    """
    kept = _sample(points[points.isfinite().all(-1)].float())
    if len(kept) < 16:
        return up
    width = PLANE_WIDTH * (kept - kept.median(0).values).norm(dim=-1).median().clamp_min(1e-9)
    generator = torch.Generator().manual_seed(0)
    chosen = torch.randint(len(kept), (PLANES, 3), generator=generator).to(kept.device)
    a, b, c = kept[chosen].unbind(1)
    normals = torch.linalg.cross(b - a, c - a)
    length = normals.norm(dim=-1, keepdim=True)
    normals = normals / length.clamp_min(1e-12)
    normals = normals * torch.where(normals @ up < 0, -1.0, 1.0)[:, None]
    level = (normals @ up > math.cos(MAX_TILT)) & (length[:, 0] > 1e-9)
    votes = (((kept @ normals.T) - (a * normals).sum(-1)).abs() < width).sum(0) * level
    best = int(votes.argmax())
    if int(votes[best]) < 0.02 * len(kept):
        return up
    return _fitted(kept, normals[best], a[best], width, up)


def _fitted(points: Tensor, normal: Tensor, origin: Tensor, width: Tensor, up: Tensor) -> Tensor:
    """Least squares over the plane's points."""
    near = points[((points - origin) @ normal).abs() < width]
    if len(near) < 3:
        return normal
    fitted = torch.linalg.svd(near - near.mean(0), full_matrices=False)[2][2]
    fitted = fitted * (-1.0 if bool(fitted @ up < 0) else 1.0)
    return fitted if bool(fitted @ normal > math.cos(math.radians(10))) else normal


@full_precision()
def floor_height(points: Float[Tensor, "N 3"], up: Float[Tensor, " 3"]) -> Float[Tensor, ""]:
    """Height of the floor along ``up`` above the world's origin; ValueError without a finite point."""
    heights = _sample(points[points.isfinite().all(-1)].float()) @ up.float()
    if not len(heights):
        raise ValueError("no finite point to find the floor from; the reconstruction failed")
    return heights.quantile(FLOOR_QUANTILE)


@full_precision()
def room_frame(points: Float[Tensor, "N 3"], up: Float[Tensor, " 3"]) -> Float[Tensor, "4 4"]:
    """Rigid transform from the world into the room's frame: z up from the floor, x and y from the points' middle.

    Axes as :func:`~vidllm.geometry.gravity.scene_from_world`.
    """
    transform = scene_from_world(up.float())
    kept = _sample(points[points.isfinite().all(-1)].float()) @ transform[:3, :3].T
    transform[:2, 3] = -kept[:, :2].median(0).values
    transform[2, 3] = -floor_height(points, up)
    return transform


def _sample(points: Tensor) -> Tensor:
    """Every n-th point, ``SAMPLE`` at most."""
    return points[:: max(1, -(-len(points) // SAMPLE))]
