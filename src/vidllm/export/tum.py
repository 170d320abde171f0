"""Camera trajectories in the TUM RGB-D format: `timestamp tx ty tz qx qy qz qw`, pose of the camera in the scene."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import Float
from scipy.spatial.transform import Rotation

from vidllm.export.geometry import SceneData
from vidllm.io.atomic import atomic_path
from vidllm.io.cameras.matrices import NO_CLOCK


def write_tum(path: str | Path, data: SceneData) -> None:
    """Write scene-from-camera poses, metres and unit quaternions (scalar last, scalar >= 0), one line a frame.

    Times are those of the source's own clock (pictures named by their times keep them), else frame numbers, which a
    comment then says.
    """
    clock = "" if data.has_clock else f"; {NO_CLOCK}"
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
