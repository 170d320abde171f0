"""Batches from shards: windows of frames for geometry steps, whole clips with packed texts for language steps.

Every batch is a function of (seed, step) and the list of shards, so a resumed run gives the same results.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from safetensors import safe_open
from torch import Tensor

from vidllm.datasets.seen import Seen, seen_of
from vidllm.datasets.shards import PATTERN, LabelSpace, Shard, shards_of
from vidllm.io.files import check_regular_file, naming
from vidllm.training.packing import Tensors
from vidllm.training.pictures import PATCH_SIZE, crop_for_side, crop_intrinsics, crop_maps, crop_pictures

OPEN_SHARDS = 64
PLAN = 1  # keeps the draws of a step's plan apart from those of its data


def plan_of(seed: int, step: int) -> np.random.Generator:
    """Generator of the random choices that all processes of a step share."""
    return np.random.default_rng([seed, step, PLAN])


@dataclass
class Batch(Tensors):
    """Scenes of one step. images (B,F,3,H,W) in [0,1]; depth_m (B,F,H,W); extrinsics (B,F,4,4) camera-from-room;
    intrinsics (B,F,3,3); up (B,3) in the first camera's frame, NaN if unknown; category, colour, material (B,F,P) class
    of each patch: 0 floor, walls and ceiling, -1 unknown. ``places``: shard, index and frames of each scene. Without
    ``named`` all classes are unknown.
    """

    images: Tensor
    depth_m: Tensor
    extrinsics: Tensor
    intrinsics: Tensor
    up: Tensor
    category: Tensor
    colour: Tensor
    material: Tensor
    records: list[dict[str, Any]]
    places: list[tuple[Path, int, list[int]]] = field(default_factory=list)
    named: bool = True


def check_frames(folder: Path, patch: int, clip_frames: Sequence[int]) -> dict[tuple[int, int, int], int]:
    """Scenes by (frames, height, width), from the shards' headers.

    ValueError for frames that are not multiples of the patch, or scenes shorter than clips.
    """
    sizes = Counter[tuple[int, int, int]]()
    for path in sorted(folder.glob(PATTERN)):
        with naming(path, "delete it and render it again"), safe_open(str(check_regular_file(path)), "pt") as file:
            scenes, frames, height, width, _ = file.get_slice("rgb").get_shape()
        sizes[frames, height, width] += scenes
    odd = [f"{h}x{w}" for _, h, w in sizes if h % patch or w % patch]
    if odd:
        raise ValueError(f"{folder}: frames of {', '.join(odd)} are not multiples of {patch} pixels")
    wanted, shortest = max(clip_frames), min(frames for frames, _, _ in sizes)
    if wanted > shortest:
        raise ValueError(
            f"{folder}: clips of {wanted} frames are asked for (clip_frames) and some scenes have {shortest}; "
            "render more frames, or lower --clip-frames"
        )
    return sizes


class RoomsData:
    """Draws batches from a folder of shards (see :mod:`vidllm.datasets.shards`)."""

    def __init__(self, folder: Path, paths: list[Path] | None = None) -> None:
        self.folder = Path(folder)
        self.paths = shards_of(self.folder) if paths is None else paths
        self._open = lru_cache(maxsize=OPEN_SHARDS)(Shard)

    def __reduce__(self) -> tuple[type[RoomsData], tuple[Any, ...]]:
        """Pickled without open files: a process that draws opens its own."""
        return RoomsData, (self.folder, self.paths)

    def refresh(self) -> bool:
        """List the shards again (rendering may still be running); returns whether they have changed. ValueError without
        any.
        """
        before, self.paths = self.paths, shards_of(self.folder)
        return before != self.paths

    def seen(self) -> Seen:
        """The scenes in the shards."""
        return seen_of(record["seed"] for path in self.paths for record in Shard(path).records)

    @cached_property
    def labels(self) -> LabelSpace:
        """The label space of the shards; shards of scans have none."""
        return next((found for path in self.paths if (found := Shard(path).labels) != LabelSpace()), LabelSpace())

    def _shard(self, path: Path) -> Shard:
        shard = self._open(path)
        if shard.labels not in (self.labels, LabelSpace()):
            raise ValueError(f"{path} has other object names than the other shards; move it to another folder")
        return shard

    def draw(
        self, rng: np.random.Generator, scenes: int, frames: int, *, window: bool, side: int | None = None
    ) -> Batch:
        """A batch of scenes of one frame size; with ``window``, neighbouring frames in either order.

        ``side``: resize the frames to this shorter side (a multiple of the patch) and crop them about their middle.
        """
        shard = self._shard(self.paths[int(rng.integers(len(self.paths)))])
        chosen = rng.choice(len(shard), scenes, replace=scenes > len(shard))
        parts, places = [], []
        for index in chosen:
            order = (_window if window else _spread)(rng, shard.frames, frames)
            part = shard.tensors(int(index), order.tolist())
            parts.append(part if side is None else at_side(part, side))
            places.append((shard.path, int(index), [int(i) for i in order]))
        stacked = {name: torch.stack([p[name] for p in parts]) for name in parts[0]}
        records, extrinsics = [shard.records[int(i)] for i in chosen], stacked["extrinsics"]
        instance = stacked.get("instance", torch.zeros(stacked["depth_m"].shape, dtype=torch.uint8))
        return Batch(
            _pictures(stacked["rgb"]), stacked["depth_m"].float(), extrinsics, stacked["intrinsics"],
            extrinsics[:, 0, :3, 2].clone(), *patch_classes(instance, records, self.labels, PATCH_SIZE), records,
            places, shard.labels != LabelSpace(),
        )  # fmt: skip

    def clips(self, plan: np.random.Generator, rng: np.random.Generator, images: int, frames: Sequence[int]) -> Batch:
        """Whole clips, ``images`` frames in total; the number per clip is drawn from ``plan`` (:func:`plan_of`)."""
        count = int(plan.choice(frames))
        return self.draw(rng, max(1, images // count), count, window=False)


@dataclass(frozen=True)
class ClipDraw:
    """Draws whole clips for a step, ``images`` frames in total, the same number of frames per clip in all processes."""

    data: RoomsData
    seed: int
    images: int
    frames: tuple[int, ...]

    def __call__(self, step: int, rng: np.random.Generator) -> Batch:
        """The batch of a step."""
        return self.data.clips(plan_of(self.seed, step), rng, self.images, self.frames)


def _pictures(rgb: Tensor) -> Float[Tensor, "*batch 3 H W"]:
    """Bytes (..., H, W, 3), or channels that have been resized already, in [0, 1]."""
    return rgb.movedim(-1, -3).to(torch.float32).div_(255) if rgb.dtype == torch.uint8 else rgb


def at_side(part: dict[str, Tensor], side: int) -> dict[str, Tensor]:
    """A scene's tensors (rgb, depth_m, instance, extrinsics, intrinsics) at another shorter side."""
    height, width = part["depth_m"].shape[-2:]
    crop = crop_for_side(height, width, side)
    instance = {"instance": crop_maps(part["instance"], crop)} if "instance" in part else {}
    return {
        **instance,
        "rgb": crop_pictures(_pictures(part["rgb"]), crop).clamp(0, 1),
        "depth_m": crop_maps(part["depth_m"], crop),
        "extrinsics": part["extrinsics"],
        "intrinsics": crop_intrinsics(part["intrinsics"], (height, width), crop),
    }


def patch_classes(
    instance: UInt8[Tensor, "B F H W"], records: list[dict[str, Any]], labels: LabelSpace, patch_size: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Category, colour and material (B,F,P) of the objects at the patch centres; ``records`` name the objects."""
    half, step = patch_size // 2, patch_size
    ids = instance[..., half::step, half::step].flatten(2).long()
    table = torch.zeros(3, len(records), 256, dtype=torch.long)
    for b, record in enumerate(records):
        for item in record["objects"]:
            table[:, b, item["id"]] = torch.tensor(labels.classes(item))
    category, colour, material = table[:, torch.arange(len(records))[:, None, None], ids]
    return category, colour, material


def _window(rng: np.random.Generator, total: int, frames: int) -> np.ndarray:
    """Indices of a short window: a start, a stride of 1 or 2 and a direction."""
    frames = min(frames, total)
    stride = int(rng.integers(1, 3)) if (frames - 1) * 2 < total else 1
    start = int(rng.integers(0, total - (frames - 1) * stride))
    order = start + stride * np.arange(frames)
    return order if rng.random() < 0.5 else order[::-1].copy()


def _spread(rng: np.random.Generator, total: int, frames: int) -> np.ndarray:
    """The first frame and one of each of ``frames - 1`` equal parts of the rest."""
    if frames >= total:
        return np.arange(total)
    edges = np.linspace(1, total, frames)
    rest = [int(rng.uniform(a, b)) for a, b in pairwise(edges)]
    return np.array([0, *rest])
