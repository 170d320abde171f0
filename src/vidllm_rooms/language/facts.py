"""What is true of a clip: the visible objects in the viewer's frame and their clear spatial relations.

The viewer is the first camera, made upright: x to its right, y forward (both horizontal), z up from the
floor, metres. Relations are three-valued, +1 clearly true, -1 clearly false, 0 not clear enough to speak of.
Objects with a few pixels only ("faint") are never spoken of, but a statement that they would change is not made.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vidllm_rooms.world import Clip, Room, RoomObject

VISIBLE_FRACTION = 0.003  # of a frame: the default of Clip.visible
SIDE_MARGIN_M = 0.3
NEAR_M, FAR_M = 0.4, 1.0  # free space below which things are next to each other, beyond which they are not
CLEAR_RATIO = 1.15

#: A word that also covers another category: where both are seen the wider word is avoided.
WIDER_NAMES: dict[str, tuple[str, ...]] = {
    "armchair": ("chair",),
    "office chair": ("chair",),
    "coffee table": ("table",),
    "floor lamp": ("lamp",),
    "table lamp": ("lamp",),
    "ceiling lamp": ("lamp",),
    "flower": ("plant",),
}
GENERIC_NAMES = ("lamp",)


@dataclass(frozen=True)
class Thing:
    """One object as the viewer has it. ``index`` is its row in every table of the scene."""

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


Table = list[list[int]]


@dataclass(frozen=True)
class Scene:
    """The things of a clip with their tables; build it with ``observe``.

    ``relations[name][a][b]`` is the three-valued "a is <name> b"; ``distance_m`` between centres,
    ``gap_m`` between axis-aligned boxes, ``camera_m`` from the first camera to each centre.
    """

    things: tuple[Thing, ...]
    shown: tuple[int, ...]
    relations: dict[str, Table]
    distance_m: list[list[float]]
    gap_m: list[list[float]]
    camera_m: list[float]
    room_type: str
    shape: str

    def named(self, name: str) -> list[int]:
        """Rows, faint ones included, that the name covers."""
        return [t.index for t in self.things if t.category == name or name in WIDER_NAMES.get(t.category, ())]

    def plain(self, name: str) -> bool:
        """Whether the name is unmistakable: no other category in the picture could be called by it."""
        if name in GENERIC_NAMES:
            return True
        return not any(name in WIDER_NAMES.get(t.category, ()) for t in self.things)

    def faint(self, rows: list[int]) -> bool:
        """Whether any of the rows is barely seen."""
        return any(not self.things[row].shown for row in rows)


def observe(clip: Clip) -> Scene:
    """The scene of a clip: objects with at least one pixel in some frame, measured from the first camera."""
    counts = _pixel_counts(clip.instance)
    area = clip.instance.shape[1] * clip.instance.shape[2]
    seen = [o for o in clip.room.objects if o.id < counts.shape[1] and counts[:, o.id].any()]
    eye, right, forward = viewer_axes(clip.extrinsics[0])
    rows = {item.id: index for index, item in enumerate(seen)}
    fractions = {item.id: int(counts[:, item.id].max()) / area for item in seen}
    things = tuple(_thing(item, clip.room, rows, fractions[item.id], (eye, right, forward)) for item in seen)
    position = np.array([t.position for t in things]).reshape(-1, 3)
    view_half = _half_extents(seen, right, forward)
    gap = _gaps(seen)
    offset = position[:, None] - position[None]
    distance = np.linalg.norm(offset, axis=-1)
    camera = np.linalg.norm(position - np.array([0.0, 0.0, eye[2]]), axis=-1)
    return Scene(
        things=things,
        shown=tuple(t.index for t in things if t.shown),
        relations=_relations(things, position, view_half, gap),
        distance_m=distance.tolist(),
        gap_m=gap.tolist(),
        camera_m=camera.tolist(),
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


def _pixel_counts(instance: np.ndarray) -> np.ndarray:
    """(F, ids) pixels of each id in each frame."""
    frames = instance.reshape(len(instance), -1)
    top = int(frames.max()) + 1
    return np.stack([np.bincount(frame, minlength=top) for frame in frames])


def _thing(
    item: RoomObject,
    room: Room,
    rows: dict[int, int],
    fraction: float,
    viewer: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> Thing:
    eye, right, forward = viewer
    flat = np.array(item.centre[:2]) - eye[:2]
    return Thing(
        index=rows[item.id],
        id=item.id,
        category=item.category,
        colour=item.colour,
        material=item.material,
        on=None if item.on is None else rows.get(item.on, -1),
        carries=sum(other.on == item.id for other in room.objects),
        shown=fraction >= VISIBLE_FRACTION,
        fraction=fraction,
        position=(float(flat @ right), float(flat @ forward), float(item.centre[2])),
        size=(float(item.size[0]), float(item.size[1]), float(item.size[2])),
    )


def _half_extents(items: list[RoomObject], first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(N, 3) half sizes of the boxes' bounds along two horizontal directions and z."""
    size = np.array([o.size for o in items]).reshape(-1, 3) / 2
    yaw = np.array([o.yaw for o in items])
    along = np.stack([np.cos(yaw), np.sin(yaw)], -1)
    across = np.stack([-np.sin(yaw), np.cos(yaw)], -1)
    sides = [np.abs(along @ axis) * size[:, 0] + np.abs(across @ axis) * size[:, 1] for axis in (first, second)]
    return np.stack([*sides, size[:, 2]], -1)


def _gaps(items: list[RoomObject]) -> np.ndarray:
    """(N, N) free space between the boxes' bounds along the room's own axes, metres; 0 where they touch."""
    half = _half_extents(items, np.array([1.0, 0.0]), np.array([0.0, 1.0]))
    centre = np.array([o.centre for o in items]).reshape(-1, 3)
    apart = np.abs(centre[:, None] - centre[None]) - half[:, None] - half[None]
    return np.asarray(np.linalg.norm(np.maximum(apart, 0.0), axis=-1))


def _relations(things: tuple[Thing, ...], position: np.ndarray, half: np.ndarray, gap: np.ndarray) -> dict[str, Table]:
    on = _on(things)
    left = _left(position, half)
    front = _front(position, half)
    near = _near(position, half, gap)
    above = _above(position, half)
    touching = (on != -1) | (on.T != -1)
    for table in (left, front, near, above):
        table[touching] = 0
        np.fill_diagonal(table, 0)
    tables = {"left": left, "right": left.T, "front": front, "behind": front.T}
    tables |= {"near": near, "above": above, "under": above.T, "on": on}
    return {name: table.tolist() for name, table in tables.items()}


def _sign(yes: np.ndarray, no: np.ndarray) -> np.ndarray:
    return yes.astype(np.int8) - no.astype(np.int8)


def _beyond(value: np.ndarray, half: np.ndarray) -> np.ndarray:
    """(N, N): value of a is below that of b by the margin, and neither centre lies within the other's extent."""
    ahead = value[None] - value[:, None]
    reach = np.maximum(np.maximum(half[:, None], half[None]), SIDE_MARGIN_M)
    return np.asarray(ahead > reach)


def _left(position: np.ndarray, half: np.ndarray) -> np.ndarray:
    """A is left of b: both before the viewer, apart sideways and in bearing."""
    bearing = np.arctan2(position[:, 0], position[:, 1])
    before = position[:, 1] > 0.3
    clear = (bearing[None] - bearing[:, None]) > np.radians(6)
    yes = _beyond(position[:, 0], half[:, 0]) & clear & before[:, None] & before[None]
    return _sign(yes, yes.T)


def _front(position: np.ndarray, half: np.ndarray) -> np.ndarray:
    """A is in front of b: nearer to the viewer along the view, and more so than it is to the side."""
    offset = np.abs(position[:, None] - position[None])
    before = position[:, 1] > 0.3
    aligned = (offset[..., 1] > offset[..., 0]) & before[:, None] & before[None]
    yes = _beyond(position[:, 1], half[:, 1]) & aligned
    return _sign(yes, yes.T)


def _overlap(position: np.ndarray, half: np.ndarray) -> np.ndarray:
    """(N, N): the footprints' bounds meet."""
    apart = np.abs(position[:, None, :2] - position[None, :, :2]) - half[:, None, :2] - half[None, :, :2]
    return np.asarray((apart < 0).all(-1))


def _near(position: np.ndarray, half: np.ndarray, gap: np.ndarray) -> np.ndarray:
    stacked = _overlap(position, half)
    return _sign((gap < NEAR_M) & ~stacked, gap > FAR_M)


def _above(position: np.ndarray, half: np.ndarray) -> np.ndarray:
    """A hangs over b: its underside above b's top, the centre of either over the other's footprint."""
    inside = np.abs(position[:, None, :2] - position[None, :, :2])
    over = (inside < np.maximum(half[:, None, :2], half[None, :, :2])).all(-1)
    apart = (inside - half[:, None, :2] - half[None, :, :2]).max(-1)
    rise = (position[:, 2] - half[:, 2])[:, None] - (position[:, 2] + half[:, 2])[None]
    low = (rise < -0.1) & ~_overlap(position, half)
    return _sign((rise > 0.05) & over, (apart > 0.4) | low | ((rise > 0.05) & over).T)


def _on(things: tuple[Thing, ...]) -> np.ndarray:
    """A stands on b: +1 directly, 0 through something else, -1 otherwise."""
    table = np.full((len(things), len(things)), -1, np.int8)
    for thing in things:
        below, direct = thing.on, True
        while below is not None and below >= 0:
            table[thing.index, below] = 1 if direct else 0
            below, direct = things[below].on, False
    return table
