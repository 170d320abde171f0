"""Frames at another size: resized and cropped about the middle, with what is known of each pixel and the cameras."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float, Shaped
from torch import Tensor
from torch.nn import functional as F

PATCH_SIZE = 14


@dataclass(frozen=True)
class Crop:
    """A picture of ``height`` x ``width`` pixels, the middle of one resized to ``scale`` times the original."""

    scale: float
    height: int
    width: int


def crop_for_side(height: int, width: int, side: int) -> Crop:
    """The crop whose shorter side is ``side`` pixels (a whole number of patches) and whose longer side loses least."""
    if side < PATCH_SIZE or side % PATCH_SIZE:
        raise ValueError(f"the shorter side must be a multiple of {PATCH_SIZE} pixels, received {side}")
    scale = side / min(height, width)
    rows, columns = (max(side, int(n * scale + 1e-6) // PATCH_SIZE * PATCH_SIZE) for n in (height, width))
    return Crop(scale, rows, columns)


def crop_to(height: int, width: int, size: tuple[int, int], zoom: float = 1.0) -> Crop:
    """The crop of ``size`` (rows, columns) that shows most of the picture; ``zoom`` above 1 shows less."""
    return Crop(zoom * max(size[0] / height, size[1] / width), *size)


def crop_pictures(images: Float[Tensor, "N C H W"], crop: Crop) -> Float[Tensor, "N C h w"]:
    """Pictures, resized with antialiasing and cropped."""
    size = _resized(images, crop)
    return _middle(F.interpolate(images, size, mode="bilinear", antialias=True), crop)


def crop_maps(maps: Shaped[Tensor, "N H W"], crop: Crop, shrink: float = 1.0) -> Tensor:
    """Depth or ids by the nearest original pixel, never mixed; ``shrink``: pixels of the picture a pixel of theirs."""
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


def _resized(images: Tensor, crop: Crop) -> tuple[int, int]:
    return round(images.shape[-2] * crop.scale), round(images.shape[-1] * crop.scale)


def _middle(x: Tensor, crop: Crop) -> Tensor:
    top, left = (x.shape[-2] - crop.height) // 2, (x.shape[-1] - crop.width) // 2
    if top < 0 or left < 0:
        raise ValueError(f"a crop of {crop.height} x {crop.width} does not fit pictures of {tuple(x.shape[-2:])}")
    return x[..., top : top + crop.height, left : left + crop.width]
