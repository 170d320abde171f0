"""Plane geometry of placing things: oriented footprints with a height interval, and the room's outline."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

Point = tuple[float, float]


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

    def corners(self) -> list[Point]:
        """The four corners, counter-clockwise."""
        (ax, ay), (bx, by) = self.axes()
        signs = ((-1, -1), (1, -1), (1, 1), (-1, 1))
        hx, hy = self.half_x, self.half_y
        return [(self.x + i * hx * ax + j * hy * bx, self.y + i * hx * ay + j * hy * by) for i, j in signs]

    def grown(self, margin: float) -> Footprint:
        """The same box, wider by ``margin`` on every side (heights unchanged)."""
        return Footprint(self.x, self.y, self.half_x + margin, self.half_y + margin, self.yaw, self.z0, self.z1)


def overlap(a: Footprint, b: Footprint, tolerance: float = 1e-6) -> bool:
    """Whether two upright boxes intersect (separating axes; touching within ``tolerance`` is no overlap)."""
    if a.z1 <= b.z0 + tolerance or b.z1 <= a.z0 + tolerance:
        return False
    dx, dy = b.x - a.x, b.y - a.y
    reach = math.hypot(a.half_x, a.half_y) + math.hypot(b.half_x, b.half_y)
    if dx * dx + dy * dy > reach * reach:
        return False
    for nx, ny in (*a.axes(), *b.axes()):
        radius = _radius(a, nx, ny) + _radius(b, nx, ny)
        if abs(dx * nx + dy * ny) >= radius - tolerance:
            return False
    return True


def _radius(box: Footprint, nx: float, ny: float) -> float:
    (ax, ay), (bx, by) = box.axes()
    return box.half_x * abs(ax * nx + ay * ny) + box.half_y * abs(bx * nx + by * ny)


def contains(outer: Footprint, inner: Footprint, margin: float = 0.0) -> bool:
    """Whether ``inner`` stands wholly on ``outer`` in plan, ``margin`` from its edges."""
    (ax, ay), (bx, by) = outer.axes()
    for x, y in inner.corners():
        dx, dy = x - outer.x, y - outer.y
        if abs(dx * ax + dy * ay) > outer.half_x - margin or abs(dx * bx + dy * by) > outer.half_y - margin:
            return False
    return True


@dataclass(frozen=True)
class Wall:
    """One side of the outline: from ``start`` in unit ``direction``; ``inward`` is its normal into the room."""

    start: Point
    direction: Point
    length: float

    @property
    def inward(self) -> Point:
        """Unit normal into the room."""
        return -self.direction[1], self.direction[0]

    @property
    def facing(self) -> float:
        """Yaw of an object that stands with its back to this wall."""
        nx, ny = self.inward
        return math.atan2(nx, -ny)

    def point(self, along: float, off: float) -> Point:
        """The point ``along`` metres from the start and ``off`` metres into the room."""
        nx, ny = self.inward
        x, y = self.start
        return x + along * self.direction[0] + off * nx, y + along * self.direction[1] + off * ny


class Outline:
    """A counter-clockwise simple polygon (N, 2) in metres."""

    def __init__(self, polygon: tuple[Point, ...]) -> None:
        self.polygon = polygon
        self.array = np.array(polygon)
        self.walls = tuple(_wall(p, q) for p, q in zip(polygon, polygon[1:] + polygon[:1], strict=True))

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
        return not any(_inside(box, vertex) for vertex in self.polygon)


def _inside(box: Footprint, point: Point) -> bool:
    (ax, ay), (bx, by) = box.axes()
    dx, dy = point[0] - box.x, point[1] - box.y
    return abs(dx * ax + dy * ay) < box.half_x - 1e-6 and abs(dx * bx + dy * by) < box.half_y - 1e-6


def _wall(start: Point, end: Point) -> Wall:
    dx, dy = end[0] - start[0], end[1] - start[1]
    length = math.hypot(dx, dy)
    return Wall(start, (dx / length, dy / length), length)
