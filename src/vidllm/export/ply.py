"""Coloured point clouds as binary little-endian PLY: positions in metres (scene frame, z up), colours in uint8."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8

from vidllm.export.geometry import SceneData
from vidllm.io.atomic import atomic_path

_VERTEX = np.dtype([("xyz", "<f4", 3), ("rgb", "u1", 3)])
_PROPERTIES = [f"property float {axis}" for axis in "xyz"] + [f"property uchar {c}" for c in ("red", "green", "blue")]


def write_ply(
    path: str | Path, data: SceneData, *, max_points: int = 2_000_000, min_confidence: float | None = None
) -> None:
    """Write the scene's points. The pixel stride is the smallest that stays within `max_points`."""
    write_points(path, *data.points(data.stride_for(max_points), min_confidence))


def write_points(path: str | Path, xyz: Float[np.ndarray, "N 3"], rgb: UInt8[np.ndarray, "N 3"]) -> None:
    """Write `(N, 3)` positions and uint8 colours. Raises `OutputError` when the file cannot be written."""
    vertices = np.empty(len(xyz), _VERTEX)
    vertices["xyz"], vertices["rgb"] = xyz, rgb
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        file.write("\n".join(_header(len(xyz))).encode("ascii") + b"\n")
        file.write(vertices.tobytes())


def _header(count: int) -> list[str]:
    comments = ["comment metres, z up, origin at the first camera"]
    start = ["ply", "format binary_little_endian 1.0", *comments, f"element vertex {count}"]
    return [*start, *_PROPERTIES, "end_header"]
