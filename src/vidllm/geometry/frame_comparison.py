"""Pixels of one frame seen by another: how little they agree, and its derivatives by cameras, depth, focal length.

Pixel p of frame i at depth z is the point ``x = z K^-1 p`` of its camera, and ``y = R x + t`` of the camera of frame j,
``(R, t) = E_j E_i^-1``. Frame j shows it at ``q = K y / y_z``. Two residuals tell how wrong that is, one of the colours
(blurred, less their surroundings: exposure does not matter) and one of the depths:

    c = C_j(q) - C_i(p)   (three channels)          b = log z_j(q) - log y_z
    wrong = rho(mean |c| / 0.125) + 0.3 rho(|b| / 0.2),   rho(r) = 1 - exp(-r)

with Huber's norm, quadratic below e = 0.01 and 0.02, for |.|. The mean over all pixels that two frames see is minimised
by Gauss-Newton steps, iteratively re-weighted: around the present residuals, rho(|r| / s) is the parabola
``w r^2 / 2 + constant`` with ``w = exp(-|r| / s) / (s max(|r|, e))``.
"""

from __future__ import annotations

import math
from copy import copy
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from vidllm.geometry.cameras import inside_image, pixel_centres
from vidllm.geometry.photometric import sampled
from vidllm.geometry.rotations import cross_matrices

GRID = 4  # knots of the factor of a depth map, a side
COLOUR, DEPTH = 0.125, 0.2  # differences (of 1; of the log depth) beyond which it hardly matters how large they are
DEPTH_WEIGHT = 0.3  # of the disagreement in depth beside that in colour
SMALL_COLOUR, SMALL_DEPTH = 0.01, 0.02  # differences below which the objective is quadratic
FRONT, BEHIND = 0.35, 0.5  # a surface nearer by so much log depth hides a point, one so much farther is another one
NEAR = 0.02  # of the median depth: points nearer to a camera are not compared
UNSEEN = 0.5  # counted for a pixel that cannot be compared, where reconstructions that see different pixels compete
SHIFT, BLOCKS = 0.03, 4  # of the shorter side: how far pictures are moved to see whether they lie right; blocks a side
FEW = 4  # blocks of a pair, of 16, below which it tells nothing
SURROUNDINGS, CONTRAST = 3.0, 1.5  # blur of what is subtracted from the colours, of their own; factor of the rest


@dataclass(frozen=True)
class State:
    """What is moved: camera-from-world (F,3,3) and (F,3); log factors of depth at the knots (F,k); of the focal ()."""

    rotations: Tensor
    translations: Tensor
    knots: Tensor
    zoom: Tensor

    def moved(self, step: Float[Tensor, " n"], unit: float) -> State:
        """After a step (turn and shift of each camera, knots of each frame, zoom); shifts are in ``unit``.

        A camera moves from the left, ``E <- exp(turn) E + shift``: its points turn about it.
        """
        count = len(self.knots)
        poses, knots, zoom = step.split([6 * count, self.knots.numel(), 1])
        turns, shifts = poses.view(count, 2, 3).unbind(1)
        turn = torch.linalg.matrix_exp(cross_matrices(turns))
        translations = (turn @ self.translations[..., None])[..., 0] + shifts * unit
        return State(turn @ self.rotations, translations, self.knots + knots.view(count, -1), self.zoom + zoom[0])

    def motions(self, here: Tensor, there: Tensor) -> tuple[Tensor, Tensor]:
        """Rotations (P,3,3) and translations (P,3) from the cameras of the frames ``here`` to those of ``there``."""
        turn = self.rotations[there] @ self.rotations[here].mT
        return turn, self.translations[there] - (turn @ self.translations[here][..., None])[..., 0]

    def values(self) -> Float[Tensor, " n"]:
        """The log factors in the places that they have in a step; 0 for cameras."""
        return F.pad(torch.cat([self.knots.flatten(), self.zoom[None]]), (6 * len(self.knots), 0))


@dataclass(frozen=True)
class SmallFrames:
    """Small pictures (F,3,h,w), log depth (F,h,w) and where it is known, K (F,3,3) of them; the unit of lengths."""

    images: Tensor
    log_depth: Tensor
    known: Tensor
    intrinsics: Tensor
    unit: float


@dataclass(frozen=True)
class Comparison:
    """n pixels of P pairs of frames, and all that the derivatives of their residuals need."""

    motion: tuple[Tensor, Tensor]  # (P,3,3), (P,3)
    points: Tensor  # (P,n,3) x
    seen: Tensor  # (P,n,3) y
    focal: Tensor  # (P,1,2)
    offset: Tensor  # (P,n,2) q from the principal point
    basis: Tensor  # (P,n,k) weights of frame j's knots at q
    colour: Tensor  # (P,n,3) c
    colour_slopes: Tensor  # (P,n,2,3) along q
    behind: Tensor  # (P,n) b
    behind_slopes: Tensor  # (P,n,2) along q
    used: Tensor  # (P,n) 1 where both frames see the point
    wrong: Tensor  # (P,n) 0 to 1.3

    def disagreement(self) -> float:
        """Mean over the pixels that two frames see; infinite where there are none."""
        return float((self.used * self.wrong).sum() / self.used.sum()) if bool(self.used.any()) else math.inf

    def scores(self) -> Float[Tensor, " P"]:
        """The disagreement of each pair, where pixels that cannot be compared count too."""
        return torch.where(self.used > 0, self.wrong, UNSEEN).mean(-1)


class Views:
    """SmallFrames at one blur (a standard deviation, of the shorter side): every ``every``-th pixel of every such row.

    Those of a frame are compared with the frames up to ``reach`` places away.
    """

    def __init__(self, frames: SmallFrames, blur: float, every: int, reach: int) -> None:
        self.frames, count = frames, len(frames.images)
        self.size, at = frames.images.shape[-2:], slice(every // 2, None, every)
        like = frames.log_depth
        pairs = [(i, j) for i in range(count) for j in range(count) if 0 < abs(i - j) <= reach]
        self.here, self.there = torch.tensor(pairs, device=like.device).T
        self.uv = pixel_centres(*self.size, device=like.device, dtype=like.dtype)[at, at].flatten(0, 1)
        sigma = blur * min(self.size)
        colours = CONTRAST * (blurred(frames.images, sigma) - blurred(frames.images, SURROUNDINGS * sigma))
        self.maps = torch.cat([colours.movedim(1, -1), like[..., None]], -1)
        self.own = self.maps[:, at, at].flatten(1, 2)
        self.known = frames.known[:, at, at].flatten(1)
        self.basis = knot_weights(self.uv, self.size)[0]

    def between(self, here: Int[Tensor, " P"], there: Int[Tensor, " P"]) -> Views:
        """The same frames in other pairs, each as often as it is named."""
        views = copy(self)
        views.here, views.there = here, there
        return views

    def compare(self, state: State, motions: tuple[Tensor, Tensor] | None = None) -> Comparison:
        """Where ``state`` places the pixels of each frame in the others, and what is there.

        ``motions``: rotations (P,3,3) and translations (P,3) of the pairs in place of those of its cameras.
        """
        here, there, frames = self.here, self.there, self.frames
        focal = frames.intrinsics[:, None, (0, 1), (0, 1)] * state.zoom.exp()
        centre = frames.intrinsics[:, None, (0, 1), (2, 2)]
        z = (self.own[..., 3] + state.knots @ self.basis.mT).exp()[..., None]
        points = torch.cat([(self.uv - centre) / focal * z, z], -1)[here]
        turn, shift = state.motions(here, there) if motions is None else motions
        seen = points @ turn.mT + shift[:, None]
        near = NEAR * frames.unit
        depth, focal = seen[..., 2:].clamp_min(near), focal[there]
        offset = seen[..., :2] / depth * focal
        at = offset + centre[there]
        values, slopes = interpolated(self.maps, there, at)
        knots, (basis, across, down) = state.knots[there][..., None], knot_weights(at, self.size)
        colour = values[..., :3] - self.own[here, :, :3]
        behind = values[..., 3] + (basis @ knots)[..., 0] - depth[..., 0].log()
        same = (seen[..., 2] > near) & (behind > -FRONT) & (behind < BEHIND)
        used = (inside_image(at, self.size) & same & self.known[here]).to(seen.dtype)
        wrong = _soft(_huber(colour, SMALL_COLOUR).mean(-1), COLOUR)
        wrong = wrong + DEPTH_WEIGHT * _soft(_huber(behind, SMALL_DEPTH), DEPTH)
        behind_slopes = slopes[..., 3] + torch.cat([across @ knots, down @ knots], -1)
        return Comparison((turn, shift), points, seen, focal, offset, basis, colour, slopes[..., :3],
                          behind, behind_slopes, used, wrong)  # fmt: skip

    def fit(self, found: Comparison) -> tuple[Float[Tensor, ""], Float[Tensor, " P"]]:
        """How well frames fit: the share of blocks that lie right; of each pair, its disagreement over that if moved.

        A block of frame i, most of which frame j sees, lies right where its colours agree better than after moving
        frame j by ``SHIFT`` along any of eight directions. Pairs that share fewer than ``FEW`` blocks have 1.
        """
        at = found.offset + self.frames.intrinsics[:, None, (0, 1), (2, 2)][self.there]
        moves = torch.cartesian_prod(*[at.new_tensor([0.0, -1.0, 1.0])] * 2) * (SHIFT * min(self.size))
        wrong = found.used * torch.stack([
            _soft(_huber(found.colour if number == 0 else
                         interpolated(self.maps, self.there, at + move)[0][..., :3] - self.own[self.here, :, :3],
                         SMALL_COLOUR).mean(-1), COLOUR)
            for number, move in enumerate(moves)
        ])  # fmt: skip
        place = (self.uv / self.uv.new_tensor([self.size[1], self.size[0]]) * BLOCKS).long().clamp(max=BLOCKS - 1)
        blocks = F.one_hot(place[:, 1] * BLOCKS + place[:, 0], BLOCKS**2).to(wrong)
        seen = found.used @ blocks > blocks.sum(0) / 2
        sums = (wrong @ blocks) * seen
        right = ((sums.argmin(0) == 0) & seen).sum() / seen.sum().clamp_min(1)
        contrast = sums[0].sum(-1) / sums[1:].mean(0).sum(-1).clamp_min(1e-6)
        return right, torch.where(seen.sum(-1) < FEW, 1.0, contrast)

    def system(self, found: Comparison) -> tuple[Float[Tensor, "n n"], Float[Tensor, " n"]]:
        """Second and first derivatives, by a step of :class:`State`, of the mean of the parabolas.

        A pair's derivatives are by the motion between its cameras (turn, shift), the zoom and the knots of both frames;
        ``_spread`` takes them to the step.
        """
        normal, slope = self.pair_systems(found, self.jacobian(found))
        spread = self._spread(found)
        total = spread.flatten(0, 1).mT @ (normal @ spread).flatten(0, 1)
        return total, (spread.mT @ slope[..., None]).sum(0)[:, 0]

    def pair_systems(
        self, found: Comparison, jacobian: Float[Tensor, "P n 3 c"]
    ) -> tuple[Float[Tensor, "P c c"], Float[Tensor, "P c"]]:
        """The same of each pair, by what ``jacobian`` is by."""
        colour, behind = self.weights(found)
        weighted = found.colour_slopes * colour[..., None, :]
        pull = torch.cat([weighted @ found.colour[..., None], (behind * found.behind)[..., None, None]], -2)
        by_place, by_depth = jacobian.split([2, 1], -2)
        curved = torch.cat([weighted @ found.colour_slopes.mT @ by_place, behind[..., None, None] * by_depth], -2)
        rows = jacobian.flatten(1, 2).mT
        return rows @ curved.flatten(1, 2), (rows @ pull.flatten(1, 2))[..., 0]

    def weights(self, found: Comparison) -> tuple[Float[Tensor, "P n 3"], Float[Tensor, "P n"]]:
        """Those of the squares of the colours' and of the depths' residuals: w above, over the number of pixels."""
        share = found.used / found.used.sum()
        soft = share * (-_huber(found.colour, SMALL_COLOUR).mean(-1) / COLOUR).exp() / (3 * COLOUR)
        deep = share * DEPTH_WEIGHT / DEPTH * (-_huber(found.behind, SMALL_DEPTH) / DEPTH).exp()
        colour, behind = found.colour.abs().clamp_min(SMALL_COLOUR), found.behind.abs().clamp_min(SMALL_DEPTH)
        return soft[..., None] / colour, deep / behind

    def jacobian(self, found: Comparison) -> Float[Tensor, "P n 3 c"]:
        """Derivatives of q and b by the motion (turn 3, shift 3), the zoom, and the knots of frames i and j.

        Knots of frame i move the log of the pixel's depth by their weights there; those of frame j add theirs to b'.
        """
        rows = self.by_motion(found)
        other = F.pad(found.basis[..., None, :], (0, 0, 2, 0))
        return torch.cat([rows[..., :7], rows[..., 7:] * self.basis[:, None], other], -1)

    def by_motion(self, found: Comparison) -> Float[Tensor, "P n 3 8"]:
        """Derivatives of q and b by the motion (turn 3, shift 3), the zoom, and the log of the pixel's own depth.

        With y' the derivative of y by any of these, ``q' = f / y_z (y'_xy - y_xy / y_z y'_z)``, to which the zoom adds
        q itself, from the principal point; ``b' = grad(log z_j) q' - y'_z / y_z``. ``y' = turn x y + shift``; R x by
        the log of its depth; ``-R (x_x, x_y, 0)`` by the zoom.
        """
        (turn, shift), seen, depth = found.motion, found.seen, found.seen[..., 2:]
        flat = F.pad(found.points[..., :2], (0, 1))
        shifts = (self.frames.unit * torch.eye(3, device=seen.device, dtype=seen.dtype)).expand(*seen.shape, 3)
        columns = [-(flat @ turn.mT)[..., None], (seen - shift[:, None])[..., None]]
        by = torch.cat([-cross_matrices(seen), shifts, *columns], -1)
        place = (found.focal / depth)[..., None] * by[..., :2, :] - (found.offset / depth)[..., None] * by[..., 2:, :]
        place[..., 6] += found.offset
        behind = found.behind_slopes[..., None, :] @ place - by[..., 2:, :] / depth[..., None]
        return torch.cat([place, behind], -2)

    def _spread(self, found: Comparison) -> Float[Tensor, "P c n"]:
        """The derivative of what moves a pair by a step.

        The motion moves by ``xi_j - Ad xi_i``, with ``Ad (turn, shift) = (R turn, R shift + t x R turn)``.
        """
        count, knots, (turn, shift) = len(self.own), GRID**2, found.motion
        lead = carried(turn, shift / self.frames.unit)
        spread = turn.new_zeros(len(turn), 7 + 2 * knots, count * (6 + knots) + 1)
        one, many = (torch.eye(size, device=turn.device, dtype=turn.dtype) for size in (6, knots))
        for pair, (i, j) in enumerate(zip(self.here.tolist(), self.there.tolist(), strict=True)):
            spread[pair, :6, 6 * i : 6 * i + 6], spread[pair, :6, 6 * j : 6 * j + 6] = -lead[pair], one
            for row, frame in ((7, i), (7 + knots, j)):
                column = 6 * count + knots * frame
                spread[pair, row : row + knots, column : column + knots] = many
        spread[:, 6, -1] = 1
        return spread

    def best_turns(self, turns: Float[Tensor, "t 3 3"]) -> Float[Tensor, "m 3 3"]:
        """For each of m pairs of neighbours, the given rotation under which the first looks most like the second."""
        best = []
        for i in range(len(self.own) - 1):
            k = self.frames.intrinsics[i : i + 2]
            focal, centre = k[:, (0, 1), (0, 1)], k[:, (0, 1), (2, 2)]
            seen = F.pad((self.uv - centre[0]) / focal[0], (0, 1), value=1.0) @ turns.mT
            at = seen[..., :2] / seen[..., 2:].clamp_min(NEAR) * focal[1] + centre[1]
            used = inside_image(at, self.size) & (seen[..., 2] > NEAR)
            colour = sampled(self.maps[i + 1, None, ..., :3].movedim(-1, 1), at[None])[0].movedim(0, -1)
            wrong = _soft((colour - self.own[i, :, :3]).abs().mean(-1), COLOUR)
            best.append(torch.where(used, wrong, UNSEEN).mean(-1).argmin())
        return turns[torch.stack(best)]


def knot_weights(at: Float[Tensor, "*any 2"], size: torch.Size) -> tuple[Tensor, Tensor, Tensor]:
    """Bilinear weights (*any, GRID * GRID), at pixels, of knots spread over (H, W); slopes along u, v."""
    scale = (GRID - 1) / (at.new_tensor([size[1], size[0]]) - 1).clamp_min(1)
    raw = (at - 0.5) * scale
    where = raw.clamp(0, GRID - 1)
    apart = where[..., None] - torch.arange(GRID, device=at.device, dtype=at.dtype)
    weight = (1 - apart.abs()).clamp_min(0)
    moves = (apart.abs() < 1) & (raw == where)[..., None]
    slope = torch.where(moves, -apart.sign(), 0.0) * scale[:, None]
    (x, y), (slope_x, slope_y) = weight.unbind(-2), slope.unbind(-2)
    across, down = y[..., :, None] * slope_x[..., None, :], slope_y[..., :, None] * x[..., None, :]
    return (y[..., :, None] * x[..., None, :]).flatten(-2), across.flatten(-2), down.flatten(-2)


def interpolated(
    maps: Float[Tensor, "F h w C"], frame: Tensor, at: Float[Tensor, "P n 2"]
) -> tuple[Float[Tensor, "P n C"], Float[Tensor, "P n 2 C"]]:
    """Bilinear values of the maps of frames (P,) at pixels, and their slopes along u and v.

    Beyond the borders the outermost pixels go on. As ``sampled``, which has no slopes.
    """
    height, width = maps.shape[1:3]
    last = at.new_tensor([width - 1, height - 1])
    where = torch.minimum((at - 0.5).clamp_min(0), last)
    low = torch.minimum(where.floor(), (last - 1).clamp_min(0))
    (i, j), (x, y) = low.long().unbind(-1), (where - low)[..., None].unbind(-2)
    start, right, below = (frame[:, None] * height + j) * width + i, min(1, width - 1), width * min(1, height - 1)
    rows = maps.flatten(0, 2)
    corner, beside, under, across = (rows[start + step] for step in (0, right, below, below + right))
    top, bottom = corner + x * (beside - corner), under + x * (across - under)
    slope_x = (beside - corner) * (1 - y) + (across - under) * y
    inside = (at - 0.5 == where)[..., None].to(maps)
    return top + y * (bottom - top), torch.stack([slope_x, bottom - top], -2) * inside


def carried(turn: Float[Tensor, "*any 3 3"], shift: Float[Tensor, "*any 3"]) -> Float[Tensor, "*any 6 6"]:
    """Ad of a motion: what a step (turn, shift) before it is as one after it."""
    rows = [F.pad(turn, (0, 3)), torch.cat([cross_matrices(shift) @ turn, turn], -1)]
    return torch.cat(rows, -2)


def blurred(images: Float[Tensor, "F C H W"], sigma: float) -> Float[Tensor, "F C H W"]:
    """Gaussian blur with a standard deviation in pixels; beyond the borders the outermost pixels go on."""
    reach = max(1, math.ceil(3 * sigma))
    kernel = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, device=images.device, dtype=images.dtype) / sigma) ** 2)
    kernel = (kernel / kernel.sum()).expand(images.shape[1], 1, 1, -1)
    padded = F.pad(images, (reach,) * 4, mode="replicate")
    across = F.conv2d(padded, kernel, groups=images.shape[1])
    return F.conv2d(across, kernel.mT, groups=images.shape[1])


def _huber(residual: Tensor, small: float) -> Tensor:
    """Absolute value, less half of ``small``; a parabola below ``small``."""
    size = residual.abs()
    return torch.where(size < small, size.square() / (2 * small), size - small / 2)


def _soft(difference: Tensor, scale: float) -> Tensor:
    """Grows as the difference over ``scale``, and flattens towards 1."""
    return 1 - (-difference / scale).exp()
