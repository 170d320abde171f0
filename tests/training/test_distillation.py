"""Stage 1's losses by hand, the Gram identity, and that its memory grows with M and not with M squared."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from vidllm.training.distillation import (
    Projections,
    Streams,
    distillation_losses,
    geometry_loss,
    gram_loss,
    language_loss,
    resample_grid,
    unit,
)


def tokens(*shape: int, seed: int = 0, grad: bool = False) -> Tensor:
    made = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return made.requires_grad_(grad)


# ---- Eq 6 -----------------------------------------------------------------------------------------------------------


def test_geometry_loss_is_the_squared_chord_between_directions():
    teacher = tokens(2, 3, 5, 8)
    assert float(geometry_loss(3.0 * teacher, teacher)) == pytest.approx(0, abs=1e-10)  # lengths do not count
    assert float(geometry_loss(-teacher, teacher)) == pytest.approx(4)
    student = tokens(2, 3, 5, 8, seed=1)
    cosine = torch.nn.functional.cosine_similarity(student, teacher, dim=-1)
    torch.testing.assert_close(geometry_loss(student, teacher), (2 - 2 * cosine).mean())


def test_language_loss_compares_frames_not_patches():
    teacher = tokens(2, 3, 5, 8)
    order = torch.randperm(5)
    assert float(language_loss(teacher[:, :, order], teacher)) == pytest.approx(0, abs=1e-6)
    assert float(language_loss(-2 * teacher, teacher)) == pytest.approx(2)
    one = torch.zeros(1, 1, 2, 2)
    one[0, 0, :, 0] = 1.0
    half = one.clone()
    half[0, 0, :, 1] = 1.0
    assert float(language_loss(half, one)) == pytest.approx(1 - math.sqrt(0.5), abs=1e-6)


# ---- Eq 7 -----------------------------------------------------------------------------------------------------------


def gram_loss_direct(student, teacher):
    """Eq 7 as it is written, with both M x M matrices."""
    difference = student @ student.transpose(-1, -2) - teacher @ teacher.transpose(-1, -2)
    return difference.square().sum((-2, -1)) / student.shape[-2] ** 2


@pytest.mark.parametrize("widths", [(8, 8), (8, 13), (40, 6)])
def test_the_gram_identity_holds_in_value_and_gradient(widths):
    student, teacher = tokens(2, 30, widths[0], grad=True), tokens(2, 30, widths[1], seed=1)
    fast, slow = gram_loss(unit(student), unit(teacher)), gram_loss_direct(unit(student), unit(teacher))
    torch.testing.assert_close(fast, slow, rtol=1e-5, atol=1e-7)
    ours, theirs = (torch.autograd.grad(loss.sum(), student)[0] for loss in (fast, slow))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-7)


def test_structure_does_not_see_a_rotation_and_is_zero_for_the_same_tokens():
    teacher = unit(tokens(1, 50, 16))
    turn, _ = torch.linalg.qr(tokens(16, 16, seed=2))
    assert abs(float(gram_loss(teacher, teacher))) < 1e-7
    assert abs(float(gram_loss(teacher @ turn, teacher))) < 1e-7
    assert float(gram_loss(unit(tokens(1, 50, 16, seed=3)), teacher)) > 1e-2


def test_structure_is_not_computed_in_half_precision():
    student, teacher = unit(tokens(1, 64, 32)), unit(tokens(1, 64, 32, seed=1))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(gram_loss(student, teacher), gram_loss(student.clone(), teacher))
        cast = gram_loss(student, teacher)
    assert cast.dtype is torch.float32 and torch.equal(cast, gram_loss(student, teacher))


class Largest(TorchDispatchMode):
    """The largest tensor that any operation makes, forward or backward."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        made = result if isinstance(result, tuple | list) else (result,)
        self.numbers = max([self.numbers, *(t.untyped_storage().nbytes() // 4 for t in made if isinstance(t, Tensor))])
        return result


def largest(loss: Any, rows: int, width: int) -> int:
    student, teacher = tokens(1, rows, width, grad=True), tokens(1, rows, width, seed=1)
    with Largest() as seen:
        loss(unit(student), unit(teacher)).sum().backward()
    return seen.numbers


def test_memory_of_the_structure_loss_grows_with_m_and_not_with_its_square():
    width, few, many = 16, 500, 4000
    assert largest(gram_loss, few, width) == few * width  # nothing is larger than the tokens themselves
    assert largest(gram_loss, many, width) == many * width
    assert largest(gram_loss_direct, few, width) == few * few


# ---- all three ------------------------------------------------------------------------------------------------------


def test_a_student_that_is_its_teachers_has_no_loss():
    teacher = Streams(tokens(2, 2, 6, 12), tokens(2, 2, 6, 12, seed=1))
    student = Projections(12, 12, 12)(teacher.geometry, teacher.language)
    for form in ("joint", "streams"):
        losses = distillation_losses(student, teacher, form)
        assert set(losses) == {"geo", "lang", "structure"}
        assert all(abs(float(v.detach())) < 1e-6 for v in losses.values())


def test_joint_structure_compares_the_streams_with_each_other():
    teacher = Streams(tokens(1, 2, 6, 12), tokens(1, 2, 6, 12, seed=1))
    turn, _ = torch.linalg.qr(tokens(12, 12, seed=2))
    student = Streams(teacher.geometry, teacher.language @ turn)  # within either stream nothing has changed
    apart, joint = (float(distillation_losses(student, teacher, form)["structure"]) for form in ("streams", "joint"))
    assert abs(apart) < 1e-6 < 1e-3 < joint


def test_gradients_reach_the_student_and_never_a_teacher():
    ours = [tokens(1, 2, 6, 12, seed=s, grad=True) for s in (0, 1)]
    theirs = [tokens(1, 2, 6, 12, seed=s, grad=True) for s in (2, 3)]
    torch.stack(list(distillation_losses(Streams(*ours), Streams(*theirs)).values())).sum().backward()
    assert all(t.grad is not None and bool(t.grad.any()) for t in ours) and all(t.grad is None for t in theirs)


def test_what_does_not_fit_is_told():
    a, b = tokens(1, 2, 6, 12), tokens(1, 2, 6, 10)
    with pytest.raises(ValueError, match="resample"):
        distillation_losses(Streams(a, a), Streams(a[:, :, :4], a))
    with pytest.raises(ValueError, match="one width"):
        distillation_losses(Streams(a, b), Streams(a, b))
    assert float(distillation_losses(Streams(a, b), Streams(a, b), "streams")["structure"]) < 1e-6
    with pytest.raises(ValueError, match="'joint' or 'streams'"):
        distillation_losses(Streams(a, a), Streams(a, a), "whole")


def places(height: int, width: int) -> Tensor:
    """(1, 1, P, 2): where each patch of a grid lies in the picture, down and across, 0 to 1."""
    rows, columns = (torch.arange(n) for n in (height, width))
    down, across = torch.meshgrid((rows + 0.5) / height, (columns + 0.5) / width, indexing="ij")
    return torch.stack([down, across], -1).flatten(0, 1)[None, None]


@pytest.mark.parametrize("wanted", [(4, 6), (12, 18), (9, 7)])
def test_a_teachers_grid_is_brought_to_the_students(wanted):
    fine = places(8, 12)
    found, there = (x.unflatten(2, wanted) for x in (resample_grid(fine, (8, 12), wanted), places(*wanted)))
    inside = slice(1, -1)  # at the edges the picture ends
    torch.testing.assert_close(found[:, :, inside, inside], there[:, :, inside, inside], rtol=0, atol=0.01)
    assert resample_grid(fine.expand(2, 3, -1, -1), (8, 12), wanted).shape == (2, 3, wanted[0] * wanted[1], 2)


def test_a_grid_of_the_right_size_is_left_alone():
    fine = places(8, 12)
    assert resample_grid(fine, (8, 12), (8, 12)) is fine
    with pytest.raises(ValueError, match="20 patches"):
        resample_grid(fine, (4, 5), (2, 2))
