"""From linear light to pictures: of a plain camera, and of a phone for the look "life".

Both apply exposure, white balance, vignetting, blur and noise; those of the phone change from frame to frame, and it
adds glare, motion blur, JPEG, radial distortion and rolling shutter. Depth, ids and cameras remain those of a pinhole
camera that sees all rows at the time of the middle one. The phone's picture is sampled from a wider one of that camera:
each row at its own time, by the velocity of the path and the depth of what it sees.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from vidllm.geometry.photometric import sampled


@dataclass(frozen=True)
class Sensor:
    """Camera parameters of a clip. ``drift`` is the exposure of each frame relative to the clip's."""

    mean_level: float
    balance: tuple[float, float, float]
    vignette: float
    blur_px: float
    noise: float
    contrast: float
    drift: tuple[float, ...]


def draw_sensor(rng: np.random.Generator, frames: int) -> Sensor:
    """Random camera parameters for which colour names stay right."""
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
    display = linear.clamp_min(0).sqrt()
    gain = (sensor.mean_level / display.mean().clamp_min(1e-4)).clamp(0.4, 3.0)
    drift, balance = linear.new_tensor(sensor.drift).view(-1, 1, 1, 1), linear.new_tensor(sensor.balance)
    image = display * (gain * drift * balance) * _vignette(sensor.vignette, linear.shape[1:3], linear)[..., None]
    image = _tone(0.45 + (image - 0.45) * sensor.contrast)
    if sensor.blur_px > 0:
        image = _blur(image, sensor.blur_px)
    grain = rng.standard_normal(tuple(image.shape), dtype=np.float32) * np.float32(sensor.noise)
    return (image + torch.from_numpy(grain).to(image)).clamp(0, 1)


def _tone(image: Tensor) -> Tensor:
    """Identity up to 0.8, then a soft shoulder to 1."""
    over = (image - 0.8).clamp_min(0)
    return image.clamp(0, 0.8) + 0.2 * (1 - torch.exp(-over / 0.2))


def _vignette(strength: float, size: Sequence[int], like: Tensor) -> Float[Tensor, "H W"]:
    rows, columns = (torch.linspace(-1, 1, n).to(like).square() for n in size)
    return 1 - strength * (rows[:, None] + columns) / 2


def _blur(image: Float[Tensor, "F H W 3"], sigma_px: float) -> Float[Tensor, "F H W 3"]:
    side = float(np.exp(-0.5 / sigma_px**2))
    middle = 1 / (1 + 2 * side)
    for axis in (1, 2):
        last = image.shape[axis] - 1
        place = torch.arange(last + 1, device=image.device)
        before, after = (image.index_select(axis, (place + step).clamp(0, last)) for step in (-1, 1))
        image = (image + (before + after) * side) * middle
    return image


MOTION_PX = 5.0  # the longest streak, at a shorter side of 168 pixels
REFERENCE_PX = 168


def photograph_life(linear: Float[Tensor, "F H W 3"], rng: np.random.Generator) -> Float[Tensor, "F H W 3"]:
    """Pictures (sRGB) in 0..1 of a clip, all by one camera; exposure, blur and noise change from frame to frame."""
    display = linear.clamp_min(0).sqrt().permute(0, 3, 1, 2)
    display = _developed(_exposed(_glare(display, rng), rng), rng)
    size = min(display.shape[-2:]) / REFERENCE_PX
    display = torch.stack([_blurred(frame, rng, size) for frame in display])
    noise = float(rng.uniform(0.002, 0.03))
    # JPEG qualities of the frames of a clip are near one another
    qualities = np.clip(rng.integers(25, 96) + rng.normal(0, 3, len(display)), 15, 98).astype(int).tolist()
    frames = [_compressed(_noisy(frame, noise, rng), q) for frame, q in zip(display, qualities, strict=True)]
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
    image = image * _vignette(float(rng.uniform(0, 0.4)), image.shape[-2:], image)
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


def _compressed(frame: Float[Tensor, "3 H W"], quality: int) -> Float[Tensor, "3 H W"]:
    pixels = (frame * 255 + 0.5).to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    return torch.from_numpy(np.asarray(Image.open(file)).astype(np.float32) / 255).permute(2, 0, 1)


K1 = (-0.08, 0.05)  # what is left after a phone's own correction
READOUT = (0.0, 0.06)  # intervals between frames, from the first row to the last
MOST_MARGIN = 0.12  # of the longer side: what lies beyond repeats the border


@dataclass(frozen=True)
class Lens:
    """Radius r, in half diagonals, is imaged at r (1 + ``k1`` r^2); rows are read out within ``readout`` frame
    intervals.
    """

    k1: float
    readout: float

    def undistorted(self, offset: Float[Tensor, "*batch 2"], half_diagonal: float) -> Float[Tensor, "*batch 2"]:
        """Undistorted offsets from the middle, in pixels, of pixels at these offsets."""
        seen = offset.norm(dim=-1, keepdim=True) / half_diagonal
        radius = seen
        for _ in range(10):
            radius = seen / (1 + self.k1 * radius.square())
        return offset / (1 + self.k1 * radius.square())

    def margin(self, extrinsics: np.ndarray, focal: float, height: int, width: int) -> int:
        """Pixels on every side by which the pinhole's picture must be wider, for points at a distance of one metre."""
        corner = torch.tensor([width / 2, height / 2])
        beyond = float((self.undistorted(corner, float(corner.norm())) - corner).max())
        turn, shift = velocities(extrinsics)
        fastest = float((np.linalg.norm(turn, axis=-1) + np.linalg.norm(shift, axis=-1)).max())
        needed = max(beyond, 0.0) + focal * fastest * self.readout / 2
        return min(math.ceil(needed), int(MOST_MARGIN * max(height, width)))


def draw_lens(rng: np.random.Generator) -> Lens:
    """Random distortion and shutter of one camera."""
    return Lens(float(rng.uniform(*K1)), float(rng.uniform(*READOUT)))


def velocities(extrinsics: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(radians (F, 3) about the camera's axes, metres (F, 3)): how the room moves before the camera in an interval.

    By central differences of the extrinsics (F, 4, 4); at the ends by what there is, and 0 for a single frame.
    """
    number = np.arange(len(extrinsics))
    before, after = np.maximum(number - 1, 0), np.minimum(number + 1, len(extrinsics) - 1)
    step = extrinsics[after] @ np.linalg.inv(extrinsics[before])
    r, intervals = step[:, :3, :3], np.maximum(after - before, 1)[:, None]
    sine = np.stack([r[:, 2, 1] - r[:, 1, 2], r[:, 0, 2] - r[:, 2, 0], r[:, 1, 0] - r[:, 0, 1]], -1) / 2
    length = np.linalg.norm(sine, axis=-1, keepdims=True)
    angle = np.arctan2(length[:, 0], (np.trace(r, axis1=1, axis2=2) - 1) / 2)[:, None]
    return sine * angle / np.maximum(length, 1e-12) / intervals, step[:, :3, 3] / intervals


def looks_at(
    lens: Lens, depth_m: Float[Tensor, "F h w"], extrinsics: np.ndarray, focal: float, margin: int
) -> Float[Tensor, "F H W 2"]:
    """Pixels (u, v) of the pinhole's picture, wider by ``margin``, that the pixels of the picture see."""
    height, width = (side - 2 * margin for side in depth_m.shape[1:])
    v, u = (torch.arange(side, dtype=torch.float32, device=depth_m.device) + 0.5 for side in (height, width))
    offset = torch.stack(torch.meshgrid(u - width / 2, v - height / 2, indexing="xy"), -1)
    ray = F.pad(lens.undistorted(offset, math.hypot(width, height) / 2) / focal, (0, 1), value=1.0)
    inner = depth_m[:, margin : margin + height, margin : margin + width, None]
    points = torch.where(inner > 0, inner, 10.0) * ray
    turn, shift = (torch.from_numpy(x).to(points)[:, None, None] for x in velocities(extrinsics))
    time = (lens.readout * (v / height - 0.5))[:, None, None]
    points = points - time * (torch.linalg.cross(turn.expand_as(points), points) + shift)
    middle = torch.tensor([width / 2 + margin, height / 2 + margin]).to(points)
    return middle + focal * points[..., :2] / points[..., 2:].clamp_min(1e-3)


def through_lens(linear: Float[Tensor, "F h w 3"], looks: Float[Tensor, "F H W 2"]) -> Float[Tensor, "F H W 3"]:
    """The picture whose pixels see these places (u, v) of a wider one, by bilinear sampling."""
    return sampled(linear.permute(0, 3, 1, 2), looks).permute(0, 2, 3, 1)
