"""Which objects of a scene count as "unique" and which as one of "multiple", by ScanRefer's rule and by M3DRef-CLIP's.

Both count the ANNOTATED objects of a scene that share a class; other objects of the room do not count. They differ in
the classes: ScanRefer has 17 and "others", M3DRef-CLIP also tells walls and floors apart. Sources:
daveredrum/ScanRefer ``lib/dataset.py``; 3dlg-hcvc/M3DRef-CLIP ``dataset/scanrefer/add_evaluation_labels.py``.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vidllm.evaluation.protocols.records import field, identifier

__all__ = ["LABEL_IDS", "OTHERS", "nyu40_id", "read_label_ids", "scanrefer_labels", "twenty_class_labels"]

OTHERS = 39
"""The class of every name that none of the listed classes holds (otherfurniture of NYU40)."""

_NAMES = {
    1: "wall|shower walls|closet wall|shower wall|pantry wall|closet walls|bath walls|pantry walls|door wall",
    2: "floor|shower floor|closet floor",
    3: "cabinet|kitchen cabinet|kitchen cabinets|file cabinet|bathroom vanity|cabinets|bathroom cabinet|"
    "open kitchen cabinet|cabinet doors|file cabinets|trash cabinet|media center",
    4: "bed|mattress|loft bed|sofa bed|air mattress",
    5: "chair|office chair|stack of chairs|armchair|sofa chair|folded chair|folded chairs|massage chair|"
    "recliner chair|rocking chair|stack of folded chairs",
    6: "couch|sofa",
    7: "table|coffee table|end table|dining table|folded table|round table|side table|air hockey table",
    8: "door|doorframe|doors|bathroom stall door|closet doors|closet door|shower door|mirror doors|cabinet door|"
    "glass doors|sliding door|closet doorframe",
    9: "window",
    10: "bookshelf|bookshelves",
    11: "picture|poster|painting|pictures",
    12: "counter|kitchen counter|bathroom counter",
    14: "desk",
    16: "curtain|curtains",
    24: "refrigerator|mini fridge|cooler",
    28: "shower curtain",
    33: "toilet|urinal",
    34: "sink",
    36: "bathtub",
}
LABEL_IDS: Mapping[str, int] = {name: number for number, names in _NAMES.items() for name in names.split("|")}
"""NYU40 class of the raw ScanNet names in the classes that the two rules tell apart; every other name is "others"."""

_STRUCTURE = (1, 2)  # wall and floor: classes of their own for M3DRef-CLIP, "others" for ScanRefer


def read_label_ids(path: Path) -> dict[str, int]:
    """Raw name to NYU40 class from ScanNet's ``scannetv2-labels.combined.tsv``, to be used for ``label_ids``."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    if not rows or "raw_category" not in rows[0] or "nyu40id" not in rows[0]:
        raise ValueError(f"{path} has no columns raw_category and nyu40id; give scannetv2-labels.combined.tsv")
    return {row["raw_category"]: int(row["nyu40id"]) for row in rows}


def nyu40_id(object_name: str, label_ids: Mapping[str, int] = LABEL_IDS) -> int:
    """Class of a ScanRefer ``object_name`` (underscores for blanks) among the 20; ``OTHERS`` for any other name."""
    number = label_ids.get(object_name.replace("_", " "), OTHERS)
    return number if number in _NAMES else OTHERS


def _counted(
    annotations: Sequence[Mapping[str, Any]], label_ids: Mapping[str, int], merged: tuple[int, ...] = ()
) -> tuple[list[tuple[str, int]], Counter[tuple[str, int]]]:
    """(scene, class) of every annotation, and how many annotated objects share each.

    An object counts once, by its first entry; the ``merged`` classes are "others".
    """
    classes: list[tuple[str, int]] = []
    first: dict[tuple[str, ...], tuple[str, int]] = {}
    for index, entry in enumerate(annotations):
        place = f"annotation {index}"
        scene, thing = identifier(entry, ("scene_id", "object_id"), place)
        number = nyu40_id(str(field(entry, "object_name", place)), label_ids)
        classes.append((scene, OTHERS if number in merged else number))
        first.setdefault((scene, thing), classes[-1])
    return classes, Counter(first.values())


def scanrefer_labels(
    annotations: Sequence[Mapping[str, Any]], label_ids: Mapping[str, int] = LABEL_IDS
) -> list[tuple[int, int]]:
    """ScanRefer's (unique_multiple, others) of every annotation: 0 unique or 1 multiple; 1 for the class "others"."""
    classes, counts = _counted(annotations, label_ids, _STRUCTURE)
    return [(int(counts[one] != 1), int(one[1] == OTHERS)) for one in classes]


def twenty_class_labels(
    annotations: Sequence[Mapping[str, Any]], label_ids: Mapping[str, int] = LABEL_IDS
) -> list[str]:
    """M3DRef-CLIP's and Video-3D-LLM's ``eval_type`` of every annotation: "unique" or "multiple"."""
    classes, counts = _counted(annotations, label_ids)
    return ["unique" if counts[one] == 1 else "multiple" for one in classes]
