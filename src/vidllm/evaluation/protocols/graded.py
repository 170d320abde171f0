"""Questions whose answer is a letter or a number: their files, how a number is found in a text, and how it is graded.

References are the rows of a benchmark's file; predictions are ``[{"id", "prediction"}]`` with the text of the model, or
the rows that ``vidllm eval --data`` writes. The id of a row is its ``id``, ``question_id``, ``index`` or ``key``, else
its number from 0.

Numbers are graded by MRA (mean relative accuracy): the share of the ten confidences 0.50, 0.55, ..., 0.95 whose
complement bounds the relative error.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np

from vidllm.datasets.records import Entry
from vidllm.evaluation.protocols.files import identifier, refuse_missing, refuse_unknown, rows

CHOICE, NUMBER, ACTIONS = "accuracy", "MRA:.5:.95:.05", "vci_metric"
"""How a type of question is graded, as the scripts write it behind the name of the type."""
_IDS = ("id", "question_id", "index", "key")


@dataclass(frozen=True)
class Form:
    """The fields of a benchmark's type and right answer, and the types by how they are graded (None: all choices)."""

    kind: str
    answer: str
    kinds: Mapping[str, str] | None = None


@dataclass(frozen=True)
class Question:
    """One question with its right and its predicted answer."""

    where: str  # its entry's name in messages
    key: str
    kind: str
    metric: str  # how its kind is graded
    truth: str
    prediction: str
    group: str  # ``qid``, by which 3DSRBench joins variants of a question
    pruned: bool  # the debiased set of its benchmark leaves it out


Grade = Callable[[Question], float]


def text_or_number(entry: Entry, field: str, value: Any) -> str:
    """Text, or a number as such."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise entry.error(field, "text or a number", value)
    return str(value)


def prediction_of(entry: Entry) -> str:
    """``prediction``, or ``answer`` of a row that ``vidllm eval --data`` wrote."""
    own = "key" in entry.values and "prediction" not in entry.values
    found: str = entry.get("answer" if own else "prediction", text_or_number)
    return found


def by_key(data: Any, what: str, numbered: bool = False) -> dict[str, Entry]:
    """The rows of a file by id, or by their number where ``numbered`` ones have none.

    ValueError naming a row that has none, or the id of another one.
    """
    found: dict[str, Entry] = {}
    for number, entry in enumerate(rows(data, what, _IDS)):
        name = next((name for name in _IDS if entry.values.get(name) is not None), None)
        key = str(number) if name is None and numbered else entry.get(name or _IDS[0], identifier)
        if key in found:
            raise ValueError(f"{entry.where}: the id {key} occurs twice in the {what}; keep one")
        found[key] = entry
    return found


def read_questions(form: Form, references: Any, predictions: Any) -> list[Question]:
    """The questions in the order of the references; ValueError where the ids differ or a type is unknown."""
    asked, answered = by_key(references, "references", numbered=True), by_key(predictions, "predictions")
    refuse_missing(asked, answered, "the script")
    refuse_unknown(answered, asked, "the script")
    found = []
    for key, entry in asked.items():
        kind = entry.get(form.kind, text_or_number)
        metric = CHOICE if form.kinds is None else form.kinds.get(kind)
        if metric is None:
            raise entry.error(form.kind, f"one of {', '.join(form.kinds or ())}", kind)
        truth, prediction = entry.get(form.answer, text_or_number), prediction_of(answered[key])
        group, pruned = str(entry.values.get("qid", "")), bool(entry.values.get("pruned"))
        found.append(Question(entry.where, key, kind, metric, truth, prediction, group, pruned))
    return found


def grade_all(
    grade: Grade, questions: Sequence[Question], task: Callable[[str], str] | None = None
) -> dict[str, dict[str, Any]]:
    """``grade`` of every question by id, in 0..1; its ``task`` where means of tasks count (``a/b``: a part of one)."""
    tasks = [{} if task is None else {"task": task(question.kind)} for question in questions]
    return {q.key: {"grade": grade(q), **named} for q, named in zip(questions, tasks, strict=True)}


def means_of(grade: Grade, questions: Sequence[Question]) -> dict[tuple[str, str], float]:
    """Means by (type, metric), in the order of the alphabet."""
    groups: dict[tuple[str, str], list[float]] = {}
    for question in questions:
        groups.setdefault((question.kind, question.metric), []).append(grade(question))
    return {name: float(np.mean(groups[name])) for name in sorted(groups)}


def mean_of(values: Sequence[float]) -> float:
    """The mean, summed from left to right as the scripts do over means."""
    return sum(values) / len(values)


CONFIDENCES = np.linspace(0.5, 0.95, 10)
"""Of MRA, with the rounding of the official script: some lie above their decimals, and errors at a bound feel it."""
_UNITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
_TEENS = ["eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"]
_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety", "hundred"]
_WORDS = {word: number for number, word in enumerate([*_UNITS, *_TEENS])}
_WORDS |= {word: 10 * number for number, word in enumerate(_TENS, 2)} | {"thousand": 1000}
_DIGITS = re.compile(r"-?\d+(?:\.\d+)?")


def mean_relative_accuracy(prediction: float, truth: float) -> float:
    """MRA as the official script takes it, in 0..1; ZeroDivisionError for a truth of 0."""
    return float(np.mean(abs(prediction - truth) / truth <= 1 - CONFIDENCES))


def exact_relative_accuracy(prediction: float, truth: float) -> float:
    """MRA by the paper's formula, ``<`` in exact arithmetic of the shortest decimals; 0 for infinities and NaN."""
    if not (math.isfinite(prediction) and math.isfinite(truth)):
        return 0.0
    first, second = (Fraction(Decimal(repr(number))) for number in (prediction, truth))
    error = abs(first - second) / second
    return max(0, min(10, math.ceil(10 - 20 * error))) / 10


def first_word(text: str) -> str:
    """What stands before the first space, without final periods and other white space."""
    return text.split(" ")[0].rstrip(".").strip()


def as_float(text: str) -> float | None:
    """What Python's ``float`` reads, None where that refuses it."""
    try:
        return float(text)
    except ValueError:
        return None


def number_in(text: str) -> float | None:
    """The number that a text begins with, in digits or English words ("twenty-one"), whatever stands around it."""
    text = text.strip().lower()
    digits, run, begin = _DIGITS.search(text), list[int](), None
    for word in re.finditer("[a-z]+", text):
        if word[0] in _WORDS:
            begin = word.start() if begin is None else begin
            run.append(_WORDS[word[0]])
        elif begin is not None and word[0] != "and":
            break
    if digits is not None and (begin is None or digits.start() < begin):
        return float(digits[0])
    total = current = 0
    for value in run:
        if value == 1000:
            total, current = total + max(current, 1) * value, 0
        else:
            current = max(current, 1) * value if value == 100 else current + value
    return None if begin is None else float(total + current)
