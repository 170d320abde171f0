"""Cameras as JSON with every convention named, and trajectories in the TUM RGB-D format."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import Float
from scipy.spatial.transform import Rotation

from vidllm.export.geometry import SceneData
from vidllm.io.atomic import atomic_path, write_json
from vidllm.io.cameras.json_frames import NO_CLOCK
from vidllm.io.cameras.matrices import TIMES_ARE_NUMBERS

CONVENTIONS = {
    "units": "m",
    "camera_axes": "OpenCV: x right, y down, z forward",
    "pixel_centres": "+0.5: the first pixel's centre is (0.5, 0.5)",
    "extrinsics": "camera_from_world, 4x4; the world is the first camera",
    "scene": "gravity aligned, z up, origin at the first camera",
}


def write_cameras(path: str | Path, data: SceneData) -> None:
    """Write the conventions, the scene's constants, and one entry per frame under `frames`."""
    columns = {
        "name": list(data.names) or data.file_stems(),
        "timestamp_s": data.timestamps_s.tolist(),
        "intrinsics": data.intrinsics.tolist(),
        "intrinsics_original": data.original_intrinsics.tolist(),
        "extrinsics": data.extrinsics.tolist(),
        "scene_from_camera": data.scene_from_camera.tolist(),
    }
    write_json(path, {
        **CONVENTIONS,
        "timestamps": "seconds" if data.has_clock else NO_CLOCK,
        "size": {"height": data.size[0], "width": data.size[1]},
        "original_size": {"height": data.original_size[0], "width": data.original_size[1]},
        "processed_from_original": data.processed_from_original.tolist(),
        "scene_from_world": data.scene_from_world.tolist(),
        "frames": [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)],
    })  # fmt: skip


# ---- trajectories in the TUM RGB-D format --------------------------------------------------------------------------


def write_tum(path: str | Path, data: SceneData) -> None:
    """Write scene-from-camera poses, metres and unit quaternions (scalar last, scalar >= 0), one line a frame.

    Times are those of the source's own clock (pictures named by their times keep them), else frame numbers, which a
    comment then says.
    """
    clock = "" if data.has_clock else f"; {TIMES_ARE_NUMBERS}"
    lines = [f"# timestamp tx ty tz qx qy qz qw (scene-from-camera, metres, z up{clock})"]
    turns = quaternions(data.scene_from_camera[:, :3, :3])
    for time_s, pose, (qx, qy, qz, qw) in zip(data.timestamps_s.tolist(), data.scene_from_camera, turns, strict=True):
        x, y, z = pose[:3, 3]
        lines.append(f"{time_s:.6f} {x:.6f} {y:.6f} {z:.6f} {qx:.9f} {qy:.9f} {qz:.9f} {qw:.9f}")
    with atomic_path(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")


def quaternions(rotations: Float[np.ndarray, "F 3 3"]) -> Float[np.ndarray, "F 4"]:
    """Unit quaternions (x, y, z, w), w >= 0, of the rotations nearest to matrices."""
    return np.asarray(Rotation.from_matrix(rotations).as_quat(canonical=True))
