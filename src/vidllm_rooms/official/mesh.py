"""A room as a triangle mesh with colours and segments, as in ScanNet.

Each primitive is one closed surface and one segment. Vertices lie on the true surface, and the extent of an object's
vertices is that of the object: exactly for boxes, within 2 mm for round solids.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vidllm_rooms.world import Primitive

OBJECT_SPACING_M, SHELL_SPACING_M = 0.05, 0.1
FEWEST_AROUND, MOST_AROUND = 32, 160

Surface = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Mesh:
    """Triangles with colours and, for each vertex, the number of its segment.

    vertices (V, 3) float32 metres; colours (V, 3) uint8; faces (T, 3) int32, outward by the right hand;
    segments (V,) int64.
    """

    vertices: np.ndarray
    colours: np.ndarray
    faces: np.ndarray
    segments: np.ndarray

    def points(self, segments: Sequence[int]) -> np.ndarray:
        """The vertices (n, 3) of these segments."""
        return self.vertices[np.isin(self.segments, segments)]


def moved(transform: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Points (..., 3) after a 4x4 transform, float64."""
    return np.asarray(points.astype(np.float64) @ transform[:3, :3].T + transform[:3, 3])


def build_mesh(primitives: Sequence[Primitive], scan_from_room: np.ndarray) -> Mesh:
    """The mesh of primitives; segment i is primitive i, under the number of its first vertex."""
    surfaces = [tessellate(one, OBJECT_SPACING_M if one.owner else SHELL_SPACING_M) for one in primitives]
    points, faces = _joined(surfaces)
    sizes = [len(vertices) for vertices, _ in surfaces]
    colours = np.clip(np.array([one.rgb for one in primitives]) * 255 + 0.5, 0, 255).astype(np.uint8)
    segments = np.cumsum([0, *sizes[:-1]])
    vertices = moved(scan_from_room, points).astype(np.float32)
    return Mesh(vertices, colours.repeat(sizes, 0), faces.astype(np.int32), segments.repeat(sizes))


def tessellate(primitive: Primitive, spacing_m: float) -> Surface:
    """(vertices (V, 3) in the room frame, faces (T, 3)) of a primitive with edges of about ``spacing_m``."""
    size = np.array(primitive.size)
    points, faces = {"box": _box, "cylinder": _cylinder, "ellipsoid": _ellipsoid}[primitive.kind](size, spacing_m)
    c, s = math.cos(primitive.yaw), math.sin(primitive.yaw)
    turn = np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])
    return points * size @ turn.T + np.array(primitive.centre), faces


def _box(size: np.ndarray, spacing: float) -> Surface:
    """The cube of side 1 about the origin, each of its six sides a grid of its own."""
    sides = []
    for axis in range(3):
        u, v = (axis + 1) % 3, (axis + 2) % 3
        n, m = (max(1, math.ceil(size[k] / spacing)) for k in (u, v))
        for sign in (-1, 1):
            grid = np.empty((n + 1, m + 1, 3))
            grid[..., axis] = sign / 2
            grid[..., u] = np.linspace(-0.5, 0.5, n + 1)[:, None]
            grid[..., v] = np.linspace(-0.5, 0.5, m + 1)[None]
            faces = _grid_faces(n + 1, m + 1)
            sides.append((grid.reshape(-1, 3), faces if sign > 0 else faces[:, ::-1]))
    return _joined(sides)


def _cylinder(size: np.ndarray, spacing: float) -> Surface:
    """The upright cylinder of diameter and height 1: its side and two caps of rings."""
    around = _around(size, spacing)
    circle = _circle(around)
    up = max(1, math.ceil(size[2] / spacing))
    side = np.empty((up + 1, around + 1, 3))
    side[..., :2] = circle / 2
    side[..., 2] = np.linspace(0.5, -0.5, up + 1)[:, None]
    rings = max(1, math.ceil(max(size[0], size[1]) / 2 / spacing))
    cap = np.empty((rings + 1, around + 1, 3))
    cap[..., :2] = circle / 2 * np.linspace(0, 1, rings + 1)[:, None, None]
    faces = _grid_faces(rings + 1, around + 1)
    parts = [(side.reshape(-1, 3), _grid_faces(up + 1, around + 1))]
    for z in (0.5, -0.5):
        cap[..., 2] = z
        parts.append((cap.reshape(-1, 3).copy(), faces if z > 0 else faces[:, ::-1]))
    return _joined(parts)


def _ellipsoid(size: np.ndarray, spacing: float) -> Surface:
    """The ball of diameter 1, from its north pole down; the equator is one of the rows."""
    around = _around(size, spacing)
    half_rows = max(8, math.ceil(math.pi * size.max() / 4 / spacing))
    polar = np.linspace(0, math.pi, 2 * half_rows + 1)[:, None]
    ball = np.empty((2 * half_rows + 1, around + 1, 3))
    ball[..., :2] = np.sin(polar)[..., None] * _circle(around) / 2
    ball[..., 2] = np.cos(polar) / 2
    return ball.reshape(-1, 3), _grid_faces(2 * half_rows + 1, around + 1)


def _around(size: np.ndarray, spacing: float) -> int:
    """How many steps make a circle: a multiple of four, so that the ends of the axes are among them."""
    steps = math.ceil(math.pi * max(size[0], size[1]) / spacing / 4) * 4
    return min(max(steps, FEWEST_AROUND), MOST_AROUND)


def _circle(steps: int) -> np.ndarray:
    """(steps + 1, 2) points of the unit circle, counter-clockwise, the last one again the first."""
    angle = 2 * math.pi * (np.arange(steps + 1) % steps) / steps
    return np.stack([np.cos(angle), np.sin(angle)], -1)


def _grid_faces(rows: int, columns: int) -> np.ndarray:
    """Two triangles for each cell of a grid of vertices; counter-clockwise where rows x columns points outward."""
    corner = np.arange((rows - 1) * columns).reshape(rows - 1, columns)[:, :-1].ravel()
    down, right = corner + columns, corner + 1
    return np.concatenate([np.stack([corner, down, down + 1], -1), np.stack([corner, down + 1, right], -1)])


def _joined(parts: list[Surface]) -> Surface:
    starts = np.cumsum([0, *(len(points) for points, _ in parts)])
    faces = [triangles + start for (_, triangles), start in zip(parts, starts[:-1], strict=True)]
    return np.concatenate([points for points, _ in parts]), np.concatenate(faces)


def write_mesh(path: Path, mesh: Mesh) -> None:
    """Binary PLY as ScanNet has it: float x y z, uchar red green blue alpha; faces of int vertex_indices."""
    header = (
        "ply\nformat binary_little_endian 1.0\ncomment a procedural room\n"
        f"element vertex {len(mesh.vertices)}\n"
        "property float x\nproperty float y\nproperty float z\n"
        "property uchar red\nproperty uchar green\nproperty uchar blue\nproperty uchar alpha\n"
        f"element face {len(mesh.faces)}\nproperty list uchar int vertex_indices\nend_header\n"
    )
    vertices = np.empty(len(mesh.vertices), dtype=[("xyz", "<f4", 3), ("rgba", "u1", 4)])
    vertices["xyz"], vertices["rgba"][:, :3], vertices["rgba"][:, 3] = mesh.vertices, mesh.colours, 255
    faces = np.empty(len(mesh.faces), dtype=[("count", "u1"), ("index", "<i4", 3)])
    faces["count"], faces["index"] = 3, mesh.faces
    path.write_bytes(header.encode() + vertices.tobytes() + faces.tobytes())
