"""The protocols of every benchmark by name; the same answers get different numbers under different evaluators.

A protocol names the published script whose numbers it follows, so that a table can say which one it used. A task's
module is imported only when it is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

OFFICIAL, ALL = "official", "all"  # names that every task takes for a protocol
NOT_AVAILABLE = "n/a"
"""The value of a score that cannot be computed here (METEOR without Java), never another metric's number."""


@dataclass(frozen=True)
class Protocol:
    """How one published evaluator scores a task.

    ``read`` and ``metric`` raise ValueError naming the entry that is broken, or where the evaluator itself would stop.
    """

    name: str  # of the evaluator
    source: str  # repository and file that the numbers follow
    scale: str  # what the numbers are: fractions, percent, CIDEr's factor
    read: Callable[[Any, Any], Any]  # (references, predictions) as parsed JSON to the task's typed items
    metric: Callable[[Any], Any]  # the items to scores by name
    items: Callable[[Any], Any] | None = None  # to the values of every one of them, where the evaluator has such

    def score(self, references: Any, predictions: Any) -> Any:
        """The scores of two files as parsed JSON."""
        return self.metric(self.read(references, predictions))

    def per_item(self, references: Any, predictions: Any) -> Any:
        """The values of every item; ValueError where the evaluator has none."""
        if self.items is None:
            raise ValueError(f"{self.name}: this protocol has no values per item")
        return self.items(self.read(references, predictions))


def by_name(*entries: Protocol) -> dict[str, Protocol]:
    """Protocols of one task by their names."""
    return {entry.name: entry for entry in entries}


_HOME = {task: task for task in ("scanqa", "sqa3d", "scan2cap", "scanrefer", "multi3drefer")} | {
    "nr3d": "referit3d", "sr3d": "referit3d", "vsi": "spatial:VSI", "revsi": "spatial:REVSI", "spar": "spatial:SPAR",
    "3dsr": "spatial:THREEDSR", "mmsi": "spatial:MMSI", "openeqa": "spatial:OPENEQA",
}  # fmt: skip
TASKS = (*_HOME, "reconstruction")
"""The tasks in the order of the documentation; reconstruction is measured on scans, not from files."""


def protocols(task: str) -> Mapping[str, Protocol]:
    """The protocols of ``task`` by name, the official one first where it has one; ValueError for an unknown task."""
    if task not in _HOME:
        raise ValueError(f"no task {task!r} that is scored from files; known: {', '.join(_HOME)}")
    module, _, table = _HOME[task].partition(":")
    found: Mapping[str, Protocol] = getattr(import_module(f"{__name__}.{module}"), table or "PROTOCOLS")
    return found


def protocol(task: str, name: str) -> Protocol:
    """A task's protocol; ``official`` is the first where several are official. ValueError naming the known ones."""
    table = protocols(task)
    if name not in table and name != OFFICIAL:
        raise ValueError(f"{task} has no protocol {name!r}; known: {', '.join(table)}, or {ALL}")
    return table.get(name) or next(iter(table.values()))


def chosen_protocols(task: str, name: str) -> list[Protocol]:
    """The protocol of this name, or all of the task."""
    return list(protocols(task).values()) if name == ALL else [protocol(task, name)]
