"""Prior probabilities of answers without looking at the room, used as weights so that guessing is of little use.

A question is asked the less often, the more probable its answer is a priori.
``data/frequencies.json`` was counted over 700 rendered rooms by ``scripts/count_frequencies.py``: for each category the
share of rooms in which 0 to 5 of it are seen, (mean, deviation) of height, longer side and distance from the first
camera in metres, and the share of each category among the objects on it. Missing entries count as uniform.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import erf, sqrt

from vidllm_rooms.world import read_data
from vidllm_rooms.world.catalogue import CATALOGUE

Moments = Mapping[str, Sequence[float]]

_FREQUENCIES = read_data("frequencies")
COUNTS: dict[str, list[float]] = _FREQUENCIES["counts"]
HEIGHTS: Moments = _FREQUENCIES["heights"]
LENGTHS: Moments = _FREQUENCIES["lengths"]
REMOTENESS: Moments = _FREQUENCIES["remoteness"]
LOADS: dict[str, dict[str, float]] = _FREQUENCIES["loads"]
_UNKNOWN_COUNTS = (0.4, 0.3, 0.15, 0.08, 0.05, 0.02)

SEATS = ("chair", "office chair", "armchair", "sofa", "bench", "bed", "stool")
UNCOUNTED = ("book", "flower")  # one object may be a pile of books or a pot of flowers
MOST = 5  # counts are asked up to this


def count_share(category: str, count: int) -> float:
    """Probability of seeing ``count`` of the category, in 0.02..1."""
    shares = COUNTS.get(category, _UNKNOWN_COUNTS)
    return max(shares[count], 0.02) if count < len(shares) else 0.02


def possible_counts(category: str) -> int:
    """Number of counts of the category with a noticeable probability."""
    return sum(share > 0.03 for share in COUNTS.get(category, _UNKNOWN_COUNTS))


def present_share(category: str) -> float:
    """Share of rooms in which the category is seen, in 0.02..0.98."""
    return min(max(1 - count_share(category, 0), 0.02), 0.98)


def material_share(category: str, material: str) -> float:
    """Probability of the material for the category: the catalogue draws uniformly from those it lists."""
    entry = CATALOGUE.get(category)
    return 0.5 if entry is None or material not in entry.materials else 1 / len(entry.materials)


def load_share(support: str, category: str) -> float:
    """Probability of the category among the objects on the support, in 0.02..1."""
    return max(LOADS.get(support, {}).get(category, 0.0), 0.02)


def support_share(support: str, category: str) -> float:
    """Probability of the support for the category if all supports carry equally many objects, in 0.02..1."""
    total = sum(loads.get(category, 0.0) for loads in LOADS.values())
    return max(load_share(support, category) / total, 0.02) if total > 0 else 0.02


def greater_share(table: Moments, first: str, second: str) -> float:
    """Probability, in 0.02..0.98, that one of the first category exceeds one of the second in the table's measure."""
    (mean_a, spread_a), (mean_b, spread_b) = table.get(first, (1.0, 1.0)), table.get(second, (1.0, 1.0))
    deviation = sqrt(spread_a**2 + spread_b**2) + 1e-6
    return min(max(0.5 * (1 + erf((mean_a - mean_b) / deviation / sqrt(2))), 0.02), 0.98)


def size_share(table: Moments, category: str, value: float, step: float) -> float:
    """Probability, in 0.02..1, that the category's measure is within half a step of the value."""
    mean, spread = table.get(category, (1.0, 1.0))
    spread = max(spread, 0.02) * sqrt(2)
    upper, lower = (value + step / 2 - mean) / spread, (value - step / 2 - mean) / spread
    return max(0.5 * (erf(upper) - erf(lower)), 0.02)
