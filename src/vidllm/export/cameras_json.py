"""Cameras as JSON: intrinsics in processed and original pixels, extrinsics, poses, times; every convention named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vidllm.export.geometry import SceneData
from vidllm.io.atomic import atomic_path
from vidllm.io.json_files import read_json_object

CONVENTIONS = {
    "units": "m",
    "camera_axes": "OpenCV: x right, y down, z forward",
    "pixel_centres": "+0.5: the first pixel's centre is (0.5, 0.5)",
    "extrinsics": "camera_from_world, 4x4; the world is the first camera",
    "scene": "gravity aligned, z up, origin at the first camera",
}


def write_cameras(path: str | Path, data: SceneData) -> None:
    """Write the cameras. Raises `OutputError` when the file cannot be written."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(cameras_dict(data), indent=1) + "\n", encoding="utf-8")


def cameras_dict(data: SceneData) -> dict[str, Any]:
    """The content of the file: the conventions, the scene's constants, and one entry a frame under `frames`."""
    columns = {
        "name": list(data.names) or data.file_stems(),
        "timestamp_s": data.timestamps_s.tolist(),
        "intrinsics": data.intrinsics.tolist(),
        "intrinsics_original": data.original_intrinsics.tolist(),
        "extrinsics": data.extrinsics.tolist(),
        "scene_from_camera": data.scene_from_camera.tolist(),
    }
    return {
        **CONVENTIONS,
        "size": {"height": data.size[0], "width": data.size[1]},
        "original_size": {"height": data.original_size[0], "width": data.original_size[1]},
        "processed_from_original": data.processed_from_original.tolist(),
        "scene_from_world": data.scene_from_world.tolist(),
        "frames": [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)],
    }


def read_cameras(path: str | Path) -> dict[str, Any]:
    """Read what `write_cameras` wrote. Raises `ValueError` when the file is not one of these."""
    content = read_json_object(path)
    if "frames" not in content or content.get("units") != "m":
        raise ValueError(f"{path}: expected a cameras file with 'units': 'm' and 'frames'")
    return content
