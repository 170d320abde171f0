"""VSI-Bench and its relatives: a letter or a number is asked for, and a score is a mean over the types of question.

For each benchmark a ``Form`` describes its file, one function grades a question, and the scores are means over the
types in the way of the script that is followed (files and MRA: ``graded.py``). The scripts differ where an error meets
a bound of MRA, and in how a number is found in a text:

* ``vsi official``: ``<=`` in float64, the first word (up to a space) without final periods.
* ``vsi paper``: ``<``, as the paper's formula says, in exact arithmetic of the decimals; the first word. Percent.
* ``vsi lmms-eval-0.7.3``: ``<=``, the first number anywhere in the text, also in words; rounded to six digits.

VSI-Bench has eight tasks, of which ``object_rel_direction`` is the mean of easy, medium and hard, and ``overall`` is
their mean. Where the file says which questions the debiased set leaves out (``pruned``), ``debiased`` has the same
scores without them.

Quirks of SPAR-Bench's script, which are kept and tested one by one:

* ``empty is right``: an answer that is a part of the right one counts, also the empty one.
* ``first letter``: an answer counts whose first character is the right letter ("Above" for A).
* ``last number``: four kinds of several views read the last number of a text, the others the first.
* ``error by prediction``: in ``view_change_infer`` the error is divided by the prediction.
* ``absolute at zero``: where the divisor is 0 the error itself is compared.
* ``middle without view change``: ``view_change_infer`` is in no level of difficulty, its name being cut wrongly.
* ``no numbers`` (lmms-eval 0.7.3 alone): its file lacks an import, so that every number counts as wrong.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from vidllm.datasets.records import Entry
from vidllm.evaluation.protocols import Protocol, by_name
from vidllm.evaluation.protocols.files import refuse_missing, refuse_unknown
from vidllm.evaluation.protocols.graded import (
    ACTIONS,
    CHOICE,
    CONFIDENCES,
    NUMBER,
    Form,
    Grade,
    Question,
    as_float,
    by_key,
    exact_relative_accuracy,
    first_word,
    grade_all,
    mean_of,
    mean_relative_accuracy,
    means_of,
    number_in,
    read_questions,
    text_or_number,
)

Scores = dict[str, Any]


def _vsi_grade(
    question: Question, find: Callable[[str], float | None], accuracy: Callable[[float, float], float]
) -> float:
    if question.metric == CHOICE:
        return float(first_word(question.prediction).lower() == question.truth.lower())
    given, truth = find(question.prediction), as_float(question.truth)
    if given is None or truth is None:
        return 0.0
    try:
        return accuracy(given, truth)
    except ZeroDivisionError:
        raise ValueError(f"{question.where}: the right answer 0 has no relative error; take it out") from None


def _first_number(text: str) -> float | None:
    return as_float(first_word(text))


_official_grade = partial(_vsi_grade, find=_first_number, accuracy=mean_relative_accuracy)
_paper_grade = partial(_vsi_grade, find=_first_number, accuracy=exact_relative_accuracy)
_lmms_grade = partial(_vsi_grade, find=number_in, accuracy=mean_relative_accuracy)

LEVELS = ("easy", "medium", "hard")
_DIRECTION = "object_rel_direction"
VSI_KINDS = {
    "object_counting": NUMBER, "object_abs_distance": NUMBER, "object_size_estimation": NUMBER,
    "room_size_estimation": NUMBER, "object_rel_distance": CHOICE, "route_planning": CHOICE,
    "obj_appearance_order": CHOICE, **{f"{_DIRECTION}_{level}": CHOICE for level in LEVELS},
}  # fmt: skip
VSI_TASKS = (
    "object_counting", "object_abs_distance", "object_size_estimation", "room_size_estimation", "object_rel_distance",
    "object_rel_direction", "route_planning", "obj_appearance_order",
)  # fmt: skip
"""The eight tasks in the order of the paper's table."""


def _vsi_task(kind: str) -> str:
    return kind.replace(f"{_DIRECTION}_", f"{_DIRECTION}/")


def _with_debiased(scores: Callable[[Sequence[Question]], Scores], questions: Sequence[Question]) -> Scores:
    kept = [question for question in questions if not question.pruned]
    found = scores(questions)
    return found if len(kept) == len(questions) or not kept else {**found, "debiased": scores(kept)}


def _vsi_means(grade: Grade, questions: Sequence[Question], strict: bool = False) -> dict[tuple[str, str], float]:
    """The means of the eight tasks, with direction as one where its easy level is there (``strict``: in any case)."""
    means = means_of(grade, questions)
    levels = [(f"{_DIRECTION}_{level}", CHOICE) for level in LEVELS]
    if strict or levels[0] in means:
        if missing := [kind for kind, _ in levels if (kind, CHOICE) not in means]:
            raise ValueError(
                f"references: no question of {', '.join(missing)}; the script needs all levels of direction"
            )
        means[_DIRECTION, CHOICE] = sum(means.pop(level) for level in levels) / 3.0
    return means


def _official(questions: Sequence[Question], grade: Grade) -> Scores:
    """Percent, in the order of the paper's table."""
    means = _vsi_means(grade, questions)
    order = [name for name in (*VSI_KINDS.items(), (_DIRECTION, CHOICE)) if name in means]
    order.sort(key=lambda name: VSI_TASKS.index(name[0]) if name[0] in VSI_TASKS else len(VSI_TASKS))
    return {"overall": mean_of([*means.values()]) * 100.0} | {
        f"{kind}_{m}": means[kind, m] * 100.0 for kind, m in order
    }


def _lmms(questions: Sequence[Question]) -> Scores:
    means = _vsi_means(_lmms_grade, questions, strict=True)
    named = {f"{kind}_{'mra' if metric == NUMBER else metric}": mean for (kind, metric), mean in means.items()}
    overall = {"vsibench_overall": mean_of([*means.values()])}
    return {name: float(np.round(mean, 6)) for name, mean in (overall | named).items()}  # numpy's rounding of a half


_OFFICIAL_VSI = "vision-x-nyu/thinking-in-space lmms_eval/tasks/vsibench/utils.py"
_LMMS = "EvolvingLMMs-Lab/lmms-eval 0.7.3 lmms_eval/tasks"
_read_vsi = partial(read_questions, Form("question_type", "ground_truth", VSI_KINDS))
VSI = by_name(
    Protocol("official", _OFFICIAL_VSI, "percent; MRA with <=", _read_vsi,
             partial(_with_debiased, partial(_official, grade=_official_grade)),
             partial(grade_all, _official_grade, task=_vsi_task)),
    Protocol("paper", "arXiv 2412.14171, the formula of MRA", "percent; MRA with <", _read_vsi,
             partial(_with_debiased, partial(_official, grade=_paper_grade)),
             partial(grade_all, _paper_grade, task=_vsi_task)),
    Protocol("lmms-eval-0.7.3", f"{_LMMS}/vsibench/utils.py", "fractions; MRA with <=", _read_vsi,
             partial(_with_debiased, _lmms), partial(grade_all, _lmms_grade, task=_vsi_task)),
)  # fmt: skip

_REVSI_PARTS = {
    _DIRECTION: ("forward_easy", "backward_easy", "forward_hard", "backward_hard"),
    "object_rel_distance": ("closest", "farthest"),
    "object_counting": ("single", "multiple"),
    "room_size_estimation": ("single", "multiple"),
}
_REVSI_CHOICES = (_DIRECTION, "object_rel_distance", "route_planning")
_REVSI_KINDS = {
    f"{task}{part and '_'}{part}": CHOICE if task in _REVSI_CHOICES else NUMBER
    for task in (*_REVSI_PARTS, "route_planning", "object_abs_distance", "object_size_estimation")
    for part in _REVSI_PARTS.get(task, ("",))
}


def _revsi_grade(question: Question) -> float:
    try:
        return _official_grade(replace(question, prediction=question.prediction.strip()))
    except ValueError:  # also where the right answer is 0
        return 0.0


def _revsi_task(kind: str) -> str:
    return next((f"{task}/{kind}" for task in _REVSI_PARTS if kind.startswith(f"{task}_")), kind)


def _revsi(questions: Sequence[Question]) -> Scores:
    means = {kind: mean for (kind, _), mean in means_of(_revsi_grade, questions).items()}
    for task, parts in _REVSI_PARTS.items():
        there = [means.pop(name) for part in parts if (name := f"{task}_{part}") in means]
        if there:
            means[task] = float(np.mean(there))
    return {f"{kind}_acc": mean for kind, mean in {"overall": mean_of([*means.values()]), **means}.items()}


REVSI = by_name(
    Protocol("lmms-eval-0.7.3", f"{_LMMS}/revsi/utils.py", "fractions; MRA with <=",
             partial(read_questions, Form("question_type", "ground_truth", _REVSI_KINDS)), _revsi,
             partial(grade_all, _revsi_grade, task=_revsi_task)),
)  # fmt: skip

_LAST_NUMBER = {f"{what}_prediction_{who}_mv" for what in ("depth", "distance") for who in ("oc", "oo")}
_VIEW_CHANGE = "view_change_infer"
_LOW = {f"{what}_prediction_{who}{mv}" for what in ("depth", "distance") for who in ("oc", "oo") for mv in ("", "_mv")}
_MIDDLE = {"position_matching", "camera_motion_infer"}
_HIGH = {
    "obj_spatial_relation_oo", "obj_spatial_relation_oc_mv", "obj_spatial_relation_oo_mv", "spatial_imagination_oc",
    "spatial_imagination_oo", "spatial_imagination_oc_mv", "spatial_imagination_oo_mv", "distance_infer_center_oo",
    "distance_infer_center_oo_mv",
}  # fmt: skip
_SPAR_KINDS = dict.fromkeys(sorted(_LOW), NUMBER) | dict.fromkeys(sorted(_MIDDLE | _HIGH), CHOICE)
_SPAR_KINDS |= {_VIEW_CHANGE: ACTIONS}
_UNSIGNED = re.compile(r"(?<!\^)\d+\.\d+|(?<!\^)\d+")
_AXES = (("move_right", "move_left"), ("move_up", "move_down"), ("move_forward", "move_backward"),
         ("rotate_right", "rotate_left"), ("rotate_up", "rotate_down"))  # fmt: skip


def _spar_accuracy(prediction: float, truth: float) -> float:
    """MRA of the absolute relative error; quirk ``absolute at zero``."""
    error = abs(prediction - truth) if truth == 0.0 else abs((prediction - truth) / truth)
    return float(np.mean(error <= 1 - CONFIDENCES))


def _spar_choice(prediction: str, truth: str) -> float:
    """Quirks ``empty is right`` and ``first letter``."""
    prediction, truth = prediction.lower(), truth.lower()
    return float(prediction in truth or prediction[0] == truth)


def _spar_number(question: Question) -> float:
    """Quirk ``last number``; 0 where there is none."""
    numbers, truth = _UNSIGNED.findall(question.prediction), as_float(question.truth)
    last = question.kind in _LAST_NUMBER
    if truth is None or not (numbers or last):
        return 0.0
    return _spar_accuracy(float(numbers[-1 if last else 0]) if numbers else -1.0, truth)


def _actions(text: str) -> list[float]:
    """Signed amounts along the five axes of ``move_right:0.5,rotate_up:10``; ValueError where it is none."""
    given: dict[str, float] = {}
    for part in text.split(","):
        name, amount = part.split(":")
        given[name] = float(amount)
    return [given.get(plus, 0.0) - given.get(minus, 0.0) for plus, minus in _AXES]


def _spar_grade(question: Question, numbers: bool = True) -> float:
    if question.metric == CHOICE:
        return _spar_choice(question.prediction, question.truth)
    if question.metric == NUMBER:
        return _spar_number(question) if numbers else 0.0
    try:
        prediction, truth = _actions(question.prediction), _actions(question.truth)
    except ValueError:
        return 0.0
    return float(np.mean([_spar_accuracy(t, s) for t, s in zip(truth, prediction, strict=True)]))  # error by prediction


def _spar(questions: Sequence[Question], numbers: bool = True) -> Scores:
    means = means_of(partial(_spar_grade, numbers=numbers), questions)
    levels = {}
    for name, kinds in (("low", _LOW), ("middle", _MIDDLE), ("high", _HIGH)):
        there = [mean for (kind, _), mean in means.items() if kind in kinds]
        levels[name] = float(np.mean(there)) if there else 0.0
    named = {f"{kind}_{metric}": mean for (kind, metric), mean in means.items()}
    return {"sparbench_score": 100.0 * mean_of([*means.values()]), **levels, **named}


_read_spar = partial(read_questions, Form("task", "answer", _SPAR_KINDS))
SPAR = by_name(
    Protocol("official", "LogosRoboticsGroup/SPAR lmms-eval/lmms_eval/tasks/sparbench/utils.py",
             "score in percent, the rest fractions; MRA with <=", _read_spar, _spar,
             partial(grade_all, _spar_grade, task=str)),
    Protocol("lmms-eval-0.7.3", f"{_LMMS}/sparbench/utils.py", "score in percent, the rest fractions",
             _read_spar, partial(_spar, numbers=False),
             partial(grade_all, partial(_spar_grade, numbers=False), task=str)),
)  # fmt: skip

_3DSR_KINDS = {
    "height": ("higher",), "location": ("above", "closer_to_camera", "next_to"),
    "orientation": ("in_front_of", "on_the_left", "viewpoint"),
    "multi_object": ("closer_to", "facing", "viewpoint_towards_object", "parallel", "same_direction"),
}  # fmt: skip
_LETTERS = [re.compile(pattern) for pattern in (
    r"^([A-D])(?:[.\s)]|$)", r"[Aa]nswer[:\s]+([A-D])", r"[Tt]he answer is[:\s]+([A-D])",
    r"[Mm]y answer is[:\s]+([A-D])", r"\(([A-D])\)", r"([A-D])\.", r"\b([A-D])\b",
)]  # fmt: skip


def _3dsr_grade(question: Question) -> float:
    matches = (pattern.search(question.prediction.strip()) for pattern in _LETTERS)
    return float(next((match[1] for match in matches if match), None) == question.truth)


def _3dsr(questions: Sequence[Question]) -> Scores:
    """All scores; of groups (``qid``: base, ``-flip``, circular ``-N``) every member must be right."""
    grades = [(question, _3dsr_grade(question)) for question in questions]
    scores: Scores = {"vanilla_accuracy": mean_of([grade for _, grade in grades])}
    if all(question.group for question in questions):
        groups: dict[str, Callable[[str], str]] = {
            "flip": lambda qid: qid.replace("-flip", ""),
            "circular": lambda qid: qid[: 13 if "-flip" in qid else 8],
            "flip_circular": lambda qid: qid[:8],
        }
        for name, group_of in groups.items():
            right: dict[str, float] = {}
            for question, grade in grades:
                group = group_of(question.group)
                right[group] = min(grade, right.get(group, 1.0))
            scores[f"{name}_accuracy"] = mean_of([*right.values()])
    kinds: dict[str, list[str]] = {task: [f"{task}_{part}" for part in parts] for task, parts in _3DSR_KINDS.items()}
    kinds |= {kind: [kind] for parts in list(kinds.values()) for kind in parts}
    for name, among in kinds.items():
        there = [grade for question, grade in grades if question.kind in among]
        scores[f"{name}_accuracy"] = mean_of(there) if there else 0.0
    return scores


THREEDSR = by_name(
    Protocol("lmms-eval-0.7.3", f"{_LMMS}/3dsrbench/utils.py", "fractions",
             partial(read_questions, Form("category", "answer")), _3dsr, partial(grade_all, _3dsr_grade)),
)  # fmt: skip

_MARKED = [re.compile(pattern) for pattern in ("``([^`]*)``", "`([^`]*)`", r"\{([^}]*)\}")]
_MMSI_LETTER = re.compile(r"\b[A-F]\b(?!\s[a-zA-Z])", re.IGNORECASE)


def _mmsi_grade(question: Question) -> float:
    prediction = question.prediction
    for pattern in _MARKED:
        match = pattern.search(prediction)
        prediction = match[1] if match else prediction
    letter = _MMSI_LETTER.search(prediction)
    return float(letter is not None and question.truth.lower().replace("\n", " ").strip() == letter[0].lower())


def _mmsi(questions: Sequence[Question]) -> Scores:
    """The mean over all questions, and those of the types; dashes between abbreviations are those of the data card."""
    named: dict[str, list[float]] = {}
    for question in questions:
        kind = question.kind.replace(".-", ".\N{EN DASH}") if question.kind.startswith("Positional") else question.kind
        named.setdefault(kind, []).append(_mmsi_grade(question))
    means = {kind: mean_of(grades) for kind, grades in named.items()}
    return {"average": mean_of([grade for grades in named.values() for grade in grades]), **means}


MMSI = by_name(
    Protocol("lmms-eval-0.7.3", f"{_LMMS}/mmsi_bench/utils.py", "fractions",
             partial(read_questions, Form("question_type", "answer")), _mmsi, partial(grade_all, _mmsi_grade)),
)  # fmt: skip


def _read_marks(references: Any, predictions: Any) -> list[tuple[str, str, float]]:
    """(id, category, score in 0..1) of every question; predictions are the judge's marks by id, 1 to 5."""
    asked = by_key(references, "references", numbered=True)
    if not isinstance(predictions, dict):
        raise ValueError("predictions: expected the judge's marks as an object, {question_id: 1 to 5}")
    refuse_missing(asked, predictions, "the script")
    refuse_unknown(predictions, asked, "the script")
    marks = Entry("predictions", predictions)
    found = []
    for key, entry in asked.items():
        mark = marks.values[key]
        if isinstance(mark, bool) or not isinstance(mark, int | float) or not math.isfinite(mark):
            raise marks.error(key, "a mark of 1 to 5", mark)
        found.append((key, entry.get("category", text_or_number), (min(max(float(mark), 1.0), 5.0) - 1) / 4))
    return found


def _openeqa(marks: Sequence[tuple[str, str, float]]) -> Scores:
    categories = sorted({category for _, category, _ in marks})
    means = {name: float(np.mean([100.0 * mark for _, kind, mark in marks if kind == name])) for name in categories}
    return {"final score": float(np.mean([100.0 * mark for *_, mark in marks])), **means}


OPENEQA = by_name(
    Protocol("official", "facebookresearch/open-eqa evaluate-predictions.py", "percent", _read_marks,
             _openeqa, lambda marks: {key: mark for key, _, mark in marks}),
)  # fmt: skip
