"""Alignment in closed form: similarity of two point sets, scale of two depth maps (docs/method.md, section 6).

The scale between relative and metric depth is a weighted least squares fit; the robust form fits logarithms with Huber
weights, because a few outliers would otherwise change the scale of the whole scene.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from vidllm.geometry.rotations import nearest_rotation


def umeyama(
    source: Float[Tensor, "n 3"],
    target: Float[Tensor, "n 3"],
    with_scale: bool = True,
    weights: Float[Tensor, " n"] | None = None,
) -> tuple[Float[Tensor, ""], Float[Tensor, "3 3"], Float[Tensor, " 3"]]:
    """Scale s, rotation R, translation t minimising ``sum w |s R source + t - target|^2`` (R proper).

    Raises ValueError with fewer than three points, or with all source points at one place (no scale exists).
    """
    if source.shape[0] < 3:
        raise ValueError(f"a similarity needs at least 3 points, got {source.shape[0]}; give more points or frames")
    w = torch.ones_like(source[:, 0]) if weights is None else weights
    w = (w / w.sum())[:, None]
    source_mean, target_mean = (w * source).sum(0), (w * target).sum(0)
    x, y = source - source_mean, target - target_mean
    variance = (w * x.square()).sum()
    if not bool(variance > 0):
        raise ValueError("all source points coincide (or are not finite): no similarity is determined")
    rotation, trace = nearest_rotation((w * y).T @ x)
    scale = trace / variance if with_scale else torch.ones_like(variance)
    return scale, rotation, target_mean - scale * rotation @ source_mean


def wls_scale(
    relative: Float[Tensor, "*batch n"], metric: Float[Tensor, "*batch n"], weights: Float[Tensor, "*batch n"]
) -> Float[Tensor, "*batch"]:
    """``s = sum w r m / sum w r^2``: the weighted least squares scale with ``s * relative ~ metric``.

    Entries of weight 0 are ignored (they may be infinite). NaN if all weights are 0.
    """
    used = weights > 0
    r, m = torch.where(used, relative, 0.0), torch.where(used, metric, 0.0)
    return (weights * r * m).sum(-1) / (weights * r * r).sum(-1)


def weighted_median(values: Float[Tensor, "*batch n"], weights: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch"]:
    """Median over the last dimension; if the weight is split exactly in half, the mean of the two middle values.

    NaN if all weights are 0.
    """
    ordered, order = values.sort(dim=-1)
    mass = weights.gather(-1, order).cumsum(-1)
    total = mass[..., -1:]
    slack = total * (4 * torch.finfo(mass.dtype).eps)
    last = mass.shape[-1] - 1
    lower = (mass < total / 2 - slack).sum(-1, keepdim=True).clamp(max=last)
    upper = (mass <= total / 2 + slack).sum(-1, keepdim=True).clamp(max=last)
    middle = (ordered.gather(-1, lower) + ordered.gather(-1, upper)) / 2
    return torch.where(total > 0, middle, torch.full_like(middle, torch.nan)).squeeze(-1)


def huber_log_scale(
    relative: Float[Tensor, "*batch n"],
    metric: Float[Tensor, "*batch n"],
    weights: Float[Tensor, "*batch n"],
    delta: float = 0.1,
    rounds: int = 5,
) -> Float[Tensor, "*batch"]:
    """Robust scale with ``s * relative ~ metric``: reweighted least squares on logarithms with Huber weights.

    Starts at the weighted median of ``log metric - log relative``. Residuals beyond ``delta`` (log units) have a
    constant influence. Entries that are not finite and positive in both maps get weight 0; NaN if none is left.
    """
    used = (weights > 0) & (relative > 0) & (metric > 0) & torch.isfinite(relative) & torch.isfinite(metric)
    logs = torch.where(used, metric, 1.0).log() - torch.where(used, relative, 1.0).log()
    w = torch.where(used, weights, 0.0)
    estimate = weighted_median(logs, w)
    for _ in range(rounds):
        residual = (logs - estimate[..., None]).abs()
        robust = w * (delta / residual.clamp_min(delta))
        estimate = (robust * logs).sum(-1) / robust.sum(-1)
    return estimate.exp()
