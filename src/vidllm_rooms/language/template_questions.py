"""Template questions for training (``vidllm train stage2 --plain N --places N``), made from a shard's record of a room.

The rooms' own questions are balanced against guessing: fewer than one in ten asks for a colour, too few for a small
model trained from random weights. Template questions use the same wordings for objects whose noun is unique and whose
answer is clear. Plain ones ask for the colour and material of an object, and for counts (including zero). Those on
places ask for left or right, nearer, distances, and the side of an object from a situation. The command line passes
:func:`template_questions` to stage 2 (:data:`vidllm.training.texts.ExtraQuestions`).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from vidllm.datasets.language import Question
from vidllm.english import capitalised, metres, plural, with_article
from vidllm_rooms.language.guessing import SEATS
from vidllm_rooms.language.situations import SIDES, SITUATIONS
from vidllm_rooms.language.speaker import QUESTIONS, half_metres, pick
from vidllm_rooms.world.catalogue import CATALOGUE

ABSENT_SHARE = 0.4  # of the questions on counts and existence: kinds that are not there
APART_M, APART_DEGREES, BEFORE_M = 0.3, 6.0, 0.3  # what is clearly left of another thing, as the rooms' relation
NEARER_RATIO, NEARER_M = 1.15, 0.15  # what is clearly nearer, as the rooms' superlative
TURNED_SHARE = 0.2  # of the questions on left and right: phrasings that name the second thing first
OFF_M, STRAIGHT_DEGREES = 1.2, 25.0  # of a situation: how far off what it faces is, how clear a side has to be
AWAY_SHARE = 0.35  # of the situations: with one's back to the thing
TRIES = 4  # draws of three things a question wanted

Rng = np.random.Generator
Thing = tuple[str, Sequence[float]]  # the noun and the box


def template_questions(
    record: dict[str, Any], boxes: Mapping[int, Sequence[float]], rng: Rng, plain: int, places: int
) -> list[Question]:
    """``plain`` questions about the objects of a room and ``places`` about positions (fewer if fewer are possible).

    ``boxes`` (centre, size, yaw) by object id are in the scene frame: x forward from the first camera, y to the left,
    metres.
    """
    return plain_questions(record, rng, plain) + place_questions(record, boxes, rng, places)


def plain_questions(record: dict[str, Any], rng: Rng, count: int) -> list[Question]:
    """``count`` plain questions about a shard's scene record, in random order (fewer if fewer are possible)."""
    seen = [item for item in record["objects"] if item["visible"]]
    numbers = Counter(item["category"] for item in seen)
    everywhere = Counter(item["category"] for item in record["objects"])
    made: list[Question] = []
    for item in seen:
        if everywhere[item["category"]] == 1:
            name = f"the {_plain(item['category'])}"
            made += [_ask(rng, kind, item[of], x=name) for kind, of in (("color", "colour"), ("material",) * 2)]
    asked = [name for name, number in numbers.items() if everywhere[name] == number]
    absent = [name for name in CATALOGUE if name not in everywhere]
    for name in asked:
        made += _kind(rng, name, numbers[name])
    for name in rng.permutation(absent)[: int(len(asked) * ABSENT_SHARE / (1 - ABSENT_SHARE))]:
        made += _kind(rng, str(name), 0)
    return [made[int(i)] for i in rng.permutation(len(made))[:count]]


def _ask(rng: Rng, kind: str, answer: str, phrasings: Sequence[str] = (), **slots: str) -> Question:
    """A question of a kind in one of its phrasings, or of those given."""
    return Question(kind, capitalised(pick(rng, phrasings or QUESTIONS[kind]).format(**slots)), (answer,))


def _kind(rng: Rng, name: str, number: int) -> list[Question]:
    said = _plain(name)
    return [
        _ask(rng, "count", str(number), many=plural(said)),
        _ask(rng, "existence", "yes" if number else "no", one=with_article(said)),
    ]


def _plain(category: str) -> str:
    return category.replace("_", " ")


def place_questions(
    record: dict[str, Any], boxes: Mapping[int, Sequence[float]], rng: Rng, count: int
) -> list[Question]:
    """``count`` questions about positions in a shard's scene record (fewer if fewer are clear)."""
    everywhere = Counter(item["category"] for item in record["objects"])
    single = [item for item in record["objects"] if item["visible"] and everywhere[item["category"]] == 1]
    things: list[Thing] = [(_plain(item["category"]), boxes[item["id"]]) for item in single]
    made: list[Question] = []
    for _ in range(TRIES * count if len(things) > 2 else 0):
        if len(made) == count:
            break
        a, b, c = (things[int(i)] for i in rng.permutation(len(things))[:3])
        asked = ASKING[int(rng.choice(len(ASKING), p=SHARES))](rng, a, b, c)
        made += [asked] if asked else []
    return made


def _ask_side(rng: Rng, a: Thing, b: Thing, _: Thing) -> Question | None:
    """Left or right. Phrasings that turn the order about are few: half and half, the answer would say nothing of where
    either thing alone is, and a small model finds no way to begin.
    """
    side = _side(a[1], b[1])
    if side is None:
        return None
    turned = rng.random() < TURNED_SHARE
    phrasings = [text for text in QUESTIONS["relation_viewer"] if (text.index("{y}") < text.index("{x}")) == turned]
    return _ask(rng, "relation_viewer", side, phrasings, x=_the(a), y=_the(b))


def _ask_nearer(rng: Rng, a: Thing, b: Thing, _: Thing) -> Question | None:
    winner = _nearer(math.hypot(*a[1][:3]), math.hypot(*b[1][:3]))
    return None if winner is None else _ask(rng, "closer_camera", (a, b)[winner][0], x=_the(a), y=_the(b))


def _ask_nearer_to(rng: Rng, a: Thing, b: Thing, c: Thing) -> Question | None:
    winner = _nearer(*(math.dist(x[1][:3], c[1][:3]) for x in (a, b)))
    if winner is None:
        return None
    kind = "nearest" if rng.random() < 0.5 else "farthest"
    told = (a, b)[winner if kind == "nearest" else 1 - winner][0]
    return _ask(rng, kind, told, QUESTIONS[f"{kind}_choice"], x=_the(a), y=_the(b), z=_the(c))


def _ask_distance(rng: Rng, a: Thing, b: Thing, _: Thing) -> Question | None:
    between = rng.random() < 0.5
    value = half_metres(math.dist(a[1][:3], b[1][:3]) if between else math.hypot(*a[1][:3]))
    if value is None:
        return None
    return _ask(rng, "distance" if between else "distance_camera", metres(value), x=_the(a), y=_the(b))


def _ask_direction(rng: Rng, a: Thing, b: Thing, c: Thing) -> Question | None:
    """On which side the first is of someone at the second who faces the third, or turns the back to it."""
    away = rng.random() < AWAY_SHARE
    heading = [(1 - 2 * away) * (facing - at) for facing, at in zip(c[1][:2], b[1][:2], strict=True)]
    offset = [it - at for it, at in zip(a[1][:2], b[1][:2], strict=True)]
    if math.hypot(*heading) < OFF_M or math.hypot(*offset) < OFF_M:
        return None
    clockwise = math.degrees(math.atan2(*heading[::-1]) - math.atan2(*offset[::-1])) % 360
    side = round(clockwise / 90)
    if abs(clockwise - 90 * side) > STRAIGHT_DEGREES:
        return None
    words = SITUATIONS[f"{'sit' if b[0] in SEATS else 'stand'}_{'away' if away else 'facing'}"]
    situation = pick(rng, words).format(x=_the(b), y=_the(c))
    return replace(_ask(rng, "situated_direction", SIDES[side % 4], x=_the(a)), situation=situation)


ASKING: tuple[Callable[[Rng, Thing, Thing, Thing], Question | None], ...] = (
    _ask_side, _ask_nearer, _ask_nearer_to, _ask_distance, _ask_direction,
)
SHARES = (0.25, 0.15, 0.15, 0.2, 0.25)  # how often each is tried; what is not clear is not asked


def _the(thing: Thing) -> str:
    return f"the {thing[0]}"


def _nearer(a: float, b: float) -> int | None:
    """Which distance is clearly less, the first (0) or the second (1)."""
    clear = max(a, b) > NEARER_RATIO * min(a, b) and max(a, b) > min(a, b) + NEARER_M
    return int(b < a) if clear else None


def _side(a: Sequence[float], b: Sequence[float]) -> str | None:
    """Where a is of b, when both are before the viewer and clearly apart, sideways and in bearing."""
    if min(a[0], b[0]) <= BEFORE_M:
        return None
    apart = a[1] - b[1]
    turn = math.degrees(math.atan2(a[1], a[0]) - math.atan2(b[1], b[0]))
    widths = ((abs(math.sin(box[6])) * box[3] + abs(math.cos(box[6])) * box[4]) / 2 for box in (a, b))
    if abs(apart) <= max(APART_M, *widths) or abs(turn) <= APART_DEGREES or (apart > 0) != (turn > 0):
        return None
    return "left" if apart > 0 else "right"
