"""Curves as a picture: one panel a quantity, several series in each, drawn with Pillow alone.

A panel has its own axes with round numbers; its vertical axis is logarithmic where everything is positive and the
largest value is many times the smallest. What was measured is faint, what was smoothed is strong.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFont

from vidllm.export.pictures import GRID, INK, PAPER

PANEL = (420, 250)  # pixels, width and height
COLUMNS = 4
LEFT, RIGHT, TOP, BOTTOM = 62.0, 14.0, 26.0, 24.0  # of a panel's frame
COLOURS = ((31, 111, 180), (214, 92, 22), (40, 140, 70), (170, 55, 140), (110, 90, 60), (20, 150, 160), (200, 30, 60))
LOG_SPAN = 30.0
_SUFFIXES = ((1e9, "G"), (1e6, "M"), (1e3, "k"))


@dataclass(frozen=True)
class Series:
    """One curve: its number (which gives its colour in every panel), x rising, y, and y smoothed."""

    number: int
    x: Float[np.ndarray, " N"]
    y: Float[np.ndarray, " N"]
    smooth: Float[np.ndarray, " N"]


@dataclass(frozen=True)
class Panel:
    """A quantity and its curves."""

    title: str
    series: list[Series]


def colour(number: int) -> tuple[int, int, int]:
    """The colour of a series; after the last one they begin anew."""
    return COLOURS[number % len(COLOURS)]


def smoothed(y: Float[np.ndarray, " N"], window: int) -> Float[np.ndarray, " N"]:
    """The mean over ``window`` values around each, fewer at the ends, so that nothing is shifted or lost."""
    reach = np.arange(len(y))
    low = np.maximum(reach - (window - 1) // 2, 0)
    high = np.minimum(reach + window // 2 + 1, len(y))
    total = np.concatenate([[0.0], np.cumsum(y, dtype=np.float64)])
    return (total[high] - total[low]) / (high - low)


def line_charts(panels: Sequence[Panel], names: Sequence[str], x_name: str = "step") -> Image.Image:
    """The picture: a legend of ``names`` (of series 0, 1, ...), then the panels row by row.

    Raises ValueError without a panel.
    """
    if not panels:
        raise ValueError("nothing to draw: no quantity has a finite value")
    columns = min(COLUMNS, len(panels))
    legend = 26 * (1 + (len(names) - 1) // columns) + 12
    rows = math.ceil(len(panels) / columns)
    picture = Image.new("RGB", (columns * PANEL[0], legend + rows * PANEL[1] + 10), PAPER)
    pen = ImageDraw.Draw(picture)
    for number, name in enumerate(names):
        x, y = (number % columns) * PANEL[0] + LEFT, 8.0 + 26 * (number // columns)
        pen.line((x, y + 9, x + 26, y + 9), fill=colour(number), width=4)
        _write(pen, (x + 34, y + 9), _cut(name, 46), 15, "lm")
    for index, panel in enumerate(panels):
        at = (index % columns * PANEL[0], legend + index // columns * PANEL[1])
        picture.paste(_draw(panel, x_name if index >= len(panels) - columns else ""), at)
    return picture


@dataclass(frozen=True)
class Axis:
    """Values to pixels along one side: ``low`` and ``high`` lie at ``start`` and ``end``."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def pixels(self, values: Float[np.ndarray, " N"]) -> Float[np.ndarray, " N"]:
        """Where the values lie; those outside are drawn at the rim."""
        told = np.log10(np.maximum(values, 1e-300)) if self.log else np.asarray(values, np.float64)
        share = (told - self.low) / (self.high - self.low)
        return self.start + np.clip(share, 0, 1) * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Round numbers inside, three to six of them (powers of ten, with 2 and 5 between, on a logarithmic axis)."""
        if self.log:
            powers = range(math.floor(self.low), math.ceil(self.high) + 1)
            for digits in ((1,), (1, 3), (1, 2, 5)):
                round_ones = [d * 10.0**p for p in powers for d in digits]
                found = [value for value in round_ones if self.low <= math.log10(value) <= self.high]
                if len(found) >= 3:
                    return found[:: max(1, len(found) // 5)]
            return found
        step = nice_step((self.high - self.low) / 4)
        first = math.ceil(self.low / step - 1e-9)
        return [n * step for n in range(first, math.floor(self.high / step + 1e-9) + 1)]


def nice_step(rough: float) -> float:
    """The nearest of 1, 2, 2.5 and 5 times a power of ten that is not below ``rough``."""
    power = 10.0 ** math.floor(math.log10(rough))
    return next(n * power for n in (1, 2, 2.5, 5, 10) if n * power >= rough * (1 - 1e-9))


def axis_of(values: Float[np.ndarray, " N"], start: float, end: float, *, may_be_log: bool = False) -> Axis:
    """An axis that shows all values, with a little room around them; a single value gets room too."""
    low, high = float(values.min()), float(values.max())
    log = may_be_log and low > 0 and high / low > LOG_SPAN
    if log:
        low, high = math.log10(low), math.log10(high)
    room = 0.05 * (high - low) or 0.5 * abs(high) or 1.0
    if not may_be_log:  # the horizontal axis ends where the data do
        room = 0.0 if high > low else room
    below = low - room if low < 0 or log or low - room > 0 else 0.0 if may_be_log else low
    return Axis(below, high + room, start, end, log)


def short(value: float) -> str:
    """``12000`` as ``12k``, ``0.00005`` as ``5e-05``."""
    for size, suffix in _SUFFIXES:
        if abs(value) >= size:
            return f"{value / size:.4g}{suffix}"
    return f"{0.0 if abs(value) < 1e-12 else value:.4g}"


def _draw(panel: Panel, x_name: str) -> Image.Image:
    width, height = PANEL
    picture = Image.new("RGB", PANEL, PAPER)
    pen = ImageDraw.Draw(picture)
    frame = (LEFT, TOP, width - RIGHT, height - BOTTOM)
    across = axis_of(np.concatenate([s.x for s in panel.series]), frame[0], frame[2])
    up = axis_of(np.concatenate([_shown(s) for s in panel.series]), frame[3], frame[1], may_be_log=True)
    _grid(pen, across, up, frame)
    for one in panel.series:
        faint = tuple(255 - (255 - c) // 3 for c in colour(one.number))
        _curve(pen, across, up, one.x, one.y, faint, 1)
        _curve(pen, across, up, one.x, one.smooth, colour(one.number), 2)
    pen.rectangle(frame, outline=INK)
    _write(pen, (LEFT, TOP - 5), panel.title + (" (log)" if up.log else ""), 15, "ls")
    if x_name:
        _write(pen, (frame[2], TOP - 5), f"over {x_name}", 11, "rs")
    return picture


def _shown(series: Series) -> np.ndarray:
    """The values that the axis must show: the smoothed ones, and the measured ones without the outermost 1 %."""
    low, high = np.percentile(series.y, [1, 99])
    return np.concatenate([series.smooth, [low, high]])


def _grid(pen: ImageDraw.ImageDraw, across: Axis, up: Axis, frame: tuple[float, float, float, float]) -> None:
    for value in across.ticks():
        x = float(across.pixels(np.array([value]))[0])
        pen.line((x, frame[1], x, frame[3]), fill=GRID)
        _write(pen, (x, frame[3] + 4), short(value), 12, "mt")
    for value in up.ticks():
        y = float(up.pixels(np.array([value]))[0])
        pen.line((frame[0], y, frame[2], y), fill=GRID)
        _write(pen, (frame[0] - 5, y), short(value), 12, "rm")


def _curve(
    pen: ImageDraw.ImageDraw, across: Axis, up: Axis, x: np.ndarray, y: np.ndarray, ink: tuple[int, ...], width: int
) -> None:
    points = list(zip(across.pixels(x).tolist(), up.pixels(y).tolist(), strict=True))
    if len(points) == 1:
        (px, py), r = points[0], width + 1
        pen.ellipse((px - r, py - r, px + r, py + r), fill=ink)
    else:
        pen.line(points, fill=ink, width=width)


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else "..." + text[3 - most :]


def _write(pen: ImageDraw.ImageDraw, at: tuple[float, float], text: str, size: int, anchor: str) -> None:
    pen.text(at, text, fill=INK, font=ImageFont.load_default(size=size), anchor=anchor)
