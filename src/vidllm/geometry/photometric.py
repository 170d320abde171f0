"""The unit of a depth map (and the focal length) relative to known camera motion, found by photometric alignment.

With cameras known up to a factor of their translations, the projection of a pixel into another frame depends only on
this factor; at the right one, the colours agree. This is a plane sweep with one unknown for all pixels
(docs/known_cameras.md). Rotations determine a focal length in the same way. The predicted camera path is not used.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from vidllm.geometry.cameras import (
    camera_centres,
    inside_image,
    invert_extrinsics,
    pixel_centres,
    project,
    unproject,
)
from vidllm.geometry.picture_motion import shrunk
from vidllm.geometry.precision import full_precision

POINTS = 768  # pixels a frame that are compared, about
OFFSETS = (1, 2, 3)  # frames are compared with those so many places later, in both directions
TRAVEL = (0.02, 4.0)  # camera travel over median depth within which the factor is sought
ROUGH, COARSE, FINE = 1.2, 1.12, 1.02  # ratio of neighbouring factors: beside a focal length, at first, at last
FOCAL = (0.6, 1.65, 1.1)  # focal lengths tried: from, to (of the predicted one), ratio of neighbours
FOCAL_FINE, FINER = 1.04, 1.03  # ratios of neighbouring focal lengths and factors around the best of them
CAP = 0.2  # colour difference (of 1) above which a pixel counts as hidden
SEEN = 0.5  # share of the pixels seen without translation that must be seen still
VALLEY = 0.97  # lowest over median cost above which the pictures do not tell
DULL = 1e-3  # median cost below which they hold no texture


@dataclass(frozen=True)
class FoundUnits:
    """Units of depth per unit of the translations: of the scene (), of each frame (F); NaN if not determined.

    ``focal``: factor of the focal lengths, 1 if they were not searched.
    """

    scale: Tensor
    per_frame: Tensor
    focal: Tensor


@full_precision()
def find_units(
    images: Float[Tensor, "F 3 H W"],
    depth: Float[Tensor, "F H W"],
    intrinsics: Float[Tensor, "F 3 3"],
    extrinsics: Float[Tensor, "F 4 4"],
    find_focal: bool = False,
) -> FoundUnits:
    """The unit of ``depth`` (and the focal length) for which known ``extrinsics`` explain the pictures.

    Not determined without camera motion, with one frame, or if colours agree equally well for any factor.
    """
    nothing = FoundUnits(depth.new_full((), torch.nan), depth.new_full((len(depth),), torch.nan), depth.new_ones(()))
    centres, middle = camera_centres(extrinsics.double()), depth[depth.isfinite() & (depth > 0)]
    travel = float((centres - centres[:1]).norm(dim=-1).max())
    if travel <= 1e-9 or not len(middle):
        return nothing
    low, high = (bound * float(middle.median()) / travel for bound in TRAVEL)
    views = images.float(), depth.float(), intrinsics.float(), extrinsics.float()
    focal = _focal(views, _steps(low, high, ROUGH)) if find_focal else 1.0
    sweep = _Sweep(*views, focal)
    factors = _steps(low, high, COARSE)
    total = sweep.costs(factors).mean(1)
    best = int(total.argmin())
    usual = total[total.isfinite()].median()
    if best in (0, len(factors) - 1) or not bool((total[best] < VALLEY * usual) & (usual > DULL)):
        return nothing
    factors = _steps(float(factors[best]) / COARSE**2, float(factors[best]) * COARSE**2, FINE)
    fine = sweep.costs(factors)
    return FoundUnits(_lowest(factors, fine.mean(1, keepdim=True))[0], _lowest(factors, fine), depth.new_tensor(focal))


def _focal(views: tuple[Tensor, Tensor, Tensor, Tensor], factors: Tensor) -> float:
    """The ratio to the given focal lengths with which the pictures agree best; 1 where they do not tell."""
    best, (low, high, step) = 1.0, FOCAL
    for _ in range(2):
        ratios = _steps(low, high, step)
        costs = torch.stack([_Sweep(*views, ratio).costs(factors).mean(1) for ratio in ratios.tolist()])
        found = float(_lowest(ratios, costs.amin(1)[:, None])[0])
        if not math.isfinite(found):
            return best
        near = float(factors[int(costs.amin(0).argmin())])
        best, low, high, step = found, found / step, found * step, FOCAL_FINE
        factors = _steps(near / ROUGH, near * ROUGH, FINER)
    return best


def _steps(low: float, high: float, ratio: float) -> Tensor:
    """Numbers from ``low`` to ``high``, each about ``ratio`` times the one before."""
    count = max(3, round(math.log(high / low) / math.log(ratio)) + 1)
    return torch.logspace(math.log10(low), math.log10(high), count)


def _lowest(factors: Tensor, costs: Float[Tensor, "k n"]) -> Float[Tensor, " n"]:
    """The factor of the lowest cost in each column, by a parabola through it and its neighbours; NaN at an end."""
    best = costs.argmin(0)
    inside = (best > 0) & (best < len(factors) - 1)
    middle = best.clamp(1, len(factors) - 2)
    before, here, after = (costs.gather(0, (middle + step)[None])[0] for step in (-1, 0, 1))
    bend = before - 2 * here + after
    shift = torch.where(bend > 0, (before - after) / (2 * bend).clamp_min(1e-12), 0.0).clamp(-1, 1)
    step = (factors[1] / factors[0]).log().to(costs.device)
    found = factors.to(costs.device)[middle] * (shift * step).exp()
    return torch.where(inside & costs.isfinite().all(0), found, torch.nan)


class _Sweep:
    """Colour differences of every frame's pixels moved into its neighbours, as a function of the factor."""

    def __init__(
        self, images: Tensor, depth: Tensor, intrinsics: Tensor, extrinsics: Tensor, focal: float = 1.0
    ) -> None:
        self.images, nearest, to_small = made_small(images, depth)
        size = nearest.shape[-2:]
        self.intrinsics, self.extrinsics = to_small @ intrinsics, extrinsics
        self.intrinsics[:, (0, 1), (0, 1)] *= focal
        step = max(1, round((size[0] * size[1] / POINTS) ** 0.5))
        at = slice(step // 2, None, step)
        uv = pixel_centres(*size, device=depth.device)[at, at]
        points = unproject(nearest, self.intrinsics)[:, at, at]
        self.points = points.flatten(1, 2)
        self.colours = sampled(self.images, uv.flatten(0, 1).expand(len(images), 1, -1, 2))[:, :, 0]
        self.known = (self.points[..., 2] > 0) & self.points.isfinite().all(-1)
        self.seen = self._pairs(0.0)[1].sum()

    def costs(self, factors: Tensor) -> Float[Tensor, "k F"]:
        """Mean truncated colour difference of each frame's pixels; infinite where too few are seen."""
        rows = []
        for factor in factors.tolist():
            wrong, seen = self._pairs(factor)
            enough = seen.sum() >= SEEN * self.seen
            rows.append(torch.where(enough & (seen > 0), wrong / seen.clamp_min(1), torch.inf))
        return torch.stack(rows)

    def _pairs(self, factor: float) -> tuple[Tensor, Tensor]:
        """Summed difference and number of pixels seen, a frame, over its neighbours."""
        count = len(self.images)
        wrong, seen = self.points.new_zeros(count), self.points.new_zeros(count)
        for offset in (o for o in OFFSETS if o < count):
            early, late = slice(0, count - offset), slice(offset, count)
            for here, there in ((early, late), (late, early)):
                difference, visible = self._moved(here, there, factor)
                wrong[here] += torch.where(visible, difference, 0.0).sum(1)
                seen[here] += visible.sum(1)
        return wrong, seen

    def _moved(self, here: slice, there: slice, factor: float) -> tuple[Tensor, Tensor]:
        motion = self.extrinsics[there] @ invert_extrinsics(self.extrinsics[here])
        moved = self.points[here] @ motion[:, :3, :3].mT + factor * motion[:, None, :3, 3]
        uv, z = project(moved, self.intrinsics[there], nearest=1e-6)
        visible = self.known[here] & (z > 1e-6) & inside_image(uv, self.images.shape[-2:])
        found = sampled(self.images[there], uv[:, None].nan_to_num(0.0, 0.0, 0.0))[:, :, 0]
        return (found - self.colours[here]).abs().mean(1).clamp(max=CAP), visible


SIDE = 128  # pixels of the shorter side at which frames are compared


def made_small(
    images: Float[Tensor, "F 3 H W"], depth: Float[Tensor, "F H W"]
) -> tuple[Float[Tensor, "F 3 h w"], Float[Tensor, "F h w"], Float[Tensor, "3 3"]]:
    """Pictures (areas averaged) and depth (nearest) with a shorter side of ``SIDE`` at most; what takes K to them."""
    height, width = depth.shape[-2:]
    small = shrunk(images, SIDE)
    to_small = torch.diag(depth.new_tensor([small.shape[-1] / width, small.shape[-2] / height, 1.0]))
    nearest = F.interpolate(depth[:, None], small.shape[-2:], mode="nearest-exact")[:, 0]
    return small, nearest, to_small


def sampled(maps: Float[Tensor, "F C h w"], uv: Float[Tensor, "F k n 2"]) -> Float[Tensor, "F C k n"]:
    """Bilinear values at pixels, whose centres lie at +0.5; beyond the borders the outermost pixels go on."""
    grid = uv / uv.new_tensor([maps.shape[-1], maps.shape[-2]]) * 2 - 1
    return F.grid_sample(maps, grid, mode="bilinear", padding_mode="border", align_corners=False)
