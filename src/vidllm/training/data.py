"""From shards of rooms to batches: windows of frames for geometry, whole clips with packed texts for language.

Every batch is a function of (seed, step) and the list of shards, so a resumed run goes on exactly as an unbroken one.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from vidllm.geometry.gravity import scene_from_world
from vidllm.geometry.precision import full_precision
from vidllm.rooms.shards import Shard
from vidllm.rooms.types import COLOURS
from vidllm.training.framing import crop_for_side, crop_intrinsics, crop_maps, crop_pictures
from vidllm.training.texts import TextCounts, TextMaker

COLOUR_INDEX = {name: i + 1 for i, name in enumerate(COLOURS)}
MATERIALS = (
    "canvas", "cardboard", "ceramic", "fabric", "glass", "leaf", "leather", "metal", "paper", "plastic", "rubber",
    "stone", "velvet", "wicker", "wood", "wool",
)
MATERIAL_INDEX = {name: i + 1 for i, name in enumerate(MATERIALS)}


def shards_of(folder: Path) -> list[Path]:
    """The shards of a folder by name; ValueError when there are none."""
    paths = sorted(folder.glob("rooms_*.safetensors"))
    if not paths:
        raise ValueError(f"no shards of rooms in {folder}; render some: vidllm rooms shards -o {folder}")
    return paths


@dataclass
class Batch:
    """Scenes of one step. images (B,F,3,H,W) in [0,1]; depth_m (B,F,H,W); extrinsics (B,F,4,4) camera-from-room;
    intrinsics (B,F,3,3); up (B,3) in the first camera; category, colour, material (B,F,P) class of each
    patch, 0 = shell. ``places`` tells where each scene came from: shard, scene in it, frames of the clip. Without
    ``named`` nothing is known of category, colour and material; ``up`` is NaN where it is not known.
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

    def to(self, device: torch.device) -> Batch:
        """The same batch on a device."""
        moved: dict[str, Any] = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in vars(self).items()}
        return Batch(**moved)


class RoomsData:
    """Draws batches from a folder of shards (see :mod:`vidllm.rooms.shards`)."""

    def __init__(self, folder: Path, patch_size: int, categories: dict[str, int], cache: int = 64) -> None:
        self.folder, self.patch_size, self.categories = Path(folder), patch_size, categories
        self._open: OrderedDict[Path, Shard] = OrderedDict()
        self._cache, self._lock = cache, Lock()
        self.refresh()

    def refresh(self) -> None:
        """Look for shards again (rendering may still be going on). ValueError when there are none."""
        self.paths = shards_of(self.folder)

    def _shard(self, path: Path) -> Shard:
        with self._lock:  # batches may be drawn by several threads
            if path not in self._open:
                self._open[path] = Shard(path)
                if len(self._open) > self._cache:
                    self._open.popitem(last=False)
            return self._open[path]

    def draw(
        self, rng: np.random.Generator, scenes: int, frames: int, *, window: bool, side: int | None = None
    ) -> Batch:
        """A batch of scenes of one frame size; a ``window`` takes nearby frames in either order of time.

        ``side``: the frames are resized to this shorter side (whole patches) and cropped about their middle.
        """
        shard = self._shard(self.paths[int(rng.integers(len(self.paths)))])
        chosen = rng.choice(len(shard), scenes, replace=scenes > len(shard))
        parts, places = [], []
        for index in chosen:
            tensors = shard.tensors(int(index))
            order = (_window if window else _spread)(rng, len(tensors["rgb"]), frames)
            part = {name: value[torch.from_numpy(order)] for name, value in tensors.items()}
            parts.append(part if side is None else at_side(part, side))
            places.append((shard.path, int(index), [int(i) for i in order]))
        batch = self._collate(parts, [shard.records[int(i)] for i in chosen])
        batch.places = places
        return batch

    def _collate(self, parts: list[dict[str, Tensor]], records: list[dict[str, Any]]) -> Batch:
        stacked = {name: torch.stack([p[name] for p in parts]) for name in parts[0]}
        extrinsics = stacked["extrinsics"]
        category, colour, material = patch_classes(stacked["instance"], records, self.categories, self.patch_size)
        return Batch(
            _pictures(stacked["rgb"]),
            stacked["depth_m"].float(),
            extrinsics,
            stacked["intrinsics"],
            extrinsics[:, 0, :3, 2].clone(),
            category,
            colour,
            material,
            records,
        )


def _pictures(rgb: Tensor) -> Float[Tensor, "*batch 3 H W"]:
    """Bytes (..., H, W, 3), or channels that have been resized already, in [0, 1]."""
    return rgb.movedim(-1, -3).float() / 255 if rgb.dtype == torch.uint8 else rgb


def at_side(part: dict[str, Tensor], side: int) -> dict[str, Tensor]:
    """A scene's tensors (rgb, depth_m, instance, extrinsics, intrinsics) at another shorter side."""
    height, width = part["depth_m"].shape[-2:]
    crop = crop_for_side(height, width, side)
    return {
        "rgb": crop_pictures(_pictures(part["rgb"]), crop).clamp(0, 1),
        "depth_m": crop_maps(part["depth_m"], crop),
        "instance": crop_maps(part["instance"], crop),
        "extrinsics": part["extrinsics"],
        "intrinsics": crop_intrinsics(part["intrinsics"], (height, width), crop),
    }


def patch_classes(
    instance: UInt8[Tensor, "B F H W"], records: list[dict[str, Any]], categories: dict[str, int], patch_size: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Category, colour and material (B,F,P) of the objects at the patch centres; ``records`` name the objects."""
    half, step = patch_size // 2, patch_size
    ids = instance[..., half::step, half::step].flatten(2).long()
    table = torch.zeros(3, len(records), 256, dtype=torch.long)
    for b, record in enumerate(records):
        for item in record["objects"]:
            table[0, b, item["id"]] = categories.get(item["category"], 0)
            table[1, b, item["id"]] = COLOUR_INDEX.get(item["colour"], 0)
            table[2, b, item["id"]] = MATERIAL_INDEX.get(item["material"], 0)
    rows = torch.arange(len(records))[:, None, None]
    return table[0][rows, ids], table[1][rows, ids], table[2][rows, ids]


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


@full_precision()
def scene_boxes(record: dict[str, Any], scene_from_room: Float[Tensor, "4 4"]) -> dict[int, list[float]]:
    """Boxes (centre, size, yaw) of the scene's objects in the scene frame, by object id."""
    turn = math.atan2(float(scene_from_room[1, 0]), float(scene_from_room[0, 0]))
    boxes = {}
    for item in record["objects"]:
        centre = scene_from_room[:3, :3] @ torch.tensor(item["box"][:3]) + scene_from_room[:3, 3]
        boxes[item["id"]] = [*centre.tolist(), *item["box"][3:6], item["box"][6] + turn]
    return boxes


@full_precision()
def scene_from_room(extrinsics: Float[Tensor, "F 4 4"]) -> Float[Tensor, "4 4"]:
    """The level scene frame of a clip (docs/method.md, section 0) from room coordinates: first camera at the origin."""
    first = extrinsics[0]
    return scene_from_world(first[:3, 2]) @ first


def draw_texts(
    batch: Batch, maker: TextMaker, rng: np.random.Generator, counts: TextCounts
) -> list[list[Any]]:
    """Texts of each scene of a batch, with boxes and points in its scene frame."""
    texts = []
    for b, record in enumerate(batch.records):
        boxes = scene_boxes(record, scene_from_room(batch.extrinsics[b].cpu()))
        texts.append(maker.scene(record, boxes, rng, counts))
    return texts
