"""BLEU, CIDEr and ROUGE-L in the conventions of the caption evaluation kit; words are what the text is split into.

Tokenise first where the protocol does. No library of ours gives these very numbers.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

_ORDERS = 4
_NGram = tuple[str, ...]


@dataclass(frozen=True)
class Scores:
    """A metric of a corpus; BLEU holds four numbers (orders 1 to 4), the others one.

    ``total`` need not be the mean of ``per_item``: BLEU and METEOR sum statistics over the corpus.
    """

    total: tuple[float, ...]
    per_item: list[tuple[float, ...]]


def check_pairs(references: Sequence[Sequence[str]], hypotheses: Sequence[str]) -> None:
    """Raise ``ValueError`` unless every hypothesis has at least one reference."""
    if len(references) != len(hypotheses):
        raise ValueError(f"{len(hypotheses)} hypotheses but {len(references)} lists of references; give one each")
    if not hypotheses:
        raise ValueError("nothing to score: no hypotheses")
    for index, group in enumerate(references):
        if isinstance(group, str) or not len(group):
            raise ValueError(f"item {index} has no list of references: {group!r}; give at least one string")


def _counts(words: Sequence[str]) -> Counter[_NGram]:
    """How often each run of one to four words occurs."""
    found: Counter[_NGram] = Counter()
    for order in range(1, _ORDERS + 1):
        found.update(tuple(words[i : i + order]) for i in range(len(words) - order + 1))
    return found


# -- BLEU: clipped n-gram precision with the closest reference length (Papineni et al., 2002)

_SMALL = 1e-9  # added to every denominator; with _TINY it keeps "no match" at about 1e-8
_TINY = 1e-15  # added to every numerator


def bleu(references: Sequence[Sequence[str]], hypotheses: Sequence[str]) -> Scores:
    """BLEU-1 to BLEU-4 as fractions: of the summed counts of the corpus, and of every item alone."""
    check_pairs(references, hypotheses)
    table = np.array([_statistics(group, text) for group, text in zip(references, hypotheses, strict=True)])
    return Scores(_bleu(table.sum(0).tolist()), [_bleu(row) for row in table.tolist()])


def _statistics(references: Sequence[str], hypothesis: str) -> list[int]:
    """Clipped matches of each order, guesses of each order, and the two lengths."""
    words = hypothesis.split()
    groups = [reference.split() for reference in references]
    limit: Counter[_NGram] = Counter()
    for group in groups:
        limit |= _counts(group)
    matches = [0] * _ORDERS
    for ngram, count in (_counts(words) & limit).items():
        matches[len(ngram) - 1] += count
    guesses = [max(0, len(words) - order) for order in range(_ORDERS)]
    nearest = min((abs(len(group) - len(words)), len(group)) for group in groups)[1]  # ties take the shorter
    return [*matches, *guesses, len(words), nearest]


def _bleu(statistics: Sequence[int]) -> tuple[float, ...]:
    *counts, length, reference_length = statistics
    product, values = 1.0, []
    for order in range(_ORDERS):
        product *= (counts[order] + _TINY) / (counts[_ORDERS + order] + _SMALL)
        values.append(product ** (1.0 / (order + 1)))
    ratio = (length + _TINY) / (reference_length + _SMALL)
    brevity = math.exp(1.0 - 1.0 / ratio) if ratio < 1.0 else 1.0
    return tuple(value * brevity for value in values)


# -- CIDEr, in truth CIDEr-D: the cosine of tf-idf vectors of n-grams, clipped, with a penalty on length differences
# (Vedantam et al., 2015), with the raw counts, the number of bigrams as length and the factor 10 of the kit

_SIGMA = 6.0
_FACTOR = 10.0


@dataclass(frozen=True)
class _Vector:
    """tf-idf weights by order, their norms, and the number of bigrams."""

    weights: list[dict[_NGram, float]]
    norms: list[float]
    length: int


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

    A document is one item with all its references, and their number sets the idf: a corpus of one item scores 0, and
    scoring a subset changes the weights.
    """
    check_pairs(references, hypotheses)
    frequency: Counter[_NGram] = Counter()
    for group in references:  # counted twice rather than kept: the counts of one reference take 16 KiB
        frequency.update({ngram for text in group for ngram in _counts(text.split())})
    log_documents = math.log(float(len(references)))
    values = []
    for group, hypothesis in zip(references, hypotheses, strict=True):
        vector = _vector(_counts(hypothesis.split()), frequency, log_documents)
        parts = [_similarity(vector, _vector(_counts(text.split()), frequency, log_documents)) for text in group]
        values.append(sum(parts) / len(parts) * _FACTOR)
    return Scores((float(np.mean(values)),), [(value,) for value in values])


# -- ROUGE-L: the F-measure of the longest common subsequence (Lin, 2004), with recall weighted by beta 1.2

_BETA_SQUARED = 1.2**2


def _common_length(first: Sequence[str], second: Sequence[str]) -> int:
    """Length of the longest common subsequence."""
    row = [0] * (len(second) + 1)
    for word in first:
        diagonal = 0
        for column, other in enumerate(second, start=1):
            above = row[column]
            row[column] = diagonal + 1 if word == other else max(above, row[column - 1])
            diagonal = above
    return row[-1]


def _rouge(references: Sequence[str], hypothesis: str) -> float:
    words = hypothesis.split(" ")
    precision = recall = 0.0
    for reference in references:
        tokens = reference.split(" ")
        common = _common_length(tokens, words)
        precision = max(precision, common / len(words))
        recall = max(recall, common / len(tokens))
    if precision == 0.0 or recall == 0.0:
        return 0.0
    return (1.0 + _BETA_SQUARED) * precision * recall / (recall + _BETA_SQUARED * precision)


def rouge_l(references: Sequence[Sequence[str]], hypotheses: Sequence[str]) -> Scores:
    """ROUGE-L as a fraction: the mean over items, and every item.

    The best precision and the best recall over the references are taken independently. Words are split at single
    blanks, so that an empty text is one empty word and doubled blanks make empty words.
    """
    check_pairs(references, hypotheses)
    values = [_rouge(group, hypothesis) for group, hypothesis in zip(references, hypotheses, strict=True)]
    return Scores((sum(values) / len(values),), [(value,) for value in values])
