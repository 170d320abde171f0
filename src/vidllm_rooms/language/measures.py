"""Measures of a room from its construction: oriented boxes, the outline, the rendered instance masks.

``vidllm_rooms.official.scan_measures`` measures the same from the scan, independently, so that an error of convention
in one of them is noticed: benchmark questions are asked only if both agree (``vidllm_rooms.language.vsi``).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from vidllm_rooms.language.facts import VISIBLE_FRACTION
from vidllm_rooms.world import Clip, RoomObject
from vidllm_rooms.world.outline import Footprint, overlap


@dataclass(frozen=True)
class Measures:
    """Measures of a room and of its objects by their ids in the room (``RoomObject.id``)."""

    area_m2: float  # the floor inside the walls
    longest_m: dict[int, float]  # of length, width and height
    centre: dict[int, np.ndarray]  # (2,) in plan, metres, in a right-handed level frame, z up
    first_frames: dict[int, tuple[int, ...]]  # that show it; several where several definitions of "shows" are taken
    apart: Callable[[int, int], float]  # metres between the closest points of two objects


def in_room(clip: Clip) -> Measures:
    """Measures of the objects with at least one pixel in some frame."""
    shown = {item.id: (clip.instance == item.id).mean((1, 2)) for item in clip.room.objects}
    seen = {item.id: item for item in clip.room.objects if shown[item.id].any()}
    x, y = np.array(clip.room.polygon).T
    return Measures(
        area_m2=float(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2,
        longest_m={number: max(item.size) for number, item in seen.items()},
        centre={number: np.array(item.centre[:2]) for number, item in seen.items()},
        first_frames={number: _first_frames(shown[number]) for number in seen},
        apart=lambda a, b: box_distance_m(seen[a], seen[b]),
    )


def _first_frames(shares: np.ndarray) -> tuple[int, ...]:
    """The first frame with a pixel of it, and the first that shows it clearly (the number of frames if none does)."""
    clear = np.flatnonzero(shares >= VISIBLE_FRACTION)
    return int(np.flatnonzero(shares)[0]), int(clear[0]) if len(clear) else len(shares)


def box_distance_m(a: RoomObject, b: RoomObject) -> float:
    """Exact free space between two upright boxes, metres, 0 if they touch."""
    rise = max(abs(a.centre[2] - b.centre[2]) - (a.size[2] + b.size[2]) / 2, 0.0)
    return math.hypot(_plan_distance(a, b), rise)


def _plan_distance(a: RoomObject, b: RoomObject) -> float:
    """Distance of two rotated rectangles: 0 if they overlap, otherwise from a corner of one to a side of the other."""
    first, second = (Footprint(*o.centre[:2], o.size[0] / 2, o.size[1] / 2, o.yaw, 0.0, 1.0) for o in (a, b))
    if overlap(first, second, 0.0):
        return 0.0
    ends = ((a, second.corners()), (b, first.corners()))
    off = [np.abs(item.local(np.array(corners))) - np.array(item.size[:2]) / 2 for item, corners in ends]
    return float(np.linalg.norm(np.concatenate(off).clip(0), axis=1).min())
