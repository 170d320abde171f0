"""Clutter of the look "life": papers, boxes, cups and bags on furniture and floor, posters on walls.

It belongs to the shell (owner 0), so that no text mentions it, and has a random generator of its own, so that the room
is the same without it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from vidllm_rooms.world import COLOURS, RGB, Primitive, Triple
from vidllm_rooms.world.outline import Footprint, overlap
from vidllm_rooms.world.placing import Placer

MOST = 90  # pieces a room
PER_M2 = 45.0  # on surfaces of the untidiest room
FLOOR_MOST, WALL_MOST = 9, 7
_SURFACES = ("plain", "print", "photo", "fabric", "wood", "stripes", "plain", "flat")

Rng = np.random.Generator
Part = tuple[str, Triple, Triple, str]  # kind, offset, size, texture


def scatter(placer: Placer, rng: Rng) -> tuple[Primitive, ...]:
    """Primitives on the supports, the floor and the walls of a furnished room, more of them in an untidy one."""
    mess = float(rng.beta(1.4, 1.1))
    taken: list[Footprint] = [p.footprint for p in placer.placed]
    found: list[Primitive] = []
    for parts in (*_on_supports(placer, rng, mess, taken), *_on_floor(placer, rng, mess, taken),
                  *_on_walls(placer, rng, mess)):  # fmt: skip
        if len(found) < MOST:
            found += parts
    return tuple(found)


def _on_supports(placer: Placer, rng: Rng, mess: float, taken: list[Footprint]) -> Iterator[list[Primitive]]:
    for base in placer.placed:
        around = [box for box in taken if box is not base.footprint]
        for support in base.piece.model.supports:
            area = (support.x1 - support.x0) * (support.y1 - support.y0)
            for _ in range(min(16, int(rng.poisson(PER_M2 * mess * area)))):
                x, y = float(rng.uniform(support.x0, support.x1)), float(rng.uniform(support.y0, support.y1))
                at = base.footprint.point(x, y)
                z = base.footprint.z0 + support.z
                yield _put(rng, _SMALL[int(rng.integers(len(_SMALL)))](rng), (*at, z), around, support.clearance)
        taken += around[len(taken) - 1 :]


def _on_floor(placer: Placer, rng: Rng, mess: float, taken: list[Footprint]) -> Iterator[list[Primitive]]:
    low, high = placer.outline.array.min(0), placer.outline.array.max(0)
    for _ in range(int(rng.poisson(FLOOR_MOST * mess))):
        x, y = rng.uniform(low, high).tolist()
        if float(placer.outline.clearance(np.array([[x, y]]))[0]) > 0.2:
            yield _put(rng, _LARGE[int(rng.integers(len(_LARGE)))](rng), (x, y, 0.0), taken, 2.0)


def _on_walls(placer: Placer, rng: Rng, mess: float) -> Iterator[list[Primitive]]:
    """Posters, notes and boards, a millimetre or two from a wall where nothing hangs or stands."""
    for _ in range(int(rng.poisson(WALL_MOST * mess))):
        wall = placer.outline.walls[int(rng.integers(len(placer.outline.walls)))]
        width, height = float(rng.uniform(0.08, 0.9)), float(rng.uniform(0.1, 0.8))
        if wall.length < width + 0.2:
            continue
        x, y = wall.point(float(rng.uniform(width / 2 + 0.05, wall.length - width / 2 - 0.05)), 0.006)
        z = float(rng.uniform(0.7, 2.0))
        box = Footprint(x, y, width / 2, 0.01, wall.facing, z - height / 2, z + height / 2)
        if not any(overlap(box, p.footprint) for p in placer.placed):
            texture = str(rng.choice(["print", "photo", "flat", "stripes"]))
            yield [Primitive("box", (x, y, z), (width, 0.008, height), wall.facing, _colour(rng), texture)]


def _put(rng: Rng, parts: list[Part], at: Triple, taken: list[Footprint], clearance: float) -> list[Primitive]:
    """The parts standing at a place, turned at random; nothing where it is taken or too low above."""
    yaw = float(rng.uniform(-math.pi, math.pi))
    reach = max(math.hypot(offset[0], offset[1]) + math.hypot(size[0], size[1]) / 2 for _, offset, size, _ in parts)
    top = max(offset[2] + size[2] / 2 for _, offset, size, _ in parts)
    box = Footprint(at[0], at[1], reach * 0.65, reach * 0.65, yaw, at[2] + 1e-3, at[2] + top)
    if top > clearance or any(overlap(box, other) for other in taken):
        return []
    taken.append(box)
    return [
        Primitive(kind, (*box.point(x, y), at[2] + z), size, yaw, _colour(rng), texture)  # type: ignore[arg-type]
        for kind, (x, y, z), size, texture in parts
    ]


def _colour(rng: Rng) -> RGB:
    draw = rng.random()
    if draw < 0.35:
        base = np.full(3, rng.uniform(0.65, 0.97))
    elif draw < 0.6:
        base = np.full(3, rng.uniform(0.03, 0.35))
    else:
        base = np.array(list(COLOURS.values())[int(rng.integers(len(COLOURS)))])
    r, g, b = np.clip(base + rng.normal(0, 0.05, 3), 0.02, 0.98).tolist()
    return r, g, b


def _standing(kind: str, size: Triple, texture: str, z: float = 0.0) -> Part:
    return kind, (0.0, 0.0, z + size[2] / 2), size, texture


def _solid(kind: str, low: Sequence[float], high: Sequence[float], *textures: str) -> Callable[[Rng], list[Part]]:
    """One solid of a size between two (x, y, z, or the width of both sides and z), with one of the textures."""

    def make(rng: Rng) -> list[Part]:
        sides = rng.uniform(low, high).tolist()
        texture = str(rng.choice(textures)) if len(textures) > 1 else textures[0]
        return [_standing(kind, (sides[0], sides[-2], sides[-1]), texture)]

    return make


def _paper(rng: Rng) -> list[Part]:
    scale = float(rng.uniform(0.5, 1.1))
    return [_standing("box", (0.21 * scale, 0.297 * scale, 0.003), "print" if rng.random() < 0.8 else "photo")]


def _stack(rng: Rng) -> list[Part]:
    parts, z = [], 0.0
    for _ in range(int(rng.integers(1, 5))):
        size = float(rng.uniform(0.12, 0.22)), float(rng.uniform(0.17, 0.3)), float(rng.uniform(0.008, 0.05))
        parts.append(_standing("box", size, str(rng.choice(["photo", "print", "plain"])), z))
        z += size[2]
    return parts


def _flask(rng: Rng) -> list[Part]:
    width, height = float(rng.uniform(0.05, 0.09)), float(rng.uniform(0.12, 0.24))
    neck = width * 0.4, width * 0.4, float(rng.uniform(0.03, 0.08))
    body = _standing("cylinder", (width, width, height), str(rng.choice(_SURFACES)))
    return [body, _standing("cylinder", neck, "plain", height)]


def _fruit(rng: Rng) -> list[Part]:
    width = float(rng.uniform(0.04, 0.11))
    return [_standing("ellipsoid", (width, width * float(rng.uniform(0.8, 1.6)), width), "plain")]


def _rod(rng: Rng) -> list[Part]:
    width = float(rng.uniform(0.006, 0.02))
    return [_standing("box", (float(rng.uniform(0.1, 0.35)), width, width), "plain")]


def _keyboard(rng: Rng) -> list[Part]:
    mouse: Part = "ellipsoid", (0.3, 0.0, 0.017), (0.06, 0.1, 0.034), "plain"
    return [_standing("box", (float(rng.uniform(0.28, 0.45)), 0.14, 0.022), "checker"), mouse]


def _shoes(rng: Rng) -> list[Part]:
    pair = [(-0.06, float(rng.normal(0, 0.03))), (0.06, float(rng.normal(0, 0.03)))]
    return [("ellipsoid", (x, y, 0.045), (0.09, 0.27, 0.09), "plain") for x, y in pair]


_tin = _solid("cylinder", (0.04, 0.05), (0.11, 0.16), *_SURFACES)
_packet = _solid("box", (0.03, 0.03, 0.02), (0.25, 0.2, 0.22), *_SURFACES)
_bag = _solid("ellipsoid", (0.2, 0.12, 0.15), (0.5, 0.3, 0.5), "fabric")
_carton = _solid("box", (0.15, 0.15, 0.15), (0.55, 0.55, 0.55), "plain", "print", "wood", "plain")
_SMALL = (_paper, _paper, _stack, _tin, _tin, _flask, _packet, _packet, _fruit, _rod, _keyboard)
_LARGE = (_bag, _carton, _carton, _shoes, _packet, _stack, _paper)
