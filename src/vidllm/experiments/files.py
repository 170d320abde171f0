"""What an ablation keeps beside its runs: what a folder is made with, what was trained, what was measured."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vidllm.evaluation.results import json_text, plain
from vidllm.io.atomic import atomic_path
from vidllm.training.config import TrainConfig
from vidllm.training.loop_config import LoopConfig

Record = dict[str, Any]

PLAN, TRAINED, RESULT = "plan.json", "trained.json", "result.json"
_UNTOLD = ("out", "init_from", "device", "threads", "log_every", "save_minutes", "keep_checkpoints", "trackers",
           "teacher_cache")  # fmt: skip


def keep_plan(folder: Path, plan: Record) -> None:
    """Write down what a folder is made with; ValueError naming what differs where it was made with something else."""
    before = read_json(folder / PLAN)
    if before is None:
        write_json(folder / PLAN, plan)
        return
    old, new = _flat(before), _flat(plan)
    differ = [f"{k} {old.get(k)} (now {new.get(k)})" for k in sorted({*old, *new}) if old.get(k) != new.get(k)]
    if differ:
        told = ", ".join(differ[:4]) + (f" and {len(differ) - 4} more" if len(differ) > 4 else "")
        raise ValueError(f"{folder} was made with {told}; give another --out, or delete that folder to train it again")


def _flat(plan: Record, before: str = "") -> Record:
    flat: Record = {}
    for name, value in plan.items():
        flat |= _flat(value, f"{before}{name}.") if isinstance(value, dict) else {f"{before}{name}": value}
    return flat


def telling(config: TrainConfig | LoopConfig) -> Record:
    """The fields of a run that its numbers rest on; where a row begins is told apart."""
    return {name: value for name, value in asdict(config).items() if name not in _UNTOLD}


def once(folder: Path, make: Callable[[], Record]) -> Record:
    """What ``make`` told when it was last done in ``folder``; done now if it was not yet."""
    return read_json(folder / TRAINED) or write_json(folder / TRAINED, make())


def read_json(path: Path) -> Record | None:
    """A file written by :func:`write_json`, None where there is none or it is damaged."""
    with suppress(OSError, ValueError):
        value: Record = json.loads(path.read_text(encoding="utf-8"))
        return value
    return None


def write_json(path: Path, value: Record) -> Record:
    """Write atomically; returns the value as it will be read."""
    with atomic_path(path) as part:
        part.write_text(json_text(value) + "\n", encoding="utf-8")
    told: Record = plain(value)
    return told
