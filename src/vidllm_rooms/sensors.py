"""From linear light to pictures: a plain camera's, and those of a phone for the look "life".

Both bring exposure, white balance, vignette, blur and noise; a phone's change from frame to frame, with glare, streaks
of motion and JPEG.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from torch.nn import functional as F


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


MOTION_PX = 5.0  # the longest streak, at a shorter side of 168 pixels
REFERENCE_PX = 168


def photograph_life(
    linear: Float[Tensor, "F H W 3"], rng: np.random.Generator
) -> Float[Tensor, "F H W 3"]:
    """SRGB pictures in 0..1 of a clip, all by one camera; exposure, blur and noise change from frame to frame."""
    display = linear.clamp_min(0).sqrt().permute(0, 3, 1, 2)
    display = _exposed(_glare(display, rng), rng)
    display = _developed(display, rng)
    size = min(display.shape[-2:]) / REFERENCE_PX
    display = torch.stack([_blurred(frame, rng, size) for frame in display])
    noise = float(rng.uniform(0.002, 0.03))
    frames = [_compressed(_noisy(frame, noise, rng), quality) for frame, quality in
              zip(display, _qualities(rng, len(display)), strict=True)]  # fmt: skip
    return torch.stack(frames).permute(0, 2, 3, 1).to(linear)


def _glare(display: Tensor, rng: np.random.Generator) -> Tensor:
    """Light of the brightest places spills over their surroundings."""
    strength = float(rng.choice([0.0, rng.uniform(0.05, 0.35)]))
    if strength == 0:
        return display
    bright = (display - 0.8).clamp_min(0)
    for _ in range(3):
        bright = F.avg_pool2d(bright, 9, 1, 4, count_include_pad=False)
    return display + strength * 3 * bright


def _exposed(display: Tensor, rng: np.random.Generator) -> Tensor:
    """Automatic exposure, which follows each frame's mean part of the way; sometimes too dark or too bright."""
    level = float(rng.uniform(0.25, 0.62))
    follows = float(rng.uniform(0.3, 1.0))
    means = display.mean((1, 2, 3), keepdim=True).clamp_min(1e-3)
    gain = level / (means**follows * means.mean() ** (1 - follows))
    drift = torch.from_numpy(np.exp(rng.normal(0, 0.04, (len(display), 1, 1, 1)))).to(display)
    return display * gain.clamp(0.3, 5.0) * drift


def _developed(display: Tensor, rng: np.random.Generator) -> Tensor:
    """White balance, saturation, contrast, gamma, vignette, and highlights that clip."""
    warm, tint = float(rng.normal(0, 0.09)), float(rng.normal(0, 0.04))
    balance = torch.tensor([1 + warm, 1 + tint, 1 - warm]).to(display).view(3, 1, 1)
    image = display * balance
    gray = image.mean(1, keepdim=True)
    image = gray + (image - gray) * float(rng.uniform(0.55, 1.25))
    rows, columns = (torch.linspace(-1, 1, n).to(display).square() for n in image.shape[-2:])
    image = image * (1 - float(rng.uniform(0, 0.4)) * (rows[:, None] + columns) / 2)
    image = 0.45 + (image - 0.45) * float(rng.uniform(0.8, 1.3))
    return image.clamp(0, 1) ** float(rng.uniform(0.8, 1.25))


def _blurred(frame: Float[Tensor, "3 H W"], rng: np.random.Generator, size: float) -> Float[Tensor, "3 H W"]:
    """A streak along the camera's motion, or a soft focus, or neither; ``size`` of the picture over the reference."""
    draw = rng.random()
    if draw < 0.35:
        return _convolved(frame, _streak(float(rng.uniform(1, MOTION_PX)) * size, float(rng.uniform(0, np.pi))))
    if draw < 0.6:
        return _convolved(frame, _spot(float(rng.uniform(0.4, 1.1)) * size))
    return frame


def _streak(length: float, angle: float) -> Float[Tensor, "K K"]:
    """A line of ``length`` pixels through the middle, soft at its edges."""
    half = max(1, int(np.ceil(length / 2)))
    v, u = torch.meshgrid(*[torch.arange(-half, half + 1, dtype=torch.float32)] * 2, indexing="ij")
    along, across = u * np.cos(angle) + v * np.sin(angle), v * np.cos(angle) - u * np.sin(angle)
    kernel = (length / 2 + 0.5 - along.abs()).clamp(0, 1) * (1 - across.abs()).clamp(0, 1)
    return kernel / kernel.sum()


def _spot(sigma: float) -> Float[Tensor, "K K"]:
    half = max(1, int(np.ceil(2.5 * sigma)))
    x = torch.exp(-(torch.arange(-half, half + 1, dtype=torch.float32) ** 2) / (2 * sigma**2))
    kernel = x[:, None] * x
    return kernel / kernel.sum()


def _convolved(frame: Tensor, kernel: Tensor) -> Tensor:
    half = kernel.shape[-1] // 2
    padded = F.pad(frame[:, None], [half] * 4, mode="replicate")
    return F.conv2d(padded, kernel.to(frame)[None, None])[:, 0]


def _noisy(frame: Float[Tensor, "3 H W"], noise: float, rng: np.random.Generator) -> Float[Tensor, "3 H W"]:
    """Grain, more of it in the dark, and coarse blotches of colour."""
    height, width = frame.shape[-2:]
    grain = torch.from_numpy(rng.standard_normal((3, height, width), dtype=np.float32)).to(frame)
    coarse = torch.from_numpy(rng.standard_normal((1, 3, height // 4 + 1, width // 4 + 1), dtype=np.float32)).to(frame)
    blotches = F.interpolate(coarse, (height, width), mode="bilinear")[0]
    return (frame + noise * (1.3 - 0.6 * frame) * grain + 0.4 * noise * blotches).clamp(0, 1)


def _qualities(rng: np.random.Generator, frames: int) -> list[int]:
    """JPEG quality of each frame of a clip, near one another."""
    return np.clip(rng.integers(25, 96) + rng.normal(0, 3, frames), 15, 98).astype(int).tolist()


def _compressed(frame: Float[Tensor, "3 H W"], quality: int) -> Float[Tensor, "3 H W"]:
    pixels = (frame * 255 + 0.5).to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    return torch.from_numpy(np.asarray(Image.open(file)).astype(np.float32) / 255).permute(2, 0, 1)
