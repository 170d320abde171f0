"""Situated questions, SQA3D's kind: a place and a heading in words, then a question from there.

Someone beside a thing may be on any side of it, and someone on a sofa at either end: a direction is used only if
it is the same from all those places, within 35 degrees of left, right, ahead or behind; it is ruled out where it
is more than 55 degrees off from all of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vidllm.datasets.language import Question
from vidllm.datasets.words import capitalised, plural
from vidllm_rooms.language.priors import SEATS, UNCOUNTED, present_share
from vidllm_rooms.language.speaker import Option, Speaker, count_answers

SIDES = ("front", "right", "behind", "left")  # clockwise from above, 90 degrees apart
CLEAR_DEGREES, POSSIBLE_DEGREES = 35.0, 55.0
BESIDE_M = 0.4
OVERHEAD_M = 1.9  # nobody stands beside, or turns to, what hangs above the head
MOST_COUNTED = 4
USUAL_SIDES = {"front": 2.5, "behind": 1.2}  # times as often as left or right

#: Situations: sitting on {x} or standing beside it, facing {y} or turned away from it.
SITUATIONS: dict[str, tuple[str, ...]] = {
    "sit_facing": (
        "I am sitting on {x} facing {y}.",
        "I sit on {x} and look at {y}.",
        "Sitting on {x}, I am facing {y}.",
        "I am now sitting on {x} with {y} in front of me.",
        "I am sitting on {x} and {y} is straight ahead.",
        "I sit on {x} looking towards {y}.",
        "Seated on {x}, I am looking at {y}.",
        "I am seated on {x} and turned towards {y}.",
    ),
    "sit_away": (
        "I am sitting on {x} with my back to {y}.",
        "I sit on {x} and {y} is behind me.",
        "Sitting on {x}, I am facing away from {y}.",
        "I am now sitting on {x} with your back to {y}.",
        "I am sitting on {x} with {y} right behind me.",
        "I sit on {x} looking away from {y}.",
        "Seated on {x}, I have {y} at my back.",
        "I am seated on {x} and turned away from {y}.",
    ),
    "stand_facing": (
        "I am standing beside {x} facing {y}.",
        "I stand next to {x} and look at {y}.",
        "Standing by {x}, I am facing {y}.",
        "I am now standing next to {x} with {y} in front of me.",
        "I am standing by {x} and {y} is straight ahead.",
        "I stand beside {x} looking towards {y}.",
        "Standing next to {x}, I am looking at {y}.",
        "I am next to {x} and turned towards {y}.",
    ),
    "stand_away": (
        "I am standing beside {x} with my back to {y}.",
        "I stand next to {x} and {y} is behind me.",
        "Standing by {x}, I am facing away from {y}.",
        "I am now standing next to {x} with your back to {y}.",
        "I am standing by {x} with {y} right behind me.",
        "I stand beside {x} looking away from {y}.",
        "Standing next to {x}, I have {y} at my back.",
        "I am next to {x} and turned away from {y}.",
    ),
}

#: The four directions of a situation in words.
SIDE_WORDS: dict[str, tuple[str, ...]] = {
    "left": ("on my left", "to my left", "on my left side"),
    "right": ("on my right", "to my right", "on my right side"),
    "front": ("in front of me", "ahead of me"),
    "behind": ("behind me", "at my back"),
}


@dataclass(frozen=True)
class Situation:
    """Words, the rows one is at and orients by, and for every row the sides it may be on.

    ``sides[row]`` is its side or None where that is not clear; ``possible[row]`` holds those not ruled out.
    """

    text: str
    place: int
    target: int
    sides: tuple[str | None, ...]
    possible: tuple[tuple[str, ...], ...]
    distance_m: tuple[float, ...]


def find_situation(s: Speaker, tries: int = 4) -> Situation | None:
    """A situation at a nameable thing, facing or turned away from another one at least 1.2 m off."""
    if len(s.handled) < 3:
        return None
    seats = [row for row in s.handled if s.thing(row).category in SEATS]
    for _ in range(tries):
        place = s.pick(seats) if seats and s.coin(0.6) else s.pick(s.handled)
        target = s.pick(s.handled)
        standable = s.thing(place).on is None and s.thing(place).length < 2.2
        level = s.scene.distance_m[place][target] > 1.2 and s.scene.relations["on"][target][place] == -1
        low = all(s.thing(row).position[2] < OVERHEAD_M for row in (place, target))
        if place != target and standable and level and low:
            return _situation(s, place, target)
    return None


def _situation(s: Speaker, place: int, target: int) -> Situation:
    sitting, away = s.thing(place).category in SEATS, s.coin(0.35)
    words = SITUATIONS[f"{'sit' if sitting else 'stand'}_{'away' if away else 'facing'}"]
    text = capitalised(s.pick(words).format(x=s.simple_the(place), y=s.simple_the(target)))
    flat = np.array([t.position[:2] for t in s.scene.things])
    angles = angles_off(flat, standpoints(s, place), flat[target], away)
    possible = [_names(row) for row in angles.min(0) < POSSIBLE_DEGREES]
    clear = [_names(row) for row in angles.max(0) < CLEAR_DEGREES]
    distance = np.linalg.norm(flat - flat[place], axis=-1)
    for row, thing in enumerate(s.scene.things):
        if distance[row] < thing.length / 2 + 0.3 or s.scene.relations["on"][row][place] != -1:
            clear[row], possible[row] = (), SIDES
    clear[place], possible[place] = (), ()
    clear[target] = possible[target] = ("behind" if away else "front",)
    sides = tuple(names[0] if names else None for names in clear)
    return Situation(text, place, target, sides, tuple(possible), tuple(distance.tolist()))


def _names(flags: np.ndarray) -> tuple[str, ...]:
    return tuple(side for side, flag in zip(SIDES, flags, strict=True) if flag)


def standpoints(s: Speaker, place: int) -> np.ndarray:
    """(K, 2) places in the viewer's frame where one may be: about the thing, or along it for a seat."""
    thing = s.thing(place)
    centre = np.array(thing.position[:2])
    seat = thing.category in SEATS
    reach = max(0.0, thing.length / 2 - 0.3) if seat else thing.length / 2 + BESIDE_M
    around = np.array([[0.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    return np.asarray(centre + reach * around)


def angles_off(points: np.ndarray, places: np.ndarray, target: np.ndarray, away: bool) -> np.ndarray:
    """(K, N, 4) degrees between each side and the points (N, 2), at each of the places (K, 2), facing the target."""
    heading = (target - places) * (-1 if away else 1)
    right = np.stack([heading[:, 1], -heading[:, 0]], -1)
    offset = points[None] - places[:, None]
    bearing = np.degrees(np.arctan2((offset * right[:, None]).sum(-1), (offset * heading[:, None]).sum(-1)))
    turn = bearing[..., None] - 90.0 * np.arange(len(SIDES))
    return np.asarray(np.abs((turn + 180.0) % 360.0 - 180.0))


def ask_situated_direction(s: Speaker) -> Question | None:
    """On which of the four sides something is."""
    here = find_situation(s)
    if here is None:
        return None
    chosen = s.by_answer(_placed(s, here), USUAL_SIDES)
    return chosen and s.ask("situated_direction", chosen[0], situation=here.text, x=s.simple_the(chosen[2]))


def _placed(s: Speaker, here: Situation) -> list[Option[int]]:
    """(side, 1, row) of nameable rows with a clear side, without the one that gives the heading."""
    return [
        (side, 1.0, row)
        for row, side in enumerate(here.sides)
        if side is not None and row in s.simple and row != here.target
    ]


def ask_situated_exists(s: Speaker) -> Question | None:
    """Whether something is on a side: yes and no half each, sides evenly."""
    here = find_situation(s)
    chosen = here and s.by_answer(_placed(s, here))
    if here is None or not chosen:
        return None
    yes = s.coin()
    side = chosen[0] if yes else s.pick([other for other in SIDES if other != chosen[0]])
    slots = {"rel": s.pick(SIDE_WORDS[side]), "x": s.simple_the(chosen[2])}
    return s.ask("situated_exists", "yes" if yes else "no", situation=here.text, **slots)


def ask_situated_object(s: Speaker) -> Question | None:
    """The kind of the nearest object on a side."""
    for _ in range(3):
        here = find_situation(s)
        names = {side: _nearest_on(s, here, side) for side in SIDES} if here else {}
        options: list[Option[str]] = [(n, 1 / present_share(n), side) for side, n in names.items() if n is not None]
        chosen = s.weighted(options)
        if here and chosen:
            return s.ask("situated_object", chosen[0], situation=here.text, rel=s.pick(SIDE_WORDS[chosen[2]]))
    return None


def _nearest_on(s: Speaker, here: Situation, side: str) -> str | None:
    """Category of the nearest thing on the side, if no other kind that may be there comes as near."""
    rows = [row for row, sides in enumerate(here.possible) if side in sides]
    inside = [row for row in rows if here.sides[row] == side]
    if not inside or here.sides[here.target] == side:  # the side of the target is told
        return None
    best = min(inside, key=lambda row: here.distance_m[row])
    limit = max(1.15 * here.distance_m[best], here.distance_m[best] + 0.2)
    name = s.thing(best).category
    rivals = [row for row in rows if s.thing(row).category != name and here.distance_m[row] < limit]
    return None if rivals or not s.thing(best).shown else name


def ask_situated_count(s: Speaker) -> Question | None:
    """How many of a category are on a side, where every one of them has a clear side."""
    here = find_situation(s)
    if here is None:
        return None
    options: list[Option[tuple[str, str]]] = []
    for name in dict.fromkeys(s.thing(row).category for row in s.scene.shown if s.thing(row).category not in UNCOUNTED):
        rows = s.scene.named(name)
        if here.place in rows or here.target in rows or s.scene.faint(rows) or not s.scene.plain(name):
            continue
        for side in SIDES:
            clear = [row for row in rows if here.sides[row] == side]
            open_rows = [row for row in rows if side in here.possible[row]]
            if clear == open_rows and len(clear) <= MOST_COUNTED:
                options.append((str(len(clear)), float(len(rows)) ** 2, (name, side)))
    chosen = s.by_answer(options)
    if chosen is None:
        return None
    slots = {"many": plural(chosen[2][0]), "rel": s.pick(SIDE_WORDS[chosen[2][1]])}
    also = count_answers(int(chosen[0]))
    return s.ask("situated_count", chosen[0], also, situation=here.text, **slots)
