"""Multi3DRefer: F1 of a set of boxes for a description of none, one or several objects.

Predicted and true boxes are matched one to one for the largest SUM of IoU (not for the most pairs above a threshold);
matched pairs of IoU >= k are true positives and F1 = 2 TP / (predicted + true). A description of nothing scores 1 if
nothing was predicted. Types: zt (no target), st (one), mt (several), with or without distractors (w_d, wo_d).

References: ``{scene: [{ann_id, eval_type, aabb_bound: [[lower, upper], ...]}]}``. Predictions:
``{scene: [{ann_id, aabb: [8 corners, ...]}]}``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from vidllm.evaluation.box_entries import bounds, corners, field, listed
from vidllm.evaluation.box_metrics import EPSILON_FLOAT32, centre_size_corners, hull_iou, matched_ious
from vidllm.evaluation.protocol import Protocol

__all__ = ["PROTOCOLS", "select_boxes"]

TYPES = ("zt_wo_d", "zt_w_d", "st_wo_d", "st_w_d", "mt")
_THRESHOLDS = (0.25, 0.5)

Key = tuple[str, int]
Overlaps = Callable[[np.ndarray, np.ndarray], np.ndarray]


def _queries(scenes: Any, what: str) -> list[tuple[Key, Mapping[str, Any], str]]:
    """((scene, ann_id), entry, its name in messages) of every entry of a file keyed by scene."""
    if not isinstance(scenes, Mapping):
        raise ValueError(f"{what} must map each scene to its queries, got {type(scenes).__name__}")
    found = []
    for scene, entries in scenes.items():
        for index, entry in enumerate(listed(entries, f"{what} of {scene}")):
            number = field(entry, "ann_id", f"{what} of {scene}, entry {index}")
            try:
                key = (str(scene), int(number))
            except (TypeError, ValueError):
                raise ValueError(f"{what} of {scene}: ann_id {number!r} is not a whole number") from None
            found.append((key, entry, f"{what} of {scene}, ann_id {number}"))
    return found


def _truth(references: Any) -> dict[Key, tuple[str, np.ndarray]]:
    """(type, lower and upper corners (n, 2, 3)) of every query."""
    truth = {}
    for key, entry, place in _queries(references, "references"):
        kind = field(entry, "eval_type", place)
        if kind not in TYPES:
            raise ValueError(f"{place} has eval_type {kind!r}; expected one of {', '.join(TYPES)}")
        truth[key] = (str(kind), bounds(field(entry, "aabb_bound", place), place))
        if not kind.startswith("zt") and not len(truth[key][1]):
            raise ValueError(f"{place} is of type {kind} but has no boxes; give its aabb_bound")
    if not truth:
        raise ValueError("the references hold no queries; give the annotations of at least one scene")
    return truth


def _answers(references: Any, predictions: Any) -> list[tuple[Key, np.ndarray, str]]:
    """(query, predicted corners (n, 8, 3), name in messages) of every prediction; unknown queries are an error."""
    truth = _truth(references)
    found = []
    for key, entry, place in _queries(predictions, "predictions"):
        if key not in truth:
            raise ValueError(f"{place} is for no query of the references; remove it or give its annotation")
        boxes = [corners(box, place) for box in field(entry, "aabb", place)]
        found.append((key, np.array(boxes).reshape(-1, 8, 3), place))
    return found


def _f1(predicted: np.ndarray, true: np.ndarray, overlaps: Overlaps, place: str) -> tuple[float, ...]:
    """F1 at both thresholds of a query that has boxes on both sides."""
    values = overlaps(predicted, true)
    if np.isnan(values).any():
        raise ValueError(f"{place}: a box holds NaN, so nothing can be matched; remove the box")
    ious = matched_ious(values)
    return tuple(2 * int((ious >= np.float32(k)).sum()) / (len(predicted) + len(true)) for k in _THRESHOLDS)


def _overlaps_float32(predicted: np.ndarray, true: np.ndarray) -> np.ndarray:
    return hull_iou(predicted[:, None], true[None], EPSILON_FLOAT32, np.float32)


def _overlaps_centre_size(predicted: np.ndarray, true: np.ndarray) -> np.ndarray:
    return hull_iou(centre_size_corners(predicted)[:, None], centre_size_corners(true)[None])


# --- the dataset's own evaluator ---


def _official_values(references: Any, predictions: Any) -> dict[Key, tuple[float, ...]]:
    """F1 of every predicted query, in the order of the file; the last prediction of a repeated query."""
    truth = _truth(references)
    values: dict[Key, tuple[float, ...]] = {}
    for key, predicted, place in _answers(references, predictions):
        kind, true = truth[key]
        if kind.startswith("zt"):
            values[key] = (float(len(predicted) == 0),) * 2
        elif len(predicted) == 0:
            values[key] = (0.0, 0.0)
        else:
            values[key] = _f1(predicted, true, _overlaps_float32, place)
    return values


def _official(references: Any, predictions: Any) -> dict[str, Any]:
    """Mean F1 by type and overall, over ALL queries of the references: a missing prediction counts 0.

    The published code counts missing ones in the overall score as well and leaves their part of the types undefined.
    """
    truth, values = _truth(references), _official_values(references, predictions)
    kinds = np.array([kind for kind, _ in truth.values()])
    table = np.array([values.get(key, (0.0, 0.0)) for key in truth], dtype=np.float32)
    scores: dict[str, Any] = {}
    for column, k in enumerate(_THRESHOLDS):
        scores[f"F1@{k}"] = {
            kind: float(table[kinds == kind, column].mean()) if (kinds == kind).any() else None for kind in TYPES
        } | {"overall": float(table[:, column].mean())}
    return scores


def _official_items(references: Any, predictions: Any) -> dict[str, Any]:
    """[F1@0.25, F1@0.5] of every predicted query."""
    values = _official_values(references, predictions)
    return {f"{scene}|{number}": list(pair) for (scene, number), pair in values.items()}


# --- Video-3D-LLM ---


def _video3dllm_values(references: Any, predictions: Any) -> list[tuple[Key, tuple[float, ...]]]:
    """F1 of every prediction, repeated queries as often as they occur; what counts is the boxes, not the type."""
    truth = _truth(references)
    values: list[tuple[Key, tuple[float, ...]]] = []
    for key, predicted, place in _answers(references, predictions):
        true = truth[key][1]
        if len(predicted) == 0 or len(true) == 0:
            values.append((key, (float(len(predicted) == len(true)),) * 2))
        else:
            values.append((key, _f1(predicted, true, _overlaps_centre_size, place)))
    return values


def _video3dllm(references: Any, predictions: Any) -> dict[str, Any]:
    """Mean F1 over the predictions made; a type without any has no entry."""
    truth, values = _truth(references), _video3dllm_values(references, predictions)
    if not values:
        raise ValueError("no predictions to score; give one entry for each query")
    groups: dict[str, list[tuple[float, ...]]] = {"all": []}
    for key, pair in values:
        groups["all"].append(pair)
        groups.setdefault(truth[key][0], []).append(pair)
    return {
        name: {f"F1@{k}": float(np.mean([pair[i] for pair in pairs])) for i, k in enumerate(_THRESHOLDS)}
        | {"n": len(pairs)}
        for name, pairs in groups.items()
    }


def _video3dllm_items(references: Any, predictions: Any) -> dict[str, Any]:
    """[F1@0.25, F1@0.5] of every predicted query, the last one of a repeated query."""
    values = _video3dllm_values(references, predictions)
    return {f"{scene}|{number}": list(pair) for (scene, number), pair in values}


def select_boxes(scores: np.ndarray, threshold: float = 0.4, temperature: float = 0.07) -> list[int]:
    """Which of n candidate boxes Video-3D-LLM predicts from n + 1 logits, the last one standing for "none".

    Nothing if "none" is the largest; else boxes in falling order of softmax(scores / temperature), the share of "none"
    left out, until their sum reaches ``threshold``. (LaVi-Lab/Video-3D-LLM, ``llava/eval/eval_multi3drefer.py``.)
    """
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim != 1 or not len(values) or not np.isfinite(values).all():
        raise ValueError(f"expected finite logits of n boxes and of 'none', got {values!r}")
    if int(values.argmax()) == len(values) - 1:
        return []
    weights = np.exp((values - values.max()) / temperature)
    shares = (weights / weights.sum())[:-1]
    order = np.argsort(-shares, kind="stable")
    reached = np.cumsum(shares[order]) >= threshold
    return [int(i) for i in order[: int(reached.argmax()) + 1 if reached.any() else len(order)]]


PROTOCOLS: dict[str, Protocol] = {
    "official": Protocol(
        task="multi3drefer",
        name="official",
        source="3dlg-hcvc/M3DRef-CLIP m3drefclip/evaluation/multi3drefer_evaluator.py",
        scale="fractions",
        score=_official,
        per_item=_official_items,
    ),
    "video3dllm": Protocol(
        task="multi3drefer",
        name="video3dllm",
        source="LaVi-Lab/Video-3D-LLM llava/eval/eval_multi3drefer.py",
        scale="fractions",
        score=_video3dllm,
        per_item=_video3dllm_items,
    ),
}
"""Multi3DRefer's evaluators by name."""
