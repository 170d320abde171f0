"""Dense bundle adjustment: a predicted reconstruction moved until its frames agree (docs/refinement.md).

A frame's pixels, placed in space by its depth and seen by the camera of another frame, should find their own colour
there, and a surface at their own depth (:mod:`frame_comparison`). Cameras, one focal length for all frames and a smooth
factor of every depth map are moved until they do, by damped Gauss-Newton steps (Levenberg and Marquardt): with H and g
the derivatives of the re-weighted objective, ``(H + damping diag H) step = -g``; a step that does not lower the
objective is tried again with more damping. Ours: the paper has no refinement (VGGT's adjusts sparse tracks).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Collection
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from vidllm.geometry.cameras import one_lens, pixel_centres
from vidllm.geometry.frame_comparison import GRID, Comparison, SmallFrames, State, Views, knot_weights
from vidllm.geometry.motion_search import BLURS as BLURS_OF_MOTIONS
from vidllm.geometry.motion_search import FIRST_DAMPING, LESS, MORE, best_motions, nearby
from vidllm.geometry.photometric import made_small
from vidllm.geometry.precision import full_precision
from vidllm.geometry.rotations import cross_matrices

REACH = 3  # frames are compared with those up to so many places away
BLURS = (0.05, 0.025, 0.0125, 0.006)  # standard deviations of the blur, one after the other, of the shorter side
EVERY = (8, 8, 4, 4)  # at each blur, every such pixel of every such row is placed in space
STEPS = (6, 6, 6, 8)  # at each blur, at most
TURN_DEG, ROLL_DEG = (4.0, 5), (7.0, 2)  # turns between neighbours that are tried: step, how many to each side
TRIES = 3  # of one step
LONGEST = 3.0  # of a step, any part: radians, median depths, logarithms of depth and focal length
ENOUGH = 3e-4  # gain of a step, of the objective, after which the next blur begins
STAY_FRAME, STAY_KNOT, STAY_FOCAL = 0.043, 0.3, 0.02  # weights of squared log factors: what keeps them near 1
AGREED = 0.5  # disagreement above which what was found is not taken: refined rooms have less than 0.2
SEARCHES = 2  # of motions between neighbours that do not agree, at most
FIT = 2  # the blur at which frames are tested afterwards (an index)
RIGHT, FIRM = 0.75, 0.55  # frames agree: at least this share of blocks lies right; contrast of all neighbours at most
DULL = 2e-3  # mean difference of colours from their surroundings below which pictures hold no texture


@dataclass(frozen=True)
class OneLens:
    """One lens for all frames: its fx over its fy (1: square pixels), and the factor of the penalty on changing it."""

    aspect: float = 1.0
    weight: float = 1.0


@dataclass(frozen=True)
class Adjusted:
    """A reconstruction, shapes as given, and the disagreement of its frames ``before`` and ``after``.

    It is 0 to 1.3, and infinite where no frame sees what another sees. ``agrees``: whether the frames do, so that the
    cameras can be relied on; ``contrast`` (F-1,): of each two neighbours, 0 to about 1, where 1 is no agreement.
    """

    depth: Tensor
    intrinsics: Tensor
    extrinsics: Tensor
    before: float
    after: float
    agrees: bool
    contrast: Tensor


@full_precision()
@torch.no_grad()
def adjust(
    images: Float[Tensor, "F 3 H W"],
    depth: Float[Tensor, "F H W"],
    intrinsics: Float[Tensor, "F 3 3"],
    extrinsics: Float[Tensor, "F 4 4"],
    *,
    keep: Collection[str] = (),
    lens: OneLens | None = OneLens(),
) -> Adjusted:
    """Cameras, focal length and depth, starting from the given ones, for which frames in [0, 1] agree best.

    The first camera is fixed, and so are those of "cameras", "focal" and "depth" in ``keep``. If cameras are adjusted,
    the unit of length is kept: the median factor of the depth is 1. If the focal length is adjusted, all frames get one
    ``lens``; with None their focal lengths keep their ratios. The input is returned if nothing agrees better (a single
    frame, no overlap), if the disagreement is large, and, with a warning, if the frames have no texture.
    """
    nothing = depth.new_ones(max(len(images) - 1, 0))
    stays = Adjusted(depth, intrinsics, extrinsics, math.inf, math.inf, len(images) < 2, nothing)
    if len(images) < 2:
        return stays
    given = [x.detach().float().clone() for x in (images, depth, intrinsics, extrinsics)]
    if "focal" not in keep and lens is not None:
        given[2] = one_lens(given[2], lens.aspect)
    weight = 1.0 if lens is None else lens.weight
    bundle = _Bundle(*given, keep=keep, lens_weight=weight)
    first = bundle.look()
    before = first.disagreement()
    if not math.isfinite(before):
        return stays
    stays = replace(stays, before=before, after=before)
    if bundle.dull():
        warnings.warn("the frames have no texture; the reconstruction stays as predicted", stacklevel=1)
        return stays
    start = bundle.state
    agrees, contrast = bundle.descend()
    last = bundle.look()
    after = last.disagreement()
    better = after < before and float(last.scores().mean()) < float(first.scores().mean())
    if not better or after >= AGREED:
        bundle.state, after = start, before
        agrees, contrast = bundle.test()
    agrees = agrees and after < AGREED
    if bundle.state is start:
        return replace(stays, agrees=agrees, contrast=contrast)
    given = [depth, intrinsics, extrinsics]
    new_depth, matrices, poses = (x.to(like) for x, like in zip(bundle.found(), given, strict=True))
    return Adjusted(new_depth, matrices, poses, before, after, agrees, contrast)


class _Bundle:
    """A reconstruction, and what of it moves."""

    def __init__(self, images: Tensor, depth: Tensor, intrinsics: Tensor, extrinsics: Tensor,
                 *, keep: Collection[str], lens_weight: float = 1.0) -> None:  # fmt: skip
        count, knots = len(images), GRID**2
        self.depth, self.intrinsics, self.move_cameras = depth, intrinsics, "cameras" not in keep
        small, nearest, to_small = made_small(images, depth)
        known = nearest.isfinite() & (nearest > 0)
        unit = float(torch.where(depth.isfinite() & (depth > 0), depth, 1.0).median())
        self.frames = SmallFrames(small, torch.where(known, nearest, 1.0).log(), known, to_small @ intrinsics, unit)
        zero = depth.new_zeros
        self.state = State(extrinsics[:, :3, :3], extrinsics[:, :3, 3], zero(count, knots), zero(()))
        place = torch.arange(count * (6 + knots) + 1, device=depth.device)
        parts = {"cameras": place[6 : 6 * count], "depth": place[6 * count : -1], "focal": place[-1:]}
        self.cameras = parts["cameras"]
        self.moving = torch.cat([place[:0], *(part for name, part in parts.items() if name not in keep)])
        mean = depth.new_full((knots, knots), 1 / knots)
        one = (STAY_KNOT * (torch.eye(knots).to(mean) - mean) + STAY_FRAME * mean) / (knots * count)
        self.stay = torch.block_diag(zero(6 * count, 6 * count), *[one] * count, zero(1, 1) + STAY_FOCAL * lens_weight)

    def look(self) -> Comparison:
        """All frames as they are now, at the last blur."""
        return Views(self.frames, BLURS[-1], EVERY[-1], REACH).compare(self.state)

    def test(self) -> tuple[bool, Tensor]:
        """Whether the frames agree, and the contrast of each two neighbours (:meth:`Views.fit`)."""
        views = Views(self.frames, BLURS[FIT], EVERY[FIT], REACH)
        right, contrast = views.fit(views.compare(self.state))
        beside = (views.here - views.there).abs() == 1
        earlier = torch.minimum(views.here, views.there)[beside]
        each = contrast.new_zeros(len(self.depth) - 1).index_add(0, earlier, contrast[beside] / 2)
        return float(right) >= RIGHT and float(each.max()) <= FIRM, each

    def dull(self) -> bool:
        """Whether the pictures hold no texture."""
        return float(Views(self.frames, BLURS[0], EVERY[0], 1).maps[..., :3].abs().mean()) < DULL

    def found(self) -> tuple[Tensor, Tensor, Tensor]:
        """Depth (F,H,W), intrinsics (F,3,3) and extrinsics (F,4,4) at full size."""
        size, state = self.depth.shape[-2:], self.state
        uv = pixel_centres(*size, device=self.depth.device, dtype=self.depth.dtype).flatten(0, 1)
        factor = (state.knots @ knot_weights(uv, size)[0].mT).exp().unflatten(-1, size)
        unit = factor.median() if self.move_cameras else 1.0
        extrinsics = torch.eye(4).to(factor).repeat(len(factor), 1, 1)
        extrinsics[:, :3, :3], extrinsics[:, :3, 3] = state.rotations, state.translations / unit
        intrinsics = self.intrinsics.clone()
        intrinsics[:, (0, 1), (0, 1)] *= state.zoom.exp()
        return self.depth * (factor / unit), intrinsics, extrinsics

    def descend(self) -> tuple[bool, Tensor]:
        """Optimise from the better of two initial values; repeated from other motions if neighbours do not agree.

        Returns :meth:`test` of the result.
        """
        predicted = self.state
        if self.move_cameras:
            self._start()
        self._blur_by_blur()
        agrees, contrast = self.test()
        for _ in range(SEARCHES if self.move_cameras else 0):
            found, doubtful = self.state, (contrast >= min(FIRM, float(contrast.max()))).nonzero()[:, 0]
            if agrees or not self._search(doubtful, predicted):
                break
            self._blur_by_blur()
            if not self._keep_better(found, BLURS[-1], EVERY[-1]):
                break
            agrees, contrast = self.test()
        return agrees, contrast

    def _blur_by_blur(self) -> None:
        for blur, every, steps in zip(BLURS, EVERY, STEPS, strict=True):
            self._steps(Views(self.frames, blur, every, REACH), steps if len(self.moving) else 0, self.moving)

    def _start(self) -> None:
        """Cameras from the motions between neighbours, where all frames agree better with these than as predicted.

        Neighbours differ less than a prediction may be wrong: each motion begins as predicted, and as that rotation of
        a grid which makes the two pictures most alike.
        """
        predicted, frame = self.state, torch.arange(len(self.depth), device=self.depth.device)
        turns, shifts = predicted.motions(frame[:-1], frame[1:])
        alike = Views(self.frames, BLURS_OF_MOTIONS[0], EVERY[0], 1).best_turns(_turns_to_try().to(turns))
        starts = torch.stack([turns, alike], 1), torch.stack([shifts, torch.zeros_like(shifts)], 1)
        self.state = self._chained(*best_motions(self.frames, predicted, frame[:-1], *starts))
        self._keep_better(predicted)

    def _search(self, doubtful: Tensor, predicted: State) -> bool:
        """Motions of the doubtful neighbours (m,) from many starts; whether all frames agree better with them."""
        found, frame = self.state, torch.arange(len(self.depth), device=self.depth.device)
        turns, shifts = found.motions(frame[:-1], frame[1:])
        bases = [state.motions(doubtful, doubtful + 1) for state in (predicted, found)]
        starts = [nearby(shift, self.frames.unit) for _, shift in bases]
        ways = torch.cat([t[:, None].expand(-1, s.shape[1], 3, 3) for (t, _), s in zip(bases, starts, strict=True)], 1)
        turns[doubtful], shifts[doubtful] = best_motions(self.frames, found, doubtful, ways, torch.cat(starts, 1))
        self.state = self._chained(turns, shifts)
        return self._keep_better(found)

    def _keep_better(self, other: State, blur: float = BLURS_OF_MOTIONS[-1], every: int = EVERY[0]) -> bool:
        """Keep the state, or else ``other`` with which all frames agree at least as well; whether it was kept."""
        views = Views(self.frames, blur, every, REACH)
        here, there = (float(views.compare(state).scores().mean()) for state in (self.state, other))
        self.state = self.state if here < there else other
        return here < there

    def _chained(self, turns: Float[Tensor, "m 3 3"], shifts: Float[Tensor, "m 3"]) -> State:
        """The state whose cameras follow each other by these motions; the first stays."""
        rotations, translations = [self.state.rotations[0]], [self.state.translations[0]]
        for turn, shift in zip(turns, shifts, strict=True):
            rotations.append(turn @ rotations[-1])
            translations.append(turn @ translations[-1] + shift)
        return State(torch.stack(rotations), torch.stack(translations), self.state.knots, self.state.zoom)

    def _steps(self, views: Views, most: int, moving: Tensor) -> None:
        found, damping = views.compare(self.state), FIRST_DAMPING
        cost = self._objective(self.state, found)
        for _ in range(most if math.isfinite(cost) else 0):
            normal, slope = views.system(found)
            normal, slope = normal + 2 * self.stay, slope + 2 * self.stay @ self.state.values()
            h, g = normal[moving][:, moving].double(), slope[moving].double()
            for _ in range(TRIES):
                step, damped = torch.zeros_like(slope), h + (damping * h.diagonal() + 1e-9).diag()
                step[moving] = torch.linalg.solve_ex(damped, -g).result.to(slope)
                if step.abs().max() < LONGEST:  # else the normal equations are singular
                    state = self.state.moved(step, self.frames.unit)
                    then = views.compare(state)
                    lower = self._objective(state, then)
                    if lower < cost:
                        break
                damping *= MORE
            else:
                return
            gain, cost, found, self.state = 1 - lower / cost, lower, then, state
            damping *= LESS
            if gain < ENOUGH:
                return

    def _objective(self, state: State, found: Comparison) -> float:
        values = state.values()
        return found.disagreement() + float(values @ self.stay @ values)


def _turns_to_try() -> Float[Tensor, "t 3 3"]:
    side, roll = (step * torch.arange(-many, many + 1.0) for step, many in (TURN_DEG, ROLL_DEG))
    return torch.linalg.matrix_exp(cross_matrices(torch.cartesian_prod(side, side, roll) * (math.pi / 180)))
