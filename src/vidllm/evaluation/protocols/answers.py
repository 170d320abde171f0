"""Short answers: the files of ScanQA and SQA3D, cleaning, exact match (EM) and refined exact match (EM-R).

The cleaning and the refined match are those that the ScanQA and SQA3D scripts of LEO, LLaVA-3D, Chat-Scene and
Video-3D-LLM share; the three matches differ only in the order of the references and in the empty prediction.

A protocol that bears a model's name also takes the rows of that model's script (:data:`OWN_FIELDS`); rows that have the
usual fields stay as they are.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vidllm.evaluation.protocols.files import refuse_missing, refuse_unknown, warn_missing
from vidllm.evaluation.text_metrics.ptb import tokenize

#: Fields of the id and of the answer in the files of other models' scripts.
OWN_FIELDS = {
    "video3dllm": ("sample_id", "pred_response"),
    "3drs": ("sample_id", "pred_response"),
    "llava3d": ("question_id", "text"),
    "chatscene": ("qid", "pred"),
}
_SCANQA_ID = re.compile(r"scanqa_(.+)_\d+")


def usual_fields(predictions: Any, own: str, usual: str, make: Callable[[Any], Any]) -> Any:
    """Predictions whose rows are in the fields of ``own`` with ``question_id`` and ``usual`` (made of the answer)."""
    if not isinstance(predictions, list) or own not in OWN_FIELDS:
        return predictions
    name, answer = OWN_FIELDS[own]
    found = []
    for row in predictions:
        if isinstance(row, dict) and usual not in row and answer in row:
            key = row.get("question_id", row.get(name))
            matched = _SCANQA_ID.fullmatch(key) if isinstance(key, str) and name == "sample_id" else None
            row = {**row, "question_id": matched[1] if matched else key, usual: make(row[answer])}
        found.append(row)
    return found


@dataclass(frozen=True)
class Answered:
    """Both files: the annotated answers by id, and (id, answers) of every prediction in the order of its file."""

    answers: Mapping[str, Sequence[str]]
    rows: Sequence[tuple[str, Sequence[str]]]

    def complete(self, script: str) -> dict[str, str]:
        """The first answer to every question, of several predictions the last; ValueError where the ids differ."""
        first = self.first()
        refuse_missing(self.answers, first, script)
        refuse_unknown(first, self.answers, script)
        return {key: first[key] for key in self.answers}

    def known(self, script: str) -> dict[str, str]:
        """The first answer by id in the order of the predictions; missing ones are a warning, unknown ones an error."""
        first = self.first()
        refuse_unknown(first, self.answers, script)
        warn_missing(self.answers, first, script)
        return first

    def first(self) -> dict[str, str]:
        """The first answer by id, of several predictions the last."""
        return {key: candidates[0] for key, candidates in self.rows}


@dataclass(frozen=True)
class Matches:
    """Predictions and references as they were compared, and (EM, EM-R) of each, by question."""

    keys: list[str]
    predictions: list[str]
    references: list[list[str]]
    flags: list[tuple[int, int]]

    def items(self) -> Iterator[tuple[str, str, list[str], tuple[int, int]]]:
        """Question, prediction, references and flags, one by one."""
        return zip(self.keys, self.predictions, self.references, self.flags, strict=True)

    def mean(self) -> tuple[float, float]:
        """EM and EM-R over all."""
        exact, refined = (sum(flag[i] for flag in self.flags) / len(self.flags) for i in (0, 1))
        return exact, refined


Match = Callable[[str, Sequence[str]], tuple[int, int]]


def matched(data: Answered, given: Mapping[str, str], match: Match, clean_references: bool = True) -> Matches:
    """The cleaned answers against the references, which are cleaned too."""
    texts = [clean_answer(answer) for answer in given.values()]
    truths = [[clean_answer(t) if clean_references else t for t in data.answers[key]] for key in given]
    return Matches(list(given), texts, truths, [match(text, truth) for text, truth in zip(texts, truths, strict=True)])


def tokenized(groups: Sequence[Sequence[str]]) -> list[list[str]]:
    """PTB tokens of lists of texts, in one run as the evaluators do."""
    tokens = iter(tokenize([text for group in groups for text in group]))
    return [[next(tokens) for _ in group] for group in groups]


_SPELLING = {
    "letf": "left",
    "let": "left",
    "tehre": "there",
    "rigth": "right",
    "rght": "right",
    "behine": "behind",
    "tv": "TV",
    "chai": "chair",
    "wasing": "washing",
    "waslked": "walked",
    "oclock": "o'clock",
}
_TO_TWELVE = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
_TEENS = ["thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty"]
_WORDS = (
    _SPELLING | {str(i): word for i, word in enumerate([*_TO_TWELVE, *_TEENS])} | {"23": "twenty-three", "none": "zero"}
)

_UNWANTED = re.compile(r"[^a-zA-Z0-9,'\s:-]+")
_WHOLE_WORD = re.compile(rf"\b(?:{'|'.join(sorted(_WORDS, key=len, reverse=True))})\b")
_SPLIT_CLOCK = re.compile(r"\bo' +clock\b")
_TRAILING_DIGIT = re.compile(r"\b([a-zA-Z]+)[0-9]\b")
_ARTICLES = [re.compile(rf"\b{article} ([a-zA-Z]+)") for article in ("a", "an", "the")]
_BACKWARDS = re.compile(r"\bbackwards\b")


def clean_answer(text: str) -> str:
    """Lower case, no punctuation but commas, apostrophes, colons and hyphens, digits to 20 as words, no articles.

    ``tv`` becomes ``TV``; characters outside ASCII vanish; the result is not stripped again, so a blank can be left
    at an end, and an article that no letter follows stays.
    """
    text = re.sub(" {2,}", " ", text.lower().strip(" "))
    text = _UNWANTED.sub("", text)
    text = _WHOLE_WORD.sub(lambda found: _WORDS[found[0]], text)
    text = _SPLIT_CLOCK.sub("o'clock", text)
    text = _TRAILING_DIGIT.sub(r"\1", text)
    for article in _ARTICLES:  # one pass each, in this order
        text = article.sub(r"\1", text)
    return _BACKWARDS.sub("backward", text)


def uncapitalized(text: str) -> str:
    """Without one final period and with a small first letter, if longer than one character."""
    if len(text) < 2:
        return text
    text = text.removesuffix(".")
    return text[0].lower() + text[1:]


def _overlaps(prediction: str, reference: str) -> bool:
    """Whether one is part of the other once all white space is gone; characters, not words."""
    first, second = "".join(prediction.split()), "".join(reference.split())
    return first in second or second in first


def match_in_order(prediction: str, references: Sequence[str]) -> tuple[int, int]:
    """(EM, EM-R) of the first reference that is equal or overlaps; an equal one behind it is lost (LEO)."""
    for reference in references:
        if prediction == reference:
            return 1, 1
        if _overlaps(prediction, reference):
            return 0, 1
    return 0, 0


def match_any(prediction: str, references: Sequence[str]) -> tuple[int, int]:
    """(EM, EM-R) over all references, equality first (LLaVA-3D); an empty prediction overlaps everything."""
    if prediction in references:
        return 1, 1
    return 0, int(any(_overlaps(prediction, reference) for reference in references))


def match_any_nonempty(prediction: str, references: Sequence[str]) -> tuple[int, int]:
    """As :func:`match_any`, but an empty prediction is wrong (Chat-Scene)."""
    return match_any(prediction, references) if prediction else (0, 0)
