"""What a guesser would know of the world without looking: used to weigh answers so that knowing it is of little use.

A question whose answer is usual for its words is asked more rarely, in proportion to how usual it is. The tables
of ``frequencies`` were counted by ``measure``; what they lack is taken to be evenly spread.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from math import erf, sqrt

from vidllm_rooms.language.facts import Scene
from vidllm_rooms.language.frequencies import COUNTS, LOADS
from vidllm_rooms.world.catalogue import CATALOGUE

CATEGORIES = tuple(CATALOGUE)
SEATS = ("chair", "office chair", "armchair", "sofa", "bench", "bed", "stool")
UNCOUNTED = ("book", "flower")  # one object may be a pile of books or a pot of flowers
MOST = 5  # counts are asked up to this


def count_share(category: str, count: int) -> float:
    """How usual it is to see ``count`` of the category, in 0.02..1."""
    shares = COUNTS.get(category, (0.4, 0.3, 0.15, 0.08, 0.05, 0.02))
    return max(shares[count], 0.02) if count < len(shares) else 0.02


def possible_counts(category: str) -> int:
    """How many different counts of the category are at all usual."""
    return sum(share > 0.03 for share in COUNTS.get(category, (0.4, 0.3, 0.15, 0.08, 0.05, 0.02)))


def present_share(category: str) -> float:
    """Share of rooms in which the category is seen, in 0.02..0.98."""
    return min(max(1 - count_share(category, 0), 0.02), 0.98)


def material_share(category: str, material: str) -> float:
    """How usual the material is for the category: the catalogue draws evenly from those it lists."""
    entry = CATALOGUE.get(category)
    return 0.5 if entry is None or material not in entry.materials else 1 / len(entry.materials)


def load_share(support: str, category: str) -> float:
    """How usual the category is among what stands on the support, in 0.02..1."""
    return max(LOADS.get(support, {}).get(category, 0.0), 0.02)


def support_share(support: str, category: str) -> float:
    """How usual the support is for the category, supposing all supports equally laden, in 0.02..1."""
    total = sum(loads.get(category, 0.0) for loads in LOADS.values())
    return max(load_share(support, category) / total, 0.02) if total > 0 else 0.02


def greater_share(table: dict[str, tuple[float, float]], first: str, second: str) -> float:
    """Chance, in 0.02..0.98, that one of the first category exceeds one of the second in the table's measure."""
    mean_a, spread_a = table.get(first, (1.0, 1.0))
    mean_b, spread_b = table.get(second, (1.0, 1.0))
    deviation = sqrt(spread_a**2 + spread_b**2) + 1e-6
    return min(max(0.5 * (1 + erf((mean_a - mean_b) / deviation / sqrt(2))), 0.02), 0.98)


def size_share(table: dict[str, tuple[float, float]], category: str, value: float, step: float) -> float:
    """Chance, in 0.02..1, that the category's measure falls within half a step of the value."""
    mean, spread = table.get(category, (1.0, 1.0))
    spread = max(spread, 0.02) * sqrt(2)
    upper, lower = (value + step / 2 - mean) / spread, (value - step / 2 - mean) / spread
    return max(0.5 * (erf(upper) - erf(lower)), 0.02)


def _moments(values: list[float]) -> tuple[float, float]:
    mean = sum(values) / len(values)
    return round(mean, 2), round(sqrt(sum((v - mean) ** 2 for v in values) / len(values)), 2)


def measure(scenes: Iterable[Scene]) -> dict[str, dict[str, object]]:
    """The tables above, counted over scenes: "COUNTS", "HEIGHTS", "LENGTHS", "REMOTENESS" and "LOADS"."""
    counts: dict[str, Counter[int]] = defaultdict(Counter)
    loads: dict[str, Counter[str]] = defaultdict(Counter)
    heights, lengths, remoteness = defaultdict(list), defaultdict(list), defaultdict(list)
    total = 0
    for scene in scenes:
        total += 1
        shown = [scene.things[row] for row in scene.shown]
        for category, number in Counter(t.category for t in shown).items():
            counts[category][min(number, MOST)] += 1
        for thing in shown:
            heights[thing.category].append(thing.height)
            lengths[thing.category].append(thing.length)
            remoteness[thing.category].append(scene.camera_m[thing.index])
            if thing.on is not None and thing.on >= 0:
                loads[scene.things[thing.on].category][thing.category] += 1
    for name in counts:
        counts[name][0] = total - sum(counts[name].values())
    if not total:
        raise ValueError("expected at least one scene, received none; pass observed clips")
    return {
        "COUNTS": {c: tuple(round(counts[c][n] / total, 3) for n in range(MOST + 1)) for c in sorted(counts)},
        "HEIGHTS": {c: _moments(heights[c]) for c in sorted(heights)},
        "LENGTHS": {c: _moments(lengths[c]) for c in sorted(lengths)},
        "REMOTENESS": {c: _moments(remoteness[c]) for c in sorted(remoteness)},
        "LOADS": {c: {i: round(n / loads[c].total(), 2) for i, n in sorted(loads[c].items())} for c in sorted(loads)},
    }
