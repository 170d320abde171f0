"""Camera trajectories in the TUM RGB-D format: `timestamp tx ty tz qx qy qz qw`, pose of the camera in the scene."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import Float

from vidllm.export.geometry import SceneData
from vidllm.io.atomic import atomic_path


def write_tum(path: str | Path, data: SceneData) -> None:
    """Write scene-from-camera poses, metres and unit quaternions (scalar last, scalar >= 0), one line a frame."""
    lines = ["# timestamp tx ty tz qx qy qz qw (scene-from-camera, metres, z up)"]
    for time_s, pose in zip(data.timestamps_s.tolist(), data.scene_from_camera, strict=True):
        x, y, z = pose[:3, 3]
        qw, qx, qy, qz = quaternion_from_rotation(pose[:3, :3])
        lines.append(f"{time_s:.6f} {x:.6f} {y:.6f} {z:.6f} {qx:.9f} {qy:.9f} {qz:.9f} {qw:.9f}")
    with atomic_path(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")


def read_tum(path: str | Path) -> tuple[Float[np.ndarray, " F"], Float[np.ndarray, "F 4 4"]]:
    """Read timestamps and 4x4 poses."""
    rows = np.loadtxt(path, ndmin=2)
    if rows.shape[1] != 8:
        raise ValueError(f"{path}: expected 8 numbers a line, got {rows.shape[1]}")
    poses = np.tile(np.eye(4), (len(rows), 1, 1))
    poses[:, :3, 3] = rows[:, 1:4]
    poses[:, :3, :3] = [rotation_from_quaternion(q) for q in rows[:, [7, 4, 5, 6]]]
    return rows[:, 0], poses


def quaternion_from_rotation(rotation: Float[np.ndarray, "3 3"]) -> Float[np.ndarray, " 4"]:
    """Unit quaternion `(w, x, y, z)`, w >= 0: the eigenvector of the largest eigenvalue of Bar-Itzhack's matrix.

    For a matrix that is a rotation only up to rounding this is the quaternion of the nearest rotation.
    """
    (a, b, c), (d, e, f), (g, h, i) = rotation
    upper = [
        [a + e + i, 0, 0, 0],
        [h - f, a - e - i, 0, 0],
        [c - g, d + b, e - a - i, 0],
        [d - b, g + c, h + f, i - a - e],
    ]
    quaternion = np.linalg.eigh(np.array(upper, np.float64))[1][:, -1]
    return quaternion * (1.0 if quaternion[0] >= 0 else -1.0)


def rotation_from_quaternion(quaternion: Float[np.ndarray, " 4"]) -> Float[np.ndarray, "3 3"]:
    """Rotation matrix of a quaternion `(w, x, y, z)` of any non-zero length."""
    w, x, y, z = quaternion / np.linalg.norm(quaternion)
    return np.array([
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ])  # fmt: skip
