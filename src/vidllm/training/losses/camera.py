"""Camera loss: L1 on translation, quaternion and fields of view of every refinement (VGGT's released form)."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

VGGT_WEIGHTS = (1.0, 1.0, 0.5)  # of translation, rotation and field of view


def camera_loss(
    predictions: Sequence[Float[Tensor, "B F 9"]],
    target: Float[Tensor, "B F 9"],
    decay: float = 0.6,
    weights: tuple[float, float, float] = VGGT_WEIGHTS,
) -> Tensor:
    """Mean over iterations i of ``decay**(n-1-i) (u T + v R + w FL)``; translation residuals clamp at 100.

    ``weights`` are (u, v, w); small models trained from nothing learn sooner with more than VGGT's.
    """
    total = target.new_zeros(())
    for i, prediction in enumerate(predictions):
        error = (prediction.float() - target).abs()
        translation, rotation, fov = error[..., :3].clamp(max=100.0), error[..., 3:7], error[..., 7:]
        weight = decay ** (len(predictions) - 1 - i)
        total = total + weight * (
            weights[0] * translation.mean() + weights[1] * rotation.mean() + weights[2] * fov.mean()
        )
    return total / len(predictions)
