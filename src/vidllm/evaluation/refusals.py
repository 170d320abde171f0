"""What ``vidllm eval --data`` would refuse in the annotations of a root, found by the very code that it runs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from vidllm.datasets.layout import DataRoot
from vidllm.evaluation.annotated_boxes import box_reader
from vidllm.evaluation.tasks import refuse_repeats, task_named

__all__ = ["refusals"]


def refusals(data: DataRoot, name: str, split: str, entries: list[Any], deep: bool) -> Iterator[str]:
    """One message for each fault of a set's split.

    Args:
        data: the root.
        name: the set.
        split: its split.
        entries: what its reader gave.
        deep: also look up the objects that are named in the scenes that are there, which reads their meshes.
    """
    task = task_named(name)
    items = task.items(entries)
    try:
        refuse_repeats(name, split, items)
    except ValueError as error:
        yield str(error)
    if not deep or task.withheld(items):
        return
    there, box_of = set(data.scene_ids()), box_reader(data)
    present = [item for item in items if item.scene_id in there]
    groups = [present] if task.kind == "answer" else [[item] for item in present]
    told: set[str] = set()
    for group in groups:
        try:
            task.references(group, box_of, data)
        except ValueError as error:
            if str(error) not in told:
                told.add(str(error))
                yield str(error)
