from __future__ import annotations

import pytest
import torch

from vidllm.model.configuration import ScaleConfig
from vidllm.model.scale_alignment import align_scale, sample_frames, unit_scale

SCALE = 2.7


def scene(frames: int = 5, outliers: float = 0.0, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Relative depth, metric depth with the planted scale and multiplicative noise, confidence."""
    generator = torch.Generator().manual_seed(seed)
    shape = (2, frames, 24, 32)
    relative = 0.3 + torch.rand(shape, generator=generator)
    metric = SCALE * relative * (0.05 * torch.randn(shape, generator=generator)).exp()
    far = torch.rand(shape, generator=generator) < outliers
    metric = torch.where(far, metric * (1.6 + 2.9 * torch.rand(shape, generator=generator)), metric)
    return relative, metric, 1 + 5 * torch.rand(shape, generator=generator)


@pytest.mark.parametrize("estimator", ["wls", "log_huber"])
def test_a_planted_scale_is_recovered(estimator: str) -> None:
    relative, _, confidence = scene()
    config = ScaleConfig(estimator=estimator)  # type: ignore[arg-type]
    exact = align_scale(relative, SCALE * relative, confidence, config)
    torch.testing.assert_close(exact.scale, torch.full((2,), SCALE), rtol=1e-5, atol=0)
    assert exact.valid.all() and (exact.spread < 1e-5).all()
    noisy = align_scale(*scene(), config)
    assert ((noisy.scale / SCALE - 1).abs() < 0.01).all()


def test_outliers_move_least_squares_but_not_the_default() -> None:
    data = scene(outliers=0.15)
    robust = align_scale(*data, ScaleConfig())
    assert ((robust.scale / SCALE - 1).abs() < 0.03).all()
    flat = (data[0], data[1], torch.ones_like(data[2]))
    relative, metric = flat[0].flatten(1), flat[1].flatten(1)
    plain = (relative * metric).sum(1) / (relative**2).sum(1)
    assert ((plain / SCALE - 1) > 0.15).all()


def test_a_bad_image_has_one_vote_of_many() -> None:
    relative, metric, confidence = scene(frames=5)
    metric[:, 2] *= 3
    found = align_scale(relative, metric, confidence, ScaleConfig())
    assert ((found.scale / SCALE - 1).abs() < 0.01).all()
    assert ((found.per_image[:, 2] / (3 * SCALE) - 1).abs() < 0.02).all()


def test_an_even_number_of_votes_takes_the_middle_of_the_logs() -> None:
    relative, _, confidence = scene(frames=2)
    factors = torch.tensor([2.0, 8.0])[:, None, None]
    found = align_scale(relative, factors * relative, confidence, ScaleConfig())
    torch.testing.assert_close(found.scale, torch.tensor([4.0, 4.0]), rtol=1e-5, atol=0)
    torch.testing.assert_close(found.spread, torch.tensor([0.75, 0.75]), rtol=1e-4, atol=0)


def test_sixteen_images_vote_and_the_draw_is_seeded() -> None:
    data = scene(frames=20)
    some, every = align_scale(*data, ScaleConfig()), align_scale(*data, ScaleConfig(frames="all"))
    assert (some.per_image.isfinite().sum(1) == 16).all() and every.per_image.isfinite().all()
    sampled = sample_frames(20, ScaleConfig())
    torch.testing.assert_close(some.per_image[:, sampled], every.per_image[:, sampled])
    assert torch.equal(sampled, sample_frames(20, ScaleConfig()))
    assert not torch.equal(sampled, sample_frames(20, ScaleConfig(seed=1)))
    assert ((some.scale / every.scale - 1).abs() < 0.01).all()


def test_invalid_pixels_do_not_vote() -> None:
    relative, metric, confidence = scene()
    clean = align_scale(relative, metric, confidence, ScaleConfig())
    metric[..., :4], relative[..., 4:6] = float("nan"), 0.0
    metric[..., 6:8], confidence[..., 8:10] = 500.0, float("inf")
    found = align_scale(relative, metric, confidence, ScaleConfig())
    torch.testing.assert_close(found.scale, clean.scale, rtol=0.01, atol=0)


def test_without_a_valid_pixel_the_scale_is_one_and_says_so() -> None:
    relative, metric, confidence = scene()
    metric[1] = 0.0
    found = align_scale(relative, metric, confidence, ScaleConfig())
    assert found.valid.tolist() == [True, False] and found.scale[1] == 1
    assert found.per_image[1].isnan().all() and found.spread[1].isnan()
    assert unit_scale(relative).scale.tolist() == [1, 1] and not unit_scale(relative).valid.any()


def test_a_batch_is_its_scenes_one_by_one_without_gradient() -> None:
    relative, metric, confidence = scene()
    relative.requires_grad_()
    both = align_scale(relative, metric, confidence, ScaleConfig())
    alone = align_scale(relative[1:], metric[1:], confidence[1:], ScaleConfig())
    torch.testing.assert_close(both.scale[1:], alone.scale)
    assert not both.scale.requires_grad


def test_an_unknown_estimator_is_refused() -> None:
    config = ScaleConfig()
    config.estimator = "mean"  # type: ignore[assignment]
    with pytest.raises(ValueError, match="log_huber"):
        align_scale(*scene(), config)
