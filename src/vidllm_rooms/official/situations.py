"""Situations in words as SQA3D has them in numbers: where one stands and which way one faces.

A situation names a thing to sit on or stand beside and another one that is faced or turned away from; what is asked
holds from every place it allows (``rooms.language.situations``). One of these is chosen: the seat itself, or the
side of the thing with most free floor.

Convention, that of SQA3D's own viewer: positions are those of the scan frame (not the aligned one) less the middle of
the mesh's bounding box, z is 0, and a quaternion turns someone who faces -x about z.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from vidllm.datasets.words import capitalised
from vidllm_rooms.language.facts import observe, viewer_axes
from vidllm_rooms.language.guessing import SEATS
from vidllm_rooms.language.situations import OVERHEAD_M, SITUATIONS, standpoints
from vidllm_rooms.language.speaker import Speaker
from vidllm_rooms.world import Clip, Room, RoomObject


@dataclass(frozen=True)
class Stand:
    """A place (2,) on the floor and a heading (2,) of length 1, in the room frame."""

    place: np.ndarray
    heading: np.ndarray


class SituationReader:
    """Understands the situations that were said about one clip."""

    def __init__(self, clip: Clip) -> None:
        self.clip = clip
        self.speaker = Speaker(observe(clip), np.random.default_rng(0))
        rows = self.speaker.simple.items()
        self.rows = {f"the {option.noun()}": row for row, options in rows for option in options}

    def stand(self, situation: str) -> Stand:
        """Where and how the speaker of a situation stands; ValueError for words that are none of ours."""
        place, target, away = self._named(situation)
        spots = self._in_room(standpoints(self.speaker, place))
        spot = spots[0] if self.speaker.thing(place).category in SEATS else self._freest(spots[1:])
        at = self._in_room(np.array([self.speaker.thing(target).position[:2]]))[0]
        heading = (spot - at) if away else (at - spot)
        return Stand(spot, heading / np.linalg.norm(heading))

    def _named(self, situation: str) -> tuple[int, int, bool]:
        for away, pattern in _patterns():
            match = pattern.fullmatch(situation)
            if match and match["x"] in self.rows and match["y"] in self.rows:
                return self.rows[match["x"]], self.rows[match["y"]], away
        raise ValueError(f"expected a situation about this clip, received {situation!r}; use the clip's own language")

    def _in_room(self, points: np.ndarray) -> np.ndarray:
        """(K, 2) points of the viewer's frame in the room frame."""
        eye, right, forward = viewer_axes(self.clip.extrinsics[0])
        return np.asarray(eye[:2] + points[:, :1] * right + points[:, 1:] * forward)

    def _freest(self, spots: np.ndarray) -> np.ndarray:
        free = [clearance_m(self.clip.room, spot) for spot in spots]
        return np.asarray(spots[int(np.argmax(free))])


@cache
def _patterns() -> tuple[tuple[bool, re.Pattern[str]], ...]:
    return tuple(_compiled())


def _compiled() -> Iterator[tuple[bool, re.Pattern[str]]]:
    for kind, templates in SITUATIONS.items():
        for template in templates:
            x, y = re.escape("{x}"), re.escape("{y}")
            text = re.escape(capitalised(template)).replace(x, "(?P<x>the .+)").replace(y, "(?P<y>the .+)")
            yield kind.endswith("away"), re.compile(text)


def clearance_m(room: Room, spot: np.ndarray) -> float:
    """Free floor about a place (2,): metres to the nearest wall or thing, negative inside one or outside the room."""
    low = [item for item in room.objects if item.centre[2] - item.size[2] / 2 < OVERHEAD_M and item.category != "rug"]
    return min(_to_walls(room.polygon, spot), *(_to_thing(item, spot) for item in low))


def _to_walls(polygon: Sequence[tuple[float, float]], spot: np.ndarray) -> float:
    start = np.array(polygon)
    edge = np.roll(start, -1, 0) - start
    along = ((spot - start) * edge).sum(-1) / (edge * edge).sum(-1)
    nearest = start + along.clip(0, 1)[:, None] * edge
    distance = float(np.linalg.norm(spot - nearest, axis=-1).min())
    straddles = (start[:, 1] > spot[1]) != (start[:, 1] + edge[:, 1] > spot[1])
    rise = np.where(edge[:, 1] == 0, 1.0, edge[:, 1])
    crossing = start[:, 0] + (spot[1] - start[:, 1]) / rise * edge[:, 0]
    inside = int((straddles & (spot[0] < crossing)).sum()) % 2 == 1
    return distance if inside else -distance


def _to_thing(item: RoomObject, spot: np.ndarray) -> float:
    x, y = spot - np.array(item.centre[:2])
    c, s = math.cos(item.yaw), math.sin(item.yaw)
    off = np.abs([c * x + s * y, c * y - s * x]) - np.array(item.size[:2]) / 2
    return float(np.linalg.norm(off.clip(0))) + min(float(off.max()), 0.0)


def pose_in_scan(stand: Stand, scan_from_room: np.ndarray, middle: np.ndarray) -> dict[str, dict[str, float | int]]:
    """``position`` and ``rotation`` of an SQA3D annotation; ``middle`` (3,) is that of the mesh's bounding box."""
    x, y = scan_from_room[:2, :2] @ stand.place + scan_from_room[:2, 3] - middle[:2]
    forward = scan_from_room[:2, :2] @ stand.heading
    half = math.atan2(-forward[1], -forward[0]) / 2
    return {
        "rotation": {"_x": 0, "_y": 0, "_z": math.sin(half), "_w": math.cos(half)},
        "position": {"x": float(x), "y": float(y), "z": 0},
    }
