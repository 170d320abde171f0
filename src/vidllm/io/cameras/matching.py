"""Which of a file's cameras is that of a frame: by its name, its time, or the number in its name; never by counting.

Pictures and arrays have no clock: their times are frame numbers (``Frames.clock_start_s`` is None) and match no time.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np

from vidllm.io.cameras.records import TIME_TOLERANCE_S, PerFrame
from vidllm.io.pictures import number_of, stem

if TYPE_CHECKING:
    from vidllm.io.frames import Frames

Rows = list[int | None]


def rows_of(cameras: PerFrame, frames: Frames, begin: int | None = None) -> list[int]:
    """:meth:`PerFrame.rows`."""
    if not cameras.keyed:
        return _in_order(cameras, len(frames), begin)
    found = {"name": _by_name(cameras, frames), "time": _by_time(cameras, frames),
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


def _in_order(cameras: PerFrame, count: int, begin: int | None) -> list[int]:
    """Rows of cameras that are given for the used frames alone."""
    total, first = len(cameras.matrices), begin or 0
    if first + count > total or (begin is None and count != total):
        raise ValueError(f"{cameras.where}: {total} cameras for {first + count} frames; give one each")
    return list(range(first, first + count))


def _by_name(cameras: PerFrame, frames: Frames) -> Rows:
    places = {name: row for row, name in enumerate(cameras.names)}
    return [places.get(stem(name)) for name in frames.names]


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
    """Frames of a film are named by counting: what its clock says must agree, or the counting is told."""
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
