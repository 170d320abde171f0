"""Count over rendered rooms what ``src/vidllm_rooms/data/frequencies.json`` says of the world.

python scripts/count_frequencies.py [ROOMS]      # prints the file's content; 700 rooms by default
"""

from __future__ import annotations

import json
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable
from math import sqrt

from vidllm_rooms import build_room, render_clip
from vidllm_rooms.language.facts import Scene, observe
from vidllm_rooms.language.guessing import MOST


def moments(values: list[float]) -> tuple[float, float]:
    mean = sum(values) / len(values)
    return round(mean, 2), round(sqrt(sum((v - mean) ** 2 for v in values) / len(values)), 2)


def measure(scenes: Iterable[Scene]) -> dict[str, dict[str, object]]:
    """The tables of the file: counts, heights, lengths, remoteness and loads."""
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
        "counts": {c: [round(counts[c][n] / total, 3) for n in range(MOST + 1)] for c in sorted(counts)},
        "heights": {c: moments(heights[c]) for c in sorted(heights)},
        "lengths": {c: moments(lengths[c]) for c in sorted(lengths)},
        "remoteness": {c: moments(remoteness[c]) for c in sorted(remoteness)},
        "loads": {c: {i: round(n / loads[c].total(), 2) for i, n in sorted(loads[c].items())} for c in sorted(loads)},
    }


if __name__ == "__main__":
    rooms = range(int(sys.argv[1]) if len(sys.argv) > 1 else 700)
    print(json.dumps(measure(observe(render_clip(build_room(seed))) for seed in rooms), indent=1))
