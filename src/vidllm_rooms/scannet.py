"""Rooms as folders in the layout of ScanNet's exported scenes, with everything that is known of them.

    color/00000.jpg      RGB                              intrinsic/intrinsic_color.txt  K as 4x4
    depth/00000.png      16 bit, millimetres              intrinsic/intrinsic_depth.txt  the same: one camera
    pose/00000.txt       room-from-camera 4x4, metres     instance/00000.png             object ids, 0 = shell
    room.mp4             the frames as a film             scene.json                     objects, boxes and language

Room frame: z up, metres, floor at z = 0. Cameras are OpenCV; pixel centres lie at +0.5.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from vidllm.datasets.language import Language
from vidllm.export.depth_png import write_depth_png
from vidllm.io.atomic import atomic_folder
from vidllm.io.video import write_video
from vidllm_rooms.shards import scene_record
from vidllm_rooms.types import Clip

JPEG_QUALITY = 95
CONVENTIONS = {
    "units": "m",
    "frame": "room: z up, floor at z = 0",
    "poses": "room from camera, OpenCV axes",
    "boxes": "centre x y z, size x y z, yaw about z in radians",
    "pixel_centre": 0.5,
    "depth": "millimetres along the optical axis, 0 = none",
}


def write_room(folder: Path, clip: Clip, language: Language, fps: float = 6) -> Path:
    """Write one room; returns its folder. It appears whole or not at all (OutputError when it cannot be written)."""
    with atomic_folder(folder) as part:
        for name in ("color", "depth", "pose", "instance", "intrinsic"):
            (part / name).mkdir()
        for index in range(len(clip.rgb)):
            _write_frame(part, f"{index:05d}", clip, index)
        for camera in ("color", "depth"):
            _write_matrix(part / "intrinsic" / f"intrinsic_{camera}.txt", _four(clip.intrinsics[0]))
        record = {"conventions": CONVENTIONS, **scene_record(clip, language)}
        (part / "scene.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        write_video(part / "room.mp4", clip.rgb, fps)
    return folder


def _write_frame(part: Path, name: str, clip: Clip, index: int) -> None:
    Image.fromarray(clip.rgb[index]).save(part / "color" / f"{name}.jpg", quality=JPEG_QUALITY)
    write_depth_png(part / "depth" / f"{name}.png", clip.depth_m[index])
    Image.fromarray(clip.instance[index].astype(np.uint8)).save(part / "instance" / f"{name}.png")
    _write_matrix(part / "pose" / f"{name}.txt", np.linalg.inv(clip.extrinsics[index].astype(np.float64)))


def _four(intrinsics: np.ndarray) -> np.ndarray:
    whole = np.eye(4)
    whole[:3, :3] = intrinsics
    return whole


def _write_matrix(path: Path, matrix: np.ndarray) -> None:
    np.savetxt(path, matrix, fmt="%.8f")
