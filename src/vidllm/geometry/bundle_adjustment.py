"""Dense bundle adjustment: a predicted reconstruction moved until its frames agree (docs/refinement.md).

A frame's pixels, placed in space by its depth and seen by the camera of another frame, should find their own colour
there, and a surface at their own depth. Cameras, one focal length for all frames and a smooth factor of every depth
map are moved by gradient descent until they do. Ours: the paper has no refinement (VGGT's adjusts sparse tracks).
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from vidllm.geometry.cameras import inside_image, one_lens, pixel_centres, project
from vidllm.geometry.photometric import made_small, sampled
from vidllm.geometry.precision import full_precision

OFFSETS = (1, 2, 3)  # frames are compared with those so many places later, in both directions
BLURS = (0.05, 0.025, 0.0125, 0.006)  # standard deviations of the blur, one after the other, of the shorter side
EVERY = (8, 8, 4, 4)  # at each blur, every such pixel of every such row is placed in space
STEPS = 100  # steps at each blur
LEARNING_RATE = 0.02  # radians, log factors, and translations over the median depth; falls to a tenth
GRID = 4  # knots of the factor of a depth map, a side
COLOUR, DEPTH = 0.125, 0.2  # differences (of 1; of the log depth) beyond which it hardly matters how large they are
DEPTH_WEIGHT = 0.3  # of the disagreement in depth beside that in colour
FRONT, BEHIND = 0.35, 0.5  # a surface nearer by so much log depth hides a point, one so much farther is another one
STAY_FRAME, STAY_KNOT, STAY_FOCAL = 0.05, 0.3, 0.02  # weights of squared log factors: what keeps them near 1
AGREED = 0.5  # disagreement above which what was found is not believed: true cameras of rooms leave 0.1 to 0.2
NEAR = 0.02  # of the median depth: points nearer to a camera are not compared


@dataclass(frozen=True)
class Adjusted:
    """A reconstruction, shapes as given, and the disagreement of its frames ``before`` and ``after``.

    It is 0 to 1.3, and infinite where no frame sees what another sees.
    """

    depth: Tensor
    intrinsics: Tensor
    extrinsics: Tensor
    before: float
    after: float


@full_precision()
def adjust(
    images: Float[Tensor, "F 3 H W"],
    depth: Float[Tensor, "F H W"],
    intrinsics: Float[Tensor, "F 3 3"],
    extrinsics: Float[Tensor, "F 4 4"],
    *,
    move_cameras: bool = True,
    move_focal: bool = True,
    lens_aspect: float | None = 1.0,
) -> Adjusted:
    """Cameras, focal length and depth near the given ones with which frames in [0, 1] agree best.

    The first camera stays. Where cameras move, the unit does not: the median factor of the depth is 1. With
    ``move_focal`` all frames get one lens whose fx is ``lens_aspect`` times its fy (1: square pixels); with None they
    keep their own focal lengths up to one factor. What was given comes back where nothing agrees better (one frame,
    none that see the same), and with a warning where the frames do not agree even so: it began too far off.
    """
    if len(images) < 2:
        return Adjusted(depth, intrinsics, extrinsics, math.inf, math.inf)
    with torch.inference_mode(False), torch.enable_grad():
        given = [x.detach().float().clone() for x in (images, depth, intrinsics, extrinsics)]
        if move_focal and lens_aspect is not None:
            given[2] = one_lens(given[2], lens_aspect)
        bundle = _Bundle(*given, move_cameras=move_cameras, move_focal=move_focal)
        before = bundle.disagreement()
        if math.isfinite(before):
            bundle.descend()
        after = bundle.disagreement()
    if AGREED < after < before:
        warnings.warn("the frames do not agree after refinement; the reconstruction stays as predicted", stacklevel=1)
    if not after < min(before, AGREED):
        return Adjusted(depth, intrinsics, extrinsics, before, before)
    new_depth, matrices, poses = bundle.found()
    return Adjusted(new_depth.to(depth), matrices.to(intrinsics), poses.to(extrinsics), before, after)


class _Bundle:
    """What moves (from zero: turns, shifts, log factors), and the disagreement of the frames it leads to."""

    def __init__(self, images: Tensor, depth: Tensor, intrinsics: Tensor, extrinsics: Tensor,
                 *, move_cameras: bool, move_focal: bool) -> None:  # fmt: skip
        count = len(images)
        self.full_depth, self.full_intrinsics, self.extrinsics = depth, intrinsics, extrinsics
        self.move_cameras, self.move_focal = move_cameras, move_focal
        self.images, nearest, self.to_small = made_small(images, depth)
        self.known = (nearest.isfinite() & (nearest > 0))[:, None]
        self.log_depth = torch.where(self.known, nearest[:, None], 1.0).log()
        self.unit = float(torch.where(depth.isfinite() & (depth > 0), depth, 1.0).median())
        self.turns, self.shifts = (depth.new_zeros(count - 1, 3, requires_grad=move_cameras) for _ in range(2))
        self.frames = depth.new_zeros(count, 1, 1, 1, requires_grad=True)
        self.knots = depth.new_zeros(count, 1, GRID, GRID, requires_grad=True)
        self.zoom = depth.new_zeros((), requires_grad=move_focal)
        offsets = torch.tensor([sign * o for o in OFFSETS if o < count for sign in (1, -1)], device=depth.device)
        others = torch.arange(count, device=depth.device)[:, None] + offsets
        self.there = (others >= 0) & (others < count)
        self.others = others.clamp(0, count - 1)  # (F, k): whose pixels each frame is asked to see
        self._look(len(BLURS) - 1)

    def descend(self) -> None:
        """Adam down the disagreement, blur by blur."""
        moving = [p for p in (self.turns, self.shifts, self.frames, self.knots, self.zoom) if p.requires_grad]
        optimiser = torch.optim.Adam(moving, LEARNING_RATE, betas=(0.9, 0.99))
        total = STEPS * len(BLURS)
        for step in range(total):
            if step % STEPS == 0:
                self._look(step // STEPS)
            for group in optimiser.param_groups:
                group["lr"] = LEARNING_RATE * (1 - 0.9 * step / total)
            optimiser.zero_grad()
            (self._disagreement() + self._moved()).backward()
            optimiser.step()

    @torch.no_grad()
    def disagreement(self) -> float:
        """At the last blur; infinite where no frame sees what another sees."""
        self._look(len(BLURS) - 1)
        return float(self._disagreement())

    @torch.no_grad()
    def found(self) -> tuple[Tensor, Tensor, Tensor]:
        """Depth (F,H,W), intrinsics and extrinsics at full size."""
        size = self.full_depth.shape[-2:]
        uv = pixel_centres(*size, device=self.full_depth.device).expand(len(self.full_depth), -1, -1, 2)
        factor = (self.frames[:, 0] + self._bend(uv, size)).exp()
        extrinsics = self.extrinsics.clone()
        extrinsics[:, :3, :3], extrinsics[:, :3, 3] = self._cameras()
        if self.move_cameras:
            unit = factor.median()
            factor, extrinsics[:, :3, 3] = factor / unit, extrinsics[:, :3, 3] / unit
        return self.full_depth * factor, self._intrinsics(), extrinsics

    def _look(self, stage: int) -> None:
        """Blur the pictures and choose the pixels of a stage."""
        size, at = self.images.shape[-2:], slice(EVERY[stage] // 2, None, EVERY[stage])
        self.uv = pixel_centres(*size, device=self.images.device)[at, at].flatten(0, 1)
        self.colours = blurred(self.images, BLURS[stage] * min(size))
        own = self.uv.expand(len(self.images), 1, -1, 2)
        self.own_colours = sampled(self.colours, own)[:, :, 0][self.others].transpose(1, 2)
        known = sampled(self.known.float(), own)[:, 0, 0] > 0.5
        self.asked = known[self.others] & self.there[..., None]

    def _cameras(self) -> tuple[Tensor, Tensor]:
        """Rotations (F,3,3) and translations (F,3), the first as given."""
        first_stays = (0, 0, 1, 0)
        turn = torch.linalg.matrix_exp(_cross_matrices(F.pad(self.turns, first_stays)))
        shift = F.pad(self.shifts, first_stays) * self.unit
        return turn @ self.extrinsics[:, :3, :3], (turn @ self.extrinsics[:, :3, 3:])[..., 0] + shift

    def _intrinsics(self) -> Tensor:
        """K at full size: where the focal length moves, by one factor for all frames."""
        if not self.move_focal:
            return self.full_intrinsics
        intrinsics = self.full_intrinsics.clone()
        intrinsics[:, (0, 1), (0, 1)] = intrinsics[:, (0, 1), (0, 1)] * self.zoom.exp()
        return intrinsics

    def _bend(self, uv: Float[Tensor, "F k N 2"], size: torch.Size) -> Float[Tensor, "F k N"]:
        """The smooth log factor of depth maps of a size (H, W), at pixels."""
        last = uv.new_tensor([size[1] - 1, size[0] - 1])
        at = (uv - 0.5) / last * 2 - 1
        return F.grid_sample(self.knots, at, mode="bilinear", padding_mode="border", align_corners=True)[:, 0]

    def _moved(self) -> Tensor:
        """What keeps the log factors near 0."""
        return (
            STAY_FRAME * self.frames.square().mean() + STAY_KNOT * self.knots.square().mean()
            + STAY_FOCAL * self.zoom.square()
        )  # fmt: skip

    def _disagreement(self) -> Tensor:
        """Mean over all pixels that two frames see: how little colours and depths agree."""
        (rotations, translations), k = self._cameras(), self.to_small @ self._intrinsics()
        uv = self.uv.expand(len(k), -1, 2)
        z = self._log_depth(uv[:, None])[:, 0].exp()
        # not by unproject_pixels: its gradients differ in the last bit, and hundreds of steps enlarge that
        rays = (uv - k[:, None, (0, 1), 2]) / k[:, None, (0, 1), (0, 1)]
        world = (torch.cat([rays * z[..., None], z[..., None]], -1) - translations[:, None]) @ rotations
        moved = world[self.others] @ rotations[:, None].mT + translations[:, None, None]
        near = NEAR * self.unit
        seen_at, depth = project(moved, k[:, None], nearest=near)
        colour = (sampled(self.colours, seen_at) - self.own_colours).abs().mean(1)
        behind = self._log_depth(seen_at) - depth.clamp_min(near).log()
        with torch.no_grad():
            same = (depth > near) & (behind > -FRONT) & (behind < BEHIND)
            used = (inside_image(seen_at, self.images.shape[-2:]) & same & self.asked).float()
        wrong = _soft(colour, COLOUR) + DEPTH_WEIGHT * _soft(behind.abs(), DEPTH)
        return (used * wrong).sum() / used.sum() if bool(used.any()) else wrong.sum() * 0 + math.inf

    def _log_depth(self, uv: Float[Tensor, "F k N 2"]) -> Float[Tensor, "F k N"]:
        """Of the adjusted maps, at pixels of the small pictures."""
        return sampled(self.log_depth, uv)[:, 0] + self._bend(uv, self.images.shape[-2:]) + self.frames[:, 0]


def _soft(difference: Tensor, scale: float) -> Tensor:
    """Grows as the difference over ``scale``, and flattens towards 1."""
    return 1 - (-difference / scale).exp()


def _cross_matrices(vectors: Float[Tensor, "F 3"]) -> Float[Tensor, "F 3 3"]:
    x, y, z = vectors.unbind(-1)
    zero = torch.zeros_like(x)
    return torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).unflatten(-1, (3, 3))


def blurred(images: Float[Tensor, "F C H W"], sigma: float) -> Float[Tensor, "F C H W"]:
    """Gaussian blur with a standard deviation in pixels; beyond the borders the outermost pixels go on."""
    reach = max(1, math.ceil(3 * sigma))
    kernel = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, device=images.device) / sigma) ** 2)
    kernel = (kernel / kernel.sum()).expand(images.shape[1], 1, 1, -1)
    padded = F.pad(images, (reach,) * 4, mode="replicate")
    across = F.conv2d(padded, kernel, groups=images.shape[1])
    return F.conv2d(across, kernel.mT, groups=images.shape[1])
