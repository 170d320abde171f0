"""From linear light to a photograph: exposure, white balance, vignette, blur, tone curve and sensor noise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Sensor:
    """One camera's drawing of a clip. ``drift`` is the exposure of each frame relative to the clip's."""

    mean_level: float
    balance: tuple[float, float, float]
    vignette: float
    blur_px: float
    noise: float
    contrast: float
    drift: tuple[float, ...]


def draw_sensor(rng: np.random.Generator, frames: int) -> Sensor:
    """A random but sane camera: colours stay nameable."""
    warm, tint = float(rng.normal(0, 0.04)), float(rng.normal(0, 0.015))
    walk = np.cumsum(rng.normal(0, 0.02, frames))
    return Sensor(
        mean_level=float(rng.uniform(0.36, 0.54)),
        balance=(1 + warm, 1 + tint, 1 - warm),
        vignette=float(rng.uniform(0.0, 0.22)),
        blur_px=float(rng.choice([0.0, rng.uniform(0.3, 0.7)])),
        noise=float(rng.uniform(0.002, 0.018)),
        contrast=float(rng.uniform(0.92, 1.1)),
        drift=tuple(np.exp(walk - walk.mean()).tolist()),
    )


def photograph(linear: Float[Tensor, "F H W 3"], sensor: Sensor, rng: np.random.Generator) -> Float[Tensor, "F H W 3"]:
    """SRGB images in 0..1. Exposure brings the clip's mean to ``mean_level``, one gain for all frames."""
    frames, height, width, _ = linear.shape
    display = linear.clamp_min(0).sqrt()
    gain = (sensor.mean_level / display.mean().clamp_min(1e-4)).clamp(0.4, 3.0)
    drift = torch.tensor(sensor.drift, dtype=linear.dtype, device=linear.device).view(frames, 1, 1, 1)
    balance = torch.tensor(sensor.balance, dtype=linear.dtype, device=linear.device)
    image = display * (gain * drift * balance) * _vignette(sensor, height, width, linear)
    image = _tone(0.45 + (image - 0.45) * sensor.contrast)
    if sensor.blur_px > 0:
        image = _blur(image, sensor.blur_px)
    grain = rng.standard_normal(tuple(image.shape), dtype=np.float32) * np.float32(sensor.noise)
    return (image + torch.from_numpy(grain).to(image)).clamp(0, 1)


def _tone(image: Tensor) -> Tensor:
    """Identity up to 0.8, then a soft shoulder to 1."""
    over = (image - 0.8).clamp_min(0)
    return image.clamp(0, 0.8) + 0.2 * (1 - torch.exp(-over / 0.2))


def _vignette(sensor: Sensor, height: int, width: int, like: Tensor) -> Float[Tensor, "H W 1"]:
    y = torch.linspace(-1, 1, height, device=like.device)[:, None]
    x = torch.linspace(-1, 1, width, device=like.device)[None]
    return (1 - sensor.vignette * (x * x + y * y) / 2)[..., None].to(like.dtype)


def _blur(image: Float[Tensor, "F H W 3"], sigma_px: float) -> Float[Tensor, "F H W 3"]:
    """A separable three-tap Gaussian."""
    side = float(np.exp(-0.5 / sigma_px**2))
    middle = 1 / (1 + 2 * side)
    for axis in (1, 2):
        size = image.shape[axis]
        before = torch.cat([image.narrow(axis, 0, 1), image.narrow(axis, 0, size - 1)], axis)
        after = torch.cat([image.narrow(axis, 1, size - 1), image.narrow(axis, size - 1, 1)], axis)
        image = (image + (before + after) * side) * middle
    return image
