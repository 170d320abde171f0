"""Referring expressions with one target, none or several, correct by construction.

An expression is a ``Description``; its targets are the objects that it selects. Expressions without targets name
an absent category, an absent colour of a present one, or a relation that holds for none of them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import product

from vidllm.datasets.language import Reference
from vidllm.english import capitalised
from vidllm_rooms.language.guessing import present_share
from vidllm_rooms.language.questions import known_names
from vidllm_rooms.language.speaker import PHRASES, Description, Option, Speaker, collected, related_description
from vidllm_rooms.world import COLOURS

#: Requests around a noun phrase with its article; most expressions are the bare phrase.
REQUESTS: list[str] = PHRASES["requests"]
REQUESTS_MANY: list[str] = PHRASES["requests_many"]
MANY_WORDS: list[str] = PHRASES["many"]
BARE = 0.6
RELATION_TRIES = 10


def _reference(s: Speaker, kind: str, description: Description | None, many: bool = False) -> Reference | None:
    """The reference of a description, with its targets."""
    rows = None if description is None else description.select(s.scene)
    if description is None or rows is None:
        return None
    words = description.phrase(s.rng, many)
    x = s.pick(MANY_WORDS[:1] * 3 + MANY_WORDS).format(many=words) if many else f"the {words}"
    if not s.coin(BARE):
        x = capitalised(s.pick(REQUESTS_MANY if many else REQUESTS).format(x=x))
    return Reference(kind, x, tuple(s.thing(row).id for row in rows))


def _by_category(s: Speaker) -> Reference | None:
    rows = [row for row, options in s.simple.items() if options[0].colour is None and options[0].material is None]
    return _reference(s, "unique_category", s.simple[s.pick(rows)][0]) if rows else None


def _by_attribute(s: Speaker) -> Reference | None:
    """The only one of its category with a colour or a material, preferably if there are others without."""
    options: list[Option[Description]] = []
    for row, descriptions in s.simple.items():
        rivals = len(s.scene.named(s.thing(row).category)) - 1
        options += [("", 1.0 + 3 * min(rivals, 1), d) for d in descriptions if d.colour or d.material]
    chosen = s.weighted(options)
    return chosen and _reference(s, "unique_attribute", chosen[2])


def _related(s: Speaker, kind: str) -> Reference | None:
    """The only one in a relation to another object, or the one that clearly exceeds the others of its category.

    Categories with several objects are preferred.
    """
    shown, superlative = s.scene.shown, kind == "superlative"
    crowded = [row for row in shown if len(s.scene.named(s.thing(row).category)) > 1]
    rows = crowded if crowded and (superlative or s.coin(0.7)) else list(shown)
    for _ in range(RELATION_TRIES if rows else 0):
        row = s.pick(rows)
        anchors = {other: found[:2] for other, found in s.simple.items() if other != row}
        found = related_description(s.scene, row, anchors, s.rng)
        if found is not None and (found.superlative is not None) == superlative:
            return _reference(s, kind, found)
    return None


def _none(s: Speaker) -> Reference | None:
    find = s.pick((_absent_colour, _absent_colour, _absent_relation, _absent_relation, _absent_category))
    return _reference(s, "none", find(s), many=s.coin(0.3))


def _absent_category(s: Speaker) -> Description | None:
    options: list[Option[str]] = [("", present_share(n), n) for n in known_names(s) if not s.scene.named(n)]
    chosen = s.weighted(options)
    return chosen and Description(chosen[2])


def _absent_colour(s: Speaker) -> Description | None:
    if not s.shown:
        return None
    name = s.pick(s.shown).category
    taken = {s.thing(row).colour for row in s.scene.named(name)}
    return Description(name, s.pick([colour for colour in COLOURS if colour not in taken]))


def _absent_relation(s: Speaker) -> Description | None:
    """A relation that holds for some object, but for none of this category."""
    for _ in range(RELATION_TRIES if len(s.handled) > 1 else 0):
        name, anchor = s.pick(s.shown).category, s.pick(s.handled)
        relation = s.pick(list(s.scene.relations))
        if not any(s.scene.relations[relation][other][anchor] > 0 for other in s.scene.shown):
            continue
        option = Description(name, relation=relation, anchor=s.simple[anchor][0])
        if name != s.thing(anchor).category and option.select(s.scene) == ():
            return option
    return None


def _several(s: Speaker) -> Reference | None:
    """All of a category, of a colour, or in a relation, if there are at least two."""
    names = dict.fromkeys(thing.category for thing in s.shown)
    options = [Description(name) for name in names]
    options += [Description(name, colour) for name in (*names, "object") for colour in COLOURS]
    for anchor, name in product(s.handled, names):
        relations = "on", s.pick(("left", "right", "near", "front", "behind"))
        options += [Description(name, relation=one, anchor=s.simple[anchor][0]) for one in relations]
    for option in s.shuffled(options):
        if len(option.base(s.scene)) > 1 and len(option.select(s.scene) or ()) > 1:
            return _reference(s, "several", option, many=True)
    return None


REFER: dict[str, Callable[[Speaker], Reference | None]] = {
    "unique_category": _by_category,
    "unique_attribute": _by_attribute,
    "relation": partial(_related, kind="relation"),
    "superlative": partial(_related, kind="superlative"),
    "none": _none,
    "several": _several,
}


def make_references(speaker: Speaker, number: int) -> tuple[Reference, ...]:
    """Up to ``number`` different references."""
    return collected(speaker, REFER, lambda reference: reference.expression, number)
