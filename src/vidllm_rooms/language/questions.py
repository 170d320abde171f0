"""Kinds of questions about a scene, with answers and weights.

Each kind lists options (answer, weight, slots) for ``Speaker.choose``, or draws itself if the answer depends on the
order in which objects are named.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import product

from vidllm.datasets.language import Question
from vidllm.english import plural, with_article
from vidllm_rooms.language import guessing
from vidllm_rooms.language.facts import CLEAR_RATIO
from vidllm_rooms.language.situations import ask_count_there, ask_direction, ask_exists_there, ask_object_there
from vidllm_rooms.language.speaker import (
    RELATIONS,
    Description,
    Option,
    Slots,
    Speaker,
    collected,
    half_metres,
    outdoes,
)
from vidllm_rooms.world import COLOURS
from vidllm_rooms.world.catalogue import CATALOGUE

TRIES = 6
ABOUT_M = 1.5  # what is beyond this free space is not said to be beside something
LIFTABLE = {"box", "ball", "plant", "vase", "basket"}
ACCEPTED_SHARE = 0.25  # what is more usual on a support is asked the more rarely
COMPARATIVES = {"taller": 1, "longer": 1, "shorter in height": -1, "less tall": -1}

Options = list[Option[Slots]]
Pair = tuple[int, int]


def _attribute(s: Speaker, kind: str, attribute: str) -> Question | None:
    """The colour or the material of one object; a material that the category implies is not asked for."""
    told = attribute == "material"
    things = [t for t in s.shown if not told or guessing.material_share(t.category, t.material) < 0.9]
    options: list[Option[int]] = [(getattr(t, attribute), 1.0, t.index) for t in things]
    for _ in range(TRIES):
        chosen = s.by_answer(options)
        words = chosen and s.the(chosen[2], without=attribute)
        if chosen and words:
            return s.ask(kind, chosen[0], {"x": words})
    return None


def known_names(s: Speaker) -> list[str]:
    """Categories of the catalogue and of the scene whose names are unambiguous."""
    names = dict.fromkeys((*CATALOGUE, *(t.category for t in s.scene.things)))
    return [name for name in names if s.scene.plain(name)]


def _existence(s: Speaker) -> Question | None:
    """Yes or no with equal probability: a category, or a category in a colour that another object has."""
    yes = s.coin()
    found = _colour_existence(s, yes) if s.coin(0.6) else _category_existence(s, yes)
    options: Options = [("yes" if yes else "no", weight, {"one": with_article(noun)}) for noun, weight in found]
    return s.choose("existence", options, evenly=False)


def _category_existence(s: Speaker, yes: bool) -> Iterator[tuple[str, float]]:
    """Present categories weighted by their rarity, absent ones by how often they are present."""
    for name in known_names(s):
        rows, share = s.scene.named(name), guessing.present_share(name)
        if any(s.thing(row).shown for row in rows) if yes else not rows:
            yield name, 1 - share if yes else share


def _colour_existence(s: Speaker, yes: bool) -> Iterator[tuple[str, float]]:
    for thing in s.shown:
        taken = {s.thing(row).colour for row in s.scene.named(thing.category)}
        colours = [thing.colour] if yes else [colour for colour in COLOURS if colour not in taken]
        yield from ((Description(thing.category, colour).noun(), 1 / len(colours)) for colour in colours)


def _count(s: Speaker) -> Question | None:
    """Number of objects of a category: common counts about equally often, categories with variable counts preferred."""
    options: Options = []
    for name in known_names(s):
        rows = s.scene.named(name)
        if len(rows) <= guessing.MOST and not s.scene.faint(rows) and name not in guessing.UNCOUNTED:
            weight = (guessing.possible_counts(name) - 1) ** 2 / guessing.count_share(name, len(rows))
            options.append((len(rows), weight * max(1, len(rows)), {"many": plural(name)}))
    return s.choose("count", options, evenly=False)


def _count_attribute(s: Speaker) -> Question | None:
    """Number of objects of a colour, in total or within a category."""
    options: Options = []
    for name in ("object", *(n for n in dict.fromkeys(t.category for t in s.shown) if n not in guessing.UNCOUNTED)):
        for colour in COLOURS:
            description = Description(name, colour)
            rows = description.select(s.scene)
            if rows is not None and len(rows) <= guessing.MOST:
                options.append((len(rows), 2.0 if name == "object" else 1.0, {"many": description.noun(many=True)}))
    return s.choose("count_attribute", options)


def _carried(s: Speaker, row: int) -> list[str] | None:
    """Categories of the objects on this one; None unless all of them are well visible."""
    rows = [t.index for t in s.scene.things if t.on == row]
    seen = not s.scene.faint(rows) and len(rows) == s.thing(row).carries
    return [s.thing(item).category for item in rows] if seen else None


def _count_on(s: Speaker) -> Question | None:
    """Number of objects, or of objects of a category, on a piece of furniture."""
    found = {row: _carried(s, row) for row in s.handled}
    loads = {row: load for row, load in found.items() if load is not None}
    kinds = {s.thing(row).category for row, load in loads.items() if load}
    small = sorted({name for load in loads.values() for name in load} - set(guessing.UNCOUNTED))
    options: Options = []
    for row, load in loads.items():
        if s.thing(row).category in kinds and not set(load) & set(guessing.UNCOUNTED):
            for name in ("object", *small):
                number = len(load) if name == "object" else load.count(name)
                options.append((number, 1.0, {"many": plural(name), "y": row}))
    return s.choose("count_on", options, usual={1: 3.0})


# ---- where things are, to the viewer at the start and to each other ----


def _true_pairs(s: Speaker, relation: str) -> list[Pair]:
    table = s.scene.relations[relation]
    return [(a, b) for a in s.handled for b in s.handled if table[a][b] > 0]


def _either(s: Speaker, kind: str, relation: str, converse: str) -> Question | None:
    """Left or right, in front or behind, with equal probability."""
    pairs = _true_pairs(s, relation)
    if not pairs:
        return None
    a, b = s.pick(pairs)
    swap = s.coin()
    return s.ask(kind, converse, {"x": b, "y": a}) if swap else s.ask(kind, relation, {"x": a, "y": b})


def _relation_objects(s: Speaker) -> Question | None:
    """Whether a relation holds: yes and no with equal probability for every relation.

    "No" is asked about objects for which the relation is common: a cup that is on another table.
    """
    for relation in s.shuffled(list(s.scene.relations)):
        table, true = s.scene.relations[relation], _true_pairs(s, relation)
        firsts, seconds = dict.fromkeys(a for a, _ in true), dict.fromkeys(b for _, b in true)
        false = [(a, b) for a in firsts for b in seconds if a != b and table[a][b] < 0]
        if true and false:
            yes = s.coin()
            a, b = s.pick(true if yes else false)
            return s.ask("relation_objects", "yes" if yes else "no", {"rel": RELATIONS[relation], "x": a, "y": b})
    return None


def _category_at(s: Speaker) -> Question | None:
    """The category in a direction from an object, if there is only one."""
    options: Options = [
        (name, 1 / guessing.present_share(name), {"rel": RELATIONS[relation], "y": anchor})
        for relation in ("left", "right", "front", "behind", "near", "above", "under")
        for anchor in s.handled
        if (name := _only_category(s, relation, anchor))
    ]
    return s.choose("category_at", options, evenly=False)


def _only_category(s: Speaker, relation: str, anchor: int) -> str | None:
    """The only category of the objects that are, or might be, in the relation to the anchor."""
    clear, possible = set[str](), set[str]()
    holds, on = s.scene.relations[relation], s.scene.relations["on"]
    for row, thing in enumerate(s.scene.things):
        if row == anchor or s.scene.gap_m[row][anchor] > ABOUT_M or holds[row][anchor] < 0:
            continue
        if on[row][anchor] != -1 or on[anchor][row] != -1:
            continue
        inside, doubtful = _in_cone(s, relation, row, anchor)
        if inside and thing.shown and holds[row][anchor] > 0:
            clear.add(thing.category)
        elif doubtful:
            possible.add(thing.category)
    clear_answer = len(clear) == 1 and possible <= clear and s.thing(anchor).category not in clear
    return clear.pop() if clear_answer else None


def _in_cone(s: Speaker, relation: str, row: int, anchor: int) -> tuple[bool, bool]:
    """Whether the row lies within 45 degrees of the direction, and whether within about 65."""
    if relation not in ("left", "right", "front", "behind"):
        return True, True
    here, there = s.thing(row).position, s.thing(anchor).position
    sideways, ahead = here[0] - there[0], here[1] - there[1]
    along = {"left": -sideways, "right": sideways, "front": -ahead, "behind": ahead}[relation]
    across = abs(ahead) if relation in ("left", "right") else abs(sideways)
    return along > across, along > 0.5 * across


def _remotest(s: Speaker, kind: str, choice_share: float) -> Question | None:
    """The nearest (farthest) of two named objects, or the category of the object nearest to (farthest from) one."""
    if s.coin(choice_share):
        return _choice(s, kind)
    options: Options = [
        (name, 1 / guessing.present_share(name), {"y": anchor})
        for anchor in s.handled
        if (name := _clear_extreme(s, kind, anchor))
    ]
    return s.choose(kind, options, evenly=False)


def _clear_extreme(s: Speaker, kind: str, anchor: int) -> str | None:
    """Category of the nearest (farthest) by a clear margin, both between centres and in free space."""
    sign = 1 if kind == "nearest" else -1
    distance, gap = s.scene.distance_m[anchor], s.scene.gap_m[anchor]
    rows = [row for row in range(len(s.scene.things)) if row != anchor]
    if len(rows) < 3:
        return None
    best = min(rows, key=lambda row: sign * distance[row])
    others = [row for row in rows if s.thing(row).category != s.thing(best).category]
    clear = all(outdoes(s.scene, kind, best, row, anchor) and sign * (gap[row] - gap[best]) > -0.1 for row in others)
    return s.thing(best).category if others and clear and s.thing(best).shown else None


def _choice(s: Speaker, kind: str) -> Question | None:
    for _ in range(2 * TRIES if len(s.handled) > 2 else 0):
        anchor, a, b = s.shuffled(s.handled)[:3]
        if not _told_apart(s, a, b):
            continue
        for winner, loser in ((a, b), (b, a)):
            if outdoes(s.scene, kind, winner, loser, anchor):
                x, y, z = (s.simple_the(row) for row in (a, b, anchor))
                answers = _naming(s, winner, loser, x if winner == a else y)
                return s.ask(f"{kind}_choice", answers[0], {"x": x, "y": y, "z": z}, answers[1:])
    return None


def _told_apart(s: Speaker, first: int, second: int) -> bool:
    """Whether a short answer, category or colour, distinguishes the two."""
    a, b = s.thing(first), s.thing(second)
    return a.category != b.category or a.colour != b.colour


def _naming(s: Speaker, row: int, other: int, words: str) -> tuple[str, ...]:
    """Answers for the row but not for the other one: its category if they differ, and the words of the question."""
    thing, own = s.thing(row), words.removeprefix("the ")
    if thing.category != s.thing(other).category:
        return tuple(dict.fromkeys((thing.category, own)))
    return tuple(dict.fromkeys((own, f"{thing.colour} {thing.category}", thing.colour, f"the {thing.colour} one")))


def _on_top(s: Speaker) -> Question | None:
    """The category on an object that carries only one category."""
    options: Options = []
    for row in s.handled:
        names = set(_carried(s, row) or ())
        if len(names) == 1:
            name = names.pop()
            share = guessing.load_share(s.thing(row).category, name)
            options += [(name, 1 / share, {"y": row})] if s.coin(ACCEPTED_SHARE / share) else []
    return s.choose("on_top", options, evenly=False)


def _support(s: Speaker) -> Question | None:
    """What an object is on: furniture, or the floor for objects that are on furniture elsewhere."""
    lifted = {t.category for t in s.scene.things if t.on is not None}
    options: list[Option[int]] = []
    for thing in s.shown:
        standing = thing.position[2] - thing.height / 2 < 0.05
        if thing.on is not None and thing.on >= 0 and s.thing(thing.on).shown:
            name = s.thing(thing.on).category
            if s.coin(ACCEPTED_SHARE / guessing.support_share(name, thing.category)):
                options.append((name, 1.0, thing.index))
        elif thing.on is None and standing and thing.category in lifted | LIFTABLE:
            options.append(("floor", 1.0, thing.index))
    chosen = s.by_answer([option for option in options if option[2] in s.simple])
    if chosen is None or (len({option[0] for option in options}) == 1 and s.coin(0.7)):
        return None
    return s.ask("support", chosen[0], {"x": chosen[2]})


# ---- metres: distances between centres, heights and lengths to half a metre, and which is larger ----


def _distance_camera(s: Speaker) -> Question | None:
    values = ((half_metres(s.scene.camera_m[row]), row) for row in s.handled)
    return s.choose("distance_camera", [(value, 1.0, {"x": row}) for value, row in values if value is not None])


def _distance(s: Speaker) -> Question | None:
    pairs = ((a, b) for a in s.handled for b in s.handled if a != b)
    values = ((half_metres(s.scene.distance_m[a][b]), a, b) for a, b in pairs)
    return s.choose("distance", [(value, 1.0, {"x": a, "y": b}) for value, a, b in values if value is not None])


def _lengthy(s: Speaker) -> list[int]:
    """Rows with a name for whose length there is a usual word: objects on the floor except doors and curtains."""
    things = [s.thing(row) for row in s.handled]
    return [t.index for t in things if t.position[2] - t.height / 2 < 0.05 and t.category not in ("door", "curtain")]


def _size(s: Speaker, kind: str, measure: str, usual: guessing.Moments) -> Question | None:
    """Height, or longer horizontal side, of an object whose category does not determine it."""
    options: Options = []
    for row in _lengthy(s) if measure == "length" else s.handled:
        value = half_metres(getattr(s.thing(row), measure))
        if value is not None:
            share = guessing.size_share(usual, s.thing(row).category, value, 0.5)
            options += [(value, 1.0, {"x": row})] if s.coin((1 - share) / share) else []
    return s.choose(kind, options, evenly=False)


def _pair(
    s: Speaker, rows: list[int], exceeds: Callable[[int, int], bool], share: Callable[[str, str], float]
) -> Pair | None:
    """A pair of which the first clearly exceeds the second; orders that the names suggest have a low weight."""
    options: list[Option[Pair]] = []
    for a, b in product(rows, rows):
        if exceeds(a, b) and _told_apart(s, a, b):
            usual = share(s.thing(a).category, s.thing(b).category)
            options += [("", 1.0, (a, b))] if s.coin((1 - usual) / usual) else []
    chosen = s.weighted(options)
    return chosen and chosen[2]


def _which(s: Speaker, kind: str, pair: Pair, more: str = "") -> Question:
    """The question which of a pair exceeds the other; the first is the answer; they are named in random order."""
    words = [s.simple_the(row) for row in pair]
    x, y = s.shuffled(words)
    answers = _naming(s, *pair, words[0])
    return s.ask(kind, answers[0], {"x": x, "y": y, "more": more}, answers[1:])


def _closer_camera(s: Speaker) -> Question | None:
    exceeds = partial(outdoes, s.scene, "nearest_camera")
    pair = _pair(s, s.handled, exceeds, lambda near, far: guessing.greater_share(guessing.REMOTENESS, far, near))
    return pair and _which(s, "closer_camera", pair)


def _compare_size(s: Speaker) -> Question | None:
    more = s.pick(list(COMPARATIVES))
    measure = "length" if more == "longer" else "height"
    rows, usual = (_lengthy(s), guessing.LENGTHS) if measure == "length" else (s.handled, guessing.HEIGHTS)

    def exceeds(a: int, b: int) -> bool:
        first, second = (getattr(s.thing(row), measure) for row in (a, b))
        return bool(first > max(CLEAR_RATIO * second, second + 0.1))

    pair = _pair(s, rows, exceeds, partial(guessing.greater_share, usual))
    return pair and _which(s, "compare_size", pair if COMPARATIVES[more] > 0 else pair[::-1], more=more)


ASK: dict[str, Callable[[Speaker], Question | None]] = {
    "color": partial(_attribute, kind="color", attribute="colour"),
    "material": partial(_attribute, kind="material", attribute="material"),
    "existence": _existence,
    "count": _count,
    "count_attribute": _count_attribute,
    "count_on": _count_on,
    "category_at": _category_at,
    "relation_viewer": partial(_either, kind="relation_viewer", relation="left", converse="right"),
    "relation_depth": partial(_either, kind="relation_depth", relation="front", converse="behind"),
    "relation_objects": _relation_objects,
    "nearest": partial(_remotest, kind="nearest", choice_share=0.5),
    "farthest": partial(_remotest, kind="farthest", choice_share=0.7),
    "on_top": _on_top,
    "support": _support,
    "closer_camera": _closer_camera,
    "compare_size": _compare_size,
    "distance_camera": _distance_camera,
    "distance": _distance,
    "size_height": partial(_size, kind="size_height", measure="height", usual=guessing.HEIGHTS),
    "size_length": partial(_size, kind="size_length", measure="length", usual=guessing.LENGTHS),
    "situated_direction": ask_direction,
    "situated_exists": ask_exists_there,
    "situated_object": ask_object_there,
    "situated_count": ask_count_there,
    "room_type": lambda s: s.ask("room_type", s.scene.room_type, {}) if s.scene.room_type else None,
}


def make_questions(speaker: Speaker, number: int) -> tuple[Question, ...]:
    """Up to ``number`` different questions; fewer for an almost empty scene."""
    return collected(speaker, ASK, lambda q: (q.question, q.situation), number, once=("room_type",))
