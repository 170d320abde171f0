"""Two files of predictions on the same items: the difference of a score, and whether it is more than noise.

The score is a mean over items, or, where a protocol takes means of tasks (``task`` of an item, ``a/b`` for a part of
one), the mean of the tasks' means. Items are drawn again with replacement, each with both of its values, within their
tasks (paired bootstrap); the interval holds 95% of the differences.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

COVERAGE = 95
_MOST_DRAWN = 4_000_000  # items at once, which bounds the memory


@dataclass(frozen=True)
class Comparison:
    """The scores of two systems and the interval of their difference (first less second), in the items' scale."""

    metric: str
    items: int
    first: float
    second: float
    low: float
    high: float
    resamples: int
    seed: int

    @property
    def difference(self) -> float:
        """First less second."""
        return self.first - self.second

    @property
    def is_noise(self) -> bool:
        """Whether the interval holds 0."""
        return self.low <= 0 <= self.high


def compare(first: Any, second: Any, metric: str | None = None, resamples: int = 2000, seed: int = 0) -> Comparison:
    """Compare the values per item of two files (``Protocol.per_item``): of ``metric``, or of their first number.

    ValueError where the items differ, or have no such number.
    """
    if resamples < 1:
        raise ValueError(f"--resamples: expected at least 1, received {resamples}")
    one, other = _named(first), _named(second)
    if one.keys() != other.keys():
        unmatched = next(key for key in (*one, *other) if (key in one) != (key in other))
        raise ValueError(f"the files have not the same items: only one of them has {unmatched}; predict the same set")
    chosen = _metric(one, other, metric)
    values = np.array([[float(found[key][chosen]) for key in one] for found in (one, other)])
    strata = _strata([str(item.get("task", "")) for item in one.values()])
    rng, drawn = np.random.default_rng(seed), np.zeros(resamples)
    scores = np.zeros(2)
    for rows, weight in strata:
        scores += weight * values[:, rows].mean(1)
        drawn += weight * _means(values[0, rows] - values[1, rows], resamples, rng)
    low, high = np.percentile(drawn, [(100 - COVERAGE) / 2, (100 + COVERAGE) / 2])
    mean, other_mean = map(float, scores)
    return Comparison(chosen, len(one), mean, other_mean, float(low), float(high), resamples, seed)


def _named(found: Any) -> dict[str, dict[str, Any]]:
    if not isinstance(found, Mapping):  # rows that say themselves which item they are
        found = {"|".join(v for v in row.values() if isinstance(v, str)): row for row in found}
    named = {}
    for key, value in found.items():
        if isinstance(value, Mapping):
            named[key] = dict(value)
        else:
            named[key] = {str(i): v for i, v in enumerate(value)} if isinstance(value, Sequence) else {"value": value}
    return named


def _metric(one: Mapping[str, Any], other: Mapping[str, Any], wanted: str | None) -> str:
    items = [*one.values(), *other.values()]
    numbers = [name for name in items[0] if all(isinstance(item.get(name), int | float) for item in items)]
    chosen = wanted if wanted is not None else next(iter(numbers), None)
    if chosen is None or chosen not in numbers:
        raise ValueError(f"no number {wanted or 'at all'} of every item; there are: {', '.join(numbers) or 'none'}")
    return chosen


def _strata(tasks: Sequence[str]) -> list[tuple[np.ndarray, float]]:
    """The rows of every (part of a) task, and the weight of its mean in the mean of means."""
    rows: dict[str, list[int]] = defaultdict(list)
    parts: dict[str, set[str]] = defaultdict(set)
    for row, task in enumerate(tasks):
        rows[task].append(row)
        parts[task.partition("/")[0]].add(task)
    return [(np.array(found), 1 / len(parts) / len(parts[task.partition("/")[0]])) for task, found in rows.items()]


def _means(values: np.ndarray, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """The means of so many draws of all values with replacement."""
    at_once = max(1, _MOST_DRAWN // len(values))
    counts = [min(at_once, resamples - begin) for begin in range(0, resamples, at_once)]
    return np.concatenate([values[rng.integers(len(values), size=(n, len(values)))].mean(1) for n in counts])
