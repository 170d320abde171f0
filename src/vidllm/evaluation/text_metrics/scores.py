"""What every text metric returns: one number for the corpus and one for each item."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Scores", "check_pairs"]


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
