"""What is measured of a room's scan: mesh, segments, depth and poses in the scan frame; no box, outline or mask."""

from __future__ import annotations

import math

import numpy as np
from scipy.ndimage import binary_fill_holes
from scipy.spatial.distance import cdist

from vidllm_rooms.language.measures import Measures
from vidllm_rooms.official.mesh import moved
from vidllm_rooms.official.scan import Scan
from vidllm_rooms.world.outline import WALL_M

_CELL_M = 0.04
_MOST_POINTS = 400  # of an object's surface, where distances and visibility are taken
_DEPTH_TOLERANCE_M, _DEPTH_TOLERANCE = 0.03, 0.02


def in_scan(scan: Scan, depth_m: np.ndarray, scan_from_camera: np.ndarray, intrinsics: np.ndarray) -> Measures:
    """Measures of the scanned instances.

    ``depth_m`` (F, h, w) along the optical axis, 0 = none; ``scan_from_camera`` (F, 4, 4) with OpenCV axes;
    ``intrinsics`` (3, 3) of the depth pictures, pixel centres at +0.5.
    """
    points = {
        item.room_id: scan.mesh.points(item.segments).astype(np.float64) for item in scan.instances if item.room_id
    }
    aligned = {number: moved(scan.frames.aligned_from_scan, group) for number, group in points.items()}
    thin = {number: group[:: math.ceil(len(group) / _MOST_POINTS)] for number, group in points.items()}
    first_frames: dict[int, tuple[int, ...]] = {}
    for number, group in thin.items():
        seen = (_is_seen(group, *frame, intrinsics) for frame in zip(depth_m, scan_from_camera, strict=True))
        first_frames[number] = (next((frame for frame, is_seen in enumerate(seen) if is_seen), len(depth_m)),)
    return Measures(
        area_m2=_area_inside_walls(scan),
        longest_m={number: _longest(group) for number, group in points.items()},
        centre={number: (group.min(0) + group.max(0))[:2] / 2 for number, group in aligned.items()},
        first_frames=first_frames,
        apart=lambda a, b: float(cdist(thin[a], thin[b]).min()),
    )


def _longest(points: np.ndarray) -> float:
    """The longest side of the upright box of least area about the points, over all turns by whole degrees."""
    turns = np.radians(np.arange(90))
    x = points[:, :1] * np.cos(turns) + points[:, 1:2] * np.sin(turns)
    y = points[:, 1:2] * np.cos(turns) - points[:, :1] * np.sin(turns)
    width, depth = np.ptp(x, axis=0), np.ptp(y, axis=0)
    best = int((width * depth).argmin())
    return float(max(width[best], depth[best], np.ptp(points[:, 2])))


def _is_seen(points: np.ndarray, depth_m: np.ndarray, scan_from_camera: np.ndarray, intrinsics: np.ndarray) -> bool:
    """Whether any of the points is the nearest thing at its pixel."""
    seen = moved(np.linalg.inv(scan_from_camera), points)
    seen = seen[seen[:, 2] > 0.05]
    pixels = np.floor(seen @ intrinsics.T / seen[:, 2:])[:, :2].astype(int)
    inside = ((pixels >= 0) & (pixels < depth_m.shape[::-1])).all(1)
    measured, along = depth_m[pixels[inside, 1], pixels[inside, 0]], seen[inside, 2]
    return bool((np.abs(measured - along) < _DEPTH_TOLERANCE_M + _DEPTH_TOLERANCE * along)[measured > 0].any())


def _area_inside_walls(scan: Scan) -> float:
    """Cells of a grid that walls cut off from the outside; each wall covers the rectangle about its vertices."""
    walls = [scan.mesh.points([n]) for item in scan.instances if item.label == "wall" for n in item.segments]
    plan = [moved(scan.frames.aligned_from_scan, wall)[:, :2] for wall in walls]
    low, high = np.concatenate(plan).min(0) - 2 * _CELL_M, np.concatenate(plan).max(0) + 2 * _CELL_M
    x, y = (np.arange(a, b, _CELL_M) for a, b in zip(low, high, strict=True))
    cells = np.stack(np.meshgrid(x, y, indexing="ij"), -1)
    free = np.ones(cells.shape[:2], bool)
    for wall in plan:
        middle = (wall.min(0) + wall.max(0)) / 2
        along = np.linalg.svd(wall - wall.mean(0), full_matrices=False)[2][0]
        axes = np.stack([along, [-along[1], along[0]]], -1)
        half = np.abs((wall - middle) @ axes).max(0)
        free &= ~(np.abs((cells - middle) @ axes) <= np.maximum(half, WALL_M / 2)).all(-1)
    return float((binary_fill_holes(~free) & free).sum() * _CELL_M**2)
