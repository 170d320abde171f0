"""A speaker holds one scene, its unique descriptions and the randomness, and turns facts into questions.

Answers are chosen before what is asked: ``by_answer`` draws the answer uniformly from those the scene allows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np

from vidllm.datasets.language import Question
from vidllm.datasets.words import NUMBER_WORDS, capitalised, metres, number_word
from vidllm_rooms.language.describe import pick, related_description, simple_descriptions
from vidllm_rooms.language.facts import Scene, Thing
from vidllm_rooms.language.templates import ALSO_ACCEPTED, TEMPLATES

T = TypeVar("T")
#: (answer, weight, what to ask)
Option = tuple[str, float, T]


class Speaker:
    """One scene with ``simple``: row -> descriptions by name, colour and material that mean it alone."""

    def __init__(self, scene: Scene, rng: np.random.Generator) -> None:
        self.scene = scene
        self.rng = rng
        found = {row: simple_descriptions(scene, row) for row in scene.shown}
        self.simple = {row: options for row, options in found.items() if options}
        self.handled = list(self.simple)

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
        """One option in proportion to its weight; None of none."""
        total = sum(option[1] for option in options)
        left = self.rng.random() * total
        for option in options:
            left -= option[1]
            if left < 0:
                return option
        return options[-1] if options else None

    def by_answer(self, options: Sequence[Option[T]], usual: Mapping[str, float] | None = None) -> Option[T] | None:
        """An answer evenly, or inversely to how usual it is, then one of its options by weight; None of none."""
        groups: dict[str, list[Option[T]]] = {}
        for option in options:
            groups.setdefault(option[0], []).append(option)
        chosen = self.weighted([(answer, 1 / (usual or {}).get(answer, 1.0), answer) for answer in groups])
        return self.weighted(groups[chosen[0]]) if chosen else None

    def the(self, row: int, without: str = "") -> str | None:
        """Words that mean this row only, like "the red chair", without the attribute ``without``; None if not found."""
        options = [d for d in self.simple.get(row, ()) if not (without and getattr(d, without))]
        if options:
            return self.pick(options[:2] if self.coin(0.3) else options[:1]).the(self.rng)
        anchors = {other: list(ds[:1]) for other, ds in self.simple.items() if other != row}
        found = related_description(self.scene, row, anchors, self.rng)
        return None if found is None else found.the(self.rng)

    def simple_the(self, row: int) -> str:
        """The shortest unique words for a row of ``simple``, at times with one attribute more."""
        options = self.simple[row]
        return self.pick(options[:2] if self.coin(0.3) else options[:1]).the(self.rng)

    def ask(
        self,
        kind: str,
        answer: str,
        also: Sequence[str] = (),
        template: str = "",
        situation: str | None = None,
        **slots: str,
    ) -> Question:
        """A question of the kind in one of its phrasings, with the usual other spellings of the answer accepted."""
        text = capitalised(self.pick(TEMPLATES[template or kind]).format(**slots))
        answers = dict.fromkeys((answer, *also, *ALSO_ACCEPTED.get(answer, ())))
        return Question(kind, text, tuple(answers), situation)


def count_answers(value: int) -> tuple[str, ...]:
    """The number in digits and as a word: "3" and "three"."""
    return (str(value), number_word(value)) if value < len(NUMBER_WORDS) else (str(value),)


def metre_answers(value: float) -> tuple[str, ...]:
    """The length, "1.5 meters", with its other spellings."""
    return (metres(value), f"{value:g}", f"{value:g} m", f"{value:.1f} meters", f"{value:g} metres")


def half_metres(value: float) -> float | None:
    """The value to the nearest half metre, None below that or within 5 cm of the boundary between two."""
    rounded = round(value * 2) / 2
    return rounded if rounded > 0 and abs(value - rounded) < 0.2 else None


def told_apart(speaker: Speaker, first: int, second: int) -> bool:
    """Whether a short answer, category or colour, can name one of the two."""
    a, b = speaker.thing(first), speaker.thing(second)
    return a.category != b.category or a.colour != b.colour


def choice_answers(speaker: Speaker, row: int, other: int, words: str) -> tuple[str, ...]:
    """Answers that name the row and not the other: its category where they differ, and the question's own words."""
    thing, own = speaker.thing(row), words.removeprefix("the ")
    if thing.category != speaker.thing(other).category:
        return tuple(dict.fromkeys((thing.category, own)))
    return tuple(dict.fromkeys((own, f"{thing.colour} {thing.category}", thing.colour, f"the {thing.colour} one")))
