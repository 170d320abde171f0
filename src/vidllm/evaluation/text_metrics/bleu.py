"""BLEU-1 to BLEU-4 of a corpus: clipped n-gram precision with the closest reference length (Papineni et al., 2002).

The two tiny constants keep a zero count from making the geometric mean zero, so "no match" prints as about 1e-8.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from vidllm.evaluation.text_metrics.scores import Scores, check_pairs

__all__ = ["bleu"]

_ORDERS = 4
_SMALL = 1e-9  # added to every denominator
_TINY = 1e-15  # added to every numerator


def ngrams(words: Sequence[str], order: int) -> Counter[tuple[str, ...]]:
    """How often each run of ``order`` words occurs."""
    return Counter(tuple(words[i : i + order]) for i in range(len(words) - order + 1))


class _Statistics:
    """Clipped matches and guesses of each order, and the two lengths."""

    def __init__(self) -> None:
        self.matches = [0] * _ORDERS
        self.guesses = [0] * _ORDERS
        self.length = 0
        self.reference_length = 0

    def add(self, other: _Statistics) -> None:
        self.matches = [a + b for a, b in zip(self.matches, other.matches, strict=True)]
        self.guesses = [a + b for a, b in zip(self.guesses, other.guesses, strict=True)]
        self.length += other.length
        self.reference_length += other.reference_length

    def scores(self) -> tuple[float, ...]:
        """BLEU of every order up to four."""
        product, values = 1.0, []
        for order in range(_ORDERS):
            product *= (self.matches[order] + _TINY) / (self.guesses[order] + _SMALL)
            values.append(product ** (1.0 / (order + 1)))
        ratio = (self.length + _TINY) / (self.reference_length + _SMALL)
        brevity = math.exp(1.0 - 1.0 / ratio) if ratio < 1.0 else 1.0
        return tuple(value * brevity for value in values)


def _statistics(references: Sequence[str], hypothesis: str) -> _Statistics:
    words = hypothesis.split()
    groups = [reference.split() for reference in references]
    found = _Statistics()
    found.length = len(words)
    found.reference_length = min((abs(len(g) - len(words)), len(g)) for g in groups)[1]  # ties take the shorter
    for order in range(_ORDERS):
        limit: Counter[tuple[str, ...]] = Counter()
        for group in groups:
            limit |= ngrams(group, order + 1)
        counts = ngrams(words, order + 1)
        found.matches[order] = sum((counts & limit).values())
        found.guesses[order] = max(0, len(words) - order)
    return found


def bleu(references: Sequence[Sequence[str]], hypotheses: Sequence[str]) -> Scores:
    """BLEU-1 to BLEU-4 as fractions: of the summed counts of the corpus, and of every item alone.

    Words are what ``str.split()`` gives; tokenise first where the protocol does.
    """
    check_pairs(references, hypotheses)
    total, per_item = _Statistics(), []
    for group, hypothesis in zip(references, hypotheses, strict=True):
        statistics = _statistics(group, hypothesis)
        total.add(statistics)
        per_item.append(statistics.scores())
    return Scores(total.scores(), per_item)
