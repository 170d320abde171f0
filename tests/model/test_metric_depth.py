from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from vidllm.model.configuration import MetricDepthConfig
from vidllm.model.metric_depth import (
    MetricBins,
    MetricDepthModel,
    attract,
    expected_depth,
    log_temperature,
    ordinal_probabilities,
    resize,
    seed_centres,
    stirling_log_binomial,
)
from vidllm.model.presets import tiny

SMALL = MetricDepthConfig(features=16, out_channels=(8, 8, 16, 16), bin_embedding=16)
GRID, IMAGE = (2, 3), (28, 42)


def taps(batch: int = 2, frames: int = 2, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(batch, frames, 6, 24, generator=generator) for _ in range(4)]


def model(config: MetricDepthConfig = SMALL, seed: int = 0) -> MetricDepthModel:
    torch.manual_seed(seed)
    return MetricDepthModel(config, 24, 14)


def noise(*shape: int, scale: float = 1.0, seed: int = 0) -> torch.Tensor:
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_log_binomial_sums_to_one_and_has_one_mode() -> None:
    q, t = noise(1, 1, 20, 25, scale=3.0), log_temperature(noise(1, 1, 20, 25, scale=3.0, seed=1), 0.02, 5.0)
    p = ordinal_probabilities(q, t, 64)
    torch.testing.assert_close(p.sum(1), torch.ones(1, 20, 25))
    rising = p.diff(dim=1) > 0
    assert not (rising[:, 1:] & ~rising[:, :-1] & (p[:, 1:-1] > 0)).any()  # once it falls it never rises again
    mode = p.argmax(1) / 63
    assert ((mode - q[:, 0].sigmoid()).abs() <= 1 / 63 + 1e-4).all()


def test_log_binomial_is_the_divergence_from_the_quantile() -> None:
    q, n = 0.3, 15
    x = torch.arange(n + 1).double() / n
    kl = torch.xlogy(x, x / q) + torch.xlogy(1 - x, (1 - x) / (1 - q))
    expected = torch.softmax(-n * kl / 0.7, 0).float()
    logit = torch.tensor(q).logit().view(1, 1, 1, 1)
    found = ordinal_probabilities(logit, torch.full((1, 1, 1, 1), 0.7), n + 1)
    torch.testing.assert_close(found.flatten(), expected, atol=1e-6, rtol=1e-4)
    exact = torch.lgamma(torch.tensor(64.0)) - torch.lgamma(torch.tensor(33.0)) - torch.lgamma(torch.tensor(32.0))
    assert abs(stirling_log_binomial(64)[32] - exact) < 2.5  # Stirling without its square-root term


@pytest.mark.parametrize("alpha", [1.0, 300.0, 3000.0])
def test_mean_attractors_keep_the_order_and_summed_ones_do_not(alpha: float) -> None:
    centres = seed_centres(noise(20, 64, 1, 1, scale=4.0))
    points = noise(20, 16, 1, 1, scale=2.0, seed=1).sigmoid()
    assert (centres.diff(dim=1) > 0).all() and centres.min() > 0 and centres.max() < 1
    assert (attract(centres, points, alpha).diff(dim=1) >= -1e-6).all()
    assert (attract(centres, points, alpha, "sum").diff(dim=1) < -1e-6).any()


def test_attraction_and_its_gradient() -> None:
    centres, points = noise(1, 3, 2, 1).double().requires_grad_(), noise(1, 2, 2, 1, seed=1).double().requires_grad_()
    gap = points[:, :, None] - centres[:, None]
    pull = gap / (1 + 300 * gap.square())
    torch.testing.assert_close(attract(centres, points, 300.0), centres + pull.mean(1))
    torch.testing.assert_close(attract(centres, points, 300.0, "sum"), centres + pull.sum(1))
    assert torch.autograd.gradcheck(lambda c, p: attract(c, p, 3.0), (centres, points))


def test_refined_bins_of_the_model_stay_sorted_within_the_range() -> None:
    torch.manual_seed(0)
    bins = MetricBins(SMALL)
    maps = [noise(2, 16, 2 * 2**i, 3 * 2**i, scale=5.0, seed=i) for i in range(4)]
    centres, _ = bins.centres(maps)
    assert centres.shape == (2, 64, 16, 24)
    assert (centres.diff(dim=1) >= -1e-6).all() and centres.min() >= 0 and centres.max() <= 1
    depth, log_std = bins(maps)
    assert depth.min() > SMALL.min_depth_m and depth.max() < SMALL.max_depth_m and (log_std > 0).all()


def test_depth_rises_with_the_quantile() -> None:
    centres = seed_centres(noise(1, 64, 1, 1, scale=3.0)).expand(1, 64, 1, 200)
    for t in (0.02, 0.3, 5.0):
        q = torch.linspace(-4, 4, 200).view(1, 1, 1, 200)
        depth, _ = expected_depth(ordinal_probabilities(q, torch.full_like(q, t), 64), centres, 0.1, 20.0)
        assert (depth.diff(dim=-1) > -1e-5 * depth[..., 1:]).all()  # single precision where q saturates
        assert (depth[..., 20::20] > depth[..., :-20:20]).all()


def test_a_certain_bin_gives_its_depth_and_no_spread() -> None:
    p = torch.zeros(1, 3, 1, 1)
    p[:, 1] = 1
    depth, log_std = expected_depth(p, torch.tensor([0.0, 0.5, 1.0]).view(1, 3, 1, 1), 0.1, 10.0)
    torch.testing.assert_close(depth, torch.ones(1, 1, 1))
    assert log_std < 0.01
    even = torch.tensor([0.5, 0.0, 0.5]).view(1, 3, 1, 1)
    spread = expected_depth(even, torch.tensor([0.0, 0.5, 1.0]).view(1, 3, 1, 1), 0.1, 10.0)[1]
    torch.testing.assert_close(spread.flatten(), torch.tensor([100.0]).log() / 2, atol=1e-4, rtol=0)


@pytest.mark.parametrize("ordinal", ["log_binomial", "softmax"])
def test_shapes_and_gradients(ordinal: str) -> None:
    net = model(replace(SMALL, ordinal=ordinal))  # type: ignore[arg-type]
    out = net(taps(), GRID, IMAGE)
    assert out.depth_m.shape == out.log_std.shape == (2, 2, 28, 42)
    (out.depth_m.log().square().mean() + out.log_std.mean()).backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name


def test_chunks_of_frames_and_batches_change_nothing() -> None:
    net = model()
    data = taps(2, 5)
    whole = net(data, GRID, IMAGE).depth_m
    with torch.no_grad():
        torch.testing.assert_close(net(data, GRID, IMAGE).depth_m, whole)
        torch.testing.assert_close(net([t[1:] for t in data], GRID, IMAGE).depth_m, whole[1:])


def test_depth_is_proportional_to_the_focal_length() -> None:
    net = model(replace(SMALL, canonical_focal=1.0))
    focal = torch.tensor([[28.0, 56.0]]).expand(2, 2)
    found, plain = net(taps(), GRID, IMAGE, focal), model()(taps(), GRID, IMAGE)
    torch.testing.assert_close(found.depth_m[:, 0], plain.depth_m[:, 0])
    torch.testing.assert_close(found.depth_m[:, 1], 2 * plain.depth_m[:, 1])
    with pytest.raises(ValueError, match="focal"):
        net(taps(), GRID, IMAGE)


def test_half_precision_keeps_the_bins_in_single() -> None:
    net = model()
    reference = net(taps(), GRID, IMAGE).depth_m
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = net(taps(), GRID, IMAGE)
    assert mixed.depth_m.dtype == torch.float32
    assert ((mixed.depth_m / reference).log().abs() < 0.1).all()
    half = net.bfloat16()([t.bfloat16() for t in taps()], GRID, IMAGE)
    assert ((half.depth_m / reference).log().abs() < 0.1).all()


def test_wrong_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="multiples"):
        model()(taps(), GRID, (28, 40))
    with pytest.raises(ValueError, match="feature maps"):
        MetricBins(SMALL)([noise(1, 16, 2, 2)])
    with pytest.raises(ValueError, match="min_depth_m"):
        MetricBins(replace(SMALL, min_depth_m=0.0))


def test_the_tiny_preset_learns_a_constant_depth() -> None:
    torch.manual_seed(0)
    net = MetricDepthModel(replace(tiny().metric_depth, canonical_focal=None), 24, 14)
    optimiser = torch.optim.Adam(net.parameters(), 3e-3)
    for _ in range(25):
        loss = (net(taps(1, 1), GRID, IMAGE).depth_m / 3.0).log().square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss < 0.01


def test_resize_keeps_sorted_channels_sorted() -> None:
    centres = seed_centres(noise(1, 64, 3, 4, scale=4.0))
    assert (resize(centres, (11, 13)).diff(dim=1) > 0).all()
