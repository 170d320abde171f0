"""Drills (ours): the plainest questions about a scene, many of them, so that reading attributes is learned first.

The world's own questions are balanced against guessing, so that hardly one in ten asks a thing's colour, and most of
those by way of a relation. A small model that trains from nothing meets too few of them to learn the reading itself.
Drills ask, in the same phrasings, about things that their noun alone tells apart: their colour, their material, and how
many there are of a kind, counts of none included; and which of two such things is on the left, or nearer. They are for
training alone; what is measured has none.
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
NEARER_RATIO, NEARER_M = 1.15, 0.15  # what is clearly nearer, as the rooms' superlative
TURNED_SHARE = 0.2  # of the drills on left and right: phrasings that name the second thing first


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


def place_drills(
    record: dict[str, Any], boxes: Mapping[int, Sequence[float]], rng: np.random.Generator, count: int
) -> list[Question]:
    """``count`` questions on two things: which is to the left, and which is closer to the camera, seen from the start.

    ``boxes`` (centre, size, yaw) by object id are in the scene frame: x forward, y to the left, metres. Phrasings that
    turn the order about are few here: half and half, the answer says nothing of where either thing alone is, and a
    small model finds no way to begin.
    """
    everywhere = Counter(item["category"] for item in record["objects"])
    named = [item for item in record["objects"] if item["visible"] and everywhere[item["category"]] == 1]
    pairs = list(permutations(named, 2))
    made: list[Question] = []
    for a, b in (pairs[int(i)] for i in rng.permutation(len(pairs))):
        if len(made) >= count:
            break
        slots = {"x": f"the {_plain(a['category'])}", "y": f"the {_plain(b['category'])}"}
        first, second = boxes[a["id"]], boxes[b["id"]]
        side, nearer = _side(first, second), _nearer(first, second)
        if side is not None and rng.random() < 0.6:
            made.append(_ask_in_order(rng, "relation_viewer", side, slots))
        elif nearer is not None:
            made.append(_ask(rng, "closer_camera", _plain((a, b)[nearer]["category"]), **slots))
    return made


def _ask_in_order(rng: np.random.Generator, kind: str, answer: str, slots: dict[str, str]) -> Question:
    turned = rng.random() < TURNED_SHARE
    phrasings = [text for text in TEMPLATES[kind] if (text.index("{y}") < text.index("{x}")) == turned]
    return _ask(rng, kind, answer, phrasings, **slots)


def _nearer(a: Sequence[float], b: Sequence[float]) -> int | None:
    """Which is clearly nearer to the first camera, the first (0) or the second (1)."""
    far = [math.hypot(*box[:3]) for box in (a, b)]
    near = int(far[1] < far[0])
    clear = far[1 - near] > NEARER_RATIO * far[near] and far[1 - near] > far[near] + NEARER_M
    return near if clear else None


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


def _ask(
    rng: np.random.Generator, kind: str, answer: str, phrasings: Sequence[str] = (), **slots: str
) -> Question:
    phrasings = phrasings or TEMPLATES[kind]
    text = phrasings[int(rng.integers(len(phrasings)))].format(**slots)
    return Question(kind, text[0].upper() + text[1:], (answer,))


def _plain(category: str) -> str:
    return category.replace("_", " ")
