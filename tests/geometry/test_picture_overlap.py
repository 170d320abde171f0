"""Registration of small pictures: planted affine maps are recovered, overlap is the area that both show."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from vidllm.geometry.picture_motion import compose, half_sides, overlap, register_pictures, small_pictures

SIZE = (48, 64)


def texture(seed: int = 0) -> Tensor:
    """A large random picture (1,3,480,640) with detail at every size."""
    generator = torch.Generator().manual_seed(seed)
    picture = torch.zeros(1, 3, 480, 640)
    for cells in (4, 8, 16, 32):
        noise = torch.rand(1, 3, cells * 3, cells * 4, generator=generator)
        picture += F.interpolate(noise, (480, 640), mode="bicubic") / cells**0.5
    return picture / picture.max()


def view(picture: Tensor, affine: Tensor) -> Tensor:
    """The picture's middle half seen through an affine map (2,3) of normalised coordinates."""
    grid = F.affine_grid(affine[None], [1, 3, *SIZE], align_corners=False)
    return F.grid_sample(picture, grid, align_corners=False)


def seen(shift: tuple[float, float] = (0.0, 0.0), zoom: float = 1.0) -> Tensor:
    """A view of the texture; ``shift`` in half widths and half heights of the view."""
    return torch.tensor([[0.5 * zoom, 0, 0.5 * shift[0]], [0, 0.5 * zoom, 0.5 * shift[1]]])


@pytest.mark.parametrize("shift", [(0.0, 0.0), (0.3, 0.0), (-0.2, 0.25), (0.1, -0.4)])
def test_a_planted_shift_is_recovered(shift):
    one, two = (small_pictures(view(texture(), a)) for a in (seen(), seen(shift)))
    maps, agreement = register_pictures(one, two)
    halves = torch.tensor(half_sides(SIZE))
    assert torch.allclose(maps[0, :, 2], -torch.tensor(shift) * halves, atol=0.02)
    assert torch.allclose(maps[0, :, :2], torch.eye(2), atol=0.02) and agreement > 0.97
    expected = (1 - abs(shift[0]) / 2) * (1 - abs(shift[1]) / 2)
    assert overlap(maps, half_sides(SIZE)).item() == pytest.approx(expected, abs=0.05)


def test_exposure_changes_nothing():
    one, two = small_pictures(view(texture(), seen())), small_pictures(0.4 * view(texture(), seen((0.2, 0.0))) + 0.2)
    maps, agreement = register_pictures(one, two)
    assert maps[0, 0, 2].item() == pytest.approx(-0.2 * half_sides(SIZE)[0], abs=0.02) and agreement > 0.97


def test_a_zoom_shows_the_share_of_the_area():
    near, far = (small_pictures(view(texture(), seen(zoom=z))) for z in (0.8, 1.0))
    maps, _ = register_pictures(far, near)
    assert overlap(maps, half_sides(SIZE)).item() == pytest.approx(0.64, abs=0.06)
    back, _ = register_pictures(near, far)
    assert overlap(back, half_sides(SIZE)).item() == 1.0
    assert torch.allclose(compose(maps, back)[0], torch.eye(2, 3), atol=0.04)


def test_other_pictures_do_not_agree():
    _, agreement = register_pictures(small_pictures(view(texture(1), seen())), small_pictures(view(texture(2), seen())))
    assert agreement.item() < 0.6


def test_flat_pictures_give_finite_maps():
    flat = small_pictures(torch.full((2, 3, 40, 60), 0.5))
    maps, agreement = register_pictures(flat[:1], flat[1:])
    assert torch.isfinite(maps).all() and torch.isfinite(agreement).all()
