"""Placing objects in a room without collisions: at walls, in the open, next to and on each other."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np

from vidllm_rooms.world import RoomObject
from vidllm_rooms.world.catalogue import Piece
from vidllm_rooms.world.outline import Footprint, Outline, contains, overlap
from vidllm_rooms.world.parts import Support

GAP_M = 0.02
SKIRTING_M = 0.014


@dataclass(frozen=True)
class Placed:
    """A placed object with its footprint and the piece it was made from."""

    item: RoomObject
    piece: Piece
    footprint: Footprint


@dataclass
class Placer:
    """Keeps track of placed objects. Ids count from 1 in the order of placing."""

    rng: np.random.Generator
    outline: Outline
    height: float
    placed: list[Placed] = field(default_factory=list)
    keep_free: list[Footprint] = field(default_factory=list)

    def free(self, box: Footprint, *, margin: float = GAP_M, ignore: frozenset[int] = frozenset()) -> bool:
        """Whether a box is inside the room and overlaps neither objects nor reserved space."""
        grown = box.grown(margin)
        if any(overlap(grown, other) for other in self.keep_free):
            return False
        if any(p.item.id not in ignore and overlap(grown, p.footprint) for p in self.placed):
            return False
        return box.z1 <= self.height - 0.01 and self.outline.holds(box)

    def put(self, piece: Piece, box: Footprint, on: int | None = None) -> Placed:
        """Record a piece at this box, which must be free."""
        number = len(self.placed) + 1
        yaw, size = _wrapped(0.0 + box.yaw), piece.model.size  # 0.0: no negative zero
        parts = tuple(
            replace(part, centre=(*box.point(x, y), box.z0 + z), yaw=yaw, owner=number)
            for part in piece.model.parts
            for x, y, z in [part.centre]
        )
        centre = (box.x, box.y, box.z0 + size[2] / 2)
        item = RoomObject(number, piece.category, piece.colour, piece.material, centre, size, box.yaw, on, parts)
        self.placed.append(Placed(item, piece, box))
        return self.placed[-1]

    def on_floor(self, piece: Piece, x: float, y: float, yaw: float, margin: float = GAP_M) -> Placed | None:
        """Place a piece on the floor, or on a rug that carries it wholly; None if it does not fit."""
        box = box_of(piece, x, y, yaw, 0.0)
        for rug in (p for p in self.placed if p.item.category == "rug"):
            if not overlap(box.grown(0.01), rug.footprint):
                continue
            inset = 0.03 if rug.piece.model.parts[0].kind == "box" else rug.footprint.half_x * 0.3
            if not all(contains(rug.footprint, corner, inset) for corner in box.corners()):
                return None
            box = replace(box, z0=rug.footprint.z1, z1=rug.footprint.z1 + box.z1 - box.z0)
            ok = self.free(box, margin=margin, ignore=frozenset({rug.item.id}))
            return self.put(piece, box, rug.item.id) if ok else None
        return self.put(piece, box) if self.free(box, margin=margin) else None

    def at_wall(self, piece: Piece, z: float = 0.0, off: float = SKIRTING_M, tries: int = 24) -> Placed | None:
        """Place a piece with its back to a random wall, ``off`` metres from it, with its bottom at height z."""
        walls = self.outline.walls
        lengths = np.array([wall.length for wall in walls])
        width, depth, _ = piece.model.size
        for _ in range(tries):
            wall = walls[int(self.rng.choice(len(walls), p=lengths / lengths.sum()))]
            if wall.length < width + 0.1:
                continue
            along = float(self.rng.uniform(width / 2 + 0.03, wall.length - width / 2 - 0.03))
            x, y = wall.point(along, off + depth / 2)
            box = box_of(piece, x, y, wall.facing, z)
            if z == 0.0 and (found := self.on_floor(piece, x, y, wall.facing)):
                return found
            if z > 0.0 and self.free(box):
                return self.put(piece, box)
        return None

    def in_open(self, piece: Piece, tries: int = 24, margin: float = 0.12) -> Placed | None:
        """Place a piece on the floor, at a right angle to the room or nearly so."""
        low, high = self.outline.array.min(0), self.outline.array.max(0)
        for _ in range(tries):
            x, y = self.rng.uniform(low + 0.3, high - 0.3).tolist()
            yaw = float(self.rng.integers(4)) * math.pi / 2 + float(self.rng.normal(0, 0.15))
            if found := self.on_floor(piece, x, y, _wrapped(yaw), margin):
                return found
        return None

    def relative(self, piece: Piece, base: Placed, x: float, y: float, turn: float = 0.0) -> Placed | None:
        """Place a piece at (x, y) in the base's own frame, turned by ``turn`` relative to it."""
        return self.on_floor(piece, *base.footprint.point(x, y), _wrapped(base.item.yaw + turn))

    def onto(self, piece: Piece, base: Placed, support: Support, turn: float = 0.0) -> Placed | None:
        """Place a small piece on a support of the base; None if there is no free place."""
        width, depth, height = piece.model.size
        half_x = (abs(math.cos(turn)) * width + abs(math.sin(turn)) * depth) / 2 + 0.005
        half_y = (abs(math.sin(turn)) * width + abs(math.cos(turn)) * depth) / 2 + 0.005
        spare_x, spare_y = support.x1 - support.x0 - 2 * half_x, support.y1 - support.y0 - 2 * half_y
        if spare_x < 0 or spare_y < 0 or height > support.clearance:
            return None
        z = base.footprint.z0 + support.z
        for _ in range(8):
            x = support.x0 + half_x + spare_x * float(self.rng.random())
            y = support.y0 + half_y + spare_y * float(self.rng.random())
            box = box_of(piece, *base.footprint.point(x, y), _wrapped(base.item.yaw + turn), z)
            if self.free(box, margin=0.008, ignore=frozenset({base.item.id})):
                return self.put(piece, box, base.item.id)
        return None


def box_of(piece: Piece, x: float, y: float, yaw: float, z: float) -> Footprint:
    """The footprint of a piece whose bottom centre is at (x, y, z)."""
    width, depth, height = piece.model.size
    return Footprint(x, y, width / 2, depth / 2, yaw, z, z + height)


def _wrapped(angle: float) -> float:
    return math.atan2(math.sin(angle), math.cos(angle))
