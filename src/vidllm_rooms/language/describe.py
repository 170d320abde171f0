"""Descriptions of objects that are predicate and phrase in one: what the words say is what is evaluated.

A ``Description`` selects rows of a scene and words itself; a phrase is used for one object only when it selects
exactly that one among everything in the picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from vidllm.datasets.words import plural
from vidllm_rooms.language.facts import CLEAR_RATIO, Scene
from vidllm_rooms.language.priors import material_share

T = TypeVar("T")

RELATION_WORDS: dict[str, tuple[str, ...]] = {
    "left": ("to the left of", "left of", "on the left of", "on the left side of"),
    "right": ("to the right of", "right of", "on the right of", "on the right side of"),
    "front": ("in front of",),
    "behind": ("behind",),
    "near": ("next to", "near", "beside", "close to"),
    "above": ("above", "over"),
    "under": ("under", "below", "beneath", "underneath"),
    "on": ("on", "on top of", "resting on"),
}
ADJECTIVES = ("tallest", "shortest", "largest", "smallest", "leftmost", "rightmost")
CAMERA_WORDS = {
    "nearest_camera": ("closest to the camera", "nearest to the camera", "closest to the viewer"),
    "farthest_camera": ("farthest from the camera", "furthest from the camera", "most distant from the camera"),
}
ANCHOR_WORDS = {
    "nearest": ("closest to", "nearest to", "nearest"),
    "farthest": ("farthest from", "furthest from", "most distant from"),
}
SUPERLATIVES = (*ADJECTIVES, *CAMERA_WORDS, *ANCHOR_WORDS)


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
        """Rows, faint ones included, of the name with the colour and the material."""
        rows = [t.index for t in scene.things] if self.name == "object" else scene.named(self.name)
        things = scene.things
        return [
            row
            for row in rows
            if (self.colour is None or things[row].colour == self.colour)
            and (self.material is None or things[row].material == self.material)
        ]

    def select(self, scene: Scene) -> tuple[int, ...] | None:
        """Rows that are meant, or None where the scene does not settle it."""
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
        if 0 in values:
            return None
        return tuple(row for row, value in zip(rows, values, strict=True) if value > 0)

    def only(self, scene: Scene) -> int | None:
        """The row meant when there is exactly one."""
        rows = self.select(scene)
        return rows[0] if rows is not None and len(rows) == 1 else None

    def _best(self, scene: Scene, rows: list[int], anchor: int) -> tuple[int, ...] | None:
        """The row that clearly outdoes all the others; None for a tie or without a rival."""
        if len(rows) < 2:
            return None
        for row in rows:
            if all(row == other or outdoes(scene, self.superlative or "", row, other, anchor) for other in rows):
                return (row,)
        return None

    def noun(self, many: bool = False) -> str:
        """Colour, material and name: "red wooden chair(s)"."""
        material = {"wood": "wooden", None: None}.get(self.material, self.material)
        name = plural(self.name) if many else self.name
        return " ".join(word for word in (self.colour, material, name) if word)

    def phrase(self, rng: np.random.Generator, many: bool = False) -> str:
        """The description without its determiner: "tallest chair", "chairs next to the table"."""
        noun = self.noun(many)
        if self.superlative in ADJECTIVES:
            return f"{self.superlative} {noun}"
        if self.superlative in CAMERA_WORDS:
            return f"{noun} {pick(rng, CAMERA_WORDS[self.superlative])}"
        if self.anchor is None:
            return noun
        words = ANCHOR_WORDS[self.superlative] if self.superlative else RELATION_WORDS[self.relation or "on"]
        return f"{noun} {pick(rng, words)} {self.anchor.the(rng)}"

    def the(self, rng: np.random.Generator, many: bool = False) -> str:
        """The phrase after its article."""
        return f"the {self.phrase(rng, many)}"


def outdoes(scene: Scene, superlative: str, a: int, b: int, anchor: int = -1) -> bool:
    """Whether a clearly exceeds b in what the superlative names (ratios of 1.15, volumes of 1.5, clear sides)."""
    first, second = scene.things[a], scene.things[b]
    if superlative == "leftmost":
        return scene.relations["left"][a][b] > 0
    if superlative == "rightmost":
        return scene.relations["right"][a][b] > 0
    if superlative in ("tallest", "shortest"):
        low, high = (second.height, first.height) if superlative == "tallest" else (first.height, second.height)
        return high > CLEAR_RATIO * low and high > low + 0.05
    if superlative in ("largest", "smallest"):
        low, high = (second.volume, first.volume) if superlative == "largest" else (first.volume, second.volume)
        return high > 1.5 * low
    near, far = _distances(scene, superlative, a, b, anchor)
    return far > CLEAR_RATIO * near and far > near + 0.15


def _distances(scene: Scene, superlative: str, a: int, b: int, anchor: int) -> tuple[float, float]:
    table = scene.camera_m if superlative.endswith("camera") else scene.distance_m[anchor]
    return (table[a], table[b]) if superlative.startswith("nearest") else (table[b], table[a])


def simple_descriptions(scene: Scene, row: int) -> list[Description]:
    """Descriptions by name, colour and material that mean this row alone, shortest first; empty if faint."""
    thing = scene.things[row]
    if not thing.shown:
        return []
    options = [
        Description(thing.category),
        Description(thing.category, colour=thing.colour),
        Description(thing.category, material=thing.material),
    ]
    if material_share(thing.category, thing.material) > 0.9:  # it goes without saying
        options = options[:2]
    return [option for option in options if option.only(scene) == row]


def related_description(
    scene: Scene, row: int, anchors: dict[int, list[Description]], rng: np.random.Generator, tries: int = 6
) -> Description | None:
    """A description of the row by a clear relation to an anchor or by a superlative, found by trial."""
    thing = scene.things[row]
    rows = list(anchors)
    for _ in range(tries):
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
