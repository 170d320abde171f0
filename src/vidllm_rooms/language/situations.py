"""Situated questions as in SQA3D: a position and a heading in words, then a question from there.

A person next to an object may be on any side of it, and a person on a sofa at either end: a direction is used only if
it is the same from all those positions, within 35 degrees of left, right, front or back; it is excluded if it is more
than 55 degrees away from all of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vidllm.datasets.language import Question
from vidllm.english import capitalised, plural
from vidllm_rooms.language.guessing import SEATS, UNCOUNTED, present_share
from vidllm_rooms.language.speaker import PHRASES, Option, Slots, Speaker

SIDES = ("front", "right", "behind", "left")  # clockwise from above, 90 degrees apart
CLEAR_DEGREES, POSSIBLE_DEGREES = 35.0, 55.0
BESIDE_M = 0.4
OVERHEAD_M = 1.9  # nobody stands beside, or turns to, what hangs above the head
MOST_COUNTED = 4
USUAL_SIDES: dict[str | int | float, float] = {"front": 2.5, "behind": 1.2}  # times as often as left or right

#: Sitting on {x} or standing beside it, facing {y} or turned away from it.
SITUATIONS: dict[str, list[str]] = PHRASES["situations"]
#: The four directions of a situation in words.
SIDE_WORDS: dict[str, list[str]] = PHRASES["sides"]


@dataclass(frozen=True)
class Situation:
    """The text, the rows of the position and of the heading, and for every row the sides it may be on.

    ``sides[row]`` is its side or None if ambiguous; ``possible[row]`` contains those that are not excluded.
    """

    text: str
    place: int
    target: int
    sides: tuple[str | None, ...]
    possible: tuple[tuple[str, ...], ...]
    distance_m: tuple[float, ...]


def find_situation(s: Speaker) -> Situation | None:
    """A situation at a nameable object, facing or turned away from another one at least 1.2 m away."""
    if len(s.handled) < 3:
        return None
    seats = [row for row in s.handled if s.thing(row).category in SEATS]
    for _ in range(4):
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
    """(K, 2) possible positions in the viewer's frame: around the object, or along it for a seat."""
    thing = s.thing(place)
    reach = max(0.0, thing.length / 2 - 0.3) if thing.category in SEATS else thing.length / 2 + BESIDE_M
    around = np.array([[0.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    return np.asarray(np.array(thing.position[:2]) + reach * around)


def angles_off(points: np.ndarray, places: np.ndarray, target: np.ndarray, away: bool) -> np.ndarray:
    """(K, N, 4) degrees between each side and the points (N, 2), from each position (K, 2), facing the target."""
    heading = (target - places) * (-1 if away else 1)
    right = np.stack([heading[:, 1], -heading[:, 0]], -1)
    offset = points[None] - places[:, None]
    bearing = np.degrees(np.arctan2((offset * right[:, None]).sum(-1), (offset * heading[:, None]).sum(-1)))
    turn = bearing[..., None] - 90.0 * np.arange(len(SIDES))
    return np.asarray(np.abs((turn + 180.0) % 360.0 - 180.0))


def _placed(s: Speaker, here: Situation) -> list[Option[Slots]]:
    """(side, 1, x: row) of nameable rows with a clear side, except the one that gives the heading."""
    rows = ((side, row) for row, side in enumerate(here.sides) if row in s.simple and row != here.target)
    return [(side, 1.0, {"x": row}) for side, row in rows if side is not None]


def ask_direction(s: Speaker) -> Question | None:
    """On which of the four sides an object is."""
    here = find_situation(s)
    if here is None:
        return None
    return s.choose("situated_direction", _placed(s, here), usual=USUAL_SIDES, situation=here.text)


def ask_exists_there(s: Speaker) -> Question | None:
    """Whether an object is on a side: yes and no with equal probability, and so for the sides."""
    here = find_situation(s)
    chosen = here and s.by_answer(_placed(s, here))
    if here is None or not chosen:
        return None
    yes = s.coin()
    side = str(chosen[0]) if yes else s.pick([other for other in SIDES if other != chosen[0]])
    slots: Slots = {"rel": SIDE_WORDS[side], **chosen[2]}
    return s.ask("situated_exists", "yes" if yes else "no", slots, situation=here.text)


def ask_object_there(s: Speaker) -> Question | None:
    """The category of the nearest object on a side."""
    for _ in range(3):
        here = find_situation(s)
        names = {side: _nearest_on(s, here, side) for side in SIDES} if here else {}
        options: list[Option[Slots]] = [
            (name, 1 / present_share(name), {"rel": SIDE_WORDS[side]}) for side, name in names.items() if name
        ]
        asked = s.choose("situated_object", options, evenly=False, situation=here.text if here else None)
        if asked:
            return asked
    return None


def _nearest_on(s: Speaker, here: Situation, side: str) -> str | None:
    """Category of the nearest object on the side, if no other category that may be there is as near."""
    rows = [row for row, sides in enumerate(here.possible) if side in sides]
    inside = [row for row in rows if here.sides[row] == side]
    if not inside or here.sides[here.target] == side:  # the side of the target is told
        return None
    best = min(inside, key=lambda row: here.distance_m[row])
    limit = max(1.15 * here.distance_m[best], here.distance_m[best] + 0.2)
    name = s.thing(best).category
    rivals = [row for row in rows if s.thing(row).category != name and here.distance_m[row] < limit]
    return None if rivals or not s.thing(best).shown else name


def ask_count_there(s: Speaker) -> Question | None:
    """Number of objects of a category on a side, if each of them has a clear side."""
    here = find_situation(s)
    if here is None:
        return None
    options: list[Option[Slots]] = []
    for name in dict.fromkeys(thing.category for thing in s.shown if thing.category not in UNCOUNTED):
        rows = s.scene.named(name)
        if here.place in rows or here.target in rows or s.scene.faint(rows) or not s.scene.plain(name):
            continue
        for side in SIDES:
            clear = [row for row in rows if here.sides[row] == side]
            open_rows = [row for row in rows if side in here.possible[row]]
            if clear == open_rows and len(clear) <= MOST_COUNTED:
                slots: Slots = {"many": plural(name), "rel": SIDE_WORDS[side]}
                options.append((len(clear), float(len(rows)) ** 2, slots))
    return s.choose("situated_count", options, situation=here.text)
