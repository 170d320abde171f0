"""Referring expressions with one target, none or several, true by construction.

An expression is a ``Description``; its targets are what the description selects. Expressions with no target name
what is absent, an absent colour of what is present, or a relation that none of them is in.
"""

from __future__ import annotations

from collections.abc import Callable

from vidllm.datasets.language import Reference
from vidllm.datasets.words import capitalised
from vidllm_rooms.language.ask_things import known_names
from vidllm_rooms.language.describe import Description, related_description
from vidllm_rooms.language.priors import present_share
from vidllm_rooms.language.speaker import Option, Speaker
from vidllm_rooms.world import COLOURS

#: Requests around a noun phrase with its article; most expressions are the bare phrase.
REQUESTS: tuple[str, ...] = (
    "find {x}",
    "locate {x}",
    "show me {x}",
    "point to {x}",
    "point out {x}",
    "where is {x}?",
    "can you find {x}?",
    "I am looking for {x}.",
    "take me to {x}",
    "{x} in the video",
)
REQUESTS_MANY: tuple[str, ...] = (
    "find {x}",
    "locate {x}",
    "show me {x}",
    "point to {x}",
    "mark {x}",
    "where are {x}?",
    "can you find {x}?",
    "I am looking for {x}.",
    "select {x}",
    "{x} in the video",
)
BARE = 0.6
MANY_WORDS = ("the {many}", "all the {many}", "all {many}", "every one of the {many}", "each of the {many}")
RELATION_TRIES = 10


def _expression(s: Speaker, description: Description, many: bool = False) -> str:
    words = description.phrase(s.rng, many)
    if not many:
        x, requests = f"the {words}", REQUESTS
    else:
        x, requests = s.pick(MANY_WORDS[:1] * 3 + MANY_WORDS).format(many=words), REQUESTS_MANY
    return x if s.coin(BARE) else capitalised(s.pick(requests).format(x=x))


def _reference(s: Speaker, kind: str, description: Description | None, many: bool = False) -> Reference | None:
    """The reference of a description, its targets evaluated here."""
    rows = None if description is None else description.select(s.scene)
    if description is None or rows is None:
        return None
    return Reference(kind, _expression(s, description, many), tuple(s.thing(row).id for row in rows))


def refer_category(s: Speaker) -> Reference | None:
    """The only one of its category."""
    rows = [row for row, options in s.simple.items() if options[0].colour is None and options[0].material is None]
    return _reference(s, "unique_category", s.simple[s.pick(rows)][0]) if rows else None


def refer_attribute(s: Speaker) -> Reference | None:
    """The only one of its category with a colour or a material, preferably where there are others without."""
    options: list[Option[Description]] = []
    for row, descriptions in s.simple.items():
        rivals = len(s.scene.named(s.thing(row).category)) - 1
        options += [("", 1.0 + 3 * min(rivals, 1), d) for d in descriptions if d.colour or d.material]
    chosen = s.weighted(options)
    return chosen and _reference(s, "unique_attribute", chosen[2])


def refer_relation(s: Speaker) -> Reference | None:
    """The only one in a relation to something else, preferably where there are others that are not."""
    return _related(s, "relation", superlative=False)


def refer_superlative(s: Speaker) -> Reference | None:
    """The one that clearly outdoes the others of its category."""
    return _related(s, "superlative", superlative=True)


def _related(s: Speaker, kind: str, superlative: bool) -> Reference | None:
    shown = s.scene.shown
    crowded = [row for row in shown if len(s.scene.named(s.thing(row).category)) > 1]
    rows = crowded if crowded and (superlative or s.coin(0.7)) else list(shown)
    for _ in range(RELATION_TRIES if rows else 0):
        row = s.pick(rows)
        anchors = {other: found[:2] for other, found in s.simple.items() if other != row}
        found = related_description(s.scene, row, anchors, s.rng)
        if found is not None and (found.superlative is not None) == superlative:
            return _reference(s, kind, found)
    return None


def refer_none(s: Speaker) -> Reference | None:
    """Something plausible that is not there."""
    find = s.pick((_absent_colour, _absent_colour, _absent_relation, _absent_relation, _absent_category))
    return _reference(s, "none", find(s), many=s.coin(0.3))


def _absent_category(s: Speaker) -> Description | None:
    options: list[Option[str]] = [("", present_share(n), n) for n in known_names(s) if not s.scene.named(n)]
    chosen = s.weighted(options)
    return chosen and Description(chosen[2])


def _absent_colour(s: Speaker) -> Description | None:
    if not s.scene.shown:
        return None
    name = s.thing(s.pick(s.scene.shown)).category
    taken = {s.thing(row).colour for row in s.scene.named(name)}
    return Description(name, s.pick([colour for colour in COLOURS if colour not in taken]))


def _absent_relation(s: Speaker) -> Description | None:
    """A relation that something is in, but nothing of this category."""
    for _ in range(RELATION_TRIES if len(s.handled) > 1 else 0):
        row, anchor = s.pick(s.scene.shown), s.pick(s.handled)
        relation = s.pick(list(s.scene.relations))
        table = s.scene.relations[relation]
        if not any(table[other][anchor] > 0 for other in s.scene.shown):
            continue
        name = s.thing(row).category
        option = Description(name, relation=relation, anchor=s.simple[anchor][0])
        if name != s.thing(anchor).category and option.select(s.scene) == ():
            return option
    return None


def refer_several(s: Speaker) -> Reference | None:
    """All of a category, of a colour, or in a relation, where these are two or more."""
    names = dict.fromkeys(s.thing(row).category for row in s.scene.shown)
    options = [Description(name) for name in names]
    options += [Description(name, colour) for name in (*names, "object") for colour in COLOURS]
    for anchor in s.handled:
        options += [
            Description(name, relation=relation, anchor=s.simple[anchor][0])
            for name in names
            for relation in ("on", s.pick(("left", "right", "near", "front", "behind")))
        ]
    for option in s.shuffled(options):
        if len(option.base(s.scene)) > 1 and len(option.select(s.scene) or ()) > 1:
            return _reference(s, "several", option, many=True)
    return None


REFER: dict[str, Callable[[Speaker], Reference | None]] = {
    "unique_category": refer_category,
    "unique_attribute": refer_attribute,
    "relation": refer_relation,
    "superlative": refer_superlative,
    "none": refer_none,
    "several": refer_several,
}
REFERENCE_KINDS: tuple[str, ...] = tuple(REFER)
ROUNDS = 6


def make_references(speaker: Speaker, number: int) -> tuple[Reference, ...]:
    """Up to ``number`` different references, the kinds in turn in random order."""
    found: dict[str, Reference] = {}
    for _ in range(ROUNDS):
        for kind in speaker.shuffled(REFERENCE_KINDS):
            if len(found) == number:
                return tuple(found.values())
            reference = REFER[kind](speaker)
            if reference is not None:
                found.setdefault(reference.expression, reference)
    return tuple(found.values())
