"""Objects built of boxes, cylinders and ellipsoids in their own frame: x right, y back (the front faces -y), z up.

Builders place parts anywhere; :meth:`Kit.finish` moves the origin to the bottom centre.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from vidllm_rooms.world import RGB, Kind, Primitive, Triple

#: From where to where, or a length about 0.
Span = float | tuple[float, float]


@dataclass(frozen=True)
class Support:
    """A horizontal surface that carries objects: the rectangle x0..x1, y0..y1 at height z with free ``clearance``."""

    z: float
    x0: float
    x1: float
    y0: float
    y1: float
    clearance: float = 1.0
    kind: str = "top"  # "top", "shelf", "seat" or "bed"


@dataclass(frozen=True)
class Model:
    """A built object in its own frame: parts, overall size and surfaces that carry objects."""

    parts: tuple[Primitive, ...]
    size: Triple
    supports: tuple[Support, ...]


def _span(side: Span) -> tuple[float, float]:
    return side if isinstance(side, tuple) else (-side / 2, side / 2)


@dataclass
class Kit:
    """Collects the parts of one object. ``main`` is the named colour, ``other`` an inconspicuous second one."""

    rng: np.random.Generator
    main: RGB
    other: RGB
    texture: str = "plain"
    parts: list[Primitive] = field(default_factory=list)
    supports: list[Support] = field(default_factory=list)

    def draw(self, low: float, high: float) -> float:
        """A size in metres, uniform in low..high."""
        return float(self.rng.uniform(low, high))

    def chance(self, probability: float) -> bool:
        """True with this probability."""
        return bool(self.rng.random() < probability)

    def solid(
        self, kind: Kind, centre: Triple, size: Triple, rgb: RGB | None = None, texture: str | None = None
    ) -> None:
        """Adds one primitive; colour and texture default to the object's own."""
        self.parts.append(Primitive(kind, centre, size, 0.0, rgb or self.main, texture or self.texture))

    def block(
        self, x: Span, y: Span, z: tuple[float, float], rgb: RGB | None = None, texture: str | None = None
    ) -> None:
        """Adds a box."""
        (x0, x1), (y0, y1), (z0, z1) = _span(x), _span(y), z
        centre = (x0 + x1) / 2, (y0 + y1) / 2, (z0 + z1) / 2
        self.solid("box", centre, (x1 - x0, y1 - y0, z1 - z0), rgb, texture)

    def post(self, x: float, y: float, z: tuple[float, float], diameter: float, rgb: RGB | None = None) -> None:
        """Adds an upright round bar."""
        self.solid("cylinder", (x, y, (z[0] + z[1]) / 2), (diameter, diameter, z[1] - z[0]), rgb)

    def legs(self, width: float, depth: float, top: float, thick: float, rgb: RGB | None = None) -> None:
        """Four legs at the corners of a width x depth rectangle around the origin, square or round."""
        round_legs = self.chance(0.4)
        for sx in (-1, 1):
            for sy in (-1, 1):
                x, y = sx * (width - thick) / 2, sy * (depth - thick) / 2
                if round_legs:
                    self.post(x, y, (0.0, top), thick, rgb)
                else:
                    self.block((x - thick / 2, x + thick / 2), (y - thick / 2, y + thick / 2), (0.0, top), rgb)

    def support(self, z: float, x: Span, y: Span, clearance: float = 1.0, kind: str = "top") -> None:
        """Declares a surface that carries things."""
        self.supports.append(Support(z, *_span(x), *_span(y), clearance, kind))

    def finish(self) -> Model:
        """The model with its origin at the bottom centre and its tight size."""
        centres = np.array([part.centre for part in self.parts])
        halves = np.array([part.size for part in self.parts]) / 2
        low, high = (centres - halves).min(0), (centres + halves).max(0)
        dx, dy, dz = float(low[0] + high[0]) / 2, float(low[1] + high[1]) / 2, float(low[2])
        moved = ((x - dx, y - dy, z - dz) for x, y, z in (part.centre for part in self.parts))
        parts = tuple(replace(part, centre=centre) for part, centre in zip(self.parts, moved, strict=True))
        supports = tuple(
            replace(s, z=s.z - dz, x0=s.x0 - dx, x1=s.x1 - dx, y0=s.y0 - dy, y1=s.y1 - dy) for s in self.supports
        )
        width, depth, height = (high - low).tolist()
        return Model(parts, (width, depth, height), supports)
