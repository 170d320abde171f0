"""What is written of a room: training shards, and folders in the layout of ScanNet's exported scenes.

A shard (:mod:`vidllm.datasets.shards`) holds several seeds, one scene each; finished shards are kept. A folder holds

    color/00000.jpg      RGB                              intrinsic/intrinsic_color.txt  K as 4x4
    depth/00000.png      16 bit, millimetres              intrinsic/intrinsic_depth.txt  the same: one camera
    pose/00000.txt       room-from-camera 4x4, metres     instance/00000.png             object ids, 0 = shell
    room.mp4             the frames as a video            scene.json                     objects, boxes and language

Room frame: z up, metres, floor at z = 0. Cameras are OpenCV; pixel centres lie at +0.5.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from vidllm.datasets.language import Language
from vidllm.datasets.shards import save_shard
from vidllm.export.depth_png import write_depth_png
from vidllm.io.atomic import atomic_folder
from vidllm.io.video import write_video
from vidllm_rooms.language import make_language
from vidllm_rooms.language.vsi import training_questions
from vidllm_rooms.render import render_clip
from vidllm_rooms.world import Clip, Look
from vidllm_rooms.world.catalogue import LABELS
from vidllm_rooms.world.layout import build_room

#: (height, width) of tiny's training clips: landscape twice as often as portrait or square.
SIZES: tuple[tuple[int, int], ...] = ((112, 140), (140, 112), (112, 140), (112, 112))
SIDE, PATCH = 112, 14
JPEG_QUALITY = 95
CONVENTIONS = {
    "units": "m",
    "frame": "room: z up, floor at z = 0",
    "poses": "room from camera, OpenCV axes",
    "boxes": "centre x y z, size x y z, yaw about z in radians",
    "pixel_centre": 0.5,
    "depth": "millimetres along the optical axis, 0 = none",
}


def scene_record(clip: Clip, language: Language) -> dict[str, Any]:
    """The JSON part of a scene: objects (id, category, colour, box in the room frame, visible) and texts."""
    seen = clip.visible()
    objects = [
        {"id": o.id, "category": o.category, "colour": o.colour, "material": o.material,
         "box": [*o.centre, *o.size, o.yaw], "visible": o.id in seen} for o in clip.room.objects
    ]  # fmt: skip
    return {"seed": clip.room.seed, "objects": objects, "language": asdict(language)}


def render_scene(seed: int, frames: int, height: int, width: int, look: Look = "plain") -> tuple[Clip, Language]:
    """One room, its clip and its texts, determined by seed and look."""
    clip = render_clip(build_room(seed, look), frames=frames, height=height, width=width)
    return clip, make_language(clip, np.random.default_rng([seed, 7]))


def shard_path(folder: Path, seeds: Sequence[int], height: int, width: int, look: Look = "plain") -> Path:
    """The path of the shard of these seeds; its name contains a look other than plain."""
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
        records.append(scene_record(clip, replace(language, spatial=training_questions(clip))))
    tensors = {
        "rgb": torch.from_numpy(np.stack([c.rgb for c in clips])),
        "depth_m": torch.from_numpy(np.stack([c.depth_m for c in clips])).half(),
        "instance": torch.from_numpy(np.stack([c.instance for c in clips]).astype(np.uint8)),
        "extrinsics": torch.from_numpy(np.stack([c.extrinsics for c in clips])).float(),
        "intrinsics": torch.from_numpy(np.stack([c.intrinsics for c in clips])).float(),
    }
    save_shard(path, tensors, records, LABELS, {"look": look})
    return path


def write_shards(
    folder: Path, plan: Sequence[tuple[range, int, int]], frames: int, look: Look = "plain", jobs: int = 1,
    tell: Callable[[int], None] = lambda done: None,
) -> None:  # fmt: skip
    """Write the shards of a plan (:func:`plan_shards`) in ``jobs`` processes; ``tell`` gets the number done."""
    if jobs == 1:
        for done, (seeds, height, width) in enumerate(plan, 1):
            write_shard(folder, seeds, frames, height, width, look)
            tell(done)
        return
    with ProcessPoolExecutor(jobs, get_context("spawn")) as pool:
        waiting = [pool.submit(write_shard, folder, seeds, frames, h, w, look) for seeds, h, w in plan]
        try:
            for done, future in enumerate(as_completed(waiting), 1):
                future.result()
                tell(done)
        finally:
            pool.shutdown(cancel_futures=True)


def shard_bytes(scenes: int, frames: int, height: int, width: int) -> int:
    """Bytes of a shard: colour, half-precision depth and instance per pixel, and about 64 KiB of texts per scene."""
    return scenes * (frames * height * width * (3 + 2 + 1) + 2**16)


def plan_shards(
    first: int, last: int, per_shard: int = 16, shorter_side: int = SIDE
) -> Iterator[tuple[range, int, int]]:
    """(seeds, height, width) of the shards of seeds ``first`` to ``last - 1``.

    ValueError for a ``shorter_side`` that is not a multiple of the patch.
    """
    if shorter_side < PATCH or shorter_side % PATCH:
        raise ValueError(f"the shorter side must be a multiple of {PATCH} pixels, received {shorter_side}")
    for start in range(first, last, per_shard):
        size = SIZES[(start // per_shard) % len(SIZES)]
        height, width = (side * shorter_side // SIDE // PATCH * PATCH for side in size)  # in whole patches
        yield range(start, min(start + per_shard, last)), height, width


def write_room(folder: Path, clip: Clip, language: Language, fps: float = 6) -> Path:
    """Write one room atomically; returns its folder. OutputError if it cannot be written."""
    with atomic_folder(folder) as part:
        for name in ("color", "depth", "pose", "instance", "intrinsic"):
            (part / name).mkdir()
        for index in range(len(clip.rgb)):
            name = f"{index:05d}"
            Image.fromarray(clip.rgb[index]).save(part / "color" / f"{name}.jpg", quality=JPEG_QUALITY)
            write_depth_png(part / "depth" / f"{name}.png", clip.depth_m[index])
            Image.fromarray(clip.instance[index].astype(np.uint8)).save(part / "instance" / f"{name}.png")
            pose = np.linalg.inv(clip.extrinsics[index].astype(np.float64))
            np.savetxt(part / "pose" / f"{name}.txt", pose, fmt="%.8f")
        intrinsics = np.eye(4)
        intrinsics[:3, :3] = clip.intrinsics[0]
        for camera in ("color", "depth"):
            np.savetxt(part / "intrinsic" / f"intrinsic_{camera}.txt", intrinsics, fmt="%.8f")
        record = {"conventions": CONVENTIONS, **scene_record(clip, language)}
        (part / "scene.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        write_video(part / "room.mp4", clip.rgb, fps)
    return folder
