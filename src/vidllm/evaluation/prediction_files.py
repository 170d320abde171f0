"""Predictions on disk, one JSON value a line: appended scene by scene, resumed after a kill, gathered over processes.

    predictions/TASK.SPLIT.SYSTEM.SETTING.jsonl          all items in the order of the annotations, once finished
    predictions/parts/TASK.SPLIT.SYSTEM.SETTING.R.jsonl  what process R has written so far
    predictions/TASK.SPLIT.run.json                      what the run was made with: another one is refused

A scene is the unit of work: its lines are written together, and an incomplete scene is predicted again, so that an
interrupted run gives the same bytes as an uninterrupted one. Incomplete lines are dropped.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vidllm.io.atomic import atomic_path, naming_errors
from vidllm.io.files import parse_json, read_json_object

Row = dict[str, Any]
_SHOWN = 4  # differences told one by one


class PredictionFile:
    """The lines of one column; ``wanted`` has the keys of every scene, in the order of the annotations."""

    def __init__(self, folder: Path, name: str, wanted: Mapping[str, Sequence[str]], rank: int = 0) -> None:
        self.path = folder / f"{name}.jsonl"
        self._parts = folder / "parts"
        self._own = self._parts / f"{name}.{rank}.jsonl"
        self._pattern = f"{name}.*.jsonl"
        self._wanted = wanted

    def done(self) -> set[str]:
        """The complete scenes. ValueError for unknown ids or lines that contradict each other."""
        rows = self._rows()
        return {scene for scene, keys in self._wanted.items() if all(key in rows for key in keys)}

    def repair(self) -> None:
        """Remove an incomplete last line, left by a killed process, from this process's own file."""
        if self._own.exists():
            text = self._own.read_bytes()
            if text and not text.endswith(b"\n"):
                with atomic_path(self._own) as part:
                    part.write_bytes(text[: text.rfind(b"\n") + 1])

    def append(self, rows: Sequence[Row]) -> None:
        """Write the lines of one scene."""
        with naming_errors(self._own):
            self._parts.mkdir(parents=True, exist_ok=True)
            with self._own.open("a", encoding="utf-8") as file:
                file.write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))

    def gather(self) -> list[Row]:
        """All lines in the order of the annotations, written to :attr:`path`; the parts are removed.

        Raises ValueError, naming the first entry, when predictions are missing.
        """
        rows = self._rows()
        order = [key for keys in self._wanted.values() for key in keys]
        missing = [key for key in order if key not in rows]
        if missing:
            raise ValueError(
                f"{self.path}: {len(missing)} of {len(order)} predictions are missing, the first is {missing[0]}; "
                "run the same command again to make them"
            )
        with atomic_path(self.path) as part:
            lines = (json.dumps(rows[key], ensure_ascii=False) + "\n" for key in order)
            part.write_text("".join(lines), encoding="utf-8")
        for old in self._parts.glob(self._pattern):
            old.unlink()
        return [rows[key] for key in order]

    def _rows(self) -> dict[str, Row]:
        known = {key: scene for scene, keys in self._wanted.items() for key in keys}
        found: dict[str, Row] = {}
        for path in [self.path, *sorted(self._parts.glob(self._pattern))]:
            for where, row in _lines(path):
                key = row["key"]
                if key not in known:
                    raise ValueError(f"{where}: a prediction for the unknown id {key}; delete the line or the file")
                if found.setdefault(key, row) != row:
                    raise ValueError(f"{where}: a second, different prediction for {key}; delete one of them")
        return found


def _lines(path: Path) -> list[tuple[str, Row]]:
    """(file and line, value) of every whole line; a last one without its end is left out."""
    if not path.exists():
        return []
    rows = []
    *whole, _ = path.read_bytes().split(b"\n")
    for number, line in enumerate(whole, 1):
        where = f"{path}:{number}"
        row = parse_json(line, where)
        if not isinstance(row, dict) or not isinstance(row.get("key"), str):
            raise ValueError(f"{where}: expected an object with a 'key'; delete the line or the file")
        rows.append((where, row))
    return rows


def claim(path: Path, made_with: Row, remedy: str) -> None:
    """Write down what a run is made with; ValueError naming what differs where it was made with something else."""
    if not path.exists():
        with atomic_path(path) as part:
            part.write_text(json.dumps(made_with, indent=1, sort_keys=True, ensure_ascii=False) + "\n", "utf-8")
        return
    try:
        before = read_json_object(path)
    except ValueError as error:
        raise ValueError(f"{error}, or {remedy}") from None
    old, new = _flat(before), _flat(made_with)
    pairs = {name: (old.get(name), new.get(name)) for name in sorted({*old, *new})}
    differ = [f"{name} {a!s:.40} (now {b!s:.40})" for name, (a, b) in pairs.items() if a != b]
    if differ:
        shown = ", ".join(differ[:_SHOWN]) + (f" and {len(differ) - _SHOWN} more" if len(differ) > _SHOWN else "")
        raise ValueError(f"{path.parent} was made with {shown}; {remedy}")


def _flat(values: Row, before: str = "") -> Row:
    """Nested values by their names joined with points."""
    flat: Row = {}
    for name, value in values.items():
        flat |= _flat(value, f"{before}{name}.") if isinstance(value, dict) else {f"{before}{name}": value}
    return flat
