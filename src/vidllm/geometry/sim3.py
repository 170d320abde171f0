"""Similarity transforms between windows of one video, from the frames that they share.

A shared frame has a depth map and a camera in both windows. Its pixels give pairs of points, from which rotation,
translation and scale follow in closed form (Umeyama), re-weighted with Cauchy weights, because a wrong depth map in one
window must not distort everything after it (docs/long_video.md).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from vidllm.geometry.alignment import umeyama, weighted_median
from vidllm.geometry.cameras import camera_centres, unproject
from vidllm.geometry.rotations import nearest_rotation, quaternion_to_matrix

POINTS_A_FRAME = 4096  # at most so many pixels of a shared frame are paired, on a regular grid
ROUNDS = 20  # of re-weighting
CENTRE_SHARE = 0.25  # weight of a shared camera's centre, relative to all points of its frame
MOST_TILT = 0.1  # radians; a direction further off pulls no harder
_FLOOR = 1e-9  # relative residual below which points agree exactly


@dataclass(frozen=True)
class Sim3:
    """``x -> scale * rotation @ x + translation``, float64 on the CPU: scale (), rotation (3,3), translation (3)."""

    scale: Tensor
    rotation: Tensor
    translation: Tensor

    @staticmethod
    def identity() -> Sim3:
        """The similarity that changes nothing."""
        one = torch.ones((), dtype=torch.float64)
        return Sim3(one, torch.eye(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64))

    def apply(self, points: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3"]:
        """The points moved, float64."""
        return self.scale * (points.double() @ self.rotation.T) + self.translation

    def after(self, first: Sim3) -> Sim3:
        """The composition: ``first``, then this similarity."""
        rotation = self.rotation @ first.rotation
        return Sim3(self.scale * first.scale, rotation, self.apply(first.translation))

    def move_cameras(self, extrinsics: Float[Tensor, "F r 4"]) -> Float[Tensor, "F 3 4"]:
        """Cameras-from-world (3x4 or 4x4) of the transformed world, float64; multiply depths by ``scale``."""
        pose = extrinsics.double()
        rotation = pose[:, :3, :3] @ self.rotation.T
        return torch.cat([rotation, self.scale * pose[:, :3, 3:] - rotation @ self.translation[:, None]], -1)


@dataclass(frozen=True)
class Views:
    """Posed depth maps: depth, confidence (F,H,W), intrinsics (F,3,3) in pixels, extrinsics (F,3|4,4) from a world.

    Lengths are of any one unit; a depth that is not finite and positive, or of confidence 0, is unknown.
    """

    depth: Tensor
    confidence: Tensor
    intrinsics: Tensor
    extrinsics: Tensor

    def __getitem__(self, frames: slice) -> Views:
        return Views(self.depth[frames], self.confidence[frames], self.intrinsics[frames], self.extrinsics[frames])

    def __len__(self) -> int:
        return len(self.depth)


@dataclass(frozen=True)
class Registration:
    """Similarity of a later window to an earlier one, and the median distance of their points relative to the depth."""

    transform: Sim3
    residual: float


def register(earlier: Views, later: Views) -> Registration:
    """The robust similarity from the later window's world to the earlier one's, from the same frames in both.

    Initial values are the mean relative rotation of the cameras and the median ratio of depths. ValueError if the
    windows have no frame, or no pixel of known depth, in common.
    """
    if len(earlier) != len(later) or not len(later):
        raise ValueError(f"expected the same shared frames in both windows, received {len(earlier)} and {len(later)}")
    earlier, later = _thinned(earlier), _thinned(later)
    weights = _pair_weights(earlier, later)
    if int((weights > 0).sum()) < 3:
        raise ValueError("the windows share no pixel of known depth; take a larger overlap or other frames")
    start = _first_guess(earlier, later, weights)
    source, target = _points(later), _points(earlier)
    typical = weighted_median(earlier.depth.nan_to_num().flatten(1), weights.flatten(1))
    reach = torch.cat([earlier.depth.flatten(), torch.where(typical > 0, typical, 1.0)])
    total = torch.cat([weights.flatten(), CENTRE_SHARE * weights.flatten(1).sum(1)])
    used = total > 0
    return fit_similarity(source[used], target[used], total[used], reach[used], start)


def fit_similarity(
    source: Float[Tensor, "n 3"],
    target: Float[Tensor, "n 3"],
    weights: Float[Tensor, " n"],
    reach: Float[Tensor, " n"],
    start: Sim3,
) -> Registration:
    """Similarity from source to target by iteratively reweighted least squares.

    Errors are relative to ``reach`` (the depth of a point) and have the weight ``1 / (1 + (r / m)^2)``, with r the
    error and m its median in the round before. ``start`` gives the first residuals.
    """
    found, residual = start, torch.zeros(())
    for _ in range(ROUNDS):
        error = (found.apply(source) - target).norm(dim=-1) / reach
        residual = weighted_median(error, weights).clamp(min=_FLOOR)
        kept = weights / reach.square() / (1 + (error / residual).square())
        found = Sim3(*umeyama(source, target, weights=kept))
    return Registration(found, float(residual))


def nudge(
    place: Sim3, about: Float[Tensor, " 3"], scale: Float[Tensor, ""], direction: Tensor, towards: Tensor, share: float
) -> Sim3:
    """``place`` with a small correction that keeps the point ``about``: a factor ``scale``, and a rotation of
    ``direction`` (3) by a fraction ``share`` of the angle ``towards`` (3), clipped to `MOST_TILT`.
    """
    axis = torch.linalg.cross(direction, towards)
    sine = axis.norm()
    angle = share * torch.atan2(sine, direction @ towards).clamp(max=MOST_TILT)
    half = torch.cat([axis / sine.clamp(min=1e-12) * (angle / 2).sin(), (angle / 2).cos()[None]])
    rotation = quaternion_to_matrix(half)
    return Sim3(scale, rotation, about - scale * (rotation @ about)).after(place)


def mean_direction(vectors: Float[Tensor, "n 3"]) -> Float[Tensor, " 3"]:
    """The unit vector with the least sum of distances to the given directions (their median on the sphere).

    A single direction is returned unchanged.
    """
    if len(vectors) == 1:
        return vectors[0]
    unit = vectors / vectors.norm(dim=-1, keepdim=True)
    found = unit.mean(0)
    for _ in range(ROUNDS):
        found = found / found.norm().clamp(min=1e-12)
        pull = 1 / (unit - found).norm(dim=-1, keepdim=True).clamp(min=1e-4)
        found = (pull * unit).sum(0) / pull.sum()
    return found / found.norm().clamp(min=1e-12)


def _thinned(views: Views) -> Views:
    """Every n-th pixel both ways, so that a frame has at most `POINTS_A_FRAME`; in float64 on the CPU."""
    step = 1
    while views.depth[0, ::step, ::step].numel() > POINTS_A_FRAME:
        step += 1
    grid = views.intrinsics.double().cpu().clone()
    grid[:, :2] /= step
    grid[:, :2, 2] += 0.5 - 0.5 / step  # the kept pixel's centre is the coarse pixel's
    depth, confidence = (x[:, ::step, ::step].double().cpu() for x in (views.depth, views.confidence))
    return Views(depth, confidence, grid, views.extrinsics.double().cpu())


def _pair_weights(a: Views, b: Views) -> Tensor:
    """Weight (F,H,W) of every pair: the geometric mean of the two confidences, each in units of its window's median.

    As in the scale's vote, the less sure half of a frame's pixels is left out.
    """
    known = torch.ones_like(a.depth, dtype=torch.bool)
    weight = torch.ones_like(a.depth)
    for views in (a, b):
        known &= views.depth.isfinite() & (views.depth > 0) & views.confidence.isfinite() & (views.confidence > 0)
        typical = views.confidence[known].median() if bool(known.any()) else 1.0
        weight = weight * views.confidence / typical
    weight = torch.where(known, weight, torch.nan)
    middle = weight.flatten(1).nanmedian(1).values[:, None, None]
    return torch.where(known & (weight >= middle), weight.sqrt(), 0.0)


def _first_guess(earlier: Views, later: Views, weights: Tensor) -> Sim3:
    turns = earlier.extrinsics[:, :3, :3].mT @ later.extrinsics[:, :3, :3]
    rotation = nearest_rotation(turns.sum(0))[0]  # their chordal mean
    used = weights > 0
    ratios = earlier.depth[used].log() - later.depth[used].log()
    scale = weighted_median(ratios, weights[used]).exp()
    shift = camera_centres(earlier.extrinsics) - scale * (camera_centres(later.extrinsics) @ rotation.T)
    return Sim3(scale, rotation, shift.median(0).values)


def _points(views: Views) -> Tensor:
    """All points of all frames, then the cameras' centres."""
    points = unproject(views.depth, views.intrinsics, views.extrinsics).flatten(0, 2)
    return torch.cat([points, camera_centres(views.extrinsics)])
