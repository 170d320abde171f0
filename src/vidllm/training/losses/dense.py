"""Dense reconstruction losses: confidence-weighted residual, plain residual and multi-scale gradient (VGGT)."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vidllm.training.losses.targets import masked_mean

CLAMP = 100.0


def depth_loss(
    prediction: Float[Tensor, "B F H W"],
    confidence: Float[Tensor, "B F H W"],
    target: Float[Tensor, "B F H W"],
    valid: Bool[Tensor, "B F H W"],
    confidence_weight: float = 0.2,
    inverse_depth: bool = False,
) -> Tensor:
    """``mean(e c - w log c) + mean(e) + gradient``; ``inverse_depth`` weighs e by (1 + 1/D) (VGGT-Omega)."""
    prediction, confidence = prediction.float(), confidence.float()
    weight = 1 + 1 / target.clamp(min=0.1) if inverse_depth else torch.ones_like(target)
    residual = (prediction - target).abs() * weight
    return residual_loss(residual, confidence, valid, confidence_weight) + gradient_loss(prediction - target, valid)


def residual_loss(
    residual: Float[Tensor, "B F H W"],
    confidence: Float[Tensor, "B F H W"],
    valid: Bool[Tensor, "B F H W"],
    weight: float,
) -> Tensor:
    """``mean(e c - w log c) + mean(e)``; a pixel counts at most 100 in either (VGGT clamps both)."""
    residual = residual.clamp(max=CLAMP)
    confident = (residual * confidence - weight * confidence.log()).clamp(max=CLAMP)
    return masked_mean(confident, valid) + masked_mean(residual, valid)


def gradient_loss(difference: Float[Tensor, "B F H W"], valid: Bool[Tensor, "B F H W"], scales: int = 4) -> Tensor:
    """``1/S sum_s (sum |dx| + sum |dy|) / N`` of the difference on stride ``2**s``."""
    total = difference.new_zeros(())
    for scale in range(scales):
        d, m = difference[..., :: 2**scale, :: 2**scale], valid[..., :: 2**scale, :: 2**scale]
        across = ((d[..., :, 1:] - d[..., :, :-1]).abs() * (m[..., :, 1:] & m[..., :, :-1])).clamp(max=CLAMP)
        down = ((d[..., 1:, :] - d[..., :-1, :]).abs() * (m[..., 1:, :] & m[..., :-1, :])).clamp(max=CLAMP)
        total = total + (across.sum() + down.sum()) / m.sum().clamp(min=1)
    return total / scales


def point_loss(
    prediction: Float[Tensor, "B F H W 3"],
    confidence: Float[Tensor, "B F H W"],
    target: Float[Tensor, "B F H W 3"],
    valid: Bool[Tensor, "B F H W"],
    confidence_weight: float = 0.2,
) -> Tensor:
    """The same residual terms on 3D distances in the first camera's frame."""
    residual = (prediction.float() - target).norm(dim=-1)
    return residual_loss(residual, confidence.float(), valid, confidence_weight)
