"""Names of exported scenes and the frames a scan lives in.

Scene names. Seed s is ``scene9<s>_00`` with s padded to three digits: seed 7 is ``scene9007_00``, seed 1000 is
``scene91000_00``. The rule is one to one for every seed, none of ScanNet's own scenes (0000 to 0806) has such a name,
and every room is its own space, so that the ending, ScanNet's number of the rescan, is always 00.

Frames. The scan frame is that of mesh and poses: z up, metres, the room turned by a yaw and moved into the positive
octant. The aligned frame, which ``axisAlignment`` leads to, has the room's own axes, its origin on the floor below the
middle of the footprint's bounding rectangle. All boxes of the language sets live in the aligned frame.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from vidllm_rooms.world import Room

SPLITS = ("train", "val", "test")
_NAME = re.compile(r"scene9(\d{3,})_00")


def scene_name(seed: int) -> str:
    """The scene of a seed; ValueError when the seed is negative."""
    if seed < 0:
        raise ValueError(f"expected a seed of at least 0, received {seed}; only those have a scene name")
    return f"scene9{seed:03d}_00"


def seed_of(name: str) -> int:
    """The seed of a scene; ValueError for a name that ``scene_name`` does not give."""
    match = _NAME.fullmatch(name)
    if match is None or scene_name(int(match[1])) != name:
        raise ValueError(f"{name}: expected the name of an exported room, such as scene9007_00")
    return int(match[1])


@dataclass(frozen=True)
class ScanFrames:
    """4x4 float64 matrices in metres: ``scan_from_room`` and ``aligned_from_scan``.

    ``aligned_from_scan`` has six decimals, just as the file that holds it, so that nothing is lost in writing it.
    """

    scan_from_room: np.ndarray
    aligned_from_scan: np.ndarray


def scan_frames(room: Room) -> ScanFrames:
    """The frames of a room's scan, drawn from its seed: the yaw is never within 15 degrees of the axes."""
    rng = np.random.default_rng([room.seed, 11])
    yaw = np.radians(rng.uniform(15, 75) + 90 * rng.integers(4))
    outline = np.array(room.polygon)
    scan_from_room = np.eye(4)
    scan_from_room[:2, :2] = [[np.cos(yaw), -np.sin(yaw)], [np.sin(yaw), np.cos(yaw)]]
    lowest = (outline @ scan_from_room[:2, :2].T).min(0)
    scan_from_room[:2, 3] = rng.uniform(0.2, 0.6, 2) - lowest
    scan_from_room[2, 3] = rng.uniform(0.03, 0.15)
    middle = np.eye(4)
    middle[:2, 3] = -(outline.min(0) + outline.max(0)) / 2
    return ScanFrames(scan_from_room, np.round(middle @ np.linalg.inv(scan_from_room), 6) + 0.0)


def moved(transform: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Points (..., 3) after a 4x4 transform, float64."""
    return np.asarray(points.astype(np.float64) @ transform[:3, :3].T + transform[:3, 3])
