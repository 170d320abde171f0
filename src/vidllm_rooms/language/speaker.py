"""Sentences from facts: descriptions that select and name objects, and the speaker who asks with them.

A ``Description`` selects rows of a scene and gives their words; it is used for one object only if it selects
exactly that one of all in the picture. A ``Speaker`` has one scene, its unique descriptions and the random generator.
Answers are drawn before questions. All phrasings are in ``data/phrases.json``: at least eight for each kind of
question, none of which suggests the answer. Slots: {x} {y} {z} noun phrases with articles, {many} a bare
plural, {one} a singular with "a"/"an", {rel} a relation in words, {more} a comparative. Directions are those of the
viewer at the start of the video unless a situation is given.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from vidllm.datasets.language import Question
from vidllm.english import NUMBER_WORDS, capitalised, metres, number_word, plural
from vidllm_rooms.language.facts import CLEAR_RATIO, Scene, Thing
from vidllm_rooms.language.guessing import material_share
from vidllm_rooms.world import read_data

T = TypeVar("T")
#: A text in the singular, a number (asked for as such) or a length in metres.
Answer = str | int | float
#: What fills the slots of a phrasing: a text, the row of a thing, or several wordings of one thing.
Slots = dict[str, str | int | list[str]]
#: (answer, weight, what to ask)
Option = tuple[Answer, float, T]

PHRASES = read_data("phrases")
QUESTIONS: dict[str, list[str]] = PHRASES["questions"]
RELATIONS: dict[str, list[str]] = PHRASES["relations"]
ADJECTIVES: list[str] = PHRASES["adjectives"]
CAMERA_WORDS: dict[str, list[str]] = PHRASES["camera_superlatives"]
ANCHOR_WORDS: dict[str, list[str]] = PHRASES["anchor_superlatives"]
SUPERLATIVES = (*ADJECTIVES, *CAMERA_WORDS, *ANCHOR_WORDS)
ROUNDS = 6  # turns of all makers, at most


def pick(rng: np.random.Generator, items: Sequence[T]) -> T:
    """One of the items, uniformly."""
    return items[int(rng.integers(len(items)))]


@dataclass(frozen=True)
class Description:
    """Name, then optional colour, material, relation to an anchor or superlative; ``name`` may be "object"."""

    name: str
    colour: str | None = None
    material: str | None = None
    relation: str | None = None
    superlative: str | None = None
    anchor: Description | None = None

    def base(self, scene: Scene) -> list[int]:
        """Rows, including faint ones, with the name, the colour and the material."""
        rows = range(len(scene.things)) if self.name == "object" else scene.named(self.name)
        things = (scene.things[row] for row in rows)
        return [t.index for t in things if self.colour in (None, t.colour) and self.material in (None, t.material)]

    def select(self, scene: Scene) -> tuple[int, ...] | None:
        """The selected rows, or None if the scene is ambiguous."""
        rows = self.base(scene)
        if scene.faint(rows) or not scene.plain(self.name):
            return None
        if self.relation is None and self.superlative is None:
            return tuple(rows)
        anchor = -1 if self.anchor is None else self.anchor.only(scene)
        if anchor is None:
            return None
        rows = [row for row in rows if row != anchor]
        if self.superlative is not None:
            return self._best(scene, rows, anchor)
        values = [scene.relations[self.relation or "on"][row][anchor] for row in rows]
        return None if 0 in values else tuple(row for row, value in zip(rows, values, strict=True) if value > 0)

    def only(self, scene: Scene) -> int | None:
        """The selected row if there is exactly one."""
        rows = self.select(scene)
        return rows[0] if rows is not None and len(rows) == 1 else None

    def _best(self, scene: Scene, rows: list[int], anchor: int) -> tuple[int, ...] | None:
        """The row that clearly exceeds all others; None for a tie or a single one."""
        for row in rows if len(rows) > 1 else ():
            if all(row == other or outdoes(scene, self.superlative or "", row, other, anchor) for other in rows):
                return (row,)
        return None

    def noun(self, many: bool = False) -> str:
        """Colour, material and name: "red wooden chair(s)"."""
        material = "wooden" if self.material == "wood" else self.material
        return " ".join(word for word in (self.colour, material, plural(self.name) if many else self.name) if word)

    def phrase(self, rng: np.random.Generator, many: bool = False) -> str:
        """The description without its determiner: "tallest chair", "chairs next to the table"."""
        noun = self.noun(many)
        if self.superlative in ADJECTIVES:
            return f"{self.superlative} {noun}"
        if self.superlative in CAMERA_WORDS:
            return f"{noun} {pick(rng, CAMERA_WORDS[self.superlative])}"
        if self.anchor is None:
            return noun
        words = ANCHOR_WORDS[self.superlative] if self.superlative else RELATIONS[self.relation or "on"]
        return f"{noun} {pick(rng, words)} {self.anchor.the(rng)}"

    def the(self, rng: np.random.Generator) -> str:
        """The phrase after its article."""
        return f"the {self.phrase(rng)}"


def outdoes(scene: Scene, superlative: str, a: int, b: int, anchor: int = -1) -> bool:
    """Whether a clearly exceeds b in the superlative's measure (ratios of 1.15, volumes of 1.5, clear sides)."""
    if superlative in ("leftmost", "rightmost"):
        return scene.relations[superlative.removesuffix("most")][a][b] > 0
    if superlative in ("shortest", "smallest", "farthest", "farthest_camera"):
        a, b = b, a
    first, second = scene.things[a], scene.things[b]
    if superlative in ("tallest", "shortest"):
        return first.height > CLEAR_RATIO * second.height and first.height > second.height + 0.05
    if superlative in ("largest", "smallest"):
        return first.volume > 1.5 * second.volume
    table = scene.camera_m if superlative.endswith("camera") else scene.distance_m[anchor]
    return table[b] > CLEAR_RATIO * table[a] and table[b] > table[a] + 0.15


def simple_descriptions(scene: Scene, row: int) -> list[Description]:
    """Descriptions by name, colour and material that select only this row, shortest first; empty if faint."""
    thing = scene.things[row]
    options = [Description(thing.category), Description(thing.category, colour=thing.colour)]
    if material_share(thing.category, thing.material) <= 0.9:  # otherwise it goes without saying
        options.append(Description(thing.category, material=thing.material))
    return [option for option in options if thing.shown and option.only(scene) == row]


def related_description(
    scene: Scene, row: int, anchors: dict[int, list[Description]], rng: np.random.Generator
) -> Description | None:
    """A description of the row by a clear relation to an anchor or by a superlative, found by trial."""
    thing = scene.things[row]
    rows = list(anchors)
    for _ in range(6):
        anchor = pick(rng, rows) if rows else row
        if anchor == row:
            continue
        holding = [name for name, table in scene.relations.items() if table[row][anchor] > 0]
        if holding and rng.random() < 0.6:
            option = Description(thing.category, relation=pick(rng, holding), anchor=pick(rng, anchors[anchor]))
        else:
            superlative = pick(rng, SUPERLATIVES)
            point = pick(rng, anchors[anchor]) if superlative in ANCHOR_WORDS else None
            option = Description(thing.category, superlative=superlative, anchor=point)
        if option.only(scene) == row:
            return option
    return None


class Speaker:
    """One scene with ``simple``: row -> descriptions by name, colour and material that select only it."""

    def __init__(self, scene: Scene, rng: np.random.Generator) -> None:
        self.scene = scene
        self.rng = rng
        found = {row: simple_descriptions(scene, row) for row in scene.shown}
        self.simple = {row: options for row, options in found.items() if options}
        self.handled = list(self.simple)
        self.shown = [scene.things[row] for row in scene.shown]

    def pick(self, items: Sequence[T]) -> T:
        """One of the items, uniformly."""
        return pick(self.rng, items)

    def coin(self, chance: float = 0.5) -> bool:
        """True with the given chance."""
        return bool(self.rng.random() < chance)

    def shuffled(self, items: Sequence[T]) -> list[T]:
        """The items in random order."""
        return [items[i] for i in self.rng.permutation(len(items))]

    def thing(self, row: int) -> Thing:
        """The thing of a row."""
        return self.scene.things[row]

    def weighted(self, options: Sequence[Option[T]]) -> Option[T] | None:
        """One option in proportion to its weight; None without options."""
        left = self.rng.random() * sum(option[1] for option in options)
        for option in options:
            left -= option[1]
            if left < 0:
                return option
        return options[-1] if options else None

    def by_answer(self, options: Sequence[Option[T]], usual: Mapping[Answer, float] | None = None) -> Option[T] | None:
        """An answer, uniformly or inversely to its probability, then an option of it by weight; or None."""
        groups: dict[Answer, list[Option[T]]] = {}
        for option in options:
            groups.setdefault(option[0], []).append(option)
        chosen = self.weighted([(answer, 1 / (usual or {}).get(answer, 1.0), answer) for answer in groups])
        return self.weighted(groups[chosen[0]]) if chosen else None

    def the(self, row: int, without: str) -> str | None:
        """Words for this row only, like "the red chair", without the attribute ``without``; None if not found."""
        options = [d for d in self.simple.get(row, ()) if not getattr(d, without)]
        if options:
            return self._one_of(options)
        anchors = {other: list(ds[:1]) for other, ds in self.simple.items() if other != row}
        found = related_description(self.scene, row, anchors, self.rng)
        return None if found is None else found.the(self.rng)

    def simple_the(self, row: int) -> str:
        """The shortest unique words for a row of ``simple``, sometimes with one more attribute."""
        return self._one_of(self.simple[row])

    def _one_of(self, options: list[Description]) -> str:
        return self.pick(options[:2] if self.coin(0.3) else options[:1]).the(self.rng)

    def ask(
        self, kind: str, answer: Answer, slots: Slots, also: Sequence[str] = (), situation: str | None = None
    ) -> Question:
        """A question in one of the phrasings of ``kind``, with the usual other spellings of the answer accepted.

        A row in a slot is replaced by words for this object only; of several wordings one is drawn.
        """
        words = {
            name: slot if isinstance(slot, str) else self.simple_the(slot) if isinstance(slot, int) else self.pick(slot)
            for name, slot in slots.items()
        }
        text = capitalised(self.pick(QUESTIONS[kind]).format(**words))
        first, *others = spelled(answer)
        answers = tuple(dict.fromkeys((first, *also, *others)))
        return Question(kind.removesuffix("_choice"), text, answers, situation)

    def choose(
        self, kind: str, options: Sequence[Option[Slots]], evenly: bool = True,
        usual: Mapping[Answer, float] | None = None, situation: str | None = None,
    ) -> Question | None:  # fmt: skip
        """Ask one of the options, drawn uniformly by answer (``by_answer``) or by weight; None without options."""
        chosen = self.by_answer(options, usual) if evenly else self.weighted(options)
        return chosen and self.ask(kind, chosen[0], chosen[2], situation=situation)


def collected(
    s: Speaker, makers: Mapping[str, Callable[[Speaker], T | None]], name: Callable[[T], Any], number: int,
    once: Sequence[str] = (),
) -> tuple[T, ...]:  # fmt: skip
    """Up to ``number`` things of different names, of all makers in turn in random order; those ``once`` in one turn."""
    found: dict[Any, T] = {}
    for turn in range(ROUNDS):
        for kind in s.shuffled(tuple(makers)):
            if len(found) == number:
                return tuple(found.values())
            made = None if turn and kind in once else makers[kind](s)
            if made is not None:
                found.setdefault(name(made), made)
    return tuple(found.values())


def spelled(answer: Answer) -> tuple[str, ...]:
    """An answer in its spellings: 3 as "3" and "three", 1.5 as "1.5 meters" and the like, a word with its synonyms."""
    if isinstance(answer, str):
        return (answer, *PHRASES["also_accepted"].get(answer, ()))
    if isinstance(answer, int):
        return (str(answer), number_word(answer)) if answer < len(NUMBER_WORDS) else (str(answer),)
    return (metres(answer), f"{answer:g}", f"{answer:g} m", f"{answer:.1f} meters", f"{answer:g} metres")


def half_metres(value: float) -> float | None:
    """The value rounded to half metres; None below half a metre or within 5 cm of the boundary between two values."""
    rounded = round(value * 2) / 2
    return rounded if rounded > 0 and abs(value - rounded) < 0.2 else None
