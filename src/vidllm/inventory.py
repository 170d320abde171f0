"""The inventory of a scene (each object once, the floor, the camera path), and measurements of objects.

A model that answers questions takes the inventory as follows (the best procedure tried on rooms, docs/measuring.md):
for each known name it is asked whether there is one, and how many; of the boxes of "the NAME" the best are taken, as
many as it counted; of overlapping boxes the best is kept (:func:`vidllm.geometry.boxes.distinct`). If the scene has a
detector, the detector finds the objects (:mod:`vidllm.detection`). ``scene`` is a :class:`vidllm.scene.Scene`. Lengths
are metres of the scene frame (z up, origin at the first camera), angles radians.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import combinations
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from vidllm.answers import Box, Scale, three_numbers
from vidllm.detection.fusion import find
from vidllm.english import plural, with_article
from vidllm.geometry.boxes import distinct, nearest_points, points_in_boxes

SCHEMA = "vidllm-inventory/1"
#: Default names: the furniture and objects of the rooms that the shipped model is trained on, mostly as in ScanNet.
NAMES = (
    "chair", "office chair", "armchair", "sofa", "bench", "stool", "table", "coffee table", "desk", "bed", "wardrobe",
    "bookshelf", "nightstand", "dresser", "cabinet", "refrigerator", "stove", "washing machine", "radiator",
    "floor lamp", "plant", "box", "ball", "trash can", "basket", "suitcase", "rug", "table lamp", "tv", "monitor",
    "laptop", "book", "vase", "flower", "cup", "bowl", "bottle", "pillow", "picture", "mirror", "clock", "ceiling lamp",
    "door", "window", "curtain",
)  # fmt: skip
COLOURS = ("red", "orange", "yellow", "green", "teal", "blue", "purple", "pink", "brown", "black", "gray", "white")
MIN_SCORE = 0.3  # minimum score of one box of a name, divided by n for n boxes
MAX_POINTS = 100_000  # maximum number of points used
SEEN_SHARE = 0.003  # minimum share of a frame's points in a box for a frame that shows the object
OUTSIDE = 1.0  # percentage of points left out on each side of the floor (errors of depth)
CEILING = (0.15, 0.06)  # a ceiling was seen if this share of the points lies within so many metres of the highest

Ends = tuple[tuple[float, float, float], tuple[float, float, float]]


def row_of(box: Box) -> list[float]:
    """Centre, size, yaw: the 7 numbers of :mod:`vidllm.geometry.boxes`."""
    return [*box.center, *box.size, box.yaw]


# ---- measuring -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Length:
    """A length in metres and its interval (:meth:`vidllm.answers.Scale.of_length`; None: unknown)."""

    value: float
    interval: tuple[float, float] | None

    def __str__(self) -> str:
        low, high = self.interval or (self.value, self.value)
        value, least, most = (f"{v:.2f}" for v in (self.value, low, high))
        return f"{value} m" if value == least == most else f"{value} m ({least} to {most})"


@dataclass(frozen=True)
class Place:
    """A measured object (the best box of an expression) or point (size 0), with its heights over the floor."""

    name: str
    center: tuple[float, float, float]
    size: tuple[Length, Length, Length]
    yaw: float
    score: float | None  # None: a point
    bottom_over_floor: Length
    top_over_floor: Length


@dataclass(frozen=True)
class Measurement:
    """One or two places; for two also their distances and the nearest points of their boxes."""

    places: tuple[Place, ...]
    nearest: Length | None = None
    centres: Length | None = None
    points: Ends | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**asdict(self), "units": "m", "angles": "rad", "frame": "scene", "up": "z"}

    def as_text(self) -> str:
        """One line per length."""
        lines = []
        for place in self.places:
            names = ("length", "width", "height") if place.score is not None else ()
            lines += [f"{place.name}: {name} {size}" for name, size in zip(names, place.size, strict=bool(names))]
            lines.append(f"{place.name}: from {place.bottom_over_floor} to {place.top_over_floor} over the floor"
                         if names else f"{place.name}: {place.top_over_floor} over the floor")  # fmt: skip
        pair = " and ".join(place.name for place in self.places)
        for length, what in ((self.nearest, "distance between"), (self.centres, "distance between the centres of")):
            lines += [] if length is None else [f"{what} {pair}: {length}"]
        return "\n".join(lines)


def pixel(text: str) -> tuple[int, float, float] | None:
    """``FRAME:U,V`` as a frame's number and a pixel; None for other texts."""
    found = re.fullmatch(r"(\d{1,9}):(\d{1,9}(?:\.\d+)?),(\d{1,9}(?:\.\d+)?)", text.strip())
    return None if found is None else (int(found[1]), float(found[2]), float(found[3]))


def measure(scene: Any, first: str | tuple[int, float, float], second: Any = None) -> Measurement:
    """See :meth:`vidllm.scene.Scene.measure`."""
    asked = [what for what in (first, second) if what is not None]
    found = [_found(scene, what) for what in asked]
    floor = room_of(scene.data.samples(scene.data.stride_for(MAX_POINTS)).xyz).floor
    places = tuple(_place(scene, name, row, score, floor) for name, row, score in found)
    if len(found) == 1:
        return Measurement(places)
    nearest, centres, points = apart(*(row for _, row, _ in found))
    return Measurement(places, _length(scene, nearest), _length(scene, centres), points)


def apart(a: Sequence[float], b: Sequence[float]) -> tuple[float, float, Ends]:
    """The distance between the nearest points of two boxes (7 numbers), between their centres, and these points."""
    first, second = (torch.tensor(row, dtype=torch.float64) for row in (a, b))
    here, there = nearest_points(first, second)
    ends = three_numbers(here), three_numbers(there)
    return float((here - there).norm()), float((first[:3] - second[:3]).norm()), ends


def _found(scene: Any, what: str | tuple[int, float, float]) -> tuple[str, list[float], float | None]:
    """Name, box (7 numbers) and score (None for a point)."""
    if not isinstance(what, str):
        frame, u, v = what
        return f"pixel {u:g},{v:g} of frame {frame}", [*scene.data.point_at(frame, u, v), 0.0, 0.0, 0.0, 0.0], None
    boxes = scene.ground(what)
    if not boxes:
        raise ValueError(f"no such object in the video: {what!r}; say it in other words, or give a pixel of a frame")
    return what, row_of(boxes[0]), boxes[0].score


def _place(scene: Any, name: str, row: list[float], score: float | None, floor: float) -> Place:
    x, y, z, length, width, height, yaw = row
    sizes = (_length(scene, length), _length(scene, width), _length(scene, height))
    ends = [_length(scene, z + part * height / 2 - floor) for part in (-1, 1)]
    return Place(name, (x, y, z), sizes, yaw, score, *ends)


def _length(scene: Any, value: float) -> Length:
    return Length(value, scene.scale.of_length(value))


# ---- the room ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Room:
    """The room: outline (N,2) of the part that was seen, counter-clockwise, and its area.

    ``floor`` is z of the floor, ``height`` the height of the ceiling over it (None: no ceiling was seen).
    """

    outline: np.ndarray
    area: float
    floor: float
    height: float | None


def room_of(xyz: Float[np.ndarray, "N 3"]) -> Room:
    """The room's shape from the points of a reconstruction (metres, scene frame); ValueError without points.

    The outline is the convex hull of what the camera saw, which may be less than the room.
    """
    from scipy.spatial import ConvexHull, QhullError  # takes 0.3 s to import

    if not len(xyz):
        raise ValueError("the reconstruction has no point with depth; nothing can be measured in it")
    low, high = np.percentile(xyz, [OUTSIDE, 100 - OUTSIDE], axis=0)
    inner = xyz[((xyz >= low) & (xyz <= high))[:, :2].all(1), :2].astype(np.float64)
    try:
        hull = ConvexHull(inner)
        outline, area = inner[hull.vertices], float(hull.volume)
    except (QhullError, ValueError):  # points on a line, or fewer than three
        outline, area = inner[:0], 0.0
    floor, top = (float(v) for v in np.percentile(xyz[:, 2], [2, 99]))
    near, share = CEILING
    seen = float((np.abs(xyz[:, 2] - top) <= near).mean()) >= share
    return Room(outline, area, floor, top - floor if seen else None)


# ---- inventory -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Thing:
    """An object: name, colour ("" if unknown), box, and the number of frames that show it."""

    name: str
    colour: str
    box: Box
    frames: int

    @property
    def called(self) -> str:
        """Colour and name."""
        return f"{self.colour} {self.name}".strip()


@dataclass(frozen=True)
class Inventory:
    """The objects of a scene, each once, and its room; made by :meth:`vidllm.scene.Scene.inventory`."""

    things: tuple[Thing, ...]
    room: Room
    path: np.ndarray  # (F,3) camera centres
    scale: Scale

    @cached_property
    def counts(self) -> dict[str, int]:
        """The number of objects of each name, the most frequent first."""
        return dict(Counter(thing.name for thing in self.things).most_common())

    @property
    def path_length(self) -> float:
        """Length of the camera path in metres."""
        return float(np.linalg.norm(np.diff(self.path, axis=0), axis=1).sum())

    def distances(self) -> list[dict[str, Any]]:
        """For each pair (numbers from 1) the distance between the nearest points and between the centres, in metres."""
        rows, told = [row_of(thing.box) for thing in self.things], []
        for a, b in combinations(range(len(rows)), 2):
            nearest, centres, _ = apart(rows[a], rows[b])
            told.append({"between": [a + 1, b + 1], "nearest": nearest, "nearest_interval": self._interval(nearest),
                         "centres": centres, "centres_interval": self._interval(centres)})  # fmt: skip
        return told

    def as_dict(self, distances: bool = False) -> dict[str, Any]:
        """Plain values for JSON (schema: docs/measuring.md). Unknown values are None, never nan."""
        room, scale = self.room, self.scale
        return {
            "schema": SCHEMA, "units": "m", "angles": "rad", "frame": "scene", "up": "z",
            "things": [{
                "id": number, "name": thing.name, "colour": thing.colour or None,
                "center": list(thing.box.center), "size": list(thing.box.size), "yaw": thing.box.yaw,
                "size_interval": None if scale.interval is None else [self._interval(s) for s in thing.box.size],
                "frames": thing.frames, "score": thing.box.score,
            } for number, thing in enumerate(self.things, 1)],
            "counts": self.counts,
            **({"distances": self.distances()} if distances else {}),
            "floor": {"outline": room.outline.tolist(), "area": room.area, "z": room.floor},
            "room_height": room.height,
            "camera_path": self.path.tolist(), "camera_path_length": self.path_length,
            "scale": {"value": scale.value, "spread": None if math.isnan(scale.spread) else scale.spread,
                      "warnings": list(scale.warnings)},
        }  # fmt: skip

    def as_text(self, distances: bool = False) -> str:
        """The same as text, for example for the prompt of a language model."""
        height = "the ceiling was not seen" if self.room.height is None else f"{self.room.height:.2f} m high"
        lines = [
            "Lengths in metres; z is up, the origin is the first camera, x where it looks; yaw in radians about z.",
            f"Room: {self.room.area:.1f} square metres of floor seen, {height}; the floor is at z = "
            f"{self.room.floor:.2f}; the camera travelled {self.path_length:.2f} m.",
            "Counts: " + (", ".join(f"{name} {count}" for name, count in self.counts.items()) or "nothing was found"),
        ]
        for number, thing in enumerate(self.things, 1):
            box = thing.box
            lines.append(f"{number}. {thing.called}: centre {_numbers(box.center)}, size {_numbers(box.size)}, "
                         f"yaw {box.yaw:.2f}, seen in {thing.frames} frames, score {box.score:.2f}")  # fmt: skip
        for pair in self.distances() if distances else ():
            a, b = pair["between"]
            lines.append(f"{a} to {b}: nearest points {pair['nearest']:.2f}, centres {pair['centres']:.2f}")
        return "\n".join([*lines, *(f"Warning: {warning}" for warning in self.scale.warnings)])

    def _interval(self, value: float) -> list[float] | None:
        found = self.scale.of_length(value)
        return None if found is None else list(found)


def _numbers(values: Sequence[float]) -> str:
    return "(" + ", ".join(f"{v:.2f}" for v in values) + ")"


def take(scene: Any, names: Sequence[str] = NAMES) -> Inventory:
    """See :meth:`vidllm.scene.Scene.inventory`."""
    data = scene.data
    if scene.detector is not None:
        found = find(scene.data, scene.detector, names, scene.calibration is not None)
    else:
        found = [(name, box) for name, count in _counted(scene, names) for box in _best(scene, name, count)]
    boxes = torch.tensor([row_of(box) for _, box in found], dtype=torch.float64).reshape(-1, 7)
    scores = torch.tensor([box.score for _, box in found])
    kept = [found[n] for n in distinct(boxes, scores, [name for name, _ in found])]
    counts = Counter(name for name, _ in kept)
    colours = _colours(scene, [name for name, count in counts.items() if count == 1])
    samples = data.samples(data.stride_for(MAX_POINTS))
    points, shown = torch.from_numpy(samples.xyz), np.bincount(samples.frame, minlength=len(data))
    things = []
    for name, box in kept:
        inside = points_in_boxes(points, torch.tensor([row_of(box)], dtype=points.dtype)).numpy()
        share = np.bincount(samples.frame[inside], minlength=len(data)) / np.maximum(shown, 1)
        colour = colours[name] if name in colours else _colour_in(scene.describe(box.center, 16))
        things.append(Thing(name, colour, box, int((share >= SEEN_SHARE).sum())))
    return Inventory(tuple(things), room_of(samples.xyz), data.scene_from_camera[:, :3, 3], scene.scale)


def _counted(scene: Any, names: Sequence[str]) -> list[tuple[str, int]]:
    """The names of which there is at least one, with their counts."""
    there = scene.ask_all([(f"Is there {with_article(name)}?", None) for name in names], 4)
    present = [name for name, answer in zip(names, there, strict=True) if answer.split()[:1] == ["yes"]]
    many = scene.ask_all([(f"How many {plural(name)} are there?", None) for name in present], 4)
    return [(name, max(1, int(a) if a.isdecimal() else 0)) for name, a in zip(present, many, strict=True)]


def _best(scene: Any, name: str, count: int) -> list[Box]:
    return [box for box in list(scene.ground(f"the {name}"))[:count] if box.score >= MIN_SCORE / count]


def _colours(scene: Any, names: Sequence[str]) -> dict[str, str]:
    said = scene.ask_all([(f"What color is the {name}?", None) for name in names], 4)
    return {name: _colour_in(answer) for name, answer in zip(names, said, strict=True)}


def _colour_in(text: str) -> str:
    """The first word that is a colour."""
    return next((word for word in text.replace(".", " ").replace(",", " ").split() if word in COLOURS), "")
