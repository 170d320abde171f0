"""L_MD (Eq 9): a robust loss on log depth that keeps the image's mean error apart from its residuals."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def metric_depth_loss(
    prediction_m: Float[Tensor, "*batch H W"],
    target_m: Float[Tensor, "*batch H W"],
    valid: Bool[Tensor, "*batch H W"],
    alpha: float = 1.0,
    eps: float = 1e-3,
) -> Tensor:
    """``b^2 + mean (e-b)^2 / (1 + alpha |e-b|)``, ``e = log(d+eps) - log(d*+eps)``, b = mean e, per image.

    Averaged over images that have valid pixels. At ``alpha = 0`` it is exactly ``mean e^2``.
    """
    mask = valid.flatten(-2).to(torch.float32)
    error = (prediction_m.float() + eps).log() - (target_m.float().clamp(min=0) + eps).log()
    error = error.flatten(-2) * mask
    count = mask.sum(-1)
    mean = error.sum(-1) / count.clamp(min=1)
    centred = (error - mean[..., None]) * mask
    spread = (centred.square() / (1 + alpha * centred.abs())).sum(-1) / count.clamp(min=1)
    per_image = mean.square() + spread
    seen = (count > 0).float()
    return (per_image * seen).sum() / seen.sum().clamp(min=1)
