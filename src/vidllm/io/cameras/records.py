"""What files of cameras hold: matrices with the names, times or numbers of their frames, and lenses.

Intrinsics are in pixels with centres at +0.5; poses are world-from-camera with OpenCV axes.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from vidllm.io.pictures import number_of, stem, times_of

TIME_TOLERANCE_S = 0.02  # between a frame and its pose (the TUM RGB-D tools' own default)


@dataclass(frozen=True)
class PerFrame:
    """Matrices (N, ...) of a source's frames, each with its name (without suffix), its time in seconds or its number.

    A number is the one in the frame's name; with ``counted`` it is the frame's place in the source, from 0. Without
    names, times and numbers the matrices are those of the used frames, in order. ``where`` and ``places`` (one each,
    such as "line 3") are for messages. ValueError where one name, time or number has two different matrices.
    """

    matrices: np.ndarray
    names: Sequence[str] = ()
    times_s: Sequence[float] | None = None
    numbers: Sequence[int] | None = None
    where: str = "given cameras"
    places: Sequence[str] = ()
    counted: bool = False

    def __post_init__(self) -> None:
        for what, keys in (("time", self.times_s), ("name", self.names), ("number", self.numbers)):
            if keys is None or not len(keys):
                continue
            if len(keys) != len(self.matrices):
                raise ValueError(f"{self.where}: {len(keys)} {what}s for {len(self.matrices)} cameras; give one each")
            self._refuse_contradictions(what, keys)

    def _refuse_contradictions(self, what: str, keys: Sequence[Hashable]) -> None:
        rows: dict[Hashable, int] = {}
        for row, key in enumerate(keys):
            first = rows.setdefault(key, row)
            if first != row and not np.array_equal(self.matrices[first], self.matrices[row], equal_nan=True):
                raise ValueError(f"{self.place(row)}: another camera for the {what} {key} than "
                                 f"{self.place(first, short=True)} has; keep one of them")  # fmt: skip

    def place(self, row: int, short: bool = False) -> str:
        """Where a matrix stands: file and line, or the line alone."""
        if row >= len(self.places):
            return self.where if not short else f"camera {row}"
        return self.places[row] if short else f"{self.where}: {self.places[row]}"

    @property
    def keyed(self) -> bool:
        """Whether frames are found by names, times or numbers."""
        return bool(len(self.names)) or self.times_s is not None or self.numbers is not None


def per_word(matrices: np.ndarray, words: Sequence[str], where: str, places: Sequence[str]) -> PerFrame:
    """Matrices whose keys were written as words: names, and times or numbers where all words are such."""
    times = times_of(words) or _floats(words)
    if times is None:
        numbers = [number_of(word) for word in words]
    else:
        numbers = [int(time) if time.is_integer() and abs(time) < 1e12 else None for time in times]
    whole = [n for n in numbers if n is not None]
    distinct = len(whole) == len(words) and len(set(whole)) == len(set(words))
    return PerFrame(matrices, [stem(word) for word in words], times, whole if distinct else None, where, places)


def _floats(words: Sequence[str]) -> list[float] | None:
    try:
        found = [float(word) for word in words]
    except ValueError:
        return None
    return found if all(math.isfinite(x) for x in found) else None


@dataclass(frozen=True)
class Lens:
    """One pinhole lens of all frames of which only some is told; the pictures' size tells the rest.

    fx, fy, cx, cy in pixels; angle_x, angle_y: fields of view in radians, used where a focal length is missing.
    """

    fx: float | None = None
    fy: float | None = None
    cx: float | None = None
    cy: float | None = None
    angle_x: float | None = None
    angle_y: float | None = None

    @property
    def whole(self) -> bool:
        """Whether nothing depends on the pictures' size."""
        focal = self.fx is not None if self.fy is None else self.fx is not None or self.angle_x is None
        return focal and (self.fy is not None or self.angle_y is None) and None not in (self.cx, self.cy)

    def matrix(self, size: tuple[int, int]) -> Float[np.ndarray, "3 3"]:
        """K for pictures of (H, W): pixels are square and the principal point in the middle unless told otherwise."""
        height, width = size
        fx = self.fx if self.fx is not None else _focal(self.angle_x, width)
        fy = self.fy if self.fy is not None else _focal(self.angle_y, height)
        fx, fy = fx if fx is not None else fy, fy if fy is not None else fx
        assert fx is not None and fy is not None
        cx, cy = (half / 2 if c is None else c for c, half in ((self.cx, width), (self.cy, height)))
        return pinhole(fx, fy, cx, cy)


def _focal(angle: float | None, side: int) -> float | None:
    return None if angle is None else side / 2 / math.tan(angle / 2)


def pinhole(fx: float, fy: float, cx: float, cy: float) -> Float[np.ndarray, "3 3"]:
    """K of four numbers."""
    return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]], np.float64)


@dataclass(frozen=True)
class Intrinsics:
    """Intrinsics of a file: K (3,3) of all frames, of each, or a lens; ``size``: (H, W) they are of, where told."""

    given: np.ndarray | PerFrame | Lens
    size: tuple[int, int] | None = None
    where: str = "given intrinsics"


@dataclass(frozen=True)
class Poses:
    """Poses of a file; ``up``: against gravity in their world, where told; ``metric``: None where nothing tells."""

    given: PerFrame
    up: tuple[float, float, float] | None = None
    metric: bool | None = True
