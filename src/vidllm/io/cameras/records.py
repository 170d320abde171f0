"""Content of camera files: matrices with the names, times or numbers of their frames, and lenses.

Intrinsics are in pixels with centres at +0.5; poses are world-from-camera with OpenCV axes.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from vidllm.io.pictures import number_of, stem, times_of

if TYPE_CHECKING:
    from vidllm.io.frames import Frames

TIME_TOLERANCE_S = 0.02  # between a frame and its pose (the TUM RGB-D tools' own default)


@dataclass(frozen=True)
class PerFrame:
    """Matrices (N, ...) of a source's frames with their names (without suffix), times in seconds, or numbers.

    A number is that in the frame's name; with ``counted`` it is the index of the frame in the source, from 0. Without
    names, times and numbers the matrices belong to the sampled frames, in order. ``where`` and ``places`` (one each,
    such as "line 3") are for messages. ValueError for two different matrices with the same name, time or number.
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
        """File and line of a matrix, or only the line."""
        if row >= len(self.places):
            return self.where if not short else f"camera {row}"
        return self.places[row] if short else f"{self.where}: {self.places[row]}"

    @property
    def keyed(self) -> bool:
        """Whether frames are matched by names, times or numbers."""
        return bool(len(self.names)) or self.times_s is not None or self.numbers is not None


def per_word(matrices: np.ndarray, words: Sequence[str], where: str, places: Sequence[str]) -> PerFrame:
    """Matrices whose keys are words: names, and times or numbers if all words are such."""
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
    """A pinhole lens of all frames, partly given; the rest follows from the size of the pictures.

    fx, fy, cx, cy in pixels; angle_x, angle_y: fields of view in radians, used if a focal length is missing.
    """

    fx: float | None = None
    fy: float | None = None
    cx: float | None = None
    cy: float | None = None
    angle_x: float | None = None
    angle_y: float | None = None

    @property
    def whole(self) -> bool:
        """Whether K does not depend on the size of the pictures."""
        focal = self.fx is not None if self.fy is None else self.fx is not None or self.angle_x is None
        return focal and (self.fy is not None or self.angle_y is None) and None not in (self.cx, self.cy)

    def matrix(self, size: tuple[int, int]) -> Float[np.ndarray, "3 3"]:
        """K for pictures of (H, W), by default with square pixels and the principal point in the middle."""
        height, width = size
        fx = self.fx if self.fx is not None else _focal(self.angle_x, width)
        fy = self.fy if self.fy is not None else _focal(self.angle_y, height)
        fx, fy = fx if fx is not None else fy, fy if fy is not None else fx
        assert fx is not None and fy is not None
        cx, cy = (half / 2 if c is None else c for c, half in ((self.cx, width), (self.cy, height)))
        return pinhole(fx, fy, cx, cy)


def _focal(angle: float | None, side: int) -> float | None:
    return None if angle is None else side / 2 / math.tan(angle / 2)


def a_number(value: object, where: str) -> float:
    """A JSON number as a float; ValueError that names the place."""
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > 1e300:
        raise ValueError(f"{where}: expected a number, got {str(value)[:40]!r}")
    return float(value)


def pinhole(fx: float, fy: float, cx: float, cy: float) -> Float[np.ndarray, "3 3"]:
    """K of four numbers."""
    return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]], np.float64)


@dataclass(frozen=True)
class Intrinsics:
    """Intrinsics of a file: K (3,3) of all frames, of each, or a lens; ``size``: the (H, W) of their pictures, if
    given.
    """

    given: np.ndarray | PerFrame | Lens
    size: tuple[int, int] | None = None
    where: str = "given intrinsics"


@dataclass(frozen=True)
class Poses:
    """Poses of a file; ``up``: direction against gravity in their world, if known; ``metric``: None if unknown."""

    given: PerFrame
    up: tuple[float, float, float] | None = None
    metric: bool | None = True


# ---- lens distortion -----------------------------------------------------------------------------------------------

NEGLIGIBLE_PIXELS = 0.5


def tell_distortion(matrix: np.ndarray, size: tuple[int, int] | None, terms: Mapping[str, float], where: str) -> None:
    """Warn of distortion that displaces a pixel of the border by more than half a pixel.

    ``terms``: k1 to k6, p1, p2 of OpenCV's model; ``size``: (H, W), twice the principal point if unknown.
    """
    told = {name: value for name, value in terms.items() if value}
    if not told:
        return
    shift = _largest_shift(matrix, size, told)
    if not shift <= NEGLIGIBLE_PIXELS:
        warnings.warn(f"{where}: the lens distortion, up to {shift:.1f} pixels, is not modelled; undistort the "
                      "pictures", stacklevel=3)  # fmt: skip


def refuse_lens(kind: str, where: str) -> ValueError:
    """The error for a lens that is not a pinhole camera."""
    return ValueError(f"{where}: a lens of kind {kind}, expected a pinhole camera; undistort the pictures (COLMAP: "
                      "colmap image_undistorter)")  # fmt: skip


def _largest_shift(matrix: np.ndarray, size: tuple[int, int] | None, terms: Mapping[str, float]) -> float:
    """Pixels by which the model moves the border of the picture, at most."""
    fx, fy, cx, cy = matrix[0, 0], matrix[1, 1], matrix[0, 2], matrix[1, 2]
    height, width = (2 * cy, 2 * cx) if size is None else size
    along = np.linspace(0, 1, 9)
    u = np.concatenate([along * width, along * width, 0 * along, 0 * along + width])
    v = np.concatenate([0 * along, 0 * along + height, along * height, along * height])
    with np.errstate(all="ignore"):
        x, y = (u - cx) / fx, (v - cy) / fy
        r2 = x * x + y * y
        k1, k2, k3, k4, k5, k6, p1, p2 = (terms.get(n, 0.0) for n in ("k1", "k2", "k3", "k4", "k5", "k6", "p1", "p2"))
        radial = (1 + r2 * (k1 + r2 * (k2 + r2 * k3))) / (1 + r2 * (k4 + r2 * (k5 + r2 * k6)))
        dx = x * (radial - 1) + 2 * p1 * x * y + p2 * (r2 + 2 * x * x)
        dy = y * (radial - 1) + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y
        return float(np.hypot(dx * fx, dy * fy).max())


# ---- which camera is that of a frame -------------------------------------------------------------------------------
#
# Pictures and arrays have no clock: their times are frame numbers (``Frames.clock_start_s`` is None) and match no time.

Rows = list[int | None]


def rows_of(cameras: PerFrame, frames: Frames, begin: int | None = None) -> list[int]:
    """The row of ``cameras`` of each frame; ``begin``: index of the first sampled frame (windows)."""
    if not cameras.keyed:  # given for the used frames alone, in order
        total, first = len(cameras.matrices), begin or 0
        count = first + len(frames)
        if count > total or (begin is None and count != total):
            raise ValueError(f"{cameras.where}: {total} cameras for {count} frames; give one each")
        return list(range(first, count))
    places = {name: row for row, name in enumerate(cameras.names)}
    found = {"name": [places.get(stem(name)) for name in frames.names], "time": _by_time(cameras, frames),
             "number": _by_number(cameras, frames)}  # fmt: skip
    whole = {way: _whole(rows) for way, rows in found.items()}
    if whole["name"] is not None:
        _check_times(cameras, frames, whole["name"])
        return whole["name"]
    by_time, by_number = whole["time"], whole["number"]
    if by_time is not None and by_number is not None and by_time != by_number:
        raise ValueError(f"{cameras.where}: its whole numbers fit {frames.source} both as seconds and as frame "
                         "numbers; write times with decimals, or frame names")  # fmt: skip
    if by_time is not None:
        return by_time
    if by_number is not None:
        _tell_counting(cameras, frames)
        return by_number
    raise ValueError(_none_fits(cameras, frames, list(found.values())))


def _by_time(cameras: PerFrame, frames: Frames) -> Rows:
    if cameras.times_s is None or frames.clock_start_s is None or not len(cameras.times_s):
        return [None] * len(frames)
    times = np.asarray(cameras.times_s, np.float64)
    wanted = frames.timestamps_s.numpy() + frames.clock_start_s
    order = np.argsort(times, kind="stable")
    after = np.searchsorted(times[order], wanted).clip(1, max(len(times) - 1, 1))
    pairs = np.stack([order[after - 1], order[np.minimum(after, len(times) - 1)]])
    apart = np.abs(times[pairs] - wanted)
    nearest = pairs[apart.argmin(0), np.arange(len(wanted))]
    near = apart.min(0) <= TIME_TOLERANCE_S
    return [int(row) if close else None for row, close in zip(nearest, near, strict=True)]


def _by_number(cameras: PerFrame, frames: Frames) -> Rows:
    numbers = [int(n) for n in frames.indices] if cameras.counted else [number_of(name) for name in frames.names]
    if cameras.numbers is None or len(set(numbers)) != len(numbers):
        return [None] * len(frames)
    places = {number: row for row, number in enumerate(cameras.numbers)}
    return [None if number is None else places.get(number) for number in numbers]


def _whole(rows: Rows) -> list[int] | None:
    found = [row for row in rows if row is not None]
    return found if len(found) == len(rows) else None


def _check_times(cameras: PerFrame, frames: Frames, rows: list[int]) -> None:
    """Frames of a video are named by their number; times in the file of cameras must agree with its clock."""
    clock = frames.clock_start_s
    if clock is None:
        return
    if cameras.times_s is None:
        _tell_counting(cameras, frames)
        return
    for row, name, seconds in zip(rows, frames.names, frames.timestamps_s.tolist(), strict=True):
        told = float(cameras.times_s[row])
        if not abs(told - clock - seconds) <= TIME_TOLERANCE_S:
            raise ValueError(f"{cameras.place(row)}: {name} at {told:.10g} s, but in {frames.source} it is at "
                             f"{clock + seconds:.10g} s; are these the cameras of another video?")  # fmt: skip


def _tell_counting(cameras: PerFrame, frames: Frames) -> None:
    if cameras.where == frames.source:  # a recording with the cameras of its own frames
        return
    if cameras.counted:
        warnings.warn(f"{cameras.where}: no names or times here: the cameras are taken as those of the frames "
                      f"0, 1, 2, ... of {frames.source}", stacklevel=2)  # fmt: skip
    elif frames.clock_start_s == 0:
        warnings.warn(f"{cameras.where}: no times here: the numbers in it are taken as those of all frames of "
                      f"{frames.source}, counted from 0", stacklevel=2)  # fmt: skip


def _none_fits(cameras: PerFrame, frames: Frames, ways: list[Rows]) -> str:
    best = max(ways, key=lambda rows: sum(row is not None for row in rows))
    missing = best.index(None)
    name, clock = frames.names[missing], frames.clock_start_s
    when = "no time" if clock is None else f"at {clock + float(frames.timestamps_s[missing]):.10g} s"
    return (f"{cameras.where}: none of its {len(cameras.matrices)} cameras is that of {name} ({when}); it holds "
            f"{_span(cameras)}; expected the frames' names, times within {TIME_TOLERANCE_S} s or numbers")  # fmt: skip


def _span(cameras: PerFrame) -> str:
    """The keys of a file, shortly."""
    if cameras.times_s is not None and len(cameras.times_s):
        return f"times from {min(cameras.times_s):.10g} to {max(cameras.times_s):.10g} s"
    if cameras.numbers is not None and len(cameras.numbers):
        return f"numbers from {min(cameras.numbers)} to {max(cameras.numbers)}"
    return f"names from {min(cameras.names)} to {max(cameras.names)}"
