"""CIDEr, in truth CIDEr-D: the cosine of tf-idf vectors of n-grams, clipped, with a penalty on length differences.

Vedantam et al., 2015, with the raw counts, the number of bigrams as length and the factor 10 of the caption
evaluation kit. A document is one item with all its references, so scoring a subset changes the weights.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from vidllm.evaluation.text_metrics.scores import Scores, check_pairs

__all__ = ["cider"]

_ORDERS = 4
_SIGMA = 6.0
_FACTOR = 10.0

_NGram = tuple[str, ...]


@dataclass(frozen=True)
class _Vector:
    """tf-idf weights by order, their norms, and the number of bigrams."""

    weights: list[dict[_NGram, float]]
    norms: list[float]
    length: int


def _counts(text: str) -> Counter[_NGram]:
    words = text.split()
    found: Counter[_NGram] = Counter()
    for order in range(1, _ORDERS + 1):
        found.update(tuple(words[i : i + order]) for i in range(len(words) - order + 1))
    return found


def _vector(counts: Counter[_NGram], frequency: Mapping[_NGram, int], log_documents: float) -> _Vector:
    weights: list[dict[_NGram, float]] = [{} for _ in range(_ORDERS)]
    length = 0
    for ngram, count in counts.items():
        order = len(ngram) - 1
        weights[order][ngram] = count * (log_documents - math.log(max(1.0, frequency.get(ngram, 0))))
        length += count if order == 1 else 0
    norms = [math.sqrt(sum(value**2 for value in group.values())) for group in weights]
    return _Vector(weights, norms, length)


def _similarity(hypothesis: _Vector, reference: _Vector) -> float:
    """Mean over the orders of the clipped cosine, times the length penalty."""
    penalty = math.exp(-((hypothesis.length - reference.length) ** 2) / (2.0 * _SIGMA**2))
    total = 0.0
    for order in range(_ORDERS):
        others = reference.weights[order]
        dot = sum(min(w, others.get(n, 0.0)) * others.get(n, 0.0) for n, w in hypothesis.weights[order].items())
        norm = hypothesis.norms[order] * reference.norms[order]
        total += penalty * (dot / norm if norm != 0.0 else dot)
    return total / _ORDERS


def cider(references: Sequence[Sequence[str]], hypotheses: Sequence[str]) -> Scores:
    """CIDEr with its factor 10 (papers print 100 times the mean): the mean over items, and every item.

    The number of items sets the idf: a corpus of one item scores 0.
    """
    check_pairs(references, hypotheses)
    groups = [[_counts(text) for text in group] for group in references]
    frequency: Counter[_NGram] = Counter()
    for group in groups:
        frequency.update({ngram for counts in group for ngram in counts})
    log_documents = math.log(float(len(groups)))
    values = []
    for group, hypothesis in zip(groups, hypotheses, strict=True):
        vector = _vector(_counts(hypothesis), frequency, log_documents)
        parts = [_similarity(vector, _vector(counts, frequency, log_documents)) for counts in group]
        values.append(sum(parts) / len(parts) * _FACTOR)
    return Scores((float(np.mean(values)),), [(value,) for value in values])
