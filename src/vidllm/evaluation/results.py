"""Results as files: one ``results.json`` for all tasks of an output folder, and the same as a table."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from vidllm.evaluation.registry import TASKS
from vidllm.evaluation.table import lines_of
from vidllm.io.atomic import atomic_path
from vidllm.io.json_files import read_json

Record = dict[str, Any]


def publish(out: Path, results: Record) -> Record:
    """Put one task's results into ``results.json`` and ``table.txt``; returns them as JSON would give them back.

    Those of other tasks (and other splits) stay. ValueError when an unreadable ``results.json`` is in the way.
    """
    plain: Record = json.loads(json_text(results))
    path = out / "results.json"
    every = _read(path)
    every[f"{plain['task']}.{plain['split']}"] = plain
    every = dict(sorted(every.items(), key=lambda pair: (TASKS.index(pair[1]["task"]), pair[0])))
    with atomic_path(path) as part:
        part.write_text(json_text(every) + "\n", encoding="utf-8")
    with atomic_path(out / "table.txt") as part:
        part.write_text("\n\n\n".join("\n".join(lines_of(one)) for one in every.values()) + "\n", encoding="utf-8")
    return plain


def _read(path: Path) -> Record:
    if not path.exists():
        return {}
    try:
        value = read_json(path)
        if isinstance(value, dict) and all(one["task"] in TASKS for one in value.values()):
            return value
    except (ValueError, TypeError, KeyError):
        pass
    raise ValueError(f"{path}: not results of vidllm eval; delete it or choose another output folder")


def json_text(value: Any) -> str:
    """Indented JSON in the order given; numbers that are not finite become null."""
    return json.dumps(plain(value), indent=1, ensure_ascii=False, allow_nan=False)


def plain(value: Any) -> Any:
    """A value with text keys, lists for tuples, and None for numbers that are not finite."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
