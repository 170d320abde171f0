"""Geometry steps on real RGB-D or posed captures (``--posed-clips``).

A clip is any recording with depth and intrinsics (:mod:`vidllm.io.captures`). Without poses, single frames are used
(depth and field of view); frames without depth are used together with others that have it. Without a known up direction
there is no gravity loss. In clips with labels (:mod:`vidllm.detection.labels`), patches in the middle of a labelled box
have a category; other patches, and colours and materials, are unknown.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from vidllm.datasets.shards import LabelSpace
from vidllm.detection.labels import Corners, read_labels
from vidllm.io.cameras.depth import check_shape
from vidllm.io.captures import Capture, open_capture
from vidllm.io.captures.archives import is_archive
from vidllm.model.words import resembling
from vidllm.training.data import Batch
from vidllm.training.pictures import PATCH_SIZE, crop_intrinsics, crop_maps, crop_pictures, crop_to

ASPECTS = (4 / 3, 5 / 4, 1.0)  # width over height of a batch's frames
ZOOM = 1.35  # at most: fields of view are varied by cropping
ZOOMED = 0.25  # share of the windows. If all are zoomed, whole pictures look 15% too near, and focal lengths too long
STRIDES = 6  # frames between two of a window, at most
MIDDLE = 0.6  # of a labelled box, the share of each side that is taken to show the thing
UNKNOWN = -1  # class of a patch

Boxes = Sequence[tuple[Corners, int]]  # of a frame, with the class of what each shows


def open_clips(folder: Path, option: str) -> list[Capture]:
    """The clips in a folder, or one clip; ValueError, naming ``option``, if one cannot be used for training."""
    if not folder.exists():
        raise ValueError(f"{option} {folder}: no such folder; give a clip's folder or a folder of clips")
    one = open_capture(folder)
    places = sorted(folder.iterdir()) if one is None and folder.is_dir() else []
    found = [one] if one is not None else [open_capture(p) for p in places if p.is_dir() or is_archive(p)]
    clips = [clip for clip in found if clip is not None]
    if not clips:
        raise ValueError(f"{option} {folder}: no clip there (rgb/, depth/, cameras.json): docs/training.md")
    for clip in clips:
        if not clip.depths or clip.intrinsics is None:
            what = "has a depth map" if not clip.depths else "has intrinsics"
            raise ValueError(f"{clip.where}: no frame {what}; poses alone give no depth")
    return clips


class PosedClips:
    """Draws batches from a folder of clips, or from one clip; labels are mapped to the classes of ``names``."""

    def __init__(self, folder: Path, names: LabelSpace) -> None:
        self.clips = open_clips(folder, "--posed-clips")
        labels = {clip.where: read_labels(clip) for clip in self.clips}
        told = sorted({label.category for frames in labels.values() for found in frames.values() for label in found})
        self.means = {name: resembling(name, names.categories) for name in told}
        numbers = {None: UNKNOWN} | {name: number for number, name in enumerate(names.categories, 1)}
        self.boxes: dict[str, dict[int, Boxes]] = {
            where: {n: [(x.box, numbers[self.means[x.category]]) for x in found] for n, found in frames.items()}
            for where, frames in labels.items()
        }

    def told(self) -> str:
        """A line: the least and largest median depth of a clip, where a wrong unit shows; replaced, ignored labels."""
        depths = sorted((_median_depth(clip), Path(clip.where).name) for clip in self.clips)
        (least, nearest), (most, farthest) = depths[0], depths[-1]
        said = f"real clips: {len(depths)}, median depth {least:.2f} m ({nearest}) to {most:.2f} m ({farthest})"
        taken = [f"{name} as {means}" for name, means in self.means.items() if means not in (None, name)]
        dropped = [name for name, means in self.means.items() if means is None]
        parts = {"taken": taken, "left out, unlike all names of the data": dropped}
        more = "".join(f"; {what}: {', '.join(names)}" for what, names in parts.items() if names)
        count = sum(map(len, self.boxes.values()))
        return f"{said}; {count} frames have labels{more}" if count else said

    def draw(self, rng: np.random.Generator, scenes: int, frames: int, side: int) -> Batch:
        """A batch of windows of ``frames`` frames of a clip, or of single frames if it has no poses."""
        weights = np.array([math.sqrt(len(clip.usable)) for clip in self.clips])
        clip = self.clips[int(rng.choice(len(self.clips), p=weights / weights.sum()))]
        if clip.poses is None:
            scenes, frames = scenes * frames, 1
        aspect = float(rng.choice(ASPECTS))
        size = side, int(side * aspect + 1e-6) // PATCH_SIZE * PATCH_SIZE
        boxes = self.boxes[clip.where]
        drawn = [_scene(clip, _window(rng, clip, frames), size, rng, boxes) for _ in range(scenes)]
        images, depth, extrinsics, intrinsics, up, pixels = map(torch.stack, zip(*drawn, strict=True))
        category = pixels[..., PATCH_SIZE // 2 :: PATCH_SIZE, PATCH_SIZE // 2 :: PATCH_SIZE].flatten(2)  # as of rooms
        unknown, named = torch.full_like(category, UNKNOWN), bool((category != UNKNOWN).any())
        return Batch(images, depth, extrinsics, intrinsics, up, category, unknown, unknown, [], named=named)


def _median_depth(clip: Capture) -> float:
    """Of the middle one of the frames with depth, in metres; 0 where it has none."""
    known = clip.depth(sorted(clip.depths)[len(clip.depths) // 2])
    return 0.0 if known is None or not (known > 0).any() else float(np.median(known[known > 0]))


def _window(rng: np.random.Generator, clip: Capture, frames: int) -> list[int]:
    """Neighbouring frames in either order, of which one at least has depth."""
    total = len(clip.usable)
    frames = min(frames, total)
    for _ in range(100):
        most = max(1, (total - 1) // max(1, frames - 1))
        stride = int(rng.integers(1, min(STRIDES, most) + 1))
        start = int(rng.integers(total - (frames - 1) * stride))
        order = [clip.usable[start + stride * i] for i in range(frames)]
        if any(i in clip.depths for i in order):
            return order if rng.random() < 0.5 else order[::-1]
    raise ValueError(f"{clip.where}: hardly any frame has depth; leave this clip out of --posed-clips")


def _scene(
    clip: Capture, order: Sequence[int], size: tuple[int, int], rng: np.random.Generator, boxes: dict[int, Boxes]
) -> tuple[Tensor, ...]:
    """One window at ``size``, zoomed and mirrored at random: pictures, depth, extrinsics, intrinsics, up direction and
    the category of each pixel.
    """
    zoom, whole, mirrored = float(rng.uniform(1.0, ZOOM)), bool(rng.random() >= ZOOMED), bool(rng.random() < 0.5)
    zoom = 1.0 if whole else zoom
    parts = [_frame(clip, i, size, zoom, boxes.get(i, ())) for i in order]
    images, depth, category, intrinsics = (torch.stack([p[i] for p in parts]) for i in range(4))
    poses = np.tile(np.eye(4), (len(order), 1, 1)) if clip.poses is None else clip.poses[list(order)]
    extrinsics = torch.from_numpy(np.linalg.inv(poses)).float()
    up = torch.full((3,), math.nan) if clip.up is None else extrinsics[0, :3, :3] @ torch.tensor(clip.up)
    if mirrored:
        flip = torch.diag(torch.tensor([-1.0, 1.0, 1.0, 1.0]))
        images, depth, category = (maps.flip(-1) for maps in (images, depth, category))
        extrinsics = flip @ extrinsics @ flip
        intrinsics[:, 0, 2] = size[1] - intrinsics[:, 0, 2]
        up = flip[:3, :3] @ up
    return images, depth, extrinsics, intrinsics, up, category


def _frame(clip: Capture, number: int, size: tuple[int, int], zoom: float, boxes: Boxes) -> tuple[Tensor, ...]:
    """Picture (3,H,W), depth (H,W) in metres, category (H,W) and K of a frame, cropped to ``size``."""
    picture = torch.from_numpy(np.asarray(clip.picture(number), np.float32) / 255).permute(2, 0, 1)[None]
    original = picture.shape[-2], picture.shape[-1]
    crop, metres, intrinsics = crop_to(*original, size, zoom), clip.depth(number), clip.intrinsics_of(number, original)
    assert intrinsics is not None
    depth = torch.zeros(1, *size)
    if metres is not None:
        check_shape(metres, original, f"{clip.where}: {clip.names[number]}")
        depth = crop_maps(torch.from_numpy(metres)[None], crop, original[0] / metres.shape[0])
    images = crop_pictures(picture, crop).clamp(0, 1)
    category = crop_maps(shown(boxes, original)[None], crop)
    return images[0], depth[0], category[0], crop_intrinsics(torch.from_numpy(intrinsics).float(), original, crop)


def shown(boxes: Boxes, size: tuple[int, int]) -> Int[Tensor, "H W"]:
    """The class of each pixel in the middle of a box, ``UNKNOWN`` elsewhere.

    Where boxes overlap, the smaller one is taken to be in front; its border is unknown.
    """
    classes = torch.full(size, UNKNOWN)
    for (x0, y0, x1, y1), number in sorted(boxes, key=lambda b: (b[0][0] - b[0][2]) * (b[0][3] - b[0][1])):
        for share, value in ((1.0, UNKNOWN), (MIDDLE, number)):
            dx, dy = (x1 - x0) * (1 - share) / 2, (y1 - y0) * (1 - share) / 2
            rows, columns = (slice(max(round(a), 0), round(b)) for a, b in ((y0 + dy, y1 - dy), (x0 + dx, x1 - dx)))
            classes[rows, columns] = value
    return classes
