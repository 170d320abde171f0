"""A nerfstudio data set: `transforms.json`, pictures, 16-bit depth in millimetres and a starting point cloud.

nerfstudio's cameras are OpenGL (x right, y up, looking along -z), so the y and z columns of each pose change sign;
its world is z up, as the scene frame; its pixel centres lie at +0.5.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from PIL import Image

from vidllm.export.depth_png import write_depth_png
from vidllm.export.geometry import SceneData
from vidllm.export.points import write_points
from vidllm.io.atomic import atomic_folder
from vidllm.io.cameras.json_frames import OPENGL_FROM_OPENCV


def write_nerfstudio(
    path: str | Path, data: SceneData, *, max_points: int = 500_000, min_confidence: float | None = None
) -> None:
    """Write the folder: `transforms.json`, `images/`, `depths/`, `points.ply`."""
    with atomic_folder(path) as folder:
        (folder / "images").mkdir()
        (folder / "depths").mkdir()
        for stem, rgb, depth_m in zip(data.file_stems(), data.rgb, data.depth_m, strict=True):
            Image.fromarray(rgb).save(folder / "images" / f"{stem}.png")
            write_depth_png(folder / "depths" / f"{stem}.png", depth_m)
        write_points(folder / "points.ply", *data.points(data.stride_for(max_points), min_confidence))
        (folder / "transforms.json").write_text(json.dumps(transforms(data), indent=1) + "\n", encoding="utf-8")


def transforms(data: SceneData) -> dict[str, Any]:
    """The content of `transforms.json`."""
    height, width = data.size
    frames = []
    times = [{"timestamp_s": t} if data.has_clock else {} for t in data.timestamps_s.tolist()]
    rows = zip(data.file_stems(), data.intrinsics.tolist(), opengl_poses(data), times, strict=True)
    for stem, k, pose, time in rows:
        frames.append({
            "file_path": f"images/{stem}.png",
            "depth_file_path": f"depths/{stem}.png",
            "fl_x": k[0][0], "fl_y": k[1][1], "cx": k[0][2], "cy": k[1][2], "w": width, "h": height,
            "transform_matrix": pose.tolist(),
            **time,
        })  # fmt: skip
    return {"camera_model": "OPENCV", "ply_file_path": "points.ply", "frames": frames}


def opengl_poses(data: SceneData) -> Float[np.ndarray, "F 4 4"]:
    """Scene-from-camera poses of cameras with OpenGL axes."""
    return data.scene_from_camera @ OPENGL_FROM_OPENCV
