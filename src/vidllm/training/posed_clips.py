"""Real clips in training: RGB-D or posed captures of one's own as a share of the geometry steps (``--posed-clips``).

The form of a clip: :mod:`vidllm.datasets.posed_clips`. Frames without a pose are trained on one by one (depth and
field of view), frames without depth beside others that have it. Without "up" nothing is learned of gravity from a clip.
Nothing is known of what things are called.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from vidllm.datasets.posed_clips import PosedClip, PosedFrame, is_clip, read_clip
from vidllm.training.data import Batch
from vidllm.training.pictures import PATCH_SIZE, crop_intrinsics, crop_maps, crop_pictures, crop_to

ASPECTS = (4 / 3, 5 / 4, 1.0)  # width over height of a batch's frames
ZOOM = 1.35  # at most: fields of view are varied by cropping
STRIDES = 6  # frames between two of a window, at most


class PosedClips:
    """Draws batches from a folder of clips, or from one clip."""

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise ValueError(f"--posed-clips {folder}: no such folder; give a clip's folder or a folder of clips")
        folders = [folder] if is_clip(folder) else sorted(p for p in folder.iterdir() if is_clip(p))
        if not folders:
            raise ValueError(f"--posed-clips {folder}: no clip there (rgb/, depth/, cameras.json): docs/training.md")
        self.clips = [read_clip(p) for p in folders]

    def draw(self, rng: np.random.Generator, scenes: int, frames: int, side: int) -> Batch:
        """A batch of windows; of ``frames`` frames each where a clip with poses was drawn, else of single frames."""
        weights = np.array([math.sqrt(len(clip.frames)) for clip in self.clips])
        clip = self.clips[int(rng.choice(len(self.clips), p=weights / weights.sum()))]
        if not clip.posed:
            scenes, frames = scenes * frames, 1
        aspect = float(rng.choice(ASPECTS))
        size = side, int(side * aspect + 1e-6) // PATCH_SIZE * PATCH_SIZE
        drawn = [_scene(clip, _window(rng, clip, frames), size, rng) for _ in range(scenes)]
        names = ("images", "depth_m", "extrinsics", "intrinsics", "up")
        images, depth, extrinsics, intrinsics, up = (torch.stack([scene[n] for scene in drawn]) for n in names)
        patches = torch.zeros(*images.shape[:2], size[0] // PATCH_SIZE * (size[1] // PATCH_SIZE), dtype=torch.long)
        return Batch(images, depth, extrinsics, intrinsics, up, patches, patches, patches, [], named=False)


def _window(rng: np.random.Generator, clip: PosedClip, frames: int) -> list[int]:
    """Neighbouring frames in either order, of which one at least has depth."""
    total = len(clip.frames)
    frames = min(frames, total)
    for _ in range(100):
        most = max(1, (total - 1) // max(1, frames - 1))
        stride = int(rng.integers(1, min(STRIDES, most) + 1))
        start = int(rng.integers(total - (frames - 1) * stride))
        order = [start + stride * i for i in range(frames)]
        if any(clip.frames[i].depth is not None for i in order):
            return order if rng.random() < 0.5 else order[::-1]
    raise ValueError(f"{clip.name}: hardly any frame has depth; leave this clip out of --posed-clips")


def _scene(
    clip: PosedClip, order: Sequence[int], size: tuple[int, int], rng: np.random.Generator
) -> dict[str, Tensor]:
    """One window at ``size``, zoomed and mirrored at random."""
    zoom, mirrored = float(rng.uniform(1.0, ZOOM)), bool(rng.random() < 0.5)
    frames = [clip.frames[i] for i in order]
    parts = [_frame(clip, frame, size, zoom) for frame in frames]
    images, depth, intrinsics = (torch.stack([p[i] for p in parts]) for i in range(3))
    extrinsics = torch.stack([torch.eye(4) if f.extrinsics is None else f.extrinsics for f in frames])
    up = torch.full((3,), math.nan) if clip.up is None else extrinsics[0, :3, :3] @ clip.up
    if mirrored:
        flip = torch.diag(torch.tensor([-1.0, 1.0, 1.0, 1.0]))
        images, depth, extrinsics = images.flip(-1), depth.flip(-1), flip @ extrinsics @ flip
        intrinsics[:, 0, 2] = size[1] - intrinsics[:, 0, 2]
        up = flip[:3, :3] @ up
    return {"images": images, "depth_m": depth, "extrinsics": extrinsics, "intrinsics": intrinsics, "up": up}


def _frame(clip: PosedClip, frame: PosedFrame, size: tuple[int, int], zoom: float) -> tuple[Tensor, Tensor, Tensor]:
    """Picture (3,H,W), depth (H,W) in metres and K of a frame, cropped to ``size``."""
    picture = torch.from_numpy(_open(frame.picture, "RGB").astype(np.float32) / 255).permute(2, 0, 1)[None]
    original = picture.shape[-2], picture.shape[-1]
    crop = crop_to(*original, size, zoom)
    depth = torch.zeros(1, *size)
    if frame.depth is not None:
        metres = torch.from_numpy(_open(frame.depth, None).astype(np.float32) * clip.metres_per_unit)
        if abs(metres.shape[0] * original[1] / (metres.shape[1] * original[0]) - 1) > 0.02:
            raise ValueError(f"{frame.depth}: {metres.shape[0]} x {metres.shape[1]} pixels are not of the shape of "
                             f"{frame.picture.name} ({original[0]} x {original[1]}); align depth to the pictures")
        depth = crop_maps(metres[None], crop, original[0] / metres.shape[0])
    images = crop_pictures(picture, crop).clamp(0, 1)
    return images[0], depth[0], crop_intrinsics(frame.intrinsics, original, crop)


def _open(path: Path, mode: str | None) -> np.ndarray:
    try:
        with Image.open(path) as picture:
            return np.asarray(picture if mode is None else picture.convert(mode))
    except (OSError, UnidentifiedImageError) as error:
        raise ValueError(f"{path}: cannot be read as a picture ({error}); fetch it again") from error
