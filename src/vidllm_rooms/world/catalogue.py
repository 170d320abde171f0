"""The catalogue: every category with its builder, materials and place; ``build_model`` makes one piece.

Colours are drawn uniformly for every category, so that the category does not give the colour away.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from vidllm.datasets.shards import LabelSpace
from vidllm_rooms.world import COLOURS
from vidllm_rooms.world import furniture as f
from vidllm_rooms.world import objects as o
from vidllm_rooms.world.parts import RGB, Kit, Model

#: Material name -> texture of the parts that carry the object's colour.
MATERIAL_TEXTURES: dict[str, str] = {
    "wood": "wood",
    "metal": "plain",
    "plastic": "plain",
    "fabric": "fabric",
    "leather": "plain",
    "velvet": "fabric",
    "wool": "carpet",
    "ceramic": "plain",
    "glass": "plain",
    "stone": "marble",
    "paper": "plain",
    "cardboard": "plain",
    "wicker": "wicker",
    "canvas": "painting",
    "leaf": "leaves",
    "rubber": "plain",
}
_WOODS: tuple[RGB, ...] = ((0.55, 0.38, 0.22), (0.36, 0.23, 0.13), (0.72, 0.56, 0.37))
_QUIET: tuple[RGB, ...] = (*_WOODS, (0.30, 0.30, 0.32), (0.75, 0.74, 0.71), (0.12, 0.12, 0.13))


@dataclass(frozen=True)
class Category:
    """One kind of thing: how it is built, of what, and where it goes ("wall", "floor", "surface" ...)."""

    name: str
    place: str
    materials: tuple[str, ...]
    builders: tuple[Callable[[Kit], None], ...]


def _entry(name: str, place: str, materials: str, *builders: Callable[[Kit], None]) -> tuple[str, Category]:
    return name, Category(name, place, tuple(materials.split()), builders)


CATALOGUE: dict[str, Category] = dict(
    (
        _entry("chair", "floor", "wood plastic metal fabric", f.chair),
        _entry("office chair", "floor", "fabric leather", f.office_chair),
        _entry("armchair", "floor", "fabric leather velvet", f.armchair),
        _entry("sofa", "wall", "fabric leather velvet", f.sofa),
        _entry("bench", "wall", "wood metal", f.bench),
        _entry("stool", "floor", "wood metal plastic", f.stool),
        _entry("table", "floor", "wood glass stone metal", f.table),
        _entry("coffee table", "floor", "wood stone metal", f.coffee_table),
        _entry("desk", "wall", "wood metal", f.desk),
        _entry("bed", "wall", "fabric wool", f.bed),
        _entry("wardrobe", "wall", "wood", f.wardrobe),
        _entry("bookshelf", "wall", "wood metal", f.bookshelf),
        _entry("nightstand", "wall", "wood", f.nightstand),
        _entry("dresser", "wall", "wood", f.dresser),
        _entry("cabinet", "wall", "wood metal", f.cabinet),
        _entry("refrigerator", "wall", "metal", f.refrigerator),
        _entry("stove", "wall", "metal", f.stove),
        _entry("washing machine", "wall", "metal", f.washing_machine),
        _entry("radiator", "wall", "metal", o.radiator),
        _entry("floor lamp", "floor", "metal fabric", o.floor_lamp),
        _entry("plant", "floor", "leaf", o.plant),
        _entry("box", "floor", "cardboard plastic", o.carton),
        _entry("ball", "floor", "rubber plastic leather", o.ball),
        _entry("trash can", "floor", "metal plastic", o.trash_can),
        _entry("basket", "floor", "wicker", o.basket),
        _entry("suitcase", "floor", "plastic fabric", o.suitcase),
        _entry("rug", "floor", "wool", o.rug),
        _entry("table lamp", "surface", "ceramic metal", o.table_lamp),
        _entry("tv", "surface", "plastic", o.tv),
        _entry("monitor", "surface", "plastic", o.monitor),
        _entry("laptop", "surface", "metal plastic", o.laptop),
        _entry("book", "surface", "paper", o.book, o.books),
        _entry("vase", "surface", "ceramic glass", o.vase),
        _entry("flower", "surface", "leaf", o.potted_flower),
        _entry("cup", "surface", "ceramic plastic", o.cup),
        _entry("bowl", "surface", "ceramic wood", o.bowl),
        _entry("bottle", "surface", "glass plastic", o.bottle),
        _entry("pillow", "surface", "fabric velvet", o.pillow),
        _entry("picture", "hung", "canvas", o.picture),
        _entry("mirror", "hung", "wood metal", o.mirror),
        _entry("clock", "hung", "plastic metal", o.clock),
        _entry("ceiling lamp", "ceiling", "glass metal", o.ceiling_lamp),
        _entry("door", "opening", "wood", o.door),
        _entry("window", "opening", "wood plastic", o.window),
        _entry("curtain", "hung", "fabric", o.curtain),
    )
)


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


def tinted(rgb: RGB, rng: np.random.Generator, amount: float = 0.03) -> RGB:
    """The colour with a small shift, still nameable."""
    r, g, b = np.clip(np.array(rgb) * rng.uniform(0.92, 1.06) + rng.uniform(-amount, amount, 3), 0.02, 0.98).tolist()
    return r, g, b


def build_model(
    category: str, rng: np.random.Generator, *, colour: str | None = None, variant: int | None = None
) -> Piece:
    """Draws a piece of ``category`` (a key of CATALOGUE), in ``colour`` or a uniformly drawn one.

    ``variant`` picks one of the category's builders. Raises KeyError for an unknown category.
    """
    entry = CATALOGUE[category]
    colour = colour or draw_colour(rng)
    material = str(rng.choice(entry.materials))
    other = _QUIET[int(rng.integers(len(_QUIET)))]
    kit = Kit(rng, tinted(COLOURS[colour], rng), tinted(other, rng), MATERIAL_TEXTURES[material])
    number = int(rng.integers(len(entry.builders))) if variant is None else variant
    entry.builders[number](kit)
    return Piece(category, colour, material, kit.finish())
