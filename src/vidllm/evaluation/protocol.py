"""One way of scoring a benchmark, by name: the same answers get different numbers under different evaluators.

A protocol names the published script whose numbers it follows, so that a table can say which one it used.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

__all__ = ["NOT_AVAILABLE", "Protocol"]

NOT_AVAILABLE = "n/a"
"""The value of a score that cannot be computed here (METEOR without Java), never another metric's number."""

Scoring = Callable[[Any, Any], dict[str, Any]]


@dataclass(frozen=True)
class Protocol:
    """How one published evaluator scores one task.

    ``score`` takes (references, predictions) as parsed JSON and returns the scores by name; ``per_item`` takes the
    same and returns the values of every item, where the evaluator has such. Both raise ``ValueError`` naming the
    entry where the evaluator itself would stop.
    """

    task: str
    name: str
    source: str
    """Repository and file that the numbers follow."""
    scale: str
    """What the numbers are: fractions, percent, CIDEr's factor."""
    score: Scoring
    per_item: Scoring | None = None
