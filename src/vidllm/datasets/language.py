"""What is said about a scene: questions, referring expressions and captions, and their form in a scene's record."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Question:
    """A question with acceptable answers (the first is the reference). ``situation`` is SQA3D's kind."""

    kind: str
    question: str
    answers: tuple[str, ...]
    situation: str | None = None


@dataclass(frozen=True)
class Reference:
    """A referring expression and the ids it means: one, none or several."""

    kind: str
    expression: str
    targets: tuple[int, ...]


@dataclass(frozen=True)
class Caption:
    """Reference captions of an object, or of the room when ``object_id`` is None."""

    object_id: int | None
    texts: tuple[str, ...]


@dataclass(frozen=True)
class Language:
    """Everything that is said about one clip.

    ``spatial`` are questions in the form of a benchmark with a prompt of its own (VSI-Bench), long ones: training takes
    them by a count of their own.
    """

    questions: tuple[Question, ...]
    references: tuple[Reference, ...]
    captions: tuple[Caption, ...]
    spatial: tuple[Question, ...] = ()


def language_from_record(record: dict[str, Any]) -> Language:
    """The language part of a scene record as dataclasses."""
    said = record["language"]
    return Language(
        _questions(said["questions"]),
        tuple(Reference(r["kind"], r["expression"], tuple(r["targets"])) for r in said["references"]),
        tuple(Caption(c["object_id"], tuple(c["texts"])) for c in said["captions"]),
        _questions(said.get("spatial", ())),
    )


def _questions(rows: Iterable[dict[str, Any]]) -> tuple[Question, ...]:
    return tuple(Question(q["kind"], q["question"], tuple(q["answers"]), q["situation"]) for q in rows)
