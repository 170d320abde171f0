"""Processed frames, the input of the model, and their affine map to the original pictures (paper section 3.1).

The shorter side is resized to `shorter_side` with antialiased bicubic interpolation, and the centre is cropped to
multiples of the patch (`resize="longer_side"` resizes both sides to multiples of the patch without cropping, as VGGT's
loader does with landscape pictures). A 3x3 affine map from original to processed pixels is kept with the images, so
that results can be drawn on the original pictures or measured in them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor

from vidllm.io.files import InputError

Resize = Literal["shorter_side", "longer_side"]

MAX_PATCHES = 16_384  # one processed frame above this is a strip picture that no encoder takes


@dataclass(frozen=True)
class Frames:
    """Processed frames of one source.

    Attributes:
        images: `(F, 3, H, W)` float32 in [0, 1], H and W multiples of the patch size.
        timestamps_s: `(F,)` float64 presentation times from the first frame of the source. Pictures and arrays
            carry no clock; for them it is the frame's number, one second a frame, unless all names are times.
        indices: `(F,)` int64 numbers of the frames in the source, in presentation order.
        affine: `(3, 3)` float64 processed-from-original map of homogeneous pixels, pixel centres at +0.5.
        original_size: `(H0, W0)` of the source's frames as displayed, after the container's rotation.
        source: the source's name, for messages and outputs.
        names: `F` names, one a frame (a picture's file name, else the frame's number).
        clock_start_s: time of the source's first frame on its own clock: 0 for video files, the time in the first name
            for pictures named by their times (TUM's convention); None without a clock.
    """

    images: Float[Tensor, "F 3 H W"]
    timestamps_s: Float[Tensor, " F"]
    indices: Int[Tensor, " F"]
    affine: Float[Tensor, "3 3"]
    original_size: tuple[int, int]
    source: str
    names: tuple[str, ...] = ()
    clock_start_s: float | None = None

    def __len__(self) -> int:
        return self.images.shape[0]

    def singly(self) -> Iterator[Frames]:
        """Each frame as a `Frames` of one; :func:`joined` is the inverse."""
        for n, name in enumerate(self.names or ("",) * len(self)):
            one = slice(n, n + 1)
            yield replace(self, images=self.images[one], timestamps_s=self.timestamps_s[one],
                          indices=self.indices[one], names=(name,) if self.names else ())  # fmt: skip

    def to_original(self, uv: Float[Tensor, "*batch 2"]) -> Float[Tensor, "*batch 2"]:
        """Map pixels of the processed frames to original pixels (centres at +0.5 in both)."""
        return _map_pixels(torch.linalg.inv(self.affine), uv)

    def from_original(self, uv: Float[Tensor, "*batch 2"]) -> Float[Tensor, "*batch 2"]:
        """Map original pixels to pixels of the processed frames (centres at +0.5 in both)."""
        return _map_pixels(self.affine, uv)

    def original_intrinsics(self, intrinsics: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 3 3"]:
        """Intrinsics in original pixels, from intrinsics in processed pixels."""
        inverse = torch.linalg.inv(self.affine)
        return (inverse.to(intrinsics.device) @ intrinsics.double()).to(intrinsics.dtype)


def _map_pixels(affine: Tensor, uv: Tensor) -> Tensor:
    affine = affine.to(uv.device)
    return (uv.double() @ affine[:2, :2].T + affine[:2, 2]).to(uv.dtype)


@dataclass(frozen=True)
class FrameSpec:
    """Processing of frames of size `original` (H0, W0): resize to `resized`, then crop `size` at `offset`.

    All pairs are (rows, columns).
    """

    original: tuple[int, int]
    resized: tuple[int, int]
    size: tuple[int, int]
    offset: tuple[int, int]

    @property
    def affine(self) -> Float[Tensor, "3 3"]:
        """The processed-from-original pixel map `(3, 3)`, float64: a scale for each axis, then the crop's shift."""
        sy, sx = (new / old for new, old in zip(self.resized, self.original, strict=True))
        return torch.tensor([[sx, 0, -self.offset[1]], [0, sy, -self.offset[0]], [0, 0, 1]], dtype=torch.float64)

    def apply(self, image: Image.Image) -> Float[Tensor, "3 H W"]:
        """Resize and crop one RGB picture of the original size."""
        top, left = self.offset
        resized = image.resize(self.resized[::-1], Image.Resampling.BICUBIC)
        pixels = np.asarray(resized)[top : top + self.size[0], left : left + self.size[1]]
        return torch.from_numpy(np.array(pixels.transpose(2, 0, 1), order="C")).to(torch.float32) / 255


def frame_spec(
    original: tuple[int, int],
    *,
    shorter_side: int = 518,
    resize: Resize = "shorter_side",
    patch_size: int = 14,
    pixel_aspect: float = 1.0,
) -> FrameSpec:
    """Plan the resize and crop of frames of size `original` = (H0, W0).

    Args:
        original: (H0, W0) pixels.
        shorter_side: pixels of the shorter side after resizing (of the longer one with `resize="longer_side"`).
        resize: which side is brought to that length.
        patch_size: both processed sides are multiples of it.
        pixel_aspect: width over height of one stored pixel; anamorphic video is shown at its true shape.

    Raises:
        ValueError: unknown `resize`, a side below one patch, or a picture so long that one processed frame would
            hold more than `MAX_PATCHES` patches.
    """
    if resize not in get_args(Resize):
        raise ValueError(f"resize must be one of {get_args(Resize)}, got {resize!r}")
    if patch_size < 1 or shorter_side < patch_size:
        raise ValueError(f"shorter_side must be at least one patch ({patch_size} pixels), got {shorter_side}")
    height, width = original[0], original[1] * pixel_aspect
    if resize == "shorter_side":
        scale = shorter_side / min(height, width)
        resized = (max(round(height * scale), shorter_side), max(round(width * scale), shorter_side))
        size = (resized[0] // patch_size * patch_size, resized[1] // patch_size * patch_size)
    else:
        longest = shorter_side // patch_size * patch_size
        scale = longest / max(height, width)
        resized = size = (_whole_patches(height * scale, patch_size), _whole_patches(width * scale, patch_size))
    patches = (size[0] // patch_size) * (size[1] // patch_size)
    if patches > MAX_PATCHES:
        raise ValueError(f"a {original[1]}x{original[0]} picture would become {resized[1]}x{resized[0]} pixels, "
                         f"{patches} patches a frame (at most {MAX_PATCHES}); crop it, "
                         "or use resize='longer_side'")  # fmt: skip
    offset = ((resized[0] - size[0]) // 2, (resized[1] - size[1]) // 2)
    return FrameSpec(original, resized, size, offset)


def _whole_patches(side: float, patch_size: int) -> int:
    return max(round(side / patch_size), 1) * patch_size


def sampled_indices(count: int, num_frames: int | Sequence[int] | None) -> Int[np.ndarray, " F"]:
    """Indices of `num_frames` evenly spaced frames of `count`, including the first and the last.

    They are `round(linspace(0, count - 1, num_frames))`; a single frame is the first; `None`, or a number not below
    `count`, is every frame. A sequence gives the indices itself; those out of range are left out.
    """
    if isinstance(num_frames, Sequence):
        return np.array(sorted({i for i in num_frames if 0 <= i < count}), dtype=np.int64)
    if num_frames is not None and num_frames < 1:
        raise ValueError(f"num_frames must be at least 1, got {num_frames}; pass None for every frame")
    if num_frames is None or num_frames >= count:
        return np.arange(count)
    return np.linspace(0, count - 1, num_frames).round().astype(np.int64)


class FrameProcessor:
    """Processes the pictures of a source one at a time, so that 8K video fits in memory."""

    def __init__(self, source: str, plan: Callable[..., FrameSpec]) -> None:
        self.source, self.plan, self.pixel_aspect = source, plan, 1.0
        self.spec: FrameSpec | None = None
        self.first = ""
        self.clock_start_s: float | None = None

    def resized(self, size: tuple[int, int]) -> tuple[int, int]:
        """The (H, W) to which a picture is resized; its own size if unknown."""
        try:
            return (self.spec or self.plan(size, pixel_aspect=self.pixel_aspect)).resized
        except ValueError:
            return size

    def frame(
        self, image: Image.Image, index: int, time_s: float, name: str, size: tuple[int, int] | None = None
    ) -> Frames:
        """Process one RGB picture, which has `size` (H, W) in its file if it was read at a smaller size.

        Raises `InputError` if its size differs from that of the first one.
        """
        size = size or (image.height, image.width)
        if self.spec is None:
            self.first = name
            try:
                self.spec = self.plan(size, pixel_aspect=self.pixel_aspect)
            except ValueError as error:
                raise InputError(f"{self.source}: {error}") from error
        if size != self.spec.original:
            first = self.spec.original
            raise InputError(
                f"{self.source}: frames differ in size: {self.first} is {first[1]}x{first[0]}, "
                f"{name} is {size[1]}x{size[0]}; resize them to one size, or cut the video where its size changes"
            )
        return Frames(
            self.spec.apply(image)[None], torch.tensor([time_s], dtype=torch.float64), torch.tensor([index]),
            self.spec.affine, self.spec.original, self.source, (name,), self.clock_start_s,
        )  # fmt: skip


def joined(parts: Sequence[Frames]) -> Frames:
    """Frames of one source, concatenated."""
    return replace(
        parts[0],
        images=torch.cat([part.images for part in parts]),
        timestamps_s=torch.cat([part.timestamps_s for part in parts]),
        indices=torch.cat([part.indices for part in parts]),
        names=tuple(name for part in parts for name in part.names),
    )
