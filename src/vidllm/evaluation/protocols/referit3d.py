"""ReferIt3D (Nr3D and Sr3D): choosing the described instance among all given objects of the scene.

``official`` is the accuracy in percent of the chosen instance: over all, over "easy" and "hard" (at most, or more than,
two objects of the target's class in the scene, the target included) and over descriptions that do or do not depend on
the view (by ten words). As in the authors' loader, descriptions that do not name the target's class and those longer
than 24 tokens are not scored. ``video3dllm`` is for models that give a box: accuracy at IoU 0.25 and 0.5 over the same
groups, over every description. Sources: referit3d/referit3d ``analysis/deepnet_predictions.py``,
``analysis/utterances.py``, ``in_out/neural_net_oriented.py``; zd11024/Video-3D-LLM ``llava/eval/eval_nr3d.py``.

References: the rows of ``nr3d.csv`` or ``sr3d.csv`` as dictionaries (``stimulus_id``, ``target_id``, ``tokens`` as a
list or as its text, and ``mentions_target_class`` where there is one; ``bbox`` of 8 corners for boxes). Predictions:
``[{id, target_id}]`` or ``[{id, bbox}]``. The id of a description is its ``id``, else its ``assignmentid`` (Nr3D), else
its row number from 0 (Sr3D has no ids); predictions may write ``assignmentid`` for ``id``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from vidllm.datasets.records import Entry, Table
from vidllm.evaluation.protocols import Protocol, by_name
from vidllm.evaluation.protocols.box_metrics import centre_size_corners, hull_iou
from vidllm.evaluation.protocols.files import as_text, corners, integer, rows, warn_missing, words

VIEW_WORDS = frozenset(
    ("front", "behind", "back", "right", "left", "facing", "leftmost", "rightmost", "looking", "across")
)
"""A description with one of these tokens depends on where one stands."""
_EASY_OBJECTS = 2
_MAX_TOKENS = 24
_THRESHOLDS = (0.25, 0.5)
_ID = ("id", "assignmentid")


def objects_in_context(stimulus_id: str) -> int:
    """Objects of the target's class, the target included, that ``scene-class-number-target-distractor-...`` states.

    ValueError where the number and the list disagree.
    """
    try:
        number, *listed = (int(part) for part in stimulus_id.split("-")[2:] if part)
    except ValueError:
        raise ValueError(f"stimulus_id {stimulus_id!r} is not scene-class-number-target-distractors") from None
    if len(listed) != number:
        raise ValueError(f"stimulus_id {stimulus_id!r} counts {number} objects but lists {len(listed)}")
    return number


def is_view_dependent(tokens: list[str]) -> bool:
    """Whether a token is one of ``VIEW_WORDS``, letter case as it is."""
    return not VIEW_WORDS.isdisjoint(tokens)


def _flag(entry: Entry, field: str, value: Any) -> bool:
    return value if isinstance(value, bool) else str(value).strip().lower() in ("true", "1", "1.0")


_REFERENCE: Table = {
    "target_id": integer, "tokens": words, "stimulus_id": as_text, "mentions_target_class": (_flag, True),
    "id": (as_text, None), "assignmentid": (as_text, None),
}  # fmt: skip


@dataclass(frozen=True)
class _Description:
    target_id: int
    easy: bool
    view_dependent: bool
    scored: bool  # by the authors: names the class and is not long
    entry: Entry


@dataclass(frozen=True)
class _Files:
    """Every description by id, and (description's id, entry) of every prediction."""

    descriptions: Mapping[str, _Description]
    answers: list[tuple[str, Entry]]


def _read(references: Any, predictions: Any) -> _Files:
    found: dict[str, _Description] = {}
    for row, entry in enumerate(rows(references, "references", ("assignmentid", "stimulus_id"))):
        values = entry.read(_REFERENCE)
        key = next((values[name] for name in _ID if values[name] is not None), str(row))
        if key in found:
            raise ValueError(f"{entry.where} repeats the id {key}; ids must differ")
        tokens, easy = values["tokens"], objects_in_context(values["stimulus_id"]) <= _EASY_OBJECTS
        scored = values["mentions_target_class"] and len(tokens) <= _MAX_TOKENS
        found[key] = _Description(values["target_id"], easy, is_view_dependent(tokens), scored, entry)
    answers = []
    for entry in rows(predictions, "predictions", _ID):
        name = next((name for name in _ID if name in entry.values), None)
        if name is None:
            raise ValueError(f"{entry.where} has no 'id'; write the description's id, its assignmentid or row number")
        key = str(entry.values[name])
        if key not in found:
            raise ValueError(f"{entry.where} is for no description of the references; remove it")
        answers.append((key, entry))
    return _Files(found, answers)


def _groups(chosen: list[_Description]) -> dict[str, np.ndarray]:
    easy = np.array([description.easy for description in chosen])
    dependent = np.array([description.view_dependent for description in chosen])
    everyone = np.ones(len(chosen), dtype=bool)
    return {"all": everyone, "easy": easy, "hard": ~easy, "v-dep": dependent, "v-indep": ~dependent}


def _hits(files: _Files) -> dict[str, bool]:
    """Whether the right instance was chosen, for every description that the authors score; each needs one answer."""
    found: dict[str, Entry] = {}
    for key, entry in files.answers:
        if key in found:
            raise ValueError(f"{entry.where} answers {key} a second time; keep one answer")
        found[key] = entry
    wanted = {key: description for key, description in files.descriptions.items() if description.scored}
    missing = [key for key in wanted if key not in found]
    if missing:
        raise ValueError(f"{len(missing)} descriptions have no prediction, the first is {missing[0]}; answer each")
    if not wanted:
        raise ValueError("the references hold no description that the authors score; give the file as distributed")
    return {key: found[key].get("target_id", integer) == wanted[key].target_id for key in wanted}


def _official(files: _Files) -> dict[str, Any]:
    """Percent of right choices in every group (None for an empty one), and how many descriptions were scored."""
    hits = _hits(files)
    right = np.array(list(hits.values()))
    masks = _groups([files.descriptions[key] for key in hits])
    scores: dict[str, Any] = {
        name: float(right[mask].mean() * 100) if mask.any() else None for name, mask in masks.items()
    }
    return scores | {"n": len(hits), "n_not_scored": len(files.descriptions) - len(hits)}


def _official_items(files: _Files) -> dict[str, Any]:
    return {key: int(hit) for key, hit in _hits(files).items()}


def _ious(files: _Files) -> list[tuple[str, float]]:
    """(id, IoU) of every prediction: the script counts each row, and nothing of a description without one."""
    ious = []
    for key, entry in files.answers:
        predicted = entry.get("bbox", corners)
        true = files.descriptions[key].entry.get("bbox", corners)
        ious.append((key, float(hull_iou(centre_size_corners(true), centre_size_corners(predicted)))))
    warn_missing(files.descriptions, dict(ious), "Video-3D-LLM's script")
    return ious


def _video3dllm(files: _Files) -> dict[str, Any]:
    """Fraction of boxes that reach each IoU, in every group that is not empty."""
    ious = _ious(files)
    values, masks = np.array([iou for _, iou in ious]), _groups([files.descriptions[key] for key, _ in ious])
    return {
        f"{name} acc@{k}iou": float(np.mean(values[mask] >= k))
        for name, mask in masks.items()
        if mask.any()
        for k in _THRESHOLDS
    } | {"n": len(ious)}


def _video3dllm_items(files: _Files) -> dict[str, Any]:
    """IoU of every description; NaN for a box with NaN, which is a miss."""
    return dict(_ious(files))


PROTOCOLS = by_name(
    Protocol("official", "referit3d/referit3d referit3d/analysis/deepnet_predictions.py", "percent",
             _read, _official, _official_items),
    Protocol("video3dllm", "zd11024/Video-3D-LLM llava/eval/eval_nr3d.py", "fractions", _read,
             _video3dllm, _video3dllm_items),
)  # fmt: skip
