"""Multi3DRefer: F1 of a set of boxes for a description of none, one or several objects.

Predicted and true boxes are matched one to one for the largest SUM of IoU (not for the most pairs above a threshold);
matched pairs of IoU >= k are true positives and F1 = 2 TP / (predicted + true). A description of nothing scores 1 if
nothing was predicted. Types: zt (no target), st (one), mt (several), with or without distractors (w_d, wo_d).

References: ``{scene: [{ann_id, eval_type, aabb_bound: [[lower, upper], ...]}]}``. Predictions:
``{scene: [{ann_id, aabb: [8 corners, ...]}]}``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from vidllm.datasets.annotations import EVAL_TYPES
from vidllm.datasets.records import Entry, Table
from vidllm.evaluation.protocols import Protocol, by_name
from vidllm.evaluation.protocols.box_metrics import EPSILON_FLOAT32, centre_size_corners, hull_iou, matched_ious
from vidllm.evaluation.protocols.files import bounds, by_scene, corner_list, integer

_THRESHOLDS = (0.25, 0.5)
Key = tuple[str, int]


def _kind(entry: Entry, field: str, value: Any) -> str:
    if value not in EVAL_TYPES:
        raise entry.error(field, f"one of {', '.join(EVAL_TYPES)}", value)
    return str(value)


_REFERENCE: Table = {"ann_id": integer, "eval_type": _kind, "aabb_bound": bounds}
_PREDICTION: Table = {"ann_id": integer, "aabb": corner_list}


@dataclass(frozen=True)
class _Answer:
    """A predicted query: its type, its true boxes (m, 2, 3), the predicted corners (n, 8, 3), its name in messages."""

    key: Key
    kind: str
    true: np.ndarray
    predicted: np.ndarray
    where: str


@dataclass(frozen=True)
class _Files:
    """The type of every query of the references, and every prediction."""

    kinds: Mapping[Key, str]
    answers: list[_Answer]


def _read(references: Any, predictions: Any) -> _Files:
    truth: dict[Key, tuple[str, np.ndarray]] = {}
    for scene, entry in by_scene(references, "references"):
        values = entry.read(_REFERENCE)
        kind, boxes = values["eval_type"], values["aabb_bound"]
        if not kind.startswith("zt") and not len(boxes):
            raise ValueError(f"{entry.where} is of type {kind} but has no boxes; give its aabb_bound")
        truth[scene, values["ann_id"]] = kind, boxes
    if not truth:
        raise ValueError("the references hold no queries; give the annotations of at least one scene")
    answers = []
    for scene, entry in by_scene(predictions, "predictions"):
        values = entry.read(_PREDICTION)
        key = scene, values["ann_id"]
        if key not in truth:
            raise ValueError(f"{entry.where} is for no query of the references; remove it or give its annotation")
        answers.append(_Answer(key, *truth[key], values["aabb"], entry.where))
    return _Files({key: kind for key, (kind, _) in truth.items()}, answers)


def _f1(answer: _Answer, overlaps: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> tuple[float, ...]:
    """F1 at both thresholds of a query that has boxes on both sides."""
    predicted, true = answer.predicted, answer.true
    values = overlaps(predicted, true)
    if np.isnan(values).any():
        raise ValueError(f"{answer.where}: a box holds NaN, so nothing can be matched; remove the box")
    ious = matched_ious(values)
    return tuple(2 * int((ious >= np.float32(k)).sum()) / (len(predicted) + len(true)) for k in _THRESHOLDS)


def _official_f1(answer: _Answer) -> tuple[float, ...]:
    """Nothing is right for a description of nothing only."""
    if answer.kind.startswith("zt") or not len(answer.predicted):
        return (float(answer.kind.startswith("zt") and not len(answer.predicted)),) * 2
    return _f1(answer, lambda ours, true: hull_iou(ours[:, None], true[None], EPSILON_FLOAT32, np.float32))


def _video3dllm_f1(answer: _Answer) -> tuple[float, ...]:
    """What counts is the boxes, not the type."""
    if not len(answer.predicted) or not len(answer.true):
        return (float(len(answer.predicted) == len(answer.true)),) * 2
    return _f1(answer, lambda ours, true: hull_iou(centre_size_corners(ours)[:, None], centre_size_corners(true)[None]))


def _items(files: _Files, f1: Callable[[_Answer], tuple[float, ...]]) -> dict[str, Any]:
    """[F1@0.25, F1@0.5] of every predicted query, the last one of a repeated query."""
    return {"{}|{}".format(*answer.key): list(f1(answer)) for answer in files.answers}


def _official(files: _Files) -> dict[str, Any]:
    """Mean F1 by type and overall, over ALL queries of the references: a missing prediction counts 0.

    The published code counts missing ones in the overall score as well and leaves their part of the types undefined.
    """
    values, kinds = {a.key: _official_f1(a) for a in files.answers}, np.array(list(files.kinds.values()))
    table = np.array([values.get(key, (0.0, 0.0)) for key in files.kinds], dtype=np.float32)
    scores: dict[str, Any] = {}
    for column, k in enumerate(_THRESHOLDS):
        scores[f"F1@{k}"] = {
            kind: float(table[kinds == kind, column].mean()) if (kinds == kind).any() else None for kind in EVAL_TYPES
        } | {"overall": float(table[:, column].mean())}
    return scores


def _video3dllm(files: _Files) -> dict[str, Any]:
    """Mean F1 over the predictions made, repeated ones as often as they occur; a type without any has no entry."""
    if not files.answers:
        raise ValueError("no predictions to score; give one entry for each query")
    groups: dict[str, list[tuple[float, ...]]] = {"all": []}
    for answer in files.answers:
        pair = _video3dllm_f1(answer)
        groups["all"].append(pair)
        groups.setdefault(answer.kind, []).append(pair)
    return {
        name: {f"F1@{k}": float(np.mean([pair[i] for pair in pairs])) for i, k in enumerate(_THRESHOLDS)}
        | {"n": len(pairs)}
        for name, pairs in groups.items()
    }


PROTOCOLS = by_name(
    Protocol("official", "3dlg-hcvc/M3DRef-CLIP m3drefclip/evaluation/multi3drefer_evaluator.py",
             "fractions", _read, _official, partial(_items, f1=_official_f1)),
    Protocol("video3dllm", "LaVi-Lab/Video-3D-LLM llava/eval/eval_multi3drefer.py", "fractions",
             _read, _video3dllm, partial(_items, f1=_video3dllm_f1)),
)  # fmt: skip
