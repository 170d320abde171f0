"""Planted similarities and scales are found again; the robust scale stands outliers."""

from __future__ import annotations

import pytest
import torch

from vidllm.geometry.alignment import huber_log_scale, umeyama, weighted_median, wls_scale
from vidllm.geometry.rotations import quaternion_to_matrix


@pytest.mark.parametrize("with_scale", [True, False])
def test_umeyama_recovers_a_planted_similarity(with_scale: bool):
    source = torch.randn(20, 3, dtype=torch.float64)
    rotation = quaternion_to_matrix(torch.randn(4, dtype=torch.float64))
    translation, scale = torch.randn(3, dtype=torch.float64), 2.5 if with_scale else 1.0
    target = scale * source @ rotation.T + translation
    s, r, t = umeyama(source, target, with_scale=with_scale)
    assert s.item() == pytest.approx(scale)
    torch.testing.assert_close(r, rotation)
    torch.testing.assert_close(t, translation)


def test_umeyama_is_proper_for_planar_and_mirrored_points():
    source = torch.randn(20, 3, dtype=torch.float64)
    _, r, _ = umeyama(source, source * torch.tensor([1.0, 1.0, -1.0], dtype=torch.float64))
    assert torch.linalg.det(r).item() == pytest.approx(1.0)
    flat = source * torch.tensor([1.0, 1.0, 0.0], dtype=torch.float64)
    s, r, _ = umeyama(flat, 3 * flat)
    assert s.item() == pytest.approx(3.0)
    torch.testing.assert_close(flat @ r.T, flat)


def test_umeyama_weights_ignore_points_and_degenerate_sets_raise():
    source = torch.randn(10, 3, dtype=torch.float64)
    target = 2 * source
    target[0] += 100
    weights = torch.ones(10, dtype=torch.float64)
    weights[0] = 0
    assert umeyama(source, target, weights=weights)[0].item() == pytest.approx(2.0)
    with pytest.raises(ValueError, match="at least 3 points"):
        umeyama(source[:2], target[:2])
    with pytest.raises(ValueError, match="coincide"):
        umeyama(torch.ones(5, 3), torch.randn(5, 3))


def test_scales_recover_a_planted_one_in_a_batch():
    relative = 0.5 + torch.rand(3, 500)
    scale = torch.tensor([0.2, 1.0, 7.0])
    weights = torch.rand(3, 500)
    for estimate in (wls_scale, huber_log_scale):
        torch.testing.assert_close(estimate(relative, scale[:, None] * relative, weights), scale)


def test_wls_is_the_formula_and_skips_weightless_entries():
    relative, metric, w = torch.rand(50) + 0.1, torch.rand(50), torch.rand(50)
    expected = (w * relative * metric).sum() / (w * relative**2).sum()
    torch.testing.assert_close(wls_scale(relative, metric, w), expected)
    metric[3], w[3] = float("inf"), 0.0
    assert torch.isfinite(wls_scale(relative, metric, w))
    assert torch.isnan(wls_scale(relative, metric, torch.zeros(50)))
    assert torch.isnan(huber_log_scale(relative, metric, torch.zeros(50)))


def test_huber_stands_15_per_cent_of_pixels_too_far():
    relative = 0.5 + 3 * torch.rand(4000)
    metric = 2.0 * relative * torch.exp(0.05 * torch.randn(4000))
    metric[:600] *= 1.6 + 2.9 * torch.rand(600)
    weights = torch.ones(4000)
    robust = huber_log_scale(relative, metric, weights).item()
    assert robust == pytest.approx(2.0, rel=0.03)
    assert wls_scale(relative, metric, weights).item() > 2.3


def test_huber_ignores_what_has_no_logarithm():
    relative = torch.tensor([1.0, 2.0, 0.0, 1.0, float("nan")])
    metric = torch.tensor([3.0, 6.0, 1.0, -1.0, 2.0])
    torch.testing.assert_close(huber_log_scale(relative, metric, torch.ones(5)), torch.tensor(3.0))


def test_weighted_median():
    ones = torch.ones(4)
    assert weighted_median(torch.tensor([4.0, 1.0, 3.0, 2.0]), ones).item() == 2.5
    assert weighted_median(torch.tensor([5.0, 1.0, 3.0]), torch.ones(3)).item() == 3.0
    assert weighted_median(torch.tensor([5.0, 1.0, 3.0]), torch.tensor([0.1, 0.8, 0.1])).item() == 1.0
    assert weighted_median(torch.tensor([1.0, 2.0, 9.0]), torch.tensor([1.0, 0.0, 1.0])).item() == 5.0
    assert torch.isnan(weighted_median(torch.tensor([1.0]), torch.zeros(1)))
