"""Pose graph over Sim(3): a chain of cameras is corrected by loops.

A node is the similarity ``x_world = T x_camera`` as a matrix [s R, t; 0, 1]: a camera and the unit of its depth map. An
edge gives ``Z = T_a^-1 T_b`` of two nodes; its error is ``Z^-1 T_a^-1 T_b``: the logarithm of the scale, a rotation
vector, and a translation over the depth of b, each divided by its usual size. With ``T exp(step)`` the error changes by
``step_b - Ad(T_b^-1 T_a) step_a``: Gauss-Newton with Levenberg-Marquardt damping. Loops have Cauchy weights whose width
decreases to ``WIDTHS[-1]``, so that a wrong loop has little effect.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from vidllm.geometry.rotations import cross_matrices, matrix_to_quaternion

USUAL = (0.03, 0.025, 0.025)  # error of a link: log scale, radians, translation over depth
WIDTHS = (1000.0, 100.0, 30.0, 10.0)  # error of a loop, in these units, at which its weight is a half
STEPS, ENOUGH = 12, 1e-4  # for each width, at most; gain of a step after which the next begins
FIRST_DAMPING, LESS, MORE, TRIES = 1e-3, 1 / 5, 10.0, 6


@dataclass(frozen=True)
class Links:
    """E edges: nodes ``first`` and ``second`` (E,), ``motion`` (E,4,4) Z, depth (E,) of the second in its own unit.

    ``loose`` (E,): factor of the usual error; ``loop`` (E,): whether the edge is a loop.
    """

    first: Int[Tensor, " e"]
    second: Int[Tensor, " e"]
    motion: Float[Tensor, "e 4 4"]
    depth: Float[Tensor, " e"]
    loose: Float[Tensor, " e"]
    loop: Tensor


def relax(places: Float[Tensor, "n 4 4"], links: Links) -> Float[Tensor, "n 4 4"]:
    """The nodes (float64) that fit all edges best; the first one is fixed."""
    for width in WIDTHS:
        places = _descend(places, links, width)
    return places


def _descend(places: Tensor, links: Links, width: float) -> Tensor:
    errors, damping = _errors(places, links), FIRST_DAMPING
    for _ in range(STEPS):
        weights = torch.where(links.loop, 1 / (1 + errors.square().sum(-1) / width**2), 1.0)
        normal, slope = _system(places, links, errors, weights)
        cost = _cost(errors, links, width)
        for _ in range(TRIES):
            damped = normal + (damping * normal.diagonal() + 1e-9).diag()
            step = torch.cat([slope.new_zeros(1, 7), torch.linalg.solve(damped, -slope).view(-1, 7)])
            moved = places @ torch.linalg.matrix_exp(_generators(step))
            then = _errors(moved, links)
            lower = _cost(then, links, width)
            if lower < cost:
                break
            damping *= MORE
        else:
            return places
        places, errors, damping = moved, then, damping * LESS
        if lower > (1 - ENOUGH) * cost:
            return places
    return places


def _cost(errors: Tensor, links: Links, width: float) -> float:
    squares = errors.square().sum(-1)
    return float(torch.where(links.loop, width**2 * (squares / width**2).log1p(), squares).sum())


def _errors(places: Tensor, links: Links) -> Float[Tensor, "e 7"]:
    """Scale, rotation and translation of each link's error, in units of its usual size."""
    error = torch.linalg.inv(links.motion) @ torch.linalg.inv(places[links.first]) @ places[links.second]
    scale, turn = scale_and_rotation(error)
    quaternion = matrix_to_quaternion(turn)
    sine = quaternion[:, :3].norm(dim=-1, keepdim=True)
    angle = 2 * torch.atan2(sine, quaternion[:, 3:]) / sine.clamp_min(1e-12)
    parts = scale.log()[:, None], quaternion[:, :3] * angle, error[:, :3, 3] / links.depth[:, None]
    return torch.cat(parts, -1) / _expected(links)


def _expected(links: Links) -> Float[Tensor, "e 7"]:
    scale, turn, shift = USUAL
    return links.loose[:, None] * links.loose.new_tensor([scale, turn, turn, turn, shift, shift, shift])


def _system(places: Tensor, links: Links, errors: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Normal equations (7 (n - 1) unknowns) by a step of all places but the first: scale, turn, shift of each."""
    back = torch.linalg.inv(places[links.second]) @ places[links.first]
    error = torch.linalg.inv(links.motion) @ torch.linalg.inv(back)
    scale, turn = scale_and_rotation(back)
    carried = torch.zeros(len(back), 7, 7, dtype=back.dtype)
    carried[:, 0, 0] = 1
    carried[:, 1:4, 1:4] = turn
    carried[:, 4:, 4:] = scale[:, None, None] * turn
    carried[:, 4:, 0] = -back[:, :3, 3]
    carried[:, 4:, 1:4] = cross_matrices(back[:, :3, 3]) @ turn
    own = torch.eye(7, dtype=back.dtype).repeat(len(back), 1, 1)
    own[:, 4:, 4:] = error[:, :3, :3] / links.depth[:, None, None]
    own = own / _expected(links)[:, :, None]
    jacobian = torch.zeros(len(back), 7, len(places), 7, dtype=back.dtype)
    row = torch.arange(len(back))
    jacobian[row, :, links.second] += own
    jacobian[row, :, links.first] -= own @ carried
    rows = jacobian[:, :, 1:].flatten(2).flatten(0, 1)
    weighted = rows * weights.repeat_interleave(7)[:, None]
    return weighted.T @ rows, weighted.T @ errors.flatten()


def _generators(step: Float[Tensor, "n 7"]) -> Float[Tensor, "n 4 4"]:
    """Matrices whose exponentials are small similarities: scale, turn, shift."""
    linear = step[:, :1].expand(-1, 3).diag_embed() + cross_matrices(step[:, 1:4])
    return F.pad(torch.cat([linear, step[:, 4:, None]], -1), (0, 0, 0, 1))


def scale_and_rotation(places: Float[Tensor, "n 4 4"]) -> tuple[Float[Tensor, " n"], Float[Tensor, "n 3 3"]]:
    """The parts of similarities [s R, t; 0, 1]."""
    linear = places[:, :3, :3]
    scale = torch.linalg.det(linear) ** (1 / 3)
    return scale, linear / scale[:, None, None]
