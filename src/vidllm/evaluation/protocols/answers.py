"""Cleaning and comparing short answers: exact match (EM) and refined exact match (EM-R).

The cleaning and the refined match are those that the ScanQA and SQA3D scripts of LEO, LLaVA-3D, Chat-Scene and
Video-3D-LLM share; the three matches differ only in the order of the references and in the empty prediction.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

__all__ = ["clean_answer", "match_any", "match_any_nonempty", "match_in_order", "uncapitalized"]

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


def _squeeze(text: str) -> str:
    return "".join(text.split())


def _overlaps(prediction: str, reference: str) -> bool:
    """Whether one is part of the other once all white space is gone; characters, not words."""
    first, second = _squeeze(prediction), _squeeze(reference)
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


def uncapitalized(text: str) -> str:
    """Without one final period and with a small first letter, if longer than one character."""
    if len(text) < 2:
        return text
    text = text.removesuffix(".")
    return text[0].lower() + text[1:]
