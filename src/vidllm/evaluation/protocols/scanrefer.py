"""ScanRefer: accuracy of one box for one description, at IoU 0.25 and 0.5, by "unique" and "multiple".

References: the list of ``ScanRefer_filtered_*_gt_bbox.json`` (``bbox`` of 8 corners, axis-aligned). Predictions: the
benchmark's list of ``{scene_id, object_id, ann_id, bbox (8 corners), unique_multiple, others}``; the two flags are
trusted as the official code trusts them and are worked out from the references where an entry has none. A rotated box
is scored by its axis-aligned hull, and a box with NaN counts as a miss.

The protocols differ in who is counted: ``official`` divides by the number of predictions, so a missing one vanishes,
a repeated one counts twice and an unknown one is a miss; ``m3dref`` divides by the annotations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from vidllm.evaluation.protocols import Protocol
from vidllm.evaluation.protocols.box_metrics import EPSILON_FLOAT32, centre_size_corners, hull_iou
from vidllm.evaluation.protocols.records import corners, described, field, finite, identifier, listed
from vidllm.evaluation.protocols.scannet_labels import scanrefer_labels, twenty_class_labels

__all__ = ["PROTOCOLS"]

_ID = ("scene_id", "object_id", "ann_id")
_THRESHOLDS = (0.25, 0.5)
_UNIQUE = {"unique": 0, "multiple": 1}
_OTHERS = {"not_in_others": 0, "in_others": 1}
_UNIQUE_OTHERS = {"unique_multiple", "others"}

Key = tuple[str, ...]


@dataclass(frozen=True)
class _Entry:
    """An annotation or a prediction: its fields, its id, its corners (8, 3) and its name in messages."""

    fields: Mapping[str, Any]
    key: Key
    box: np.ndarray
    place: str


def _entries(data: Any, what: str, kind: str) -> list[_Entry]:
    found = []
    for index, entry in enumerate(listed(data, what)):
        place = described(kind, index, entry, _ID)
        key = identifier(entry, _ID, place)
        found.append(_Entry(entry, key, corners(field(entry, "bbox", place), place), place))
    return found


@dataclass(frozen=True)
class _Files:
    """Both files: every annotation and every prediction."""

    annotations: list[_Entry]
    predictions: list[_Entry]

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
    return _Files(_entries(references, "references", "annotation"), _entries(predictions, "predictions", "prediction"))


# --- the benchmark's own evaluator ---


def _official_ious(files: _Files) -> np.ndarray:
    """IoU of every prediction (n,); 0 for an id that is not in the references."""
    truth = files.truth
    return np.array([float(hull_iou(p.box, truth[p.key])) if p.key in truth else 0.0 for p in files.predictions])


def _flags(files: _Files) -> np.ndarray:
    """(n, 2) of unique_multiple and others, as submitted, else by ScanRefer's rule from the references."""
    worked_out: dict[Key, tuple[int, int]] = {}
    if not all(entry.fields.keys() >= _UNIQUE_OTHERS for entry in files.predictions):
        worked_out = files.labels(scanrefer_labels([entry.fields for entry in files.annotations]))
    rows = []
    for entry in files.predictions:
        if entry.fields.keys() >= _UNIQUE_OTHERS:
            rows.append((entry.fields["unique_multiple"], entry.fields["others"]))
        elif entry.key in worked_out:
            rows.append(worked_out[entry.key])
        else:
            raise ValueError(
                f"{entry.place} is not in the references and has no unique_multiple and others; add the flags"
            )
    return np.array(rows)


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


def _official(references: Any, predictions: Any) -> dict[str, Any]:
    """All predictions as they are, and the last one of every known id."""
    files = _read(references, predictions)
    ious, flags = _official_ious(files), _flags(files)
    last = {entry.key: index for index, entry in enumerate(files.predictions) if entry.key in files.truth}
    kept = np.array(sorted(last.values()), dtype=int)
    return {"as_is": _by_label(ious, flags), "deduplicated_known_only": _by_label(ious[kept], flags[kept])}


def _official_items(references: Any, predictions: Any) -> list[dict[str, Any]]:
    """IoU of every prediction, in the order of the file; None for an unknown id, which is scored as 0."""
    files = _read(references, predictions)
    return [
        dict(zip(_ID, entry.key, strict=True)) | {"iou": finite(iou) if entry.key in files.truth else None}
        for entry, iou in zip(files.predictions, _official_ious(files), strict=True)
    ]


# --- evaluators with labels of their own ---


def _labels(files: _Files, pairs: Mapping[Key, Any]) -> np.ndarray:
    """Each pair "unique" or "multiple": by its ``eval_type`` if all have one, else by the rule of 20 classes."""
    entries = [entry.fields for entry in files.annotations]
    if all("eval_type" in entry for entry in entries):
        labels = [str(entry["eval_type"]) for entry in entries]
    else:
        labels = twenty_class_labels(entries)
    for entry, label in zip(files.annotations, labels, strict=True):
        if label not in _UNIQUE:
            raise ValueError(f"{entry.place} has eval_type {label!r}; expected 'unique' or 'multiple'")
    types = files.labels(labels)
    return np.array([types[key] for key in pairs])


def _m3dref(references: Any, predictions: Any) -> dict[str, Any]:
    """In float32; groups only over what was predicted, as the evaluator leaves the groups of missing ones undefined."""
    files = _read(references, predictions)
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


def _video3dllm(references: Any, predictions: Any) -> dict[str, Any]:
    """Boxes as centre and size; a label without predictions has no score."""
    files = _read(references, predictions)
    pairs = files.kept()
    ious = np.array([hull_iou(centre_size_corners(t), centre_size_corners(p)) for p, t in pairs.values()])
    labels = _labels(files, pairs)
    groups = {"all": ious} | {name: ious[labels == name] for name in _UNIQUE if (labels == name).any()}
    return {f"{name} iou@{k}": float(np.mean(group >= k) * 100) for name, group in groups.items() for k in _THRESHOLDS}


PROTOCOLS: dict[str, Protocol] = {
    entry.name: entry
    for entry in (
        Protocol("scanrefer", "official", "daveredrum/ScanRefer benchmark/eval.py", "fractions",
                 _official, _official_items),
        Protocol("scanrefer", "m3dref", "3dlg-hcvc/M3DRef-CLIP m3drefclip/evaluation/scanrefer_evaluator.py",
                 "fractions", _m3dref),
        Protocol("scanrefer", "video3dllm", "LaVi-Lab/Video-3D-LLM llava/eval/eval_scanrefer.py", "percent",
                 _video3dllm),
    )
}  # fmt: skip
"""ScanRefer's evaluators by name."""
