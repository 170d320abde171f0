"""Rooms as training shards (:mod:`vidllm.datasets.shards`): one seed, one scene; finished shards are kept."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vidllm.datasets.language import Language
from vidllm.datasets.shards import save_shard
from vidllm_rooms.world import Clip, Look
from vidllm_rooms.world.catalogue import LABELS

#: (height, width) of tiny's training clips: landscape twice as often as portrait or square.
SIZES: tuple[tuple[int, int], ...] = ((112, 140), (140, 112), (112, 140), (112, 112))
SIDE, PATCH = 112, 14


def scene_record(clip: Clip, language: Language) -> dict[str, Any]:
    """The JSON part of a scene: objects (id, category, colour, box in the room frame, visible) and language."""
    seen = set(clip.visible())
    objects = [
        {
            "id": o.id,
            "category": o.category,
            "colour": o.colour,
            "material": o.material,
            "box": [*map(float, o.centre), *map(float, o.size), float(o.yaw)],
            "visible": o.id in seen,
        }
        for o in clip.room.objects
    ]
    return {"seed": clip.room.seed, "objects": objects, "language": asdict(language)}


def render_scene(
    seed: int, frames: int, height: int, width: int, look: Look = "plain"
) -> tuple[Clip, Language]:
    """One room, its clip and its language, all determined by the seed and the look."""
    from vidllm_rooms.language import make_language
    from vidllm_rooms.render import render_clip
    from vidllm_rooms.world.layout import build_room

    clip = render_clip(build_room(seed, look), frames=frames, height=height, width=width, look=look)
    return clip, make_language(clip, np.random.default_rng([seed, 7]))


def shard_path(folder: Path, seeds: Sequence[int], height: int, width: int, look: Look = "plain") -> Path:
    """Where the shard of these seeds lies; its name tells a look that is not plain."""
    looks = "" if look == "plain" else f"_{look}"
    return folder / f"rooms_{seeds[0]:09d}_{len(seeds):03d}_{height}x{width}{looks}.safetensors"


def write_shard(
    folder: Path, seeds: Sequence[int], frames: int, height: int, width: int, look: Look = "plain"
) -> Path:
    """Render the seeds and write their shard; returns at once when it exists. The look is in the metadata too."""
    path = shard_path(folder, seeds, height, width, look)
    if path.exists():
        return path
    clips, records = [], []
    for seed in seeds:
        clip, language = render_scene(seed, frames, height, width, look)
        clips.append(clip)
        records.append(scene_record(clip, language))
    tensors = {
        "rgb": torch.from_numpy(np.stack([c.rgb for c in clips])),
        "depth_m": torch.from_numpy(np.stack([c.depth_m for c in clips])).half(),
        "instance": torch.from_numpy(np.stack([c.instance for c in clips]).astype(np.uint8)),
        "extrinsics": torch.from_numpy(np.stack([c.extrinsics for c in clips])).float(),
        "intrinsics": torch.from_numpy(np.stack([c.intrinsics for c in clips])).float(),
    }
    save_shard(path, tensors, records, LABELS, {"look": look})
    return path


def plan_shards(
    first: int, last: int, per_shard: int = 16, shorter_side: int = SIDE
) -> Iterator[tuple[range, int, int]]:
    """(seeds, height, width) of the shards that cover seeds ``first`` to ``last - 1``.

    ValueError for a ``shorter_side`` that is not a whole number of patches.
    """
    if shorter_side < PATCH or shorter_side % PATCH:
        raise ValueError(f"the shorter side must be a multiple of {PATCH} pixels, received {shorter_side}")
    for start in range(first, last, per_shard):
        height, width = (_scaled(side, shorter_side) for side in SIZES[(start // per_shard) % len(SIZES)])
        yield range(start, min(start + per_shard, last)), height, width


def _scaled(side: int, shorter_side: int) -> int:
    """A side of :data:`SIZES` at another shorter side, in whole patches (rounded down)."""
    return side * shorter_side // SIDE // PATCH * PATCH
