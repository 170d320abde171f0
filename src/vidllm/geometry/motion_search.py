"""Search of the motion between the cameras of two frames from many initial values at the same time.

The disagreement of two frames has many minima: if they share half of their area, an initial translation that is wrong
by a fifth of the depth usually leads to a wrong minimum (docs/refinement.md). Two frames have only six unknowns, so
many initial values are cheap: all take a few steps on blurred pictures, the best ones more, and the motion with the
smallest disagreement (:mod:`frame_comparison`) is returned. Invisible pixels count, so that motions that look away are
not preferred.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vidllm.geometry.frame_comparison import Comparison, SmallFrames, State, Views, carried
from vidllm.geometry.rotations import cross_matrices

BLURS, STEPS, KEPT = (0.08, 0.04), (6, 6), (6, 1)  # blur, of the shorter side; steps; starts that go on, of each pair
EVERY = 8  # such pixel of every such row is compared
NEARBY = 0.2  # of the median depth: how far beside a motion others begin
FIRST_DAMPING, LESS, MORE = 1e-2, 1 / 4, 8.0  # damping: at first, after a step that helps, after one that does not
LONGEST = 0.5  # step: radians, median depths


def best_motions(
    frames: SmallFrames, state: State, first: Int[Tensor, " m"], turns: Float[Tensor, "m k 3 3"],
    shifts: Float[Tensor, "m k 3"],
) -> tuple[Float[Tensor, "m 3 3"], Float[Tensor, "m 3"]]:  # fmt: skip
    """The best motion from each of m frames to the next, over k initial values.

    ``y = turn x + shift`` maps points of the first camera to the second; ``state`` gives depth and focal length.
    """
    for blur, steps, kept in zip(BLURS, STEPS, KEPT, strict=True):
        here = first.repeat_interleave(turns.shape[1])
        both = torch.cat([here, here + 1]), torch.cat([here + 1, here])
        views = Views(frames, blur, EVERY, 1).between(*both)
        turn, shift, score = _descended(views, state, turns.flatten(0, 1), shifts.flatten(0, 1), steps)
        best = score.view(len(first), -1).argsort(1)[:, :kept]
        row = torch.arange(len(first), device=best.device)[:, None]
        turns, shifts = turn.view_as(turns)[row, best], shift.view_as(shifts)[row, best]
    return turns[:, 0], shifts[:, 0]


def nearby(shifts: Float[Tensor, "m 3"], unit: float) -> Float[Tensor, "m 27 3"]:
    """Each translation, and those shifted in 26 directions."""
    ways = torch.cartesian_prod(*[shifts.new_tensor([0.0, -1.0, 1.0])] * 3)
    return shifts[:, None] + NEARBY * unit * ways / ways.norm(dim=-1, keepdim=True).clamp_min(1)


def _descended(views: Views, state: State, turn: Tensor, shift: Tensor, steps: int) -> tuple[Tensor, Tensor, Tensor]:
    """Each motion after ``steps`` damped Gauss-Newton steps of its own, and its disagreement."""
    found = _compared(views, state, turn, shift)
    score, damping = _scores(found), torch.full_like(shift[:, 0], FIRST_DAMPING)
    normal, slope = _systems(views, found)
    for _ in range(steps):
        damped = normal + (damping[:, None] * normal.diagonal(dim1=1, dim2=2) + 1e-9).diag_embed()
        step = torch.linalg.solve_ex(damped, -slope).result.nan_to_num().clamp(-LONGEST, LONGEST)
        by = torch.linalg.matrix_exp(cross_matrices(step[:, :3]))
        moved = by @ turn, (by @ shift[..., None])[..., 0] + step[:, 3:] * views.frames.unit
        found = _compared(views, state, *moved)
        then = (*moved, _scores(found), *_systems(views, found))
        helps = then[2] < score
        damping = damping * torch.where(helps, LESS, MORE)
        turn, shift, score, normal, slope = (
            torch.where(helps.view(-1, *[1] * (new.ndim - 1)), new, old)
            for new, old in zip(then, (turn, shift, score, normal, slope), strict=True)
        )
    return turn, shift, score


def _compared(views: Views, state: State, turn: Tensor, shift: Tensor) -> Comparison:
    back = turn.mT
    there_and_back = torch.cat([turn, back]), torch.cat([shift, -(back @ shift[..., None])[..., 0]])
    return views.compare(state, there_and_back)


def _scores(found: Comparison) -> Float[Tensor, " n"]:
    return found.scores().unflatten(0, (2, -1)).mean(0)


def _systems(views: Views, found: Comparison) -> tuple[Float[Tensor, "n 6 6"], Float[Tensor, "n 6"]]:
    """Derivatives of each motion by a step after it; the way back moves by ``-Ad`` of it."""
    normal, slope = views.pair_systems(found, views.by_motion(found)[..., :6])
    count = len(normal) // 2
    turn, shift = (x[count:] for x in found.motion)
    lead = -carried(turn, shift / views.frames.unit)
    back = (lead.mT @ slope[count:, :, None])[..., 0]
    return normal[:count] + lead.mT @ normal[count:] @ lead, slope[:count] + back
