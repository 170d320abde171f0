"""Two frames' motion is found from many starts, along the slope of what is minimised."""

from __future__ import annotations

import torch
from textured_corner import corner, turned
from torch import Tensor

from vidllm.geometry.frame_comparison import GRID, SmallFrames, State, Views
from vidllm.geometry.motion_search import EVERY, _compared, _systems, best_motions, nearby
from vidllm.geometry.rotations import cross_matrices, rotation_angle_deg


def corner_of_six() -> tuple[SmallFrames, State]:
    images, depth, k, extrinsics = (x.double() for x in corner(detail=0.4))
    frames = SmallFrames(images, depth.log(), depth > 0, k, 2.0)
    u, _, vh = torch.linalg.svd(extrinsics[:, :3, :3])  # rotations to all digits
    return frames, State(u @ vh, extrinsics[:, :3, 3], depth.new_zeros(6, GRID**2), depth.new_zeros(()))


def test_the_slope_of_both_ways_is_that_of_the_objective():
    frames, state = corner_of_six()
    first = torch.tensor([0, 3])
    views = Views(frames, 0.04, EVERY, 1).between(torch.cat([first, first + 1]), torch.cat([first + 1, first]))
    turn, shift = state.motions(first, first + 1)
    turn, shift = turned(0.03, -0.02).double() @ turn, shift + 0.05
    step = torch.zeros(2, 6, dtype=torch.float64, requires_grad=True)
    found = _compared(views, state, turn, shift)

    def after(step: Tensor) -> Tensor:
        by = torch.linalg.matrix_exp(cross_matrices(step[:, :3]))
        then = _compared(views, state, by @ turn, (by @ shift[..., None])[..., 0] + step[:, 3:] * frames.unit)
        return (found.used * then.wrong).sum() / found.used.sum()

    after(step).backward()
    torch.testing.assert_close(_systems(views, found)[1], step.grad, rtol=1e-6, atol=1e-8)


def test_a_motion_far_off_is_found_from_starts_beside_it():
    frames, state = corner_of_six()
    first = torch.tensor([0, 2, 4])
    true_turns, true_shifts = state.motions(first, first + 1)
    turns, shifts = turned(0.05, 0.08).double() @ true_turns, true_shifts + torch.tensor([0.3, -0.2, 0.1])
    around = nearby(shifts, frames.unit)
    assert around.shape == (3, 27, 3) and torch.equal(around[:, 0], shifts)
    torch.testing.assert_close((around - shifts[:, None]).norm(dim=-1)[:, 1:], torch.full((3, 26), 0.4).double())

    def error(starts: tuple[Tensor, Tensor]) -> tuple[float, float]:
        turn, shift = best_motions(frames, state, first, *starts)
        return (float(rotation_angle_deg(turn, true_turns).max()), float((shift - true_shifts).norm(dim=-1).max()))

    alone = error((turns[:, None], shifts[:, None]))
    many = error((turns[:, None].expand(3, 27, 3, 3), around))
    assert max(many[0] / 0.5, many[1] / 0.02) < 1 < min(alone[0] / 10, alone[1] / 0.2)
