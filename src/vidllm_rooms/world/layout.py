"""Furnishing a room by its type: openings, large pieces in groups, things on them, things on the walls.

``build_room(seed)`` is deterministic: one numpy generator draws everything.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from vidllm_rooms.world import RGB, Light, Look, Room
from vidllm_rooms.world.catalogue import CATALOGUE, DATA, build_model, draw_colour
from vidllm_rooms.world.clutter import scatter
from vidllm_rooms.world.outline import Footprint, Outline, build_shell, draw_outline
from vidllm_rooms.world.placing import Placed, Placer, box_of

ROOMS: dict[str, dict[str, Any]] = DATA["rooms"]
LOOSE: list[str] = DATA["loose"]
MAX_OBJECTS = 20
CLUTTER = 21  # keeps the draws of clutter apart from those of the room


def build_room(seed: int, look: Look = "plain") -> Room:
    """A furnished room of 8 to 20 objects. The same seed gives the same room; "life" adds clutter to it."""
    rng = np.random.default_rng(seed)
    while True:
        room = _attempt(seed, rng, look)
        if len(room.objects) >= 8:
            return room


def _attempt(seed: int, rng: np.random.Generator, look: Look) -> Room:
    shape, polygon = draw_outline(rng)
    outline, height = Outline(polygon), float(rng.uniform(2.35, 3.1))
    shell = build_shell(rng, outline, height)
    room_type = str(rng.choice(list(ROOMS), p=[kind["share"] for kind in ROOMS.values()]))
    placer = Placer(rng, outline, height)
    target = int(rng.integers(10, 19))
    _openings(placer)
    _GROUPS[room_type](placer)
    _fill(placer, room_type, target)
    lights = _lights(placer)
    if look == "life":
        shell = (*shell, *scatter(placer, np.random.default_rng([seed, CLUTTER])))
    objects = tuple(p.item for p in placer.placed)
    return Room(seed, shape, room_type, polygon, height, shell, objects, lights, look)


def _openings(placer: Placer) -> None:
    """A door with free space before it, and up to two windows, one of them perhaps with a curtain."""
    rng = placer.rng
    if door := placer.at_wall(build_model("door", rng), off=0.0):
        placer.keep_free.append(_before(door, 0.75))
    for _ in range(int(rng.integers(0, 3))):
        piece = build_model("window", rng)
        sill = min(float(rng.uniform(0.75, 0.95)), placer.height - piece.model.size[2] - 0.15)
        window = placer.at_wall(piece, z=sill, off=0.0)
        if window and rng.random() < 0.5:
            _curtain(placer, window)


def _before(placed: Placed, depth: float) -> Footprint:
    """The strip of floor in front of a piece, ``depth`` metres deep."""
    box = placed.footprint
    return Footprint(*box.point(0.0, -box.half_y - depth / 2), box.half_x, depth / 2, box.yaw, 0.02, 2.0)


def _curtain(placer: Placer, window: Placed) -> None:
    piece = build_model("curtain", placer.rng)
    width, depth, height = piece.model.size
    side = 1 if placer.rng.random() < 0.5 else -1
    x = side * (window.piece.model.size[0] / 2 + width / 2 + 0.04)
    y = window.piece.model.size[1] / 2 - depth / 2 - 0.014
    z = min(0.12, placer.height - height - 0.05)
    box = box_of(piece, *window.footprint.point(x, y), window.item.yaw, z)
    if placer.free(box):
        placer.put(piece, box)


def _living_room(placer: Placer) -> None:
    rng = placer.rng
    sofa = placer.at_wall(build_model("sofa", rng))
    if sofa:
        front = -sofa.piece.model.size[1] / 2
        if rng.random() < 0.5:
            rug = build_model("rug", rng)
            placer.relative(rug, sofa, 0.0, front - 0.08 - rug.model.size[1] / 2)
        table = build_model("coffee table", rng)
        placer.relative(table, sofa, float(rng.normal(0, 0.1)), front - 0.38 - table.model.size[1] / 2)
    _carrier(placer, "cabinet", "tv")
    if rng.random() < 0.7:
        placer.in_open(build_model("armchair", rng))


def _bedroom(placer: Placer) -> None:
    rng = placer.rng
    bed = placer.at_wall(build_model("bed", rng), tries=48)
    if bed:
        width, length, _ = bed.piece.model.size
        for side in (-1, 1):
            stand = build_model("nightstand", rng)
            x, y = side * (width / 2 + stand.model.size[0] / 2 + 0.06), length / 2 - stand.model.size[1] / 2
            placed = placer.relative(stand, bed, x, y) if rng.random() < 0.8 else None
            if placed and rng.random() < 0.7:
                _load(placer, placed, "table lamp")
        for _ in range(1 if width < 1.3 else 2):
            _load(placer, bed, "pillow")
        if rng.random() < 0.35:
            placer.in_open(build_model("rug", rng))
    placer.at_wall(build_model("wardrobe", rng))


def _office(placer: Placer) -> None:
    rng = placer.rng
    for _ in range(int(rng.integers(1, 3))):
        desk = _carrier(placer, "desk", "monitor" if rng.random() < 0.65 else "laptop")
        if desk:
            chair = build_model("office chair" if rng.random() < 0.7 else "chair", rng)
            y = -desk.piece.model.size[1] / 2 - chair.model.size[1] / 2 - float(rng.uniform(0.06, 0.3))
            placer.relative(chair, desk, float(rng.normal(0, 0.12)), y, math.pi + float(rng.normal(0, 0.3)))
    placer.at_wall(build_model("bookshelf", rng))


def _dining_room(placer: Placer) -> None:
    rng = placer.rng
    table = placer.in_open(build_model("table", rng), tries=60, margin=0.5)
    if table is None:
        return
    width, depth, _ = table.piece.model.size
    shared = draw_colour(rng) if rng.random() < 0.25 else None
    places = [(0.0, -1), (0.0, 1)] if width < 1.35 else [(-0.25, -1), (0.25, -1), (-0.25, 1), (0.25, 1)]
    for along, side in places:
        chair = build_model("chair", rng, colour=shared)
        y = side * (depth / 2 + chair.model.size[1] / 2 + float(rng.uniform(0.04, 0.2)))
        turn = (math.pi if side < 0 else 0.0) + float(rng.normal(0, 0.12))
        placer.relative(chair, table, along * width, y, turn)
    for side in (-1, 1):
        if rng.random() < 0.4:
            chair = build_model("chair", rng, colour=shared)
            x = side * (width / 2 + chair.model.size[1] / 2 + 0.1)
            placer.relative(chair, table, x, 0.0, -side * math.pi / 2)
    _load(placer, table, None)


def _kitchen(placer: Placer) -> None:
    rng = placer.rng
    for name in ("refrigerator", "stove", "dresser"):
        placer.at_wall(build_model(name, rng))
    if rng.random() < 0.6:
        _dining_room(placer)


def _hallway(placer: Placer) -> None:
    rng = placer.rng
    for name in ("bench", "wardrobe", "dresser"):
        if rng.random() < 0.75:
            placer.at_wall(build_model(name, rng))
    _hang(placer, "mirror")


_GROUPS: dict[str, Callable[[Placer], None]] = {
    "living room": _living_room,
    "bedroom": _bedroom,
    "office": _office,
    "dining room": _dining_room,
    "kitchen": _kitchen,
    "hallway": _hallway,
}


def _carrier(placer: Placer, name: str, load: str) -> Placed | None:
    """A piece at a wall with something in the middle of it."""
    base = placer.at_wall(build_model(name, placer.rng))
    if base:
        _load(placer, base, load)
    return base


def _load(placer: Placer, base: Placed, name: str | None) -> None:
    """Puts a thing of this (or a fitting) category on a piece."""
    rng, supports = placer.rng, base.piece.model.supports
    name = name or str(rng.choice(CATALOGUE[base.item.category].carries))
    support = supports[int(rng.integers(len(supports)))]
    if base.item.category == "bed":
        support = supports[0 if name == "pillow" else 1]
    standing = support.kind == "shelf" or rng.random() < 0.2
    variant = int(standing) if name == "book" else None
    aligned = support.kind in ("shelf", "seat", "bed") or name in ("tv", "monitor", "laptop")
    turn = 0.0 if aligned else float(rng.normal(0, 0.35))
    placer.onto(build_model(name, rng, variant=variant), base, support, turn)


def _hang(placer: Placer, name: str) -> None:
    piece = build_model(name, placer.rng)
    z = float(placer.rng.uniform(1.45, 1.75)) - piece.model.size[2] / 2
    placer.at_wall(piece, z=z, off=0.001)


def _fill(placer: Placer, room_type: str, target: int) -> None:
    """Adds furniture, loads, wall pieces and loose things until the room holds ``target`` objects."""
    rng = placer.rng
    if rng.random() < 0.35:
        _hang_lamp(placer)
    for _ in range(60):
        if len(placer.placed) >= min(target, MAX_OBJECTS):
            return
        draw = rng.random()
        if draw < 0.22:
            name = str(rng.choice(ROOMS[room_type]["extra"]))
            place = placer.in_open if name in LOOSE or name == "office chair" else placer.at_wall
            place(build_model(name, rng))
        elif draw < 0.68:
            bases = [p for p in placer.placed if CATALOGUE[p.item.category].carries]
            if bases:
                _load(placer, bases[int(rng.integers(len(bases)))], None)
        elif draw < 0.82:
            _hang(placer, str(rng.choice(["picture", "picture", "picture", "mirror", "clock"])))
        else:
            placer.in_open(build_model(str(rng.choice(LOOSE)), rng))


def _hang_lamp(placer: Placer) -> None:
    piece = build_model("ceiling lamp", placer.rng)
    z = placer.height - piece.model.size[2] - 1e-3
    box = box_of(piece, *_middle(placer), 0.0, z)
    if placer.outline.holds(box, 0.2) and all(p.footprint.z1 < z for p in placer.placed):
        placer.put(piece, box)


def _middle(placer: Placer) -> tuple[float, float]:
    """The point farthest from the walls, of a random sample."""
    low, high = placer.outline.array.min(0), placer.outline.array.max(0)
    points = placer.rng.uniform(low, high, (64, 2))
    x, y = points[int(placer.outline.clearance(points).argmax())].tolist()
    return x, y


def _lights(placer: Placer) -> tuple[Light, ...]:
    """A main light under the ceiling, one inside each of two windows at most, sometimes a second lamp."""
    rng = placer.rng
    lamps = [p.footprint for p in placer.placed if p.item.category == "ceiling lamp"]
    x, y = (lamps[0].x, lamps[0].y) if lamps else _middle(placer)
    z = min([box.z0 for box in lamps] + [placer.height]) - 0.12
    power = float(rng.uniform(0.7, 1.1))
    lights = [Light((x, y, z), _tone(rng, power))]
    for window in [p for p in placer.placed if p.item.category == "window"][:2]:
        position, power = (*window.footprint.point(0.0, -0.5), window.item.centre[2]), float(rng.uniform(0.35, 0.7))
        lights.append(Light(position, (0.92 * power, power, 1.1 * power)))
    if len(lights) == 1 and rng.random() < 0.6:
        x, y = _middle(placer)
        lights.append(Light((x, y, placer.height - 0.15), _tone(rng, float(rng.uniform(0.3, 0.6)))))
    return tuple(lights)


def _tone(rng: np.random.Generator, power: float) -> RGB:
    warm = float(rng.uniform(-0.06, 0.12))
    return power * (1 + warm), power, power * (1 - 1.2 * warm)
