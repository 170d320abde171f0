"""The protocols of every benchmark by name; the same answers get different numbers under different evaluators.

A protocol names the published script whose numbers it follows, so that a table can say which one it used. A task's
module is imported only when it is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

__all__ = ["NOT_AVAILABLE", "TASKS", "Protocol", "protocol", "protocols"]

NOT_AVAILABLE = "n/a"
"""The value of a score that cannot be computed here (METEOR without Java), never another metric's number."""

Scoring = Callable[[Any, Any], Any]


@dataclass(frozen=True)
class Protocol:
    """How one published evaluator scores one task.

    ``score`` takes (references, predictions) as parsed JSON and returns the scores by name; ``per_item`` takes the
    same and returns the values of every item, where the evaluator has such. Both raise ``ValueError`` naming the
    entry where the evaluator itself would stop.
    """

    task: str
    name: str
    source: str
    """Repository and file that the numbers follow."""
    scale: str
    """What the numbers are: fractions, percent, CIDEr's factor."""
    score: Scoring
    per_item: Scoring | None = None


_HOME = {task: task for task in ("scanqa", "sqa3d", "scan2cap", "scanrefer", "multi3drefer")} | {
    "nr3d": "referit3d", "sr3d": "referit3d",
}  # fmt: skip
TASKS = (*_HOME, "reconstruction")
"""The tasks in the order of the documentation; reconstruction is measured on scans, not from files."""


def protocols(task: str) -> Mapping[str, Protocol]:
    """The protocols of ``task`` by name, the official one first where it has one.

    Raises ``ValueError`` for an unknown task, naming the known ones.
    """
    if task not in _HOME:
        raise ValueError(f"no task {task!r} that is scored from files; known: {', '.join(_HOME)}")
    table: Mapping[str, Protocol] = import_module(f"{__name__}.{_HOME[task]}").PROTOCOLS
    return table


def protocol(task: str, name: str) -> Protocol:
    """The protocol ``name`` of ``task``; ``ValueError`` naming the known ones otherwise."""
    table = protocols(task)
    if name not in table:
        raise ValueError(f"{task} has no protocol {name!r}; known: {', '.join(table)}")
    return table[name]
