"""ROUGE-L: the F-measure of the longest common subsequence (Lin, 2004), with recall weighted by beta 1.2.

The best precision and the best recall over the references are taken independently. Words are split at single blanks,
so that an empty text is one empty word and doubled blanks make empty words.
"""

from __future__ import annotations

from collections.abc import Sequence

from vidllm.evaluation.text_metrics.scores import Scores, check_pairs

__all__ = ["rouge_l"]

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


def _item(references: Sequence[str], hypothesis: str) -> float:
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
    """ROUGE-L as a fraction: the mean over items, and every item."""
    check_pairs(references, hypotheses)
    values = [_item(group, hypothesis) for group, hypothesis in zip(references, hypotheses, strict=True)]
    return Scores((sum(values) / len(values),), [(value,) for value in values])
