"""Facts about a clip: the visible objects in the viewer's frame and their clear spatial relations.

The viewer is the first camera, made upright: x to its right, y forward (both horizontal), z up from the
floor, metres. Relations are three-valued: +1 clearly true, -1 clearly false, 0 ambiguous.
Objects of a few pixels ("faint") are never mentioned, but statements whose truth depends on them are not made either.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vidllm_rooms.world import Clip, RoomObject

VISIBLE_FRACTION = 0.003  # of a frame: the default of Clip.visible
SIDE_MARGIN_M = 0.3
NEAR_M, FAR_M = 0.4, 1.0  # free space below which things are next to each other, beyond which they are not
CLEAR_RATIO = 1.15

#: A word that also covers another category: where both are seen the wider word is avoided.
WIDER_NAMES = {
    "armchair": "chair", "office chair": "chair", "coffee table": "table", "flower": "plant",
    "floor lamp": "lamp", "table lamp": "lamp", "ceiling lamp": "lamp",
}  # fmt: skip
GENERIC_NAMES = ("lamp",)


@dataclass(frozen=True)
class Thing:
    """One object in the viewer's frame. ``index`` is its row in every table of the scene."""

    index: int
    id: int
    category: str
    colour: str
    material: str
    on: int | None  # row of the support; -1 when that is not in the picture
    carries: int  # objects of the room that stand on it, seen or not
    shown: bool  # visible in the sense of Clip.visible; otherwise faint
    fraction: float  # share of the frame that shows most of it
    position: tuple[float, float, float]
    size: tuple[float, float, float]

    @property
    def height(self) -> float:
        """Vertical extent in metres."""
        return self.size[2]

    @property
    def length(self) -> float:
        """Longer horizontal side in metres."""
        return max(self.size[0], self.size[1])

    @property
    def volume(self) -> float:
        """Volume of the box in cubic metres."""
        return self.size[0] * self.size[1] * self.size[2]


@dataclass(frozen=True)
class Scene:
    """The objects of a clip with their tables; made by ``observe``.

    ``relations[name][a][b]`` is the three-valued "a is <name> b"; ``distance_m`` between centres,
    ``gap_m`` between axis-aligned boxes, ``camera_m`` from the first camera to each centre.
    """

    things: tuple[Thing, ...]
    shown: tuple[int, ...]
    relations: dict[str, list[list[int]]]
    distance_m: list[list[float]]
    gap_m: list[list[float]]
    camera_m: list[float]
    room_type: str
    shape: str

    def named(self, name: str) -> list[int]:
        """Rows, including faint ones, to which the name applies."""
        return [t.index for t in self.things if name in (t.category, WIDER_NAMES.get(t.category))]

    def plain(self, name: str) -> bool:
        """Whether the name is unambiguous: it applies to no other category in the picture."""
        return name in GENERIC_NAMES or all(name != WIDER_NAMES.get(t.category) for t in self.things)

    def faint(self, rows: list[int]) -> bool:
        """Whether any of the rows is barely seen."""
        return any(not self.things[row].shown for row in rows)


def observe(clip: Clip) -> Scene:
    """The scene of a clip: objects with at least one pixel in some frame, measured from the first camera."""
    area, ids = clip.instance[0].size, int(clip.instance.max()) + 1
    most = np.stack([np.bincount(frame.ravel(), minlength=ids) for frame in clip.instance]).max(0)
    seen = [o for o in clip.room.objects if o.id < ids and most[o.id]]
    eye, right, forward = viewer_axes(clip.extrinsics[0])
    rows = {item.id: index for index, item in enumerate(seen)}
    things = []
    for item in seen:
        flat, fraction = np.array(item.centre[:2]) - eye[:2], int(most[item.id]) / area
        things.append(
            Thing(
                index=rows[item.id],
                id=item.id,
                category=item.category,
                colour=item.colour,
                material=item.material,
                on=None if item.on is None else rows.get(item.on, -1),
                carries=sum(other.on == item.id for other in clip.room.objects),
                shown=fraction >= VISIBLE_FRACTION,
                fraction=fraction,
                position=(float(flat @ right), float(flat @ forward), float(item.centre[2])),
                size=item.size,
            )
        )
    position = np.array([t.position for t in things]).reshape(-1, 3)
    gap = _gaps(seen)
    return Scene(
        things=tuple(things),
        shown=tuple(t.index for t in things if t.shown),
        relations=_relations(things, position, _half_extents(seen, right, forward), gap),
        distance_m=np.linalg.norm(position[:, None] - position[None], axis=-1).tolist(),
        gap_m=gap.tolist(),
        camera_m=np.linalg.norm(position - np.array([0.0, 0.0, eye[2]]), axis=-1).tolist(),
        room_type=clip.room.room_type,
        shape=clip.room.shape,
    )


def viewer_axes(extrinsics: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Centre (3,) of a camera and its horizontal right and forward directions (2,) in the room frame."""
    rotation, translation = extrinsics[:3, :3], extrinsics[:3, 3]
    forward = rotation[2, :2]
    if np.linalg.norm(forward) < 1e-6:  # straight up or down: the top of the image is ahead
        forward = -rotation[1, :2]
    forward = forward / np.linalg.norm(forward)
    return -rotation.T @ translation, np.array([forward[1], -forward[0]]), forward


def _half_extents(items: list[RoomObject], first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(N, 3) half sizes of the boxes' bounds along two horizontal directions and z."""
    size = np.array([o.size for o in items]).reshape(-1, 3) / 2
    yaw = np.array([o.yaw for o in items])
    along = np.stack([np.cos(yaw), np.sin(yaw)], -1)
    across = np.stack([-np.sin(yaw), np.cos(yaw)], -1)
    sides = [np.abs(along @ axis) * size[:, 0] + np.abs(across @ axis) * size[:, 1] for axis in (first, second)]
    return np.stack([*sides, size[:, 2]], -1)


def _gaps(items: list[RoomObject]) -> np.ndarray:
    """(N, N) free space between the boxes' bounds along the room's own axes, metres; 0 if they touch."""
    half = _half_extents(items, np.array([1.0, 0.0]), np.array([0.0, 1.0]))
    centre = np.array([o.centre for o in items]).reshape(-1, 3)
    apart = np.abs(centre[:, None] - centre[None]) - half[:, None] - half[None]
    return np.asarray(np.linalg.norm(np.maximum(apart, 0.0), axis=-1))


def _relations(
    things: Sequence[Thing], position: np.ndarray, half: np.ndarray, gap: np.ndarray
) -> dict[str, list[list[int]]]:
    """The three-valued tables (N, N) of all relations; between an object and its support there is only "on"."""
    offset = np.abs(position[:, None] - position[None])
    widest = np.maximum(half[:, None], half[None])
    apart = offset[..., :2] - half[:, None, :2] - half[None, :, :2]
    stacked = (apart < 0).all(-1)
    before = (position[:, 1] > 0.3)[:, None] & (position[:, 1] > 0.3)[None]
    #: (N, N, 2): a is below b by the margin, and neither centre lies within the other's extent
    beyond = position[None, :, :2] - position[:, None, :2] > np.maximum(widest[..., :2], SIDE_MARGIN_M)
    bearing = np.arctan2(position[:, 0], position[:, 1])
    left = beyond[..., 0] & (bearing[None] - bearing[:, None] > np.radians(6)) & before
    front = beyond[..., 1] & (offset[..., 1] > offset[..., 0]) & before
    rise = (position[:, 2] - half[:, 2])[:, None] - (position[:, 2] + half[:, 2])[None]
    above = (rise > 0.05) & (offset[..., :2] < widest[..., :2]).all(-1)
    not_above = (apart.max(-1) > 0.4) | ((rise < -0.1) & ~stacked) | above.T
    on = _on(things)
    tables = [_signs(left, left.T), _signs(front, front.T), _signs((gap < NEAR_M) & ~stacked, gap > FAR_M)]
    tables.append(_signs(above, not_above))
    for table in tables:
        table[(on != -1) | (on.T != -1)] = 0
        np.fill_diagonal(table, 0)
    ahead, nearer, near, over = tables
    named = {"left": ahead, "right": ahead.T, "front": nearer, "behind": nearer.T}
    named |= {"near": near, "above": over, "under": over.T, "on": on}
    return {name: table.tolist() for name, table in named.items()}


def _signs(yes: np.ndarray, no: np.ndarray) -> np.ndarray:
    return yes.astype(np.int8) - no.astype(np.int8)


def _on(things: Sequence[Thing]) -> np.ndarray:
    """A stands on b: +1 directly, 0 through something else, -1 otherwise."""
    table = np.full((len(things), len(things)), -1, np.int8)
    for thing in things:
        below, direct = thing.on, True
        while below is not None and below >= 0:
            table[thing.index, below] = 1 if direct else 0
            below, direct = things[below].on, False
    return table
