"""The catalogue: every category with its builders, materials and loads; ``build_model`` makes one object.

``data/catalogue.json`` lists the categories, colours, materials (with the texture of the parts that have the object's
colour), kinds of rooms with their optional objects, floors and outlines with their frequencies. Colours are drawn
uniformly for every category, so that the category does not predict the colour.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from inspect import isfunction
from typing import Any

import numpy as np

from vidllm.datasets.shards import LabelSpace
from vidllm_rooms.world import COLOURS, RGB, furniture, objects, read_data
from vidllm_rooms.world.parts import Kit, Model

DATA = read_data("catalogue")
#: The functions of ``furniture`` and ``objects``: a name is that of a category, and after two underscores of a variant.
_BUILDERS = [(name, f) for module in (furniture, objects) for name, f in vars(module).items()
             if isfunction(f) and f.__module__ == module.__name__]  # fmt: skip
MATERIAL_TEXTURES: dict[str, str] = DATA["textures"]
_WOODS: tuple[RGB, ...] = ((0.55, 0.38, 0.22), (0.36, 0.23, 0.13), (0.72, 0.56, 0.37))
_QUIET: tuple[RGB, ...] = (*_WOODS, (0.30, 0.30, 0.32), (0.75, 0.74, 0.71), (0.12, 0.12, 0.13))


@dataclass(frozen=True)
class Category:
    """One category: its materials, the objects that may stand on it, its NYU40 class if that has another name."""

    materials: tuple[str, ...]
    builders: tuple[Callable[[Kit], None], ...]
    carries: tuple[str, ...] = ()
    nyu40: str | None = None


def _category(name: str, entry: dict[str, Any]) -> Category:
    builders = tuple(f for known, f in _BUILDERS if known.partition("__")[0] == name.replace(" ", "_"))
    if not builders:
        raise KeyError(f"catalogue.json: no function builds {name!r}")
    return Category(tuple(entry["materials"]), builders, tuple(entry.get("carries", ())), entry.get("nyu40"))


CATALOGUE = {name: _category(name, entry) for name, entry in DATA["things"].items()}
#: The names that shards of rooms give to patches.
LABELS = LabelSpace(tuple(sorted(CATALOGUE)), tuple(COLOURS), tuple(sorted(MATERIAL_TEXTURES)))


@dataclass(frozen=True)
class Piece:
    """One drawn piece of a category: its geometry and its names."""

    category: str
    colour: str
    material: str
    model: Model


def draw_colour(rng: np.random.Generator) -> str:
    """One of the twelve colour names, uniformly."""
    return str(rng.choice(list(COLOURS)))


def tinted(rgb: Sequence[float], rng: np.random.Generator, amount: float = 0.03) -> RGB:
    """The colour with a small shift, which keeps its name right."""
    r, g, b = np.clip(np.array(rgb) * rng.uniform(0.92, 1.06) + rng.uniform(-amount, amount, 3), 0.02, 0.98).tolist()
    return r, g, b


def build_model(
    category: str, rng: np.random.Generator, *, colour: str | None = None, variant: int | None = None
) -> Piece:
    """Draws a piece of ``category`` (a key of CATALOGUE), in ``colour`` or a uniformly drawn one.

    ``variant`` is the number of one of the category's builders. KeyError for an unknown category.
    """
    entry = CATALOGUE[category]
    colour = colour or draw_colour(rng)
    material = str(rng.choice(entry.materials))
    other = _QUIET[int(rng.integers(len(_QUIET)))]
    kit = Kit(rng, tinted(COLOURS[colour], rng), tinted(other, rng), MATERIAL_TEXTURES[material])
    number = int(rng.integers(len(entry.builders))) if variant is None else variant
    entry.builders[number](kit)
    return Piece(category, colour, material, kit.finish())
