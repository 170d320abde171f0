"""Log of a run: one JSON line every few steps, the same on standard error with the remaining time, and external
trackers.
"""

from __future__ import annotations

import json
import math
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from vidllm.io.atomic import atomic_path, naming_errors
from vidllm.io.files import naming, parse_json, read_text
from vidllm.model.config_fields import flat
from vidllm.training.config import Loop, RunConfig


def trim_log(path: Path, step: int) -> None:
    """Remove lines after ``step``, since these steps are repeated."""
    if path.exists():
        lines = read_text(path).split("\n")[:-1]  # a last line that a killed run left unfinished is passed over
        with naming(path, "delete it, or the line in it"):
            steps = [parse_json(line, f"{path}: line {number}")["step"] for number, line in enumerate(lines, 1)]
            kept = [line for line, taken in zip(lines, steps, strict=True) if taken <= step]
        with atomic_path(path) as temporary:
            temporary.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")


def write_log(path: Path, line: dict[str, float | int]) -> None:
    """Append a line."""
    with naming_errors(path), path.open("a") as file:
        file.write(json.dumps(line) + "\n")


class Clock:
    """Averages of the figures since the last line, remaining time, and time of the next checkpoint."""

    def __init__(self, loop: Loop, start: int) -> None:
        self.loop, self.begin, self.first = loop, time.monotonic(), start
        self.saved = self.begin
        self.sums: dict[str, list[float]] = {}
        self.text = ""

    def add(self, figures: dict[str, float]) -> None:
        """Add the figures of a step; values that are not finite are left out."""
        for name, value in figures.items():
            if math.isfinite(value):
                self.sums.setdefault(name, []).append(value)

    def line(self, step: int, bad: int) -> dict[str, float | int]:
        """The log line at ``step``; starts new averages."""
        spent = time.monotonic() - self.begin
        left = spent / max(1, step - self.first) * (self.loop.steps - step)
        if self.loop.minutes > 0:
            left = min(left, max(0.0, 60 * self.loop.minutes - spent))
        means = {k: (sum(v) if k.endswith("_steps") else float(np.mean(v))) for k, v in self.sums.items()}
        self.sums = {}
        shown = " ".join(f"{k} {v:.3g}" for k, v in means.items())
        self.text = f"step {step}/{self.loop.steps} left {left / 60:.0f} min | {shown}"
        rounded = {k: round(v, 5) for k, v in means.items()}
        return {"step": step, "seconds": round(spent, 1), "bad_steps": bad, **rounded}

    def spent(self) -> float:
        """The fraction of the configuration's ``minutes`` that has passed; 0 without a limit."""
        limit = 60 * self.loop.minutes
        return (time.monotonic() - self.begin) / limit if limit > 0 else 0.0

    def due(self, minutes: float) -> bool:
        """Whether this time has passed since this was last true."""
        if time.monotonic() - self.saved < 60 * minutes:
            return False
        self.saved = time.monotonic()
        return True


#: What each needs to be installed, and the extra of this package that brings it.
PACKAGES = {"tensorboard": ("tensorboard", "tensorboardX"), "wandb": ("wandb",)}


class Trackers:
    """External trackers of the log lines; none without a configuration."""

    def __init__(self, config: RunConfig | None) -> None:
        self._accelerator: Any = None
        if config is None or not config.loop.trackers:
            return
        check_trackers(config.loop.trackers)
        from accelerate import Accelerator

        out = Path(config.loop.out)
        out.mkdir(parents=True, exist_ok=True)
        self._accelerator = Accelerator(log_with=list(config.loop.trackers), project_dir=str(out))
        plain = {k: v if isinstance(v, str | int | float | bool) else str(v) for k, v in flat(config).items()}
        named = {"wandb": {"name": out.name, "dir": str(out)}} if "wandb" in config.loop.trackers else {}
        self._accelerator.init_trackers("vidllm", config=plain, init_kwargs=named)

    def log(self, line: dict[str, float | int], step: int) -> None:
        """Send a line of the log."""
        if self._accelerator is not None:
            self._accelerator.log({k: v for k, v in line.items() if k != "step"}, step=step)

    def close(self) -> None:
        """Finish the trackers."""
        if self._accelerator is not None:
            self._accelerator.end_training()


def check_trackers(names: tuple[str, ...]) -> None:
    """ValueError for a tracker that is unknown or not installed."""
    for name in names:
        if name not in PACKAGES:
            raise ValueError(f"unknown tracker {name!r}; known are {', '.join(PACKAGES)}")
        if not any(find_spec(package) for package in PACKAGES[name]) or find_spec("accelerate") is None:
            raise ValueError(f"the tracker {name!r} is not installed; pip install 'vidllm[{name}]'")
