"""Curves as a picture: one panel a quantity, several series in each, by matplotlib (``pip install vidllm[plot]``).

The vertical axis is logarithmic where everything is positive and the largest value is many times the smallest.
Measured values are faint, smoothed ones strong.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PANEL = (4.2, 2.5)  # inches of 100 pixels, width and height
COLUMNS = 4
COLOURS = ("#1f6fb4", "#d65c16", "#288c46", "#aa378c", "#6e5a3c", "#1496a0", "#c81e3c")
LOG_SPAN = 30.0


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


def can_plot() -> bool:
    """Whether matplotlib is installed."""
    return find_spec("matplotlib") is not None


def check_plot() -> None:
    """ValueError where matplotlib is not installed, with what to install."""
    if not can_plot():
        raise ValueError("drawing curves needs matplotlib: pip install vidllm[plot]")


def smoothed(y: Float[np.ndarray, " N"], window: int) -> Float[np.ndarray, " N"]:
    """The mean over ``window`` values around each, fewer at the ends, so that nothing is shifted or lost."""
    reach = np.arange(len(y))
    low = np.maximum(reach - (window - 1) // 2, 0)
    high = np.minimum(reach + window // 2 + 1, len(y))
    total = np.concatenate([[0.0], np.cumsum(y, dtype=np.float64)])
    return (total[high] - total[low]) / (high - low)


def line_charts(panels: Sequence[Panel], names: Sequence[str], x_name: str = "step") -> Figure:
    """The figure: a legend of ``names`` (of series 0, 1, ...), then the panels row by row.

    Raises ValueError without a panel, or without matplotlib.
    """
    check_plot()
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    if not panels:
        raise ValueError("nothing to draw: no quantity has a finite value")
    columns = min(COLUMNS, len(panels))
    rows, legend_rows = math.ceil(len(panels) / columns), math.ceil(len(names) / columns)
    size = columns * PANEL[0], rows * PANEL[1] + 0.3 * legend_rows
    figure = Figure(figsize=size, dpi=100, layout="constrained")
    places = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes, panel in zip(places, panels, strict=False):
        _draw(axes, panel)
    for axes in places[len(panels) :]:
        axes.set_axis_off()
    figure.supxlabel(x_name, fontsize="small")
    lines = [Line2D([], [], color=COLOURS[number % len(COLOURS)], linewidth=3) for number in range(len(names))]
    figure.legend(lines, names, loc="outside upper left", ncols=columns, frameon=False)
    return figure


def _draw(axes: Axes, panel: Panel) -> None:
    for one in panel.series:
        colour, mark = COLOURS[one.number % len(COLOURS)], "o" if len(one.x) == 1 else None
        axes.plot(one.x, one.y, color=colour, alpha=0.35, linewidth=1, marker=mark)
        axes.plot(one.x, one.smooth, color=colour, linewidth=2, marker=mark)
    # shown: the smoothed values, and the measured ones without the outermost 1 %
    shown = np.concatenate([part for s in panel.series for part in (s.smooth, np.percentile(s.y, [1, 99]))])
    low, high = float(shown.min()), float(shown.max())
    if low > 0 and high / low > LOG_SPAN:
        axes.set_yscale("log")
        axes.set_ylim(low / (high / low) ** 0.05, high * (high / low) ** 0.05)
    elif high > low:
        axes.set_ylim(low - 0.05 * (high - low), high + 0.05 * (high - low))
    axes.set_title(panel.title, fontsize="medium", loc="left")
    axes.tick_params(labelsize="small")
    axes.grid(alpha=0.3)
