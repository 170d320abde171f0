"""``vidllm train plot RUN...``: curves of a run's log; several runs in the same panels.

A panel for every quantity in the log: losses and learning figures in its order, then the learning rate (from the run's
own configuration where the log does not hold it), the gradient's norm, skipped steps and the seconds of a step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vidllm.export.line_chart import Panel, Series, check_plot, line_charts, smoothed
from vidllm.io.atomic import atomic_path
from vidllm.io.files import has_file, naming, parse_json, read_json_object, read_text
from vidllm.training.config import RunConfig, changed, flat_file

LOG_FILE, CONFIG_FILE = "log.jsonl", "config.json"
RATE, SPEED = "learning_rate", "seconds_a_step"
LAST = (RATE, "norm", "bad_steps", SPEED)  # the last panels
_SCHEDULE = ("steps", RATE, "final_fraction", "warmup_steps", "decay_fraction")
_NOT_DRAWN = ("step", "seconds")
_SMOOTH_PARTS = 40  # without a window of its own a curve is smoothed over a fortieth of it


@dataclass(frozen=True)
class RunLog:
    """A run's name, and for each quantity its steps and values, in the log's order."""

    name: str
    curves: dict[str, tuple[np.ndarray, np.ndarray]]


def plot_runs(runs: Sequence[str | Path], output: str | Path | None = None, smooth: int | None = None) -> Path:
    """Draw the runs (folders, or their logs) as PNG; returns where (default: ``curves.png`` in the first run).

    ``smooth``: curves are running means over this many log lines; 1: unchanged.
    Raises ValueError without matplotlib, for a run without a log, a broken line, or a name that is not ``.png``.
    """
    check_plot()
    if smooth is not None and smooth < 1:
        raise ValueError(f"--smooth: expected at least 1 line, received {smooth}")
    logs = [read_log(Path(run)) for run in runs]
    path = Path(output) if output is not None else _log_file(Path(runs[0])).parent / "curves.png"
    if path.suffix.lower() != ".png":
        raise ValueError(f"{path}: the picture is a PNG; give a name that ends in .png")
    picture = line_charts(panels(logs, smooth), names([Path(run) for run in runs]))
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        picture.savefig(temporary, format="png")
    return path


def read_log(run: Path) -> RunLog:
    """The curves of a run's log; an unfinished last line (of a killed run) is ignored."""
    file = _log_file(run)
    lines = read_text(file).split("\n")
    rows = [_row(file, number, line) for number, line in enumerate(lines[:-1], 1) if line.strip()]
    if not rows:
        raise ValueError(f"{file}: no line yet; a run writes one every log_every steps")
    curves = {name: _curve(rows, name) for name in dict.fromkeys(key for row in rows for key in row)}
    counts = {name for name in curves if name.endswith("_steps") and name != "bad_steps"}  # they tell nothing as curves
    drawn = {n: c for n, c in curves.items() if n not in _NOT_DRAWN and n not in counts and len(c[0])}
    return RunLog(file.parent.name, drawn | _rate(file.parent, rows, drawn) | _speed(rows))


def panels(logs: Sequence[RunLog], smooth: int | None = None) -> list[Panel]:
    """A panel for each quantity that any of the runs has."""
    found = list(dict.fromkeys(name for log in logs for name in log.curves))
    order = [name for name in found if name not in LAST] + [name for name in LAST if name in found]
    made = []
    for name in order:
        series = []
        for number, log in enumerate(logs):
            if name in log.curves:
                x, y = log.curves[name]
                window = smooth or max(1, len(y) // _SMOOTH_PARTS)
                series.append(Series(number, x, y, smoothed(y, 1 if name in (RATE, "bad_steps") else window)))
        made.append(Panel(name.replace("_", " "), series))
    return made


def names(runs: Sequence[Path]) -> list[str]:
    """The folders' names, or as much of their paths as makes them unique."""
    parts = [_log_file(run).parent.resolve().parts for run in runs]
    shortened = (["/".join(p[-length:]) for p in parts] for length in range(1, max(map(len, parts)) + 1))
    return next(short for short in shortened if len(set(short)) == len(set(parts)))


def _log_file(run: Path) -> Path:
    file = run / LOG_FILE if run.is_dir() else run
    if not has_file(file):
        raise ValueError(f"{run}: no log of a run here ({LOG_FILE} is missing); give the folder of a training run")
    return file


def _row(file: Path, number: int, line: str) -> dict[str, float]:
    try:
        row = parse_json(line, f"{file}: line {number}")
        if not math.isfinite(row["step"]):
            raise ValueError("a step that is not a number")
        return {"step": float(row["step"])} | {k: float(v) for k, v in row.items() if isinstance(v, int | float)}
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
        raise ValueError(f"{file}: line {number} is not a line of a training log; delete it") from error


def _curve(rows: Sequence[dict[str, float]], name: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and finite values of one quantity, by rising step."""
    told = {row["step"]: row[name] for row in rows if name in row and math.isfinite(row[name])}
    steps = sorted(told)
    return np.array(steps), np.array([told[step] for step in steps])


def _speed(rows: Sequence[dict[str, float]]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Seconds a step between two lines of one process (the clock of a resumed run starts again)."""
    steps, spent = _curve(rows, "seconds")
    if len(steps) < 2:
        return {}
    kept = np.diff(spent) > 0
    seconds = np.diff(spent)[kept] / np.diff(steps)[kept]
    return {SPEED: (steps[1:][kept], seconds)} if kept.any() else {}


def _rate(folder: Path, rows: Sequence[dict[str, float]], drawn: dict[str, Any]) -> dict[str, Any]:
    """The learning rate of each logged step, from the configuration beside the log."""
    file = folder / CONFIG_FILE
    if RATE in drawn or not has_file(file):
        return {}
    with naming(file, "delete it"):
        told = flat_file(read_json_object(file), RunConfig())
        if not all(name in told for name in _SCHEDULE):
            return {}
        steps = np.array(sorted({row["step"] for row in rows}))
        config = changed(RunConfig(), **{name: told[name] for name in _SCHEDULE})
        return {RATE: (steps, np.array([config.learning_rate(int(step) - 1) for step in steps]))}
