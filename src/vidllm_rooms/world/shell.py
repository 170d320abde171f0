"""The empty room: outlines of several shapes, walls, floor, ceiling and skirting as box primitives."""

from __future__ import annotations

import math

import numpy as np

from vidllm_rooms.world import COLOURS, Primitive
from vidllm_rooms.world.catalogue import tinted
from vidllm_rooms.world.footprints import Outline, Point
from vidllm_rooms.world.parts import RGB

WALL_M = 0.12
SHAPES = ("rectangle", "L", "T", "chamfered", "bay")
_FLOORS: tuple[tuple[str, str, tuple[RGB, ...]], ...] = (
    ("wood", "planks", ((0.62, 0.45, 0.28), (0.45, 0.30, 0.18), (0.74, 0.60, 0.42), (0.55, 0.50, 0.45))),
    ("carpet", "carpet", ((0.55, 0.50, 0.44), (0.42, 0.45, 0.50), (0.48, 0.34, 0.32), (0.38, 0.45, 0.38))),
    ("tiles", "tiles", ((0.74, 0.72, 0.68), (0.52, 0.53, 0.54), (0.66, 0.55, 0.45))),
    ("tiles", "checker", ((0.66, 0.65, 0.62), (0.55, 0.58, 0.60))),
    ("stone", "marble", ((0.76, 0.74, 0.70), (0.58, 0.57, 0.56))),
)


def draw_outline(rng: np.random.Generator) -> tuple[str, tuple[Point, ...]]:
    """(shape name, counter-clockwise polygon) with sides of about 3 to 7 m."""
    shape = str(rng.choice(SHAPES, p=(0.42, 0.22, 0.12, 0.12, 0.12)))
    w, d = float(rng.uniform(3.2, 6.2)), float(rng.uniform(3.2, 5.8))
    if shape in ("L", "T"):
        w, d = float(rng.uniform(4.6, 6.8)), float(rng.uniform(4.4, 6.2))
    polygon = _POLYGONS[shape](rng, w, d)
    if rng.random() < 0.5:
        polygon = tuple((-y, x) for x, y in polygon)
    low = np.array(polygon).min(0)
    return shape, tuple((x - float(low[0]), y - float(low[1])) for x, y in polygon)


def _rectangle(rng: np.random.Generator, w: float, d: float) -> tuple[Point, ...]:
    return ((0.0, 0.0), (w, 0.0), (w, d), (0.0, d))


def _l_shape(rng: np.random.Generator, w: float, d: float) -> tuple[Point, ...]:
    x, y = w * float(rng.uniform(0.5, 0.65)), d * float(rng.uniform(0.5, 0.65))
    if rng.random() < 0.5:
        return ((0.0, 0.0), (w, 0.0), (w, y), (x, y), (x, d), (0.0, d))
    return ((0.0, 0.0), (w, 0.0), (w, d), (w - x, d), (w - x, y), (0.0, y))


def _t_shape(rng: np.random.Generator, w: float, d: float) -> tuple[Point, ...]:
    stem, y = w * float(rng.uniform(0.42, 0.55)), d * float(rng.uniform(0.42, 0.52))
    x = (w - stem) * float(rng.uniform(0.35, 0.65))
    return ((x, 0.0), (x + stem, 0.0), (x + stem, y), (w, y), (w, d), (0.0, d), (0.0, y), (x, y))


def _chamfered(rng: np.random.Generator, w: float, d: float) -> tuple[Point, ...]:
    c = float(rng.uniform(0.9, 1.5))
    return ((0.0, 0.0), (w, 0.0), (w, d - c), (w - c, d), (0.0, d))


def _bay(rng: np.random.Generator, w: float, d: float) -> tuple[Point, ...]:
    half, out = w * float(rng.uniform(0.26, 0.36)), float(rng.uniform(0.5, 0.8))
    m = w / 2
    niche = ((m + half, d), (m + half - out, d + out), (m - half + out, d + out), (m - half, d))
    return ((0.0, 0.0), (w, 0.0), (w, d), *niche, (0.0, d))


_POLYGONS = {"rectangle": _rectangle, "L": _l_shape, "T": _t_shape, "chamfered": _chamfered, "bay": _bay}


def build_shell(
    rng: np.random.Generator, outline: Outline, height: float
) -> tuple[tuple[Primitive, ...], dict[str, str]]:
    """(primitives of owner 0, names of the surfaces: floor, wall and wall_pattern)."""
    floor_name, floor_texture, floor_colours = _FLOORS[int(rng.integers(len(_FLOORS)))]
    floor_rgb = tinted(floor_colours[int(rng.integers(len(floor_colours)))], rng, 0.04)
    wall_name, wall_rgb = _wall_colour(rng)
    pattern = str(rng.choice(["wall", "stripes", "brick"], p=(0.74, 0.16, 0.10)))
    accent = int(rng.integers(len(outline.walls))) if rng.random() < 0.3 else -1
    accent_rgb = _wall_colour(rng)[1]
    parts = [*_slabs(rng, outline, height, floor_rgb, floor_texture)]
    for index in range(len(outline.walls)):
        rgb = accent_rgb if index == accent else wall_rgb
        parts += _wall_parts(outline, index, height, rgb, pattern)
    return tuple(parts), {"floor": floor_name, "wall": wall_name, "wall_pattern": pattern}


def _wall_colour(rng: np.random.Generator) -> tuple[str, RGB]:
    """A pale version of a named colour; most walls are white or gray."""
    vivid = [name for name in COLOURS if name not in ("white", "gray", "black")]
    name = str(rng.choice(["white", "gray", *vivid], p=[0.4, 0.1, *[0.5 / len(vivid)] * len(vivid)]))
    base, white = np.array(COLOURS[name]), np.array((0.92, 0.91, 0.88))
    amount = {"white": 1.0, "gray": 0.6}.get(name, float(rng.uniform(0.35, 0.5)))
    r, g, b = (base * amount + white * (1 - amount)).tolist()
    return name, tinted((r, g, b), rng, 0.02)


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
