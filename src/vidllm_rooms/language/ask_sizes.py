"""Questions in metres: distances between centres, heights and lengths to half a metre, and which is larger."""

from __future__ import annotations

from vidllm.datasets.language import Question
from vidllm.datasets.words import metres
from vidllm_rooms.language.describe import outdoes
from vidllm_rooms.language.facts import CLEAR_RATIO
from vidllm_rooms.language.frequencies import HEIGHTS, LENGTHS, REMOTENESS
from vidllm_rooms.language.priors import greater_share, size_share
from vidllm_rooms.language.speaker import Option, Speaker, choice_answers, half_metres, metre_answers, told_apart

Pair = tuple[int, int]
COMPARATIVES = {"taller": 1, "longer": 1, "shorter in height": -1, "less tall": -1}


def ask_distance_camera(s: Speaker) -> Question | None:
    """Distance from the first camera to a thing's centre."""
    options: list[Option[int]] = []
    for row in s.handled:
        value = half_metres(s.scene.camera_m[row])
        if value is not None:
            options.append((f"{value:g}", 1.0, row))
    chosen = s.by_answer(options)
    return chosen and _metres(s, "distance_camera", chosen[0], x=s.simple_the(chosen[2]))


def ask_distance(s: Speaker) -> Question | None:
    """Distance between two things' centres."""
    options: list[Option[Pair]] = []
    for a in s.handled:
        for b in s.handled:
            value = half_metres(s.scene.distance_m[a][b]) if a != b else None
            if value is not None:
                options.append((f"{value:g}", 1.0, (a, b)))
    chosen = s.by_answer(options)
    return chosen and _metres(s, "distance", chosen[0], x=s.simple_the(chosen[2][0]), y=s.simple_the(chosen[2][1]))


def ask_size_height(s: Speaker) -> Question | None:
    """Height of a thing whose category leaves it open."""
    return _size(s, "size_height", HEIGHTS, {row: s.thing(row).height for row in s.handled})


def ask_size_length(s: Speaker) -> Question | None:
    """Longer horizontal side of a thing whose category leaves it open."""
    return _size(s, "size_length", LENGTHS, {row: s.thing(row).length for row in _lengthy(s)})


def _lengthy(s: Speaker) -> list[int]:
    """Nameable rows of which one says how long they are: what stands on the floor, doors and curtains apart."""
    things = [s.thing(row) for row in s.handled]
    return [t.index for t in things if t.position[2] - t.height / 2 < 0.05 and t.category not in ("door", "curtain")]


def _size(s: Speaker, kind: str, usual: dict[str, tuple[float, float]], values: dict[int, float]) -> Question | None:
    options: list[Option[int]] = []
    for row, exact in values.items():
        value = half_metres(exact)
        share = 1.0 if value is None else size_share(usual, s.thing(row).category, value, 0.5)
        if value is not None and s.coin((1 - share) / share):
            options.append((f"{value:g}", 1.0, row))
    chosen = s.weighted(options)
    return chosen and _metres(s, kind, chosen[0], x=s.simple_the(chosen[2]))


def _metres(s: Speaker, kind: str, value: str, **slots: str) -> Question:
    number = float(value)
    return s.ask(kind, metres(number), metre_answers(number), **slots)


def ask_closer_camera(s: Speaker) -> Question | None:
    """Which of two is closer to the first camera; orders that the names give away are asked rarely."""
    options: list[Option[Pair]] = []
    for a in s.handled:
        for b in s.handled:
            if told_apart(s, a, b) and outdoes(s.scene, "nearest_camera", a, b):
                share = greater_share(REMOTENESS, s.thing(b).category, s.thing(a).category)
                if s.coin((1 - share) / share):
                    options.append(("", 1.0, (a, b)))
    chosen = s.weighted(options)
    return chosen and _which(s, "closer_camera", chosen[2])


def ask_compare_size(s: Speaker) -> Question | None:
    """Which of two is taller, shorter or longer; orders that the names give away are asked rarely."""
    more = s.pick(list(COMPARATIVES))
    usual = LENGTHS if more == "longer" else HEIGHTS
    rows = _lengthy(s) if more == "longer" else s.handled
    options: list[Option[Pair]] = []
    for a in rows:
        for b in rows:
            if _exceeds(s, more, a, b) and told_apart(s, a, b):
                share = greater_share(usual, s.thing(a).category, s.thing(b).category)
                if s.coin((1 - share) / share):
                    options.append(("", 1.0, (a, b)))
    chosen = s.weighted(options)
    if chosen is None:
        return None
    return _which(s, "compare_size", chosen[2] if COMPARATIVES[more] > 0 else chosen[2][::-1], more=more)


def _exceeds(s: Speaker, more: str, a: int, b: int) -> bool:
    """Whether a is clearly longer (taller) than b."""
    first, second = s.thing(a), s.thing(b)
    if more == "longer":
        return first.length > max(CLEAR_RATIO * second.length, second.length + 0.1)
    return first.height > max(CLEAR_RATIO * second.height, second.height + 0.1)


def _which(s: Speaker, kind: str, pair: Pair, **slots: str) -> Question:
    """The question which of a pair it is; the first is meant, and either is named first."""
    words = [s.simple_the(row) for row in pair]
    x, y = s.shuffled(words)
    answers = choice_answers(s, *pair, words[0])
    return s.ask(kind, answers[0], answers[1:], x=x, y=y, **slots)
