"""Drills (ours): the plainest questions about a scene, many of them, so that reading attributes is learned first.

The world's own questions are balanced against guessing, so that hardly one in ten asks a thing's colour, and most of
those by way of a relation. A small model that trains from nothing meets too few of them to learn the reading itself.
Drills ask, in the same phrasings, about things that their noun alone tells apart: their colour, their material, and how
many there are of a kind, counts of none included; and which of two such things is on the left. They are for training
alone; what is measured has none.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import permutations
from typing import Any

import numpy as np

from vidllm.rooms.catalogue import CATALOGUE
from vidllm.rooms.language.templates import TEMPLATES
from vidllm.rooms.language.words import plural, with_article
from vidllm.rooms.types import Question

ABSENT_SHARE = 0.4  # of the drills on counts and existence: kinds that are not there

APART_M, APART_DEGREES, BEFORE_M = 0.3, 6.0, 0.3  # what is clearly left of another thing, as the rooms' relation


def drills(record: dict[str, Any], rng: np.random.Generator, count: int) -> list[Question]:
    """``count`` plain questions about a shard's scene record, in random order (fewer where less can be asked)."""
    seen = [item for item in record["objects"] if item["visible"]]
    numbers = Counter(item["category"] for item in seen)
    everywhere = Counter(item["category"] for item in record["objects"])
    made: list[Question] = []
    for item in seen:
        if everywhere[item["category"]] == 1:
            name = f"the {_plain(item['category'])}"
            made += [_ask(rng, "color", item["colour"], x=name), _ask(rng, "material", item["material"], x=name)]
    asked = [name for name, number in numbers.items() if everywhere[name] == number]
    absent = [name for name in CATALOGUE if name not in everywhere]
    for name in asked:
        made += _kind(rng, name, numbers[name])
    for name in rng.permutation(absent)[: int(len(asked) * ABSENT_SHARE / (1 - ABSENT_SHARE))]:
        made += _kind(rng, str(name), 0)
    return [made[int(i)] for i in rng.permutation(len(made))[:count]]


def side_drills(
    record: dict[str, Any], boxes: Mapping[int, Sequence[float]], rng: np.random.Generator, count: int
) -> list[Question]:
    """``count`` questions whether a thing is to the left or the right of another, as the viewer has them at the start.

    ``boxes`` (centre, size, yaw) by object id are in the scene frame: x forward, y to the left, metres.
    """
    everywhere = Counter(item["category"] for item in record["objects"])
    named = [item for item in record["objects"] if item["visible"] and everywhere[item["category"]] == 1]
    pairs = list(permutations(named, 2))
    made: list[Question] = []
    for a, b in (pairs[int(i)] for i in rng.permutation(len(pairs))):
        side = _side(boxes[a["id"]], boxes[b["id"]])
        if side is not None and len(made) < count:
            x, y = (f"the {_plain(item['category'])}" for item in (a, b))
            made.append(_ask(rng, "relation_viewer", side, x=x, y=y))
    return made


def _side(a: Sequence[float], b: Sequence[float]) -> str | None:
    """Where a is of b, when both are before the viewer and clearly apart, sideways and in bearing."""
    if min(a[0], b[0]) <= BEFORE_M:
        return None
    apart = a[1] - b[1]
    turn = math.degrees(math.atan2(a[1], a[0]) - math.atan2(b[1], b[0]))
    reach = max(APART_M, _half_width(a), _half_width(b))
    if abs(apart) <= reach or abs(turn) <= APART_DEGREES or (apart > 0) != (turn > 0):
        return None
    return "left" if apart > 0 else "right"


def _half_width(box: Sequence[float]) -> float:
    return (abs(math.sin(box[6])) * box[3] + abs(math.cos(box[6])) * box[4]) / 2


def _kind(rng: np.random.Generator, name: str, number: int) -> list[Question]:
    plain = _plain(name)
    return [
        _ask(rng, "count", str(number), many=plural(plain)),
        _ask(rng, "existence", "yes" if number else "no", one=with_article(plain)),
    ]


def _ask(rng: np.random.Generator, kind: str, answer: str, **slots: str) -> Question:
    phrasings = TEMPLATES[kind]
    text = phrasings[int(rng.integers(len(phrasings)))].format(**slots)
    return Question(kind, text[0].upper() + text[1:], (answer,))


def _plain(category: str) -> str:
    return category.replace("_", " ")
