"""How much a guesser gains that has not seen the room: the most frequent answer for the words of the question."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Sequence

from vidllm.datasets.language import Question
from vidllm.english import answer_matches

LEADING_WORDS = 3


def template_key(question: Question) -> Hashable:
    """The kind and the first three words of the question."""
    return question.kind, tuple(question.question.lower().split()[:LEADING_WORDS])


def answer_counts(questions: Sequence[Question]) -> dict[str, Counter[str]]:
    """Reference answers of each kind with their numbers."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for question in questions:
        counts[question.kind][question.answers[0]] += 1
    return dict(counts)


def most_frequent_baseline(
    train: Sequence[Question], test: Sequence[Question], key: Callable[[Question], Hashable] = template_key
) -> float:
    """Exact match on ``test`` of the answer most frequent in ``train`` for the same key, else for the kind, in 0..1."""
    by_key: dict[Hashable, Counter[str]] = defaultdict(Counter)
    for question in train:
        by_key[key(question)][question.answers[0]] += 1
    by_kind = answer_counts(train)
    right = 0
    for question in test:
        counts = by_key.get(key(question)) or by_kind.get(question.kind)
        right += counts is not None and answer_matches(_commonest(counts), question.answers)
    return right / len(test)


def _commonest(counts: Counter[str]) -> str:
    """Most frequent answer, the alphabetically first of equals."""
    return min(counts, key=lambda answer: (-counts[answer], answer))
