"""The eight tasks of VSI-Bench about a room, in the wording and the JSON form of its file.

Every answer of a benchmark file is computed twice, from the room's construction (``measures``) and from the exported
scan (``official.scan_measures``), and a question is asked only if both agree by a margin. Names are unambiguous: no
other category in the picture could have the name, and for a single object there is only one of the category.

To make guessing from the words difficult, an answer is drawn first, uniformly among the possible ones, then a
question with it; letters are drawn uniformly; and over all scenes of a file, questions whose number is predicted by
the median of other questions of the kind (or of the kind about the same category) are marked ``pruned``, as in
VSI-Bench's own debiased set.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from itertools import combinations, permutations
from statistics import median
from typing import Any

import numpy as np

from vidllm.datasets.annotations import VSIQuestion
from vidllm.datasets.language import Question
from vidllm.evaluation.protocols.graded import mean_relative_accuracy
from vidllm_rooms.language.facts import observe
from vidllm_rooms.language.measures import Measures, in_room
from vidllm_rooms.world import Clip, read_data
from vidllm_rooms.world.outline import Outline

Entry = dict[str, Any]
Ranges = dict[str, list[int]]  # names of turns, from and to in degrees
Choice = tuple[str, str, list[str]]  # question, answer, other options
DATASET = "rooms"
MOST_BLIND = 0.4  # mean MRA that the median of other rooms may reach on the questions of a task that are kept
_SPAN = 7  # keeps these draws apart from those of the room
_MOST = {"number": 3, "choice": 2}  # questions of a kind and room
_NEAR_M, _CLOSER_M = 0.5, 0.2  # between places that make a direction; between the nearest object and the next
_WORDS = read_data("vsi")
#: Level: question, then every answer's range of turns in degrees (left is positive); between them nothing is asked.
_DIRECTIONS: dict[str, tuple[str, Ranges]] = {
    level: (asked["question"], asked["turns"]) for level, asked in _WORDS["directions"].items()
}
_TURNS: Ranges = _WORDS["turns"]


class Asker:
    """Questions about one clip with two measurements of its room; answers come from the first."""

    def __init__(self, clip: Clip, measured: tuple[Measures, Measures]) -> None:
        self.clip, self.measured = clip, measured
        self.rng = np.random.default_rng([clip.room.seed, _SPAN])
        scene = observe(clip)
        names = sorted({thing.category for thing in scene.things})
        #: Ids of all objects by category, of the unmistakable ones that are all clearly seen.
        rows = {name: scene.named(name) for name in names if scene.plain(name)}
        self.ids = {name: [scene.things[row].id for row in r] for name, r in rows.items() if not scene.faint(r)}
        self.single = {name: ids[0] for name, ids in self.ids.items() if len(ids) == 1}

    def questions(self) -> Iterator[Entry]:
        """The entries of all tasks, without ids."""
        yield from self._numbers()
        for level, (words, ranges) in _DIRECTIONS.items():
            yield from self._choices(f"object_rel_direction_{level}", self._directions(words, ranges))
        yield from self._choices("object_rel_distance", self._nearest())
        yield from self._choices("route_planning", self._routes())
        yield from self._choices("obj_appearance_order", self._orders())

    def _entry(self, kind: str, question: str, truth: str, options: list[str] | None = None, topic: str = "") -> Entry:
        return {
            "dataset": DATASET, "question_type": kind, "question": question, "ground_truth": truth, "options": options,
            "topic": topic,
        }  # fmt: skip

    def _agree(self, answer: Callable[..., Any], *about: Any) -> Any:
        """The value ``answer(measures, *about)`` if both measurements agree, else None."""
        first, second = (answer(one, *about) for one in self.measured)
        return first if first == second else None

    def _close(self, tolerance: float, number: Callable[..., float], *about: Any) -> float | None:
        """A number, if both measurements differ by no more than the relative tolerance."""
        first, second = (number(one, *about) for one in self.measured)
        return first if abs(first - second) <= tolerance * first else None

    def _shuffled(self, values: Sequence[Any], most: int | None = None) -> list[Any]:
        return [values[i] for i in self.rng.permutation(len(values))[:most]]

    def _numbers(self) -> Iterator[Entry]:
        for name in self._shuffled([name for name, ids in self.ids.items() if len(ids) > 1], _MOST["number"]):
            count = self._agree(lambda one, ids: sum(number in one.centre for number in ids), self.ids[name])
            if count is not None:
                yield self._entry("object_counting", _WORDS["count"].format(name), str(count), topic=name)
        area = self._close(0.03, lambda one: one.area_m2)
        if area is not None:
            yield self._entry("room_size_estimation", _WORDS["room_size"], f"{area:.1f}")
        for name in self._shuffled([*self.single], _MOST["number"]):
            longest = self._close(0.03, lambda one, number: one.longest_m[number], self.single[name])
            if longest is not None:
                truth = str(round(100 * longest))
                yield self._entry("object_size_estimation", _WORDS["size"].format(name), truth, topic=name)
        asked = 0
        for a, b in self._shuffled([*combinations(self.single, 2)]):
            metres = self._close(0.05, lambda one, *pair: one.apart(*pair), self.single[a], self.single[b])
            if metres is not None and metres >= 0.3 and asked < _MOST["number"]:
                asked += 1
                yield self._entry("object_abs_distance", _WORDS["distance"].format(a, b), f"{metres:.1f}")

    def _choices(self, kind: str, found: Iterator[Choice]) -> Iterator[Entry]:
        """Entries of some of the questions, with different answers; letters drawn uniformly."""
        groups: dict[str, list[Choice]] = defaultdict(list)
        for item in found:
            groups[item[1]].append(item)
        for answer in self._shuffled(sorted(groups), _MOST["choice"]):
            question, truth, others = groups[answer][int(self.rng.integers(len(groups[answer])))]
            options = self._shuffled([truth, *others])
            lettered = [f"{letter}. {option}" for letter, option in zip("ABCD", options, strict=False)]
            yield self._entry(kind, question, "ABCD"[options.index(truth)], lettered)

    def _directions(self, words: str, ranges: Ranges) -> Iterator[Choice]:
        for a, b, c in permutations(self.single, 3):
            places = self.single[a], self.single[b], self.single[c]
            answer = self._agree(_direction, places, ranges)
            if answer is not None:
                yield words.format(a=a, b=b, c=c), answer, [other for other in ranges if other != answer]

    def _nearest(self) -> Iterator[Choice]:
        for anchor in self.single:
            others = self._shuffled([name for name in self.ids if name != anchor])
            for four in (others[i : i + 4] for i in range(0, len(others) - 3)):
                answer = self._agree(self._closest, anchor, four)
                if answer is not None:
                    question = _WORDS["nearest"].format(", ".join(four), anchor)
                    yield question, answer, [name for name in four if name != answer]

    def _closest(self, one: Measures, anchor: str, names: Sequence[str]) -> str | None:
        apart = {name: min(one.apart(self.single[anchor], n) for n in self.ids[name]) for name in names}
        first, second = sorted(names, key=apart.__getitem__)[:2]
        return first if apart[second] - apart[first] >= _CLOSER_M else None

    def _routes(self) -> Iterator[Choice]:
        combos = [f"{a}, {b}" for a in _TURNS for b in _TURNS]
        for names in self._shuffled([*permutations(self.single, 4)], 500):
            start, facing, middle, end = (self.single[name] for name in names)
            answer = self._agree(_route, (start, facing, middle, end))
            if answer is not None and self._is_inside(start, middle) and self._is_inside(middle, end):
                others = self._shuffled([combo for combo in combos if combo != answer], 3)
                yield _WORDS["route"].format(*names), answer, others

    def nearest_of(self) -> Iterator[tuple[str, int, str, bool]]:
        """(category, its selected object, unique anchor, whether it is the nearest or the farthest)."""
        for name, ids in self.ids.items():
            for anchor in self.single if len(ids) > 1 else ():
                for nearest in (True, False):
                    chosen = self._agree(_outermost, ids, self.single[anchor], nearest)
                    if chosen is not None:
                        yield name, chosen, anchor, nearest

    def _is_inside(self, a: int, b: int) -> bool:
        """Whether the straight line between two objects stays in the room."""
        first, second = (self.measured[0].centre[number] for number in (a, b))
        way = first + np.linspace(0.1, 0.9, 17)[:, None] * (second - first)
        return bool((Outline(self.clip.room.polygon).clearance(way) > 0).all())

    def _orders(self) -> Iterator[Choice]:
        """Four categories with the same order of appearance, without ties, under every definition of visible."""
        first = {
            name: np.array([sum((one.first_frames[n] for one in self.measured), ()) for n in ids]).min(0)
            for name, ids in self.ids.items()
        }
        for four in self._shuffled([*combinations(first, 4)], 500):
            frames = np.array([first[name] for name in four])
            orders = frames.argsort(0)
            if (np.diff(np.sort(frames, 0), axis=0) > 0).all() and (orders == orders[:, :1]).all():
                answer = ", ".join(four[i] for i in orders[:, 0])
                others = [order for order in map(", ".join, permutations(four)) if order != answer]
                yield _WORDS["order"].format(", ".join(self._shuffled(four))), answer, self._shuffled(others, 3)


def _outermost(one: Measures, ids: Sequence[int], anchor: int, nearest: bool) -> int | None:
    """The nearest or the farthest of some objects to another one, by centres in plan; None if ambiguous."""
    away = {number: float(np.linalg.norm(one.centre[number] - one.centre[anchor])) for number in ids}
    first, second = sorted(ids, key=away.__getitem__, reverse=not nearest)[:2]
    return first if abs(away[first] - away[second]) >= _CLOSER_M else None


def _turn(first: np.ndarray, second: np.ndarray, ranges: Ranges) -> str | None:
    """The range of the turn from one direction in plan to another; None between ranges, or if one is too short."""
    if min(np.linalg.norm(first), np.linalg.norm(second)) < _NEAR_M:
        return None
    turn = math.degrees(math.atan2(first[0] * second[1] - first[1] * second[0], first @ second))
    return next((n for n, (low, high) in ranges.items() if low <= turn <= high or low <= turn + 360 <= high), None)


def _direction(one: Measures, at: tuple[int, int, int], ranges: Ranges) -> str | None:
    a, b, c = (one.centre[number] for number in at)
    return _turn(b - a, c - a, ranges)


def _route(one: Measures, at: tuple[int, int, int, int]) -> str | None:
    start, facing, middle, end = (one.centre[number] for number in at)
    first, second = _turn(facing - start, middle - start, _TURNS), _turn(middle - start, end - middle, _TURNS)
    return f"{first}, {second}" if first and second else None


def training_questions(clip: Clip) -> tuple[Question, ...]:
    """The questions about a clip for training, in the official prompt, answered from the room's construction."""
    measured = in_room(clip)
    asked = Asker(clip, (measured, measured)).questions()
    return tuple(Question("vsi", _prompt(entry), (entry["ground_truth"],)) for entry in asked)


def fixed_texts() -> list[str]:
    """All prompts, with ``{...}`` in place of the words of a room."""
    choices = [words for words, _ in _DIRECTIONS.values()] + [_WORDS[name] for name in ("nearest", "route", "order")]
    numbers = [_WORDS[name] for name in ("count", "room_size", "size", "distance")]
    asked = [(question, None) for question in numbers] + [(question, ["{}"]) for question in choices]
    return [_prompt({"question_type": "", "question": question, "options": options}) for question, options in asked]


def _prompt(entry: Entry) -> str:
    options = tuple(entry["options"] or ())
    return VSIQuestion("", DATASET, "", entry["question_type"], entry["question"], options, (), False).prompt


def numbered(entries: Sequence[Entry]) -> list[Entry]:
    """The rows of the file: with ids, with ``pruned``, and without the topics used to find it."""
    pruned = _foretold(entries)
    names = ("dataset", "scene_name", "question_type", "question", "options", "ground_truth")
    return [
        {"id": number, **{name: entry[name] for name in names}, "pruned": number in pruned}
        for number, entry in enumerate(entries)
    ]


def _foretold(entries: Sequence[Entry]) -> set[int]:
    """Numbers best predicted by their kind, or kind and topic; enough that the others stay below ``MOST_BLIND``."""
    groups: dict[tuple[str, str], list[int]] = defaultdict(list)
    for number, entry in enumerate(entries):
        if entry["options"] is None:
            for topic in {"", entry["topic"]}:
                groups[entry["question_type"], topic].append(number)
    blind: dict[str, dict[int, float]] = defaultdict(dict)
    for (kind, _), numbers in groups.items():
        values = {number: float(entries[number]["ground_truth"]) for number in numbers}
        for number, value in values.items():
            others = [other for at, other in values.items() if at != number]
            known = mean_relative_accuracy(median(others), value) if others else 0.0
            blind[kind][number] = max(known, blind[kind].get(number, 0.0))
    pruned: set[int] = set()
    for found in blind.values():
        graded = sorted(((known, number) for number, known in found.items()), reverse=True)
        while graded and sum(known for known, _ in graded) / len(graded) > MOST_BLIND:
            pruned.add(graded.pop(0)[1])
    return pruned
