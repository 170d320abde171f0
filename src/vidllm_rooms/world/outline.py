"""The empty room and the plane geometry of placing things in it: oriented footprints, outlines, walls and slabs."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from vidllm_rooms.world import COLOURS, RGB, Primitive
from vidllm_rooms.world.catalogue import DATA, tinted

Point = tuple[float, float]
WALL_M = 0.12  # thickness


@dataclass(frozen=True)
class Footprint:
    """An upright box: centre (x, y), half extents, yaw, and the heights z0..z1 in metres."""

    x: float
    y: float
    half_x: float
    half_y: float
    yaw: float
    z0: float
    z1: float

    def axes(self) -> tuple[Point, Point]:
        """Unit vectors of the box's own x and y."""
        c, s = math.cos(self.yaw), math.sin(self.yaw)
        return (c, s), (-s, c)

    def point(self, x: float, y: float) -> Point:
        """The point (x, y) of the box's own frame in the room."""
        (ax, ay), (bx, by) = self.axes()
        return self.x + x * ax + y * bx, self.y + x * ay + y * by

    def corners(self) -> list[Point]:
        """The four corners, counter-clockwise."""
        signs = ((-1, -1), (1, -1), (1, 1), (-1, 1))
        return [self.point(i * self.half_x, j * self.half_y) for i, j in signs]

    def grown(self, margin: float) -> Footprint:
        """The same box, wider by ``margin`` on every side (heights unchanged)."""
        return replace(self, half_x=self.half_x + margin, half_y=self.half_y + margin)


def overlap(a: Footprint, b: Footprint, tolerance: float = 1e-6) -> bool:
    """Whether two upright boxes intersect (separating axes; touching within ``tolerance`` is no overlap)."""
    if a.z1 <= b.z0 + tolerance or b.z1 <= a.z0 + tolerance:
        return False
    dx, dy = b.x - a.x, b.y - a.y
    reach = math.hypot(a.half_x, a.half_y) + math.hypot(b.half_x, b.half_y)
    if dx * dx + dy * dy > reach * reach:
        return False
    return all(
        abs(dx * nx + dy * ny) < _radius(a, nx, ny) + _radius(b, nx, ny) - tolerance
        for nx, ny in (*a.axes(), *b.axes())
    )


def _radius(box: Footprint, nx: float, ny: float) -> float:
    (ax, ay), (bx, by) = box.axes()
    return box.half_x * abs(ax * nx + ay * ny) + box.half_y * abs(bx * nx + by * ny)


def contains(box: Footprint, point: Point, margin: float) -> bool:
    """Whether a point lies in the box in plan, further than ``margin`` from its edges."""
    ((ax, ay), (bx, by)), dx, dy = box.axes(), point[0] - box.x, point[1] - box.y
    return abs(dx * ax + dy * ay) < box.half_x - margin and abs(dx * bx + dy * by) < box.half_y - margin


@dataclass(frozen=True)
class Wall:
    """One side of the outline: from ``start`` in unit ``direction``, the room on its left."""

    start: Point
    direction: Point
    length: float

    @staticmethod
    def between(start: Point, end: Point) -> Wall:
        """The wall from one corner to the next."""
        dx, dy = end[0] - start[0], end[1] - start[1]
        length = math.hypot(dx, dy)
        return Wall(start, (dx / length, dy / length), length)

    @property
    def facing(self) -> float:
        """Yaw of an object that stands with its back to this wall."""
        return math.atan2(-self.direction[1], -self.direction[0])

    def point(self, along: float, off: float) -> Point:
        """The point ``along`` metres from the start and ``off`` metres into the room."""
        (x, y), (dx, dy) = self.start, self.direction
        return x + along * dx - off * dy, y + along * dy + off * dx


class Outline:
    """A counter-clockwise simple polygon (N, 2) in metres."""

    def __init__(self, polygon: tuple[Point, ...]) -> None:
        self.polygon = polygon
        self.array = np.array(polygon)
        self.walls = tuple(Wall.between(p, q) for p, q in zip(polygon, polygon[1:] + polygon[:1], strict=True))

    def convex_at(self, index: int) -> bool:
        """Whether the room turns left at this vertex (an ordinary corner, not an inner one)."""
        before, after = self.walls[index - 1].direction, self.walls[index].direction
        return before[0] * after[1] - before[1] * after[0] > 0

    def clearance(self, points: np.ndarray) -> np.ndarray:
        """Signed distance (...,) of points (..., 2) to the outline, positive inside."""
        start, end = self.array, np.roll(self.array, -1, axis=0)
        edge = end - start
        offset = points[..., None, :] - start
        along = np.clip((offset * edge).sum(-1) / (edge * edge).sum(-1), 0, 1)
        distance = np.linalg.norm(offset - along[..., None] * edge, axis=-1).min(-1)
        y, y0, y1 = points[..., None, 1], start[:, 1], end[:, 1]
        crosses = (y0 > y) != (y1 > y)
        with np.errstate(divide="ignore", invalid="ignore"):
            x_cross = start[:, 0] + (y - y0) / (y1 - y0) * edge[:, 0]
        inside = (crosses & (points[..., None, 0] < x_cross)).sum(-1) % 2 == 1
        return np.asarray(np.where(inside, distance, -distance))

    def holds(self, box: Footprint, margin: float = 0.0) -> bool:
        """Whether a footprint lies inside, at least ``margin`` from every wall."""
        corners = np.array(box.corners())
        middles = (corners + np.roll(corners, -1, axis=0)) / 2
        if (self.clearance(np.concatenate([corners, middles])) < margin).any():
            return False
        return not any(contains(box, vertex, 1e-6) for vertex in self.polygon)


def draw_outline(rng: np.random.Generator) -> tuple[str, tuple[Point, ...]]:
    """(shape name, counter-clockwise polygon) with sides of about 3 to 7 m."""
    shape = str(rng.choice(list(DATA["outlines"]), p=list(DATA["outlines"].values())))
    w, d = float(rng.uniform(3.2, 6.2)), float(rng.uniform(3.2, 5.8))
    if shape in ("L", "T"):
        w, d = float(rng.uniform(4.6, 6.8)), float(rng.uniform(4.4, 6.2))
    polygon = _polygon(shape, rng, w, d)
    if rng.random() < 0.5:
        polygon = tuple((-y, x) for x, y in polygon)
    low = np.array(polygon).min(0)
    return shape, tuple((x - float(low[0]), y - float(low[1])) for x, y in polygon)


def _polygon(shape: str, rng: np.random.Generator, w: float, d: float) -> tuple[Point, ...]:
    front, left = ((0.0, 0.0), (w, 0.0)), (0.0, d)
    if shape == "L":
        x, y = w * float(rng.uniform(0.5, 0.65)), d * float(rng.uniform(0.5, 0.65))
        if rng.random() < 0.5:
            return (*front, (w, y), (x, y), (x, d), left)
        return (*front, (w, d), (w - x, d), (w - x, y), (0.0, y))
    if shape == "T":
        stem, y = w * float(rng.uniform(0.42, 0.55)), d * float(rng.uniform(0.42, 0.52))
        x = (w - stem) * float(rng.uniform(0.35, 0.65))
        return ((x, 0.0), (x + stem, 0.0), (x + stem, y), (w, y), (w, d), left, (0.0, y), (x, y))
    if shape == "chamfered":
        c = float(rng.uniform(0.9, 1.5))
        return (*front, (w, d - c), (w - c, d), left)
    if shape == "bay":
        half, out = w * float(rng.uniform(0.26, 0.36)), float(rng.uniform(0.5, 0.8))
        m = w / 2
        niche = ((m + half, d), (m + half - out, d + out), (m - half + out, d + out), (m - half, d))
        return (*front, (w, d), *niche, left)
    if shape != "rectangle":
        raise KeyError(f"unknown outline {shape!r}")
    return (*front, (w, d), left)


def build_shell(rng: np.random.Generator, outline: Outline, height: float) -> tuple[Primitive, ...]:
    """Floor, ceiling and walls with their skirting boards, of owner 0."""
    floor = DATA["floors"][int(rng.integers(len(DATA["floors"])))]
    floor_rgb = tinted(floor["colours"][int(rng.integers(len(floor["colours"])))], rng, 0.04)
    wall_rgb = _wall_colour(rng)
    pattern = str(rng.choice(["wall", "stripes", "brick"], p=(0.74, 0.16, 0.10)))
    accent = int(rng.integers(len(outline.walls))) if rng.random() < 0.3 else -1
    accent_rgb = _wall_colour(rng)
    parts = _slabs(rng, outline, height, floor_rgb, floor["texture"])
    for index in range(len(outline.walls)):
        rgb = accent_rgb if index == accent else wall_rgb
        parts += _wall_parts(outline, index, height, rgb, pattern)
    return tuple(parts)


def _wall_colour(rng: np.random.Generator) -> RGB:
    """A pale version of a named colour; most walls are white or gray."""
    vivid = [name for name in COLOURS if name not in ("white", "gray", "black")]
    name = str(rng.choice(["white", "gray", *vivid], p=[0.4, 0.1, *[0.5 / len(vivid)] * len(vivid)]))
    base, white = np.array(COLOURS[name]), np.array((0.92, 0.91, 0.88))
    amount = {"white": 1.0, "gray": 0.6}.get(name, float(rng.uniform(0.35, 0.5)))
    r, g, b = (base * amount + white * (1 - amount)).tolist()
    return tinted((r, g, b), rng, 0.02)


def _slabs(rng: np.random.Generator, outline: Outline, height: float, rgb: RGB, texture: str) -> list[Primitive]:
    """Floor and ceiling under the whole bounding rectangle."""
    low, high = outline.array.min(0) - WALL_M, outline.array.max(0) + WALL_M
    (cx, cy), (w, d) = ((low + high) / 2).tolist(), (high - low).tolist()
    ceiling = tinted((0.90, 0.90, 0.88), rng, 0.02)
    return [
        Primitive("box", (cx, cy, -WALL_M / 2), (w, d, WALL_M), 0.0, rgb, texture),
        Primitive("box", (cx, cy, height + WALL_M / 2), (w, d, WALL_M), 0.0, ceiling, "wall"),
    ]


def _wall_parts(outline: Outline, index: int, height: float, rgb: RGB, pattern: str) -> list[Primitive]:
    """The wall, grown past ordinary corners so that none leaks, and its skirting board."""
    wall = outline.walls[index]
    before = WALL_M if outline.convex_at(index) else 0.0
    after = WALL_M if outline.convex_at((index + 1) % len(outline.walls)) else 0.0
    yaw = math.atan2(wall.direction[1], wall.direction[0])
    length = wall.length + before + after
    x, y = wall.point((wall.length + after - before) / 2, -WALL_M / 2)
    body = Primitive("box", (x, y, height / 2), (length, WALL_M, height), yaw, rgb, pattern)
    x, y = wall.point(wall.length / 2, 0.006)
    skirting = Primitive("box", (x, y, 0.04), (wall.length, 0.012, 0.08), yaw, (0.86, 0.85, 0.82), "plain")
    return [body, skirting]
