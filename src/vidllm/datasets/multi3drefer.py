"""Multi3DRefer's description files ``multi3drefer_{train,val}.json`` (Zhang et al., ICCV 2023): none, one or many."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vidllm.datasets.records import Entry, read_list

EVAL_TYPES = ("zt_w_d", "zt_wo_d", "st_w_d", "st_wo_d", "mt")


@dataclass(frozen=True)
class Multi3DReferDescription:
    """One description.

    Attributes:
        scene_id: such as ``scene0000_00``.
        object_ids: the objects it means, possibly none.
        object_name: with underscores, as in the file.
        ann_id: number of the description in its scene.
        eval_type: zero, single or multiple targets, with or without distractors (``EVAL_TYPES``).
        description: as written.
    """

    scene_id: str
    object_ids: tuple[int, ...]
    object_name: str
    ann_id: int
    eval_type: str
    description: str


def read_multi3drefer(path: str | Path) -> list[Multi3DReferDescription]:
    """The descriptions of a file, in its order. ValueError naming file, entry and field where one is broken."""
    return read_list(path, "Multi3DRefer descriptions", _description)


def _description(entry: Entry) -> Multi3DReferDescription:
    kind, ids = entry.text("eval_type"), entry.integers("object_ids")
    if kind not in EVAL_TYPES:
        raise entry.error("eval_type", f"one of {', '.join(EVAL_TYPES)}", kind)
    if not _fits(kind, len(ids)):
        raise entry.error("object_ids", f"as many as eval_type {kind} says", list(ids))
    return Multi3DReferDescription(
        entry.name_of("scene_id"),
        ids,
        entry.text("object_name"),
        entry.integer("ann_id"),
        kind,
        entry.sentence("description"),
    )


def _fits(kind: str, count: int) -> bool:
    return {"zt": count == 0, "st": count == 1, "mt": count > 1}[kind[:2]]
