"""The kit of which furniture is built: boxes, cylinders and ellipsoids in an object's own frame.

Own frame: x right, y back (the front faces -y), z up, metres. Builders place parts anywhere; the kit then moves the
result so that the origin is at the bottom centre and the size is tight.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from vidllm_rooms.world import Kind, Primitive

RGB = tuple[float, float, float]


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
    size: tuple[float, float, float]
    supports: tuple[Support, ...]


def _minus(point: tuple[float, float, float], shift: np.ndarray) -> tuple[float, float, float]:
    x, y, z = (np.array(point) - shift).tolist()
    return x, y, z


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
        self,
        kind: Kind,
        centre: tuple[float, float, float],
        size: tuple[float, float, float],
        rgb: RGB | None = None,
        texture: str | None = None,
    ) -> None:
        """Adds one primitive; colour and texture default to the object's own."""
        self.parts.append(Primitive(kind, centre, size, 0.0, rgb or self.main, texture or self.texture))

    def block(
        self,
        x: tuple[float, float],
        y: tuple[float, float],
        z: tuple[float, float],
        rgb: RGB | None = None,
        texture: str | None = None,
    ) -> None:
        """Adds a box by its intervals."""
        centre = ((x[0] + x[1]) / 2, (y[0] + y[1]) / 2, (z[0] + z[1]) / 2)
        self.solid("box", centre, (x[1] - x[0], y[1] - y[0], z[1] - z[0]), rgb, texture)

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

    def support(
        self, z: float, x: tuple[float, float], y: tuple[float, float], clearance: float = 1.0, kind: str = "top"
    ) -> None:
        """Declares a surface that carries things."""
        self.supports.append(Support(z, x[0], x[1], y[0], y[1], clearance, kind))

    def finish(self) -> Model:
        """The model with its origin at the bottom centre and its tight size."""
        centres = np.array([part.centre for part in self.parts])
        halves = np.array([part.size for part in self.parts]) / 2
        low, high = (centres - halves).min(0), (centres + halves).max(0)
        shift = np.array([(low[0] + high[0]) / 2, (low[1] + high[1]) / 2, low[2]])
        parts = tuple(replace(part, centre=_minus(part.centre, shift)) for part in self.parts)
        dx, dy, dz = shift.tolist()
        supports = tuple(
            replace(s, z=s.z - dz, x0=s.x0 - dx, x1=s.x1 - dx, y0=s.y0 - dy, y1=s.y1 - dy) for s in self.supports
        )
        width, depth, height = (high - low).tolist()
        return Model(parts, (width, depth, height), supports)


#: Category -> its builders, one for each variant.
BUILDERS: dict[str, list[Callable[[Kit], None]]] = {}


def builds(category: str) -> Callable[[Callable[[Kit], None]], Callable[[Kit], None]]:
    """Registers a builder of this category."""

    def register(builder: Callable[[Kit], None]) -> Callable[[Kit], None]:
        BUILDERS.setdefault(category, []).append(builder)
        return builder

    return register
