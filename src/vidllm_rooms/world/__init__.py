"""Data classes of a room, shared by layout, ray-caster and language.

Room frame: z up, metres, floor at z = 0, right-handed. Boxes are (centre, size, yaw about z). Cameras are OpenCV (x
right, y down, z forward); extrinsics are camera-from-room.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from importlib import resources
from typing import Any, Literal

import numpy as np


def read_data(name: str) -> dict[str, Any]:
    """A JSON file of the package's ``data`` folder."""
    return json.loads(resources.files("vidllm_rooms").joinpath(f"data/{name}.json").read_text(encoding="utf-8"))


Triple = tuple[float, float, float]
RGB = Triple
Kind = Literal["box", "cylinder", "ellipsoid"]
#: How a clip looks: "plain", or "life" with clutter, cameras that go near, turn and shake, and a phone's pictures.
Look = Literal["plain", "life"]
#: The twelve colour names of the world and their reference sRGB values (0..1).
COLOURS: dict[str, RGB] = {name: (r, g, b) for name, (r, g, b) in read_data("catalogue")["colours"].items()}


@dataclass(frozen=True)
class Primitive:
    """One convex solid: a box, an upright cylinder or an ellipsoid inscribed in (centre, size, yaw)."""

    kind: Kind
    centre: Triple
    size: Triple
    yaw: float
    rgb: RGB
    texture: str = "plain"  # a name in textures.py
    owner: int = 0  # object id; 0 is the shell (floor, walls, ceiling)


@dataclass(frozen=True)
class RoomObject:
    """A named object: piece of furniture, small object, door, window, picture or lamp."""

    id: int  # >= 1, equals the value in instance masks
    category: str
    colour: str  # a key of COLOURS: the dominant colour
    material: str
    centre: Triple
    size: Triple  # full extents along the object's own x, y, z
    yaw: float  # radians about z, room frame
    on: int | None  # id of the supporting object, None for the floor, wall or ceiling
    parts: tuple[Primitive, ...]

    def local(self, points: np.ndarray) -> np.ndarray:
        """Points (..., 2 or 3) of the room in the object's own frame, from its centre."""
        offset = points - np.array(self.centre[: points.shape[-1]])
        c, s = math.cos(self.yaw), math.sin(self.yaw)
        x, y = offset[..., 0], offset[..., 1]
        return np.concatenate([np.stack([c * x + s * y, c * y - s * x], -1), offset[..., 2:]], -1)


@dataclass(frozen=True)
class Light:
    """A point light in the room frame."""

    position: Triple
    rgb: RGB


@dataclass(frozen=True)
class Room:
    """A furnished room. ``polygon`` is the counter-clockwise footprint (N, 2) in metres."""

    seed: int
    shape: str  # "rectangle", "L", ...
    room_type: str  # "bedroom", "office", ...
    polygon: tuple[tuple[float, float], ...]
    height: float
    shell: tuple[Primitive, ...]
    objects: tuple[RoomObject, ...]
    lights: tuple[Light, ...]
    look: Look = "plain"

    def object(self, object_id: int) -> RoomObject:
        """The object with this id; KeyError when there is none."""
        return {item.id: item for item in self.objects}[object_id]


@dataclass(frozen=True)
class Clip:
    """A rendered camera path with exact ground truth.

    rgb (F,H,W,3) uint8; depth_m (F,H,W) float32 z-depth along the optical axis; instance (F,H,W) uint8/int16 object
    ids, 0 = shell (floor, walls, ceiling); extrinsics (F,4,4) camera-from-room float64; intrinsics (F,3,3) float64 in
    pixels with pixel centres at +0.5 (cx = W/2).
    """

    room: Room
    rgb: np.ndarray
    depth_m: np.ndarray
    instance: np.ndarray
    extrinsics: np.ndarray
    intrinsics: np.ndarray

    def visible(self, min_fraction: float = 0.003) -> tuple[int, ...]:
        """Ids of objects that fill at least ``min_fraction`` of some frame, in id order."""
        flat = self.instance.reshape(len(self.instance), -1)
        return tuple(item.id for item in self.room.objects if ((flat == item.id).mean(1) >= min_fraction).any())
