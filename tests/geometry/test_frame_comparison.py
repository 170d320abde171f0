"""The derivatives of the comparison of frames are those of autograd, and its parts keep their laws."""

from __future__ import annotations

import math

import pytest
import torch
from textured_corner import corner, turned
from torch import Tensor

from vidllm.geometry.frame_comparison import (
    GRID,
    Comparison,
    SmallFrames,
    State,
    Views,
    interpolated,
    knot_weights,
)
from vidllm.geometry.photometric import sampled
from vidllm.geometry.rotations import rotation_angle_deg


def views_and_state(blur: float = 0.025, reach: int = 3, wrong: float = 0.02) -> tuple[Views, State, int]:
    """The corner in float64, its state a little off, and the length of a step."""
    images, depth, k, extrinsics = (x.double() for x in corner())
    frames = SmallFrames(images, depth.log(), torch.ones_like(depth, dtype=torch.bool), k, 2.0)
    u, _, vh = torch.linalg.svd(extrinsics[:, :3, :3])  # rotations to all digits
    state = State(u @ vh, extrinsics[:, :3, 3], depth.new_zeros(6, GRID**2), depth.new_zeros(()))
    size = 6 * (6 + GRID**2) + 1
    off = wrong * torch.randn(size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return Views(frames, blur, 8, reach), state.moved(off, frames.unit), size


def residuals(views: Views, weights: tuple[Tensor, Tensor], found: Comparison) -> Tensor:
    colour, behind = weights
    return torch.cat([(colour.sqrt() * found.colour).flatten(), (behind.sqrt() * found.behind).flatten()])


@pytest.mark.slow
def test_the_system_is_that_of_autograd():
    views, state, size = views_and_state()
    found = views.compare(state)
    weights = views.weights(found)

    def after(step: Tensor) -> Tensor:
        return residuals(views, weights, views.compare(state.moved(step, views.frames.unit)))

    still = torch.zeros(size, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(after, still)
    normal, slope = views.system(found)
    torch.testing.assert_close(normal, jacobian.T @ jacobian, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(slope, jacobian.T @ after(still), rtol=1e-8, atol=1e-8)


def test_the_slope_is_that_of_the_objective():
    views, state, size = views_and_state(wrong=0.1)
    found = views.compare(state)
    step = torch.zeros(size, dtype=torch.float64, requires_grad=True)
    then = views.compare(state.moved(step, views.frames.unit))
    (found.used * then.wrong).sum().div(found.used.sum()).backward()
    torch.testing.assert_close(views.system(found)[1], step.grad, rtol=1e-6, atol=1e-8)


def test_pixels_are_interpolated_as_by_torch_and_the_slopes_are_true():
    generator = torch.Generator().manual_seed(0)
    maps = torch.rand(3, 5, 7, 2, generator=generator, dtype=torch.float64)
    at = (torch.rand(3, 40, 2, generator=generator, dtype=torch.float64) * 10 - 1.5).requires_grad_()
    frame = torch.tensor([2, 0, 1])
    values, slopes = interpolated(maps, frame, at)
    wanted = sampled(maps[frame].movedim(-1, 1), at[:, None])[:, :, 0].mT
    torch.testing.assert_close(values, wanted)
    for channel in range(2):
        (true,) = torch.autograd.grad(wanted[..., channel].sum(), at, retain_graph=True)
        torch.testing.assert_close(slopes[..., channel], true)


def test_knots_share_every_pixel_and_their_slopes_are_true():
    size = torch.Size([20, 30])
    at = torch.tensor([[3.3, 4.2], [0.2, 7.0], [29.9, 19.9], [14.0, 10.5]], dtype=torch.float64, requires_grad=True)
    weights, across, down = knot_weights(at, size)
    torch.testing.assert_close(weights.sum(-1), torch.ones(4, dtype=torch.float64))
    knots = torch.arange(GRID**2, dtype=torch.float64).sin()
    (true,) = torch.autograd.grad((weights @ knots).sum(), at)
    torch.testing.assert_close(torch.stack([across @ knots, down @ knots], -1), true)


def test_a_step_turns_cameras_from_the_left_and_adds_the_rest():
    state = State(torch.eye(3)[None], torch.tensor([[1.0, 0, 0]]), torch.zeros(1, GRID**2), torch.zeros(()))
    step = torch.zeros(6 + GRID**2 + 1)
    step[2], step[3], step[-1] = math.pi / 2, 0.5, 0.1
    moved = state.moved(step, 2.0)
    torch.testing.assert_close(moved.rotations[0] @ torch.tensor([1.0, 0, 0]), torch.tensor([0.0, 1, 0]))
    torch.testing.assert_close(moved.translations, torch.tensor([[1.0, 1.0, 0.0]]))
    torch.testing.assert_close(moved.values(), step * (torch.arange(len(step)) >= 6))


def test_the_true_state_agrees_and_a_wrong_one_does_not():
    views, right, _ = views_and_state(wrong=0.0)
    wrong = views_and_state(wrong=0.05)[1]
    assert views.compare(right).disagreement() < 0.3 * views.compare(wrong).disagreement()
    away = State(right.rotations, right.translations + 1000 * torch.arange(6.0)[:, None], right.knots, right.zoom)
    assert views.compare(away).disagreement() == math.inf and float(views.compare(away).scores().mean()) == 0.5


def test_of_several_turns_the_true_one_is_found():
    images, depth, k, extrinsics = corner(steps=0.0, turn_by=4)
    frames = SmallFrames(images, depth.log(), torch.ones_like(depth, dtype=torch.bool), k, 2.0)
    true = extrinsics[1:, :3, :3] @ extrinsics[:-1, :3, :3].mT
    others = [turned(p, y) for p in (-0.12, 0.0, 0.12) for y in (-0.2, 0.0, 0.3)]
    found = Views(frames, 0.05, 4, 1).best_turns(torch.stack([*others, true[0], *others]))
    assert float(rotation_angle_deg(found, true).max()) == pytest.approx(0, abs=0.5)
