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

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from vidllm.evaluation.protocols import Protocol
from vidllm.evaluation.protocols.box_metrics import centre_size_corners, hull_iou
from vidllm.evaluation.protocols.records import corners, described, field, listed, warn_missing

__all__ = ["PROTOCOLS", "VIEW_WORDS", "Stimulus", "is_easy", "is_view_dependent", "parse_stimulus"]

VIEW_WORDS = frozenset(
    ("front", "behind", "back", "right", "left", "facing", "leftmost", "rightmost", "looking", "across")
)
"""A description with one of these tokens depends on where one stands."""
_EASY_OBJECTS = 2
_MAX_TOKENS = 24
_THRESHOLDS = (0.25, 0.5)
_ID = ("id", "assignmentid")


@dataclass(frozen=True)
class Stimulus:
    """What a ``stimulus_id`` says: the scene, the class, its number of objects, the target and the others."""

    scene_id: str
    instance_type: str
    n_objects: int
    target_id: int
    distractor_ids: tuple[int, ...]


def parse_stimulus(stimulus_id: str) -> Stimulus:
    """Read ``scene-class-number-target-distractor-...``; ``ValueError`` where the number and the list disagree."""
    parts = str(stimulus_id).split("-")
    try:
        number, target, *others = (int(part) for part in parts[2:] if part)
    except ValueError:
        raise ValueError(f"stimulus_id {stimulus_id!r} is not scene-class-number-target-distractors") from None
    if len(others) != number - 1:
        raise ValueError(f"stimulus_id {stimulus_id!r} counts {number} objects but lists {len(others)} besides one")
    return Stimulus(parts[0], parts[1].replace("_", " "), number, target, tuple(others))


def is_easy(stimulus_id: str) -> bool:
    """Whether the scene has at most two objects of the target's class, the target included."""
    return parse_stimulus(stimulus_id).n_objects <= _EASY_OBJECTS


def is_view_dependent(tokens: list[str]) -> bool:
    """Whether a token is one of ``VIEW_WORDS``, letter case as it is."""
    return not VIEW_WORDS.isdisjoint(tokens)


@dataclass(frozen=True)
class _Description:
    target_id: int
    tokens: list[str]
    easy: bool
    view_dependent: bool
    names_class: bool
    entry: Mapping[str, Any]
    place: str


def _id(entry: Mapping[str, Any], row: int | None, place: str) -> str:
    for name in _ID:
        if name in entry:
            return str(entry[name])
    if row is None:
        raise ValueError(f"{place} has no 'id'; write the description's id, its assignmentid or its row number")
    return str(row)


def _tokens(value: Any, place: str) -> list[str]:
    """Tokens from a list or, as in the csv, from its text."""
    if isinstance(value, str):
        try:
            value = ast.literal_eval(value)
        except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):
            raise ValueError(f"{place}: tokens {value[:60]!r} are not a list of words") from None
    if not isinstance(value, list):
        raise ValueError(f"{place}: tokens must be a list of words, got {type(value).__name__}")
    return [str(token) for token in value]


def _flag(value: Any) -> bool:
    return value if isinstance(value, bool) else str(value).strip().lower() in ("true", "1", "1.0")


def _whole(value: Any, place: str) -> int:
    try:
        return int(value)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{place}: target_id {value!r} is not a whole number") from None


def _descriptions(references: Any) -> dict[str, _Description]:
    found: dict[str, _Description] = {}
    for row, entry in enumerate(listed(references, "references")):
        place = described("description", row, entry, ("assignmentid", "stimulus_id"))
        tokens, key = _tokens(field(entry, "tokens", place), place), _id(entry, row, place)
        if key in found:
            raise ValueError(f"{place} repeats the id {key}; ids must differ")
        found[key] = _Description(
            _whole(field(entry, "target_id", place), place), tokens, is_easy(field(entry, "stimulus_id", place)),
            is_view_dependent(tokens), _flag(entry.get("mentions_target_class", True)), entry, place,
        )  # fmt: skip
    return found


@dataclass(frozen=True)
class _Answer:
    """A prediction: the description that it is for, its fields and its name in messages."""

    key: str
    fields: Mapping[str, Any]
    place: str


def _read(references: Any, predictions: Any) -> tuple[dict[str, _Description], list[_Answer]]:
    """Every description by id, and every prediction; one for an unknown description is an error."""
    descriptions, answers = _descriptions(references), []
    for index, entry in enumerate(listed(predictions, "predictions")):
        place = described("prediction", index, entry, _ID)
        key = _id(entry, None, place)
        if key not in descriptions:
            raise ValueError(f"{place} is for no description of the references; remove it")
        answers.append(_Answer(key, entry, place))
    return descriptions, answers


def _groups(chosen: list[_Description]) -> dict[str, np.ndarray]:
    """Masks of the published groups."""
    easy = np.array([description.easy for description in chosen])
    dependent = np.array([description.view_dependent for description in chosen])
    everyone = np.ones(len(chosen), dtype=bool)
    return {"all": everyone, "easy": easy, "hard": ~easy, "v-dep": dependent, "v-indep": ~dependent}


def _hits(descriptions: Mapping[str, _Description], answers: list[_Answer]) -> dict[str, bool]:
    """Whether the right instance was chosen, for every description that the authors score; each needs one answer."""
    found: dict[str, _Answer] = {}
    for answer in answers:
        if answer.key in found:
            raise ValueError(f"{answer.place} answers {answer.key} a second time; keep one answer")
        found[answer.key] = answer
    wanted = [key for key, d in descriptions.items() if d.names_class and len(d.tokens) <= _MAX_TOKENS]
    missing = [key for key in wanted if key not in found]
    if missing:
        raise ValueError(f"{len(missing)} descriptions have no prediction, the first is {missing[0]}; answer each")
    if not wanted:
        raise ValueError("the references hold no description that the authors score; give the file as distributed")
    chosen = {key: _whole(field(found[key].fields, "target_id", found[key].place), found[key].place) for key in wanted}
    return {key: target == descriptions[key].target_id for key, target in chosen.items()}


def _official(references: Any, predictions: Any) -> dict[str, Any]:
    """Percent of right choices in every group (None for an empty one), and how many descriptions were scored."""
    descriptions, answers = _read(references, predictions)
    hits = _hits(descriptions, answers)
    right = np.array(list(hits.values()))
    masks = _groups([descriptions[key] for key in hits])
    scores: dict[str, Any] = {
        name: float(right[mask].mean() * 100) if mask.any() else None for name, mask in masks.items()
    }
    return scores | {"n": len(hits), "n_not_scored": len(descriptions) - len(hits)}


def _official_items(references: Any, predictions: Any) -> dict[str, Any]:
    """1 for a right choice, else 0, of every scored description."""
    return {key: int(hit) for key, hit in _hits(*_read(references, predictions)).items()}


def _ious(descriptions: Mapping[str, _Description], answers: list[_Answer]) -> list[tuple[str, float]]:
    """(id, IoU) of every prediction: the script counts each row, and nothing of a description without one."""
    ious = []
    for answer in answers:
        truth = descriptions[answer.key]
        predicted = corners(field(answer.fields, "bbox", answer.place), answer.place)
        true = corners(field(truth.entry, "bbox", truth.place), truth.place)
        ious.append((answer.key, float(hull_iou(centre_size_corners(true), centre_size_corners(predicted)))))
    warn_missing(descriptions, dict(ious), "Video-3D-LLM's script")
    return ious


def _video3dllm(references: Any, predictions: Any) -> dict[str, Any]:
    """Fraction of boxes that reach each IoU, in every group that is not empty."""
    descriptions, answers = _read(references, predictions)
    ious = _ious(descriptions, answers)
    values, masks = np.array([iou for _, iou in ious]), _groups([descriptions[key] for key, _ in ious])
    return {
        f"{name} acc@{k}iou": float(np.mean(values[mask] >= k))
        for name, mask in masks.items()
        if mask.any()
        for k in _THRESHOLDS
    } | {"n": len(ious)}


def _video3dllm_items(references: Any, predictions: Any) -> dict[str, Any]:
    """IoU of every description; NaN for a box with NaN, which is a miss."""
    return dict(_ious(*_read(references, predictions)))


PROTOCOLS: dict[str, Protocol] = {
    entry.name: entry
    for entry in (
        Protocol("referit3d", "official", "referit3d/referit3d referit3d/analysis/deepnet_predictions.py", "percent",
                 _official, _official_items),
        Protocol("referit3d", "video3dllm", "zd11024/Video-3D-LLM llava/eval/eval_nr3d.py", "fractions",
                 _video3dllm, _video3dllm_items),
    )
}  # fmt: skip
"""The evaluators of Nr3D and Sr3D by name; both data sets are scored alike."""
