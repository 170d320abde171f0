"""Plain template questions (ours): the plainest ones about a scene, so that reading attributes is learned first.

The world's own questions are balanced against guessing, so that hardly one in ten asks a thing's colour, and most of
those by way of a relation. A small model that trains from nothing meets too few of them to learn the reading itself.
These ask, in the same phrasings, about things that their noun alone tells apart: their colour, their material, and how
many there are of a kind, counts of none included. They are for training alone; what is measured has none. Those on
places are in :mod:`vidllm_rooms.language.place_questions`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from vidllm.datasets.language import Question
from vidllm.datasets.words import plural, with_article
from vidllm_rooms.language.templates import TEMPLATES
from vidllm_rooms.world.catalogue import CATALOGUE

ABSENT_SHARE = 0.4  # of the questions on counts and existence: kinds that are not there


def plain_questions(record: dict[str, Any], rng: np.random.Generator, count: int) -> list[Question]:
    """``count`` plain questions about a shard's scene record, in random order (fewer where less can be asked)."""
    seen = [item for item in record["objects"] if item["visible"]]
    numbers = Counter(item["category"] for item in seen)
    everywhere = Counter(item["category"] for item in record["objects"])
    made: list[Question] = []
    for item in seen:
        if everywhere[item["category"]] == 1:
            name = f"the {plain(item['category'])}"
            made += [ask_plainly(rng, kind, item[of], x=name) for kind, of in (("color", "colour"), ("material",) * 2)]
    asked = [name for name, number in numbers.items() if everywhere[name] == number]
    absent = [name for name in CATALOGUE if name not in everywhere]
    for name in asked:
        made += _kind(rng, name, numbers[name])
    for name in rng.permutation(absent)[: int(len(asked) * ABSENT_SHARE / (1 - ABSENT_SHARE))]:
        made += _kind(rng, str(name), 0)
    return [made[int(i)] for i in rng.permutation(len(made))[:count]]


def _kind(rng: np.random.Generator, name: str, number: int) -> list[Question]:
    said = plain(name)
    return [
        ask_plainly(rng, "count", str(number), many=plural(said)),
        ask_plainly(rng, "existence", "yes" if number else "no", one=with_article(said)),
    ]


def ask_plainly(
    rng: np.random.Generator, kind: str, answer: str, phrasings: Sequence[str] = (), **slots: str
) -> Question:
    """A question of a kind in one of its phrasings, or of those given."""
    phrasings = phrasings or TEMPLATES[kind]
    text = phrasings[int(rng.integers(len(phrasings)))].format(**slots)
    return Question(kind, text[0].upper() + text[1:], (answer,))


def plain(category: str) -> str:
    """A category as it is spoken of."""
    return category.replace("_", " ")
