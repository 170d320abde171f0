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
from typing import Any

import numpy as np

from vidllm.evaluation.box_entries import corners, described, field, finite, identifier, listed
from vidllm.evaluation.box_metrics import EPSILON_FLOAT32, centre_size_corners, hull_iou
from vidllm.evaluation.protocol import Protocol
from vidllm.evaluation.scannet_labels import scanrefer_labels, twenty_class_labels

__all__ = ["PROTOCOLS"]

_ID = ("scene_id", "object_id", "ann_id")
_THRESHOLDS = (0.25, 0.5)
_UNIQUE = {"unique": 0, "multiple": 1}
_OTHERS = {"not_in_others": 0, "in_others": 1}

Key = tuple[str, ...]


def _keys(entries: Sequence[Mapping[str, Any]], what: str) -> list[Key]:
    return [identifier(entry, _ID, described(what, index, entry, _ID)) for index, entry in enumerate(entries)]


def _boxes(entries: Sequence[Mapping[str, Any]], what: str) -> list[np.ndarray]:
    where = [described(what, index, entry, _ID) for index, entry in enumerate(entries)]
    return [corners(field(entry, "bbox", place), place) for entry, place in zip(entries, where, strict=True)]


def _truth(references: Any) -> dict[Key, np.ndarray]:
    """Box of every annotation by id; the last one of a repeated id, as the official code reads them."""
    entries = listed(references, "references")
    if not entries:
        raise ValueError("the references hold no annotations; give the file as distributed")
    return dict(zip(_keys(entries, "annotation"), _boxes(entries, "annotation"), strict=True))


def _answers(predictions: Any) -> tuple[list[Mapping[str, Any]], list[Key], list[np.ndarray]]:
    entries = listed(predictions, "predictions")
    if not entries:
        raise ValueError("no predictions to score; give one entry for each description")
    return entries, _keys(entries, "prediction"), _boxes(entries, "prediction")


def _kept(references: Any, predictions: Any) -> dict[Key, tuple[np.ndarray, np.ndarray]]:
    """(predicted, true) corners by id: the last prediction of a repeated id, none of an unknown id."""
    truth = _truth(references)
    _, keys, boxes = _answers(predictions)
    pairs = {key: (box, truth[key]) for key, box in zip(keys, boxes, strict=True) if key in truth}
    if not pairs:
        raise ValueError(f"no prediction is for an annotation of the references; the first one is for {keys[0]}")
    return pairs


# --- the benchmark's own evaluator ---


def _official_ious(references: Any, predictions: Any) -> np.ndarray:
    """IoU of every prediction (n,); 0 for an id that is not in the references."""
    truth = _truth(references)
    _, keys, boxes = _answers(predictions)
    ious = [float(hull_iou(box, truth[key])) if key in truth else 0.0 for key, box in zip(keys, boxes, strict=True)]
    return np.array(ious)


def _flags(references: Any, predictions: Any) -> np.ndarray:
    """(n, 2) of unique_multiple and others, as submitted, else by ScanRefer's rule from the references."""
    annotations = listed(references, "references")
    entries, keys, _ = _answers(predictions)
    worked_out: dict[Key, tuple[int, int]] = {}
    if any("unique_multiple" not in entry or "others" not in entry for entry in entries):
        worked_out = dict(zip(_keys(annotations, "annotation"), scanrefer_labels(annotations), strict=True))
    rows = []
    for index, (entry, key) in enumerate(zip(entries, keys, strict=True)):
        if "unique_multiple" in entry and "others" in entry:
            rows.append((entry["unique_multiple"], entry["others"]))
        elif key in worked_out:
            rows.append(worked_out[key])
        else:
            place = described("prediction", index, entry, _ID)
            raise ValueError(f"{place} is not in the references and has no unique_multiple and others; add the flags")
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
    ious, flags = _official_ious(references, predictions), _flags(references, predictions)
    truth, (_, keys, _) = _truth(references), _answers(predictions)
    last = {key: index for index, key in enumerate(keys) if key in truth}
    kept = np.array(sorted(last.values()), dtype=int)
    return {"as_is": _by_label(ious, flags), "deduplicated_known_only": _by_label(ious[kept], flags[kept])}


def _official_items(references: Any, predictions: Any) -> Any:
    """IoU of every prediction, in the order of the file; None for an unknown id, which is scored as 0."""
    truth, (_, keys, _) = _truth(references), _answers(predictions)
    ious = _official_ious(references, predictions)
    return [
        dict(zip(_ID, key, strict=True)) | {"iou": finite(iou) if key in truth else None}
        for key, iou in zip(keys, ious, strict=True)
    ]


# --- evaluators with labels of their own ---


def _eval_types(references: Any) -> dict[Key, str]:
    """Each annotation "unique" or "multiple": by its ``eval_type`` if all have one, else by the rule of 20 classes."""
    entries = listed(references, "references")
    if all("eval_type" in entry for entry in entries):
        labels = [str(entry["eval_type"]) for entry in entries]
    else:
        labels = twenty_class_labels(entries)
    for index, label in enumerate(labels):
        if label not in _UNIQUE:
            place = described("annotation", index, entries[index], _ID)
            raise ValueError(f"{place} has eval_type {label!r}; expected 'unique' or 'multiple'")
    return dict(zip(_keys(entries, "annotation"), labels, strict=True))


def _labelled(references: Any, pairs: Mapping[Key, Any]) -> np.ndarray:
    types = _eval_types(references)
    return np.array([types[key] for key in pairs])


def _m3dref(references: Any, predictions: Any) -> dict[str, Any]:
    """In float32; groups only over what was predicted, as the evaluator leaves the groups of missing ones undefined."""
    pairs = _kept(references, predictions)
    ious = np.array([hull_iou(p, t, EPSILON_FLOAT32, np.float32) for p, t in pairs.values()])
    labels, total = _labelled(references, pairs), len(_truth(references))
    restricted, overall = {}, {}
    for k in _THRESHOLDS:
        hits = ious >= k
        groups = {name: hits[labels == name] for name in _UNIQUE} | {"overall": hits}
        restricted[f"Acc@{k}"] = {name: finite(group.mean()) if len(group) else None for name, group in groups.items()}
        overall[f"Acc@{k}"] = float(hits.sum() / total)
    return {
        "restricted_to_predicted": restricted,
        "all_ground_truth_overall_only": overall,
        "n_gt": total,
        "n_pred": len(pairs),
    }


def _video3dllm(references: Any, predictions: Any) -> dict[str, Any]:
    """Boxes as centre and size; a label without predictions has no score."""
    pairs = _kept(references, predictions)
    ious = np.array([hull_iou(centre_size_corners(t), centre_size_corners(p)) for p, t in pairs.values()])
    labels = _labelled(references, pairs)
    groups = {"all": ious} | {name: ious[labels == name] for name in _UNIQUE if (labels == name).any()}
    return {f"{name} iou@{k}": float(np.mean(group >= k) * 100) for name, group in groups.items() for k in _THRESHOLDS}


PROTOCOLS: dict[str, Protocol] = {
    "official": Protocol(
        task="scanrefer",
        name="official",
        source="daveredrum/ScanRefer benchmark/eval.py",
        scale="fractions",
        score=_official,
        per_item=_official_items,
    ),
    "m3dref": Protocol(
        task="scanrefer",
        name="m3dref",
        source="3dlg-hcvc/M3DRef-CLIP m3drefclip/evaluation/scanrefer_evaluator.py",
        scale="fractions",
        score=_m3dref,
    ),
    "video3dllm": Protocol(
        task="scanrefer",
        name="video3dllm",
        source="LaVi-Lab/Video-3D-LLM llava/eval/eval_scanrefer.py",
        scale="percent",
        score=_video3dllm,
    ),
}
"""ScanRefer's evaluators by name."""
