"""Every benchmark's protocols by name; a task's module is imported only when it is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module

from vidllm.evaluation.protocol import Protocol

__all__ = ["TASKS", "protocol", "protocols"]

_HOME = {
    "scanqa": "scanqa",
    "sqa3d": "sqa3d",
    "scan2cap": "scan2cap",
    "scanrefer": "scanrefer",
    "multi3drefer": "multi3drefer",
    "nr3d": "referit3d",
    "sr3d": "referit3d",
    "reconstruction": "reconstruction",
}
TASKS = tuple(_HOME)
"""The tasks that can be scored, in the order of the documentation."""


def protocols(task: str) -> Mapping[str, Protocol]:
    """The protocols of ``task`` by name, the official one first where it has one.

    Raises ``ValueError`` for an unknown task, naming the known ones.
    """
    if task not in _HOME:
        raise ValueError(f"no task {task!r}; known: {', '.join(TASKS)}")
    module = f"vidllm.evaluation.{_HOME[task]}"
    try:
        table: Mapping[str, Protocol] = import_module(module).PROTOCOLS
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
        raise ValueError(f"task {task!r} cannot be scored from files by this version") from None
    return {name: entry for name, entry in table.items() if entry.task == task} or table


def protocol(task: str, name: str) -> Protocol:
    """The protocol ``name`` of ``task``; ``ValueError`` naming the known ones otherwise."""
    table = protocols(task)
    if name not in table:
        raise ValueError(f"{task} has no protocol {name!r}; known: {', '.join(table)}")
    return table[name]
