"""ScanRefer: accuracy of one box for one description, at IoU 0.25 and 0.5, by "unique" and "multiple".

References: the list of ``ScanRefer_filtered_*_gt_bbox.json`` (``bbox`` of 8 corners, axis-aligned). Predictions: the
benchmark's list of ``{scene_id, object_id, ann_id, bbox (8 corners), unique_multiple, others}``; the two flags are
trusted as the official code trusts them and are worked out from the references where an entry has none. A rotated box
is scored by its axis-aligned hull, and a box with NaN counts as a miss. Video-3D-LLM's own rows are ``{sample_id,
pred_response}``: the annotation's row number, and a box as centre and size in metres.

The protocols differ in who is counted: ``official`` divides by the number of predictions, so a missing one vanishes,
a repeated one counts twice and an unknown one is a miss; ``m3dref`` divides by the annotations.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any

import numpy as np

from vidllm.datasets.records import Table
from vidllm.evaluation.protocols import Protocol, by_name
from vidllm.evaluation.protocols.box_metrics import EPSILON_FLOAT32, centre_size_corners, hull_iou
from vidllm.evaluation.protocols.files import as_is, as_text, corners, finite, identifier, rows

_ID = ("scene_id", "object_id", "ann_id")
_THRESHOLDS = (0.25, 0.5)
_UNIQUE = {"unique": 0, "multiple": 1}
_OTHERS = {"not_in_others": 0, "in_others": 1}
_PREDICTION: Table = {
    **dict.fromkeys(_ID, identifier), "bbox": corners, "unique_multiple": (as_is, None), "others": (as_is, None),
}  # fmt: skip
_REFERENCE: Table = {
    **dict.fromkeys(_ID, identifier), "bbox": corners, "object_name": (as_text, None), "eval_type": (as_text, None),
}  # fmt: skip

Key = tuple[str, ...]


@dataclass(frozen=True)
class Annotation:
    """One annotation: scene, object and annotation id, the object's box (8, 3) and name, the type it may state."""

    key: Key
    box: np.ndarray
    name: str | None
    eval_type: str | None
    where: str


@dataclass(frozen=True)
class _Prediction:
    """One prediction: the same ids, a box (8, 3), and the flags unique_multiple and others, None where not given."""

    key: Key
    box: np.ndarray
    flags: tuple[Any, Any]
    where: str


@dataclass(frozen=True)
class _Files:
    annotations: list[Annotation]
    predictions: list[_Prediction]

    @cached_property
    def truth(self) -> dict[Key, np.ndarray]:
        """Box of every annotation by id; the last one of a repeated id, as the official code reads them."""
        return {entry.key: entry.box for entry in self.annotations}

    def kept(self) -> dict[Key, tuple[np.ndarray, np.ndarray]]:
        """(predicted, true) corners by id: the last prediction of a repeated id, none of an unknown id."""
        pairs = {entry.key: (entry.box, self.truth[entry.key]) for entry in self.predictions if entry.key in self.truth}
        if not pairs:
            first = self.predictions[0].key
            raise ValueError(f"no prediction is for an annotation of the references; the first one is for {first}")
        return pairs

    def labels(self, labels: Sequence[Any]) -> dict[Key, Any]:
        """What was worked out for each annotation, by id."""
        return {entry.key: label for entry, label in zip(self.annotations, labels, strict=True)}


def _read(references: Any, predictions: Any) -> _Files:
    def read(data: Any, what: str, table: Table) -> list[tuple[Key, dict[str, Any], str]]:
        found = ((entry.read(table), entry.where) for entry in rows(data, what, _ID))
        return [(tuple(values[name] for name in _ID), values, where) for values, where in found]

    annotations = [
        Annotation(key, values["bbox"], values["object_name"], values["eval_type"], where)
        for key, values, where in read(references, "references", _REFERENCE)
    ]
    return _Files(annotations, [
        _Prediction(key, values["bbox"], (values["unique_multiple"], values["others"]), where)
        for key, values, where in read(predictions, "predictions", _PREDICTION)
    ])  # fmt: skip


def _read_centre_size(references: Any, predictions: Any) -> _Files:
    """Also rows of Video-3D-LLM's script."""
    if isinstance(predictions, list):
        predictions = [_usual_row(references, row, f"prediction {index}") for index, row in enumerate(predictions)]
    return _read(references, predictions)


def _usual_row(references: Any, row: Any, where: str) -> Any:
    if not isinstance(row, dict) or "bbox" in row or "pred_response" not in row:
        return row
    number, box = row.get("sample_id"), row["pred_response"]
    if type(number) is not int or not isinstance(references, list) or not 0 <= number < len(references):
        raise ValueError(f"{where}: expected 'sample_id' to be a row number of the references, got {number!r:.60}")
    if not isinstance(box, list) or len(box) != 6 or not all(type(v) in (int, float) for v in box):
        raise ValueError(f"{where}: expected 'pred_response' to be [x, y, z, w, d, h] in metres, got {box!r:.60}")
    ids = {name: references[number].get(name) for name in _ID}
    boxes = [[c + s * side / 2 for c, s, side in zip(box[:3], signs, box[3:], strict=True)]
             for signs in product((-1, 1), repeat=3)]  # fmt: skip
    return {**ids, "bbox": boxes}


# -- "unique" and "multiple": the ANNOTATED objects of a scene that share a class; others of the room do not count

_OTHER = 39  # the class of every name that none of the listed classes holds (otherfurniture of NYU40)

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
#: NYU40 class of the raw ScanNet names in the classes that the two rules tell apart; every other name is "others".
_CLASSES = {name: number for number, names in _NAMES.items() for name in names.split("|")}

_STRUCTURE = (1, 2)  # wall and floor: classes of their own for M3DRef-CLIP, "others" for ScanRefer


def _counted(
    annotations: Iterable[Annotation], merged: tuple[int, ...] = ()
) -> tuple[list[tuple[str, int]], Counter[tuple[str, int]]]:
    """(scene, class) of every annotation, and how many annotated objects share each.

    An object counts once, by its first entry; the ``merged`` classes are "others".
    """
    classes: list[tuple[str, int]] = []
    first: dict[Key, tuple[str, int]] = {}
    for item in annotations:
        if item.name is None:
            raise ValueError(f"{item.where}: needs 'object_name', which tells unique objects from multiple ones")
        number = _CLASSES.get(item.name.replace("_", " "), _OTHER)
        classes.append((item.key[0], _OTHER if number in merged else number))
        first.setdefault(item.key[:2], classes[-1])
    return classes, Counter(first.values())


def scanrefer_labels(annotations: Iterable[Annotation]) -> list[tuple[int, int]]:
    """ScanRefer's (unique_multiple, others) of every annotation: 0 unique or 1 multiple; 1 for the class "others".

    17 classes and "others" (daveredrum/ScanRefer ``lib/dataset.py``).
    """
    classes, counts = _counted(annotations, _STRUCTURE)
    return [(int(counts[one] != 1), int(one[1] == _OTHER)) for one in classes]


def twenty_class_labels(annotations: Iterable[Annotation]) -> list[str]:
    """M3DRef-CLIP's and Video-3D-LLM's ``eval_type`` of every annotation: "unique" or "multiple".

    Walls and floors have classes of their own (3dlg-hcvc/M3DRef-CLIP ``dataset/scanrefer/add_evaluation_labels.py``).
    """
    classes, counts = _counted(annotations)
    return ["unique" if counts[one] == 1 else "multiple" for one in classes]


def _official_ious(files: _Files) -> np.ndarray:
    """IoU of every prediction (n,); 0 for an id that is not in the references."""
    truth = files.truth
    return np.array([float(hull_iou(p.box, truth[p.key])) if p.key in truth else 0.0 for p in files.predictions])


def _flags(files: _Files) -> np.ndarray:
    """(n, 2) of unique_multiple and others, as submitted, else by ScanRefer's rule from the references."""
    bare = any(None in entry.flags for entry in files.predictions)
    worked_out = files.labels(scanrefer_labels(files.annotations)) if bare else {}
    found = []
    for entry in files.predictions:
        flags = worked_out.get(entry.key) if None in entry.flags else entry.flags
        if flags is None:
            raise ValueError(
                f"{entry.where} is not in the references and has no unique_multiple and others; add the flags"
            )
        found.append(flags)
    return np.array(found)


def _accuracies(ious: np.ndarray) -> dict[str, float]:
    return {f"acc@{k}iou": float(np.mean(ious >= k)) if len(ious) else 0.0 for k in _THRESHOLDS}


def _by_label(ious: np.ndarray, flags: np.ndarray) -> dict[str, Any]:
    """Accuracies and counts of every combination of the two flags, and over each of them."""
    everyone = np.ones(len(ious), dtype=bool)
    rows = {name: flags[:, 0] == value for name, value in _UNIQUE.items()} | {"overall": everyone}
    columns = {name: flags[:, 1] == value for name, value in _OTHERS.items()} | {"overall": everyone}
    scores = {r: {c: _accuracies(ious[a & b]) for c, b in columns.items()} for r, a in rows.items()}
    stats = {r: {c: int((a & b).sum()) for c, b in columns.items()} for r, a in rows.items()}
    return {"scores": scores, "stats": stats}


def _official(files: _Files) -> dict[str, Any]:
    """All predictions as they are, and the last one of every known id."""
    ious, flags = _official_ious(files), _flags(files)
    last = {entry.key: index for index, entry in enumerate(files.predictions) if entry.key in files.truth}
    kept = np.array(sorted(last.values()), dtype=int)
    return {"as_is": _by_label(ious, flags), "deduplicated_known_only": _by_label(ious[kept], flags[kept])}


def _official_items(files: _Files) -> list[dict[str, Any]]:
    """IoU of every prediction, in the order of the file; None for an unknown id, which is scored as 0."""
    return [
        dict(zip(_ID, entry.key, strict=True)) | {"iou": finite(iou) if entry.key in files.truth else None}
        for entry, iou in zip(files.predictions, _official_ious(files), strict=True)
    ]


# -- evaluators with labels of their own


def _labels(files: _Files, pairs: Mapping[Key, Any]) -> np.ndarray:
    """Each pair "unique" or "multiple": by its ``eval_type`` if all have one, else by the rule of 20 classes."""
    stated = [item.eval_type for item in files.annotations]
    labels = twenty_class_labels(files.annotations) if None in stated else stated
    for item, label in zip(files.annotations, labels, strict=True):
        if label not in _UNIQUE:
            raise ValueError(f"{item.where} has eval_type {label!r}; expected 'unique' or 'multiple'")
    types = files.labels(labels)
    return np.array([types[key] for key in pairs])


def _m3dref(files: _Files) -> dict[str, Any]:
    """In float32; groups only over what was predicted, as the evaluator leaves the groups of missing ones undefined."""
    pairs = files.kept()
    ious = np.array([hull_iou(p, t, EPSILON_FLOAT32, np.float32) for p, t in pairs.values()])
    labels, total = _labels(files, pairs), len(files.truth)
    restricted, overall = {}, {}
    for k in _THRESHOLDS:
        hits = ious >= k
        groups = {name: hits[labels == name] for name in _UNIQUE} | {"overall": hits}
        restricted[f"Acc@{k}"] = {name: finite(group.mean()) if len(group) else None for name, group in groups.items()}
        overall[f"Acc@{k}"] = float(hits.sum() / total)
    return {
        "restricted_to_predicted": restricted, "all_ground_truth_overall_only": overall,
        "n_gt": total, "n_pred": len(pairs),
    }  # fmt: skip


def _video3dllm(files: _Files) -> dict[str, Any]:
    """Boxes as centre and size; a label without predictions has no score."""
    pairs = files.kept()
    ious = np.array([hull_iou(centre_size_corners(t), centre_size_corners(p)) for p, t in pairs.values()])
    labels = _labels(files, pairs)
    groups = {"all": ious} | {name: ious[labels == name] for name in _UNIQUE if (labels == name).any()}
    return {f"{name} iou@{k}": float(np.mean(group >= k) * 100) for name, group in groups.items() for k in _THRESHOLDS}


PROTOCOLS = by_name(
    Protocol("official", "daveredrum/ScanRefer benchmark/eval.py", "fractions", _read, _official, _official_items),
    Protocol("m3dref", "3dlg-hcvc/M3DRef-CLIP m3drefclip/evaluation/scanrefer_evaluator.py",
             "fractions", _read, _m3dref),
    Protocol("video3dllm", "LaVi-Lab/Video-3D-LLM llava/eval/eval_scanrefer.py", "percent",
             _read_centre_size, _video3dllm),
)  # fmt: skip
