"""Cropping and resizing of frames with their maps and cameras, and augmentation (ours).

Augmentation changes white balance, gamma and vignetting of all frames of a scene alike, and exposure, blur, resolution
and noise of each frame. Geometry stays exact and colour names stay right.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.nn import functional as F

from vidllm.model.configuration import EncoderConfig

PATCH_SIZE = EncoderConfig.patch_size  # that of every preset


@dataclass(frozen=True)
class Crop:
    """A picture of ``height`` x ``width`` pixels: the middle of one resized to ``scale`` times the original."""

    scale: float
    height: int
    width: int


def crop_for_side(height: int, width: int, side: int) -> Crop:
    """The largest crop whose shorter side is ``side`` pixels (a multiple of the patch)."""
    if side < PATCH_SIZE or side % PATCH_SIZE:
        raise ValueError(f"the shorter side must be a multiple of {PATCH_SIZE} pixels, received {side}")
    scale = side / min(height, width)
    rows, columns = (max(side, int(n * scale + 1e-6) // PATCH_SIZE * PATCH_SIZE) for n in (height, width))
    return Crop(scale, rows, columns)


def crop_to(height: int, width: int, size: tuple[int, int], zoom: float = 1.0) -> Crop:
    """The crop of ``size`` (rows, columns) that shows most of the picture; with ``zoom`` above 1 less."""
    return Crop(zoom * max(size[0] / height, size[1] / width), *size)


def crop_pictures(images: Float[Tensor, "N C H W"], crop: Crop) -> Float[Tensor, "N C h w"]:
    """Pictures, resized with antialiasing and cropped."""
    size = round(images.shape[-2] * crop.scale), round(images.shape[-1] * crop.scale)
    return _middle(F.interpolate(images, size, mode="bilinear", antialias=True), crop)


def crop_maps(maps: Shaped[Tensor, "N H W"], crop: Crop, shrink: float = 1.0) -> Tensor:
    """Depth or ids by the nearest original pixel; ``shrink``: pixels of the picture per pixel of the maps."""
    rows, columns = (round(n * shrink * crop.scale) for n in maps.shape[-2:])
    resized = F.interpolate(maps[:, None].float(), (rows, columns), mode="nearest-exact")[:, 0]
    return _middle(resized, crop).to(maps.dtype)


def crop_intrinsics(
    intrinsics: Float[Tensor, "*batch 3 3"], original: tuple[int, int], crop: Crop
) -> Float[Tensor, "*batch 3 3"]:
    """K of the crop from K of the original (rows, columns); pixel centres at +0.5 in both."""
    rows, columns = (round(n * crop.scale) for n in original)
    moved = intrinsics.clone()
    moved[..., 0, :] *= columns / original[1]
    moved[..., 1, :] *= rows / original[0]
    moved[..., 0, 2] -= (columns - crop.width) // 2
    moved[..., 1, 2] -= (rows - crop.height) // 2
    return moved


def _middle(x: Tensor, crop: Crop) -> Tensor:
    top, left = (x.shape[-2] - crop.height) // 2, (x.shape[-1] - crop.width) // 2
    if top < 0 or left < 0:
        raise ValueError(f"a crop of {crop.height} x {crop.width} does not fit pictures of {tuple(x.shape[-2:])}")
    return x[..., top : top + crop.height, left : left + crop.width]


CAST, GAMMA, EXPOSURE = 0.12, 0.3, 0.12  # of the logarithms: a channel's gain, gamma, a frame's gain
VIGNETTE, NOISE = 0.5, 0.04  # at most: darkening of the corners, standard deviation of the noise
BLURRED, COARSE = 0.3, 0.2  # shares of the frames


def augment(
    images: Float[Tensor, "B F 3 H W"], share: float, generator: torch.Generator
) -> Float[Tensor, "B F 3 H W"]:
    """``images`` in [0, 1] with a fraction ``share`` of the scenes augmented; ``generator`` on the CPU."""
    chosen = torch.rand(len(images), generator=generator) < share
    scenes = [
        _scene(scene, generator) if varied else scene for scene, varied in zip(images, chosen.tolist(), strict=True)
    ]
    return torch.stack(scenes)


def _scene(frames: Float[Tensor, "F 3 H W"], generator: torch.Generator) -> Float[Tensor, "F 3 H W"]:
    def uniform(*size: int) -> Tensor:
        return torch.rand(*size, generator=generator).to(frames.device)

    def around(spread: float, *size: int) -> Tensor:
        return ((2 * uniform(*size) - 1) * spread).exp()

    count, _, height, width = frames.shape
    varied = frames.clamp(1e-4, 1) ** around(GAMMA, 1) * around(CAST, 3, 1, 1) * around(EXPOSURE, count, 1, 1, 1)
    rows, columns = (torch.linspace(-1, 1, n, device=frames.device).square() for n in (height, width))
    varied = varied * (1 - VIGNETTE * uniform(1) * (rows[:, None] + columns) / 2)
    blurred, coarse = (uniform(count) < share for share in (BLURRED, COARSE))
    if bool(blurred.any()):
        varied[blurred] = F.avg_pool2d(varied[blurred], 3, 1, 1, count_include_pad=False)
    if bool(coarse.any()):
        small = F.interpolate(varied[coarse], scale_factor=0.5, mode="area")
        varied[coarse] = F.interpolate(small, (height, width), mode="bilinear")
    noise = _noise(frames, generator)
    return (varied + NOISE * uniform(count, 1, 1, 1) * noise).clamp(0, 1)


def _noise(frames: Tensor, generator: torch.Generator) -> Tensor:
    """Normal numbers of the frames' shape; on a GPU they are drawn there, by a generator seeded from ``generator``."""
    if frames.device.type == "cpu":
        return torch.randn(frames.shape, generator=generator)
    there = torch.Generator(frames.device).manual_seed(int(torch.randint(2**62, (1,), generator=generator)))
    return torch.randn(frames.shape, generator=there, device=frames.device)
