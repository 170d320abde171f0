"""Questions about what there is: colour, material, existence, counts and the kind of room."""

from __future__ import annotations

from vidllm.datasets.language import Question
from vidllm.datasets.words import plural, with_article
from vidllm_rooms.language.describe import Description
from vidllm_rooms.language.priors import (
    CATEGORIES,
    MOST,
    UNCOUNTED,
    count_share,
    material_share,
    possible_counts,
    present_share,
)
from vidllm_rooms.language.speaker import Option, Speaker, count_answers
from vidllm_rooms.world import COLOURS

TRIES = 6


def ask_color(s: Speaker) -> Question | None:
    """The colour of one thing; the world draws colours evenly for every category."""
    things = [s.thing(row) for row in s.scene.shown]
    options: list[Option[int]] = [(t.colour, 1.0, t.index) for t in things]
    for _ in range(TRIES):
        chosen = s.by_answer(options)
        words = chosen and s.the(chosen[2], without="colour")
        if chosen and words:
            return s.ask("color", chosen[0], x=words)
    return None


def ask_material(s: Speaker) -> Question | None:
    """The material of one thing; not asked where the category tells it."""
    options: list[Option[int]] = []
    for thing in (s.thing(row) for row in s.scene.shown):
        share = material_share(thing.category, thing.material)
        if share < 0.9:
            options.append((thing.material, 1.0, thing.index))
    for _ in range(TRIES):
        chosen = s.by_answer(options)
        words = chosen and s.the(chosen[2], without="material")
        if chosen and words:
            return s.ask("material", chosen[0], x=words)
    return None


def known_names(s: Speaker) -> list[str]:
    """Categories of the world and of the scene that can be spoken of without mistake."""
    names = dict.fromkeys((*CATEGORIES, *(t.category for t in s.scene.things)))
    return [name for name in names if s.scene.plain(name)]


def ask_existence(s: Speaker) -> Question | None:
    """Yes or no, half each: a category, or a category in a colour of which there is another one."""
    yes = s.coin()
    chosen = s.weighted(_colour_existence(s, yes) if s.coin(0.6) else _category_existence(s, yes))
    return chosen and s.ask("existence", chosen[0], one=with_article(chosen[2]))


def _category_existence(s: Speaker, yes: bool) -> list[Option[str]]:
    """Present categories weighed by their rarity, absent ones by how often they are present."""
    options: list[Option[str]] = []
    for name in known_names(s):
        rows = s.scene.named(name)
        share = present_share(name)
        if yes and any(s.thing(row).shown for row in rows):
            options.append(("yes", 1 - share, name))
        if not yes and not rows:
            options.append(("no", share, name))
    return options


def _colour_existence(s: Speaker, yes: bool) -> list[Option[str]]:
    options: list[Option[str]] = []
    for thing in (s.thing(row) for row in s.scene.shown):
        if yes:
            options.append(("yes", 1.0, Description(thing.category, thing.colour).noun()))
            continue
        taken = {s.thing(row).colour for row in s.scene.named(thing.category)}
        free = [colour for colour in COLOURS if colour not in taken]
        options += [("no", 1 / len(free), Description(thing.category, colour).noun()) for colour in free]
    return options


def ask_count(s: Speaker) -> Question | None:
    """How many of a category: every usual count of a category about equally often, categories that vary preferred."""
    options: list[Option[str]] = []
    for name in known_names(s):
        rows = s.scene.named(name)
        if len(rows) <= MOST and not s.scene.faint(rows) and name not in UNCOUNTED:
            weight = (possible_counts(name) - 1) ** 2 / count_share(name, len(rows))
            options.append((str(len(rows)), weight * max(1, len(rows)), name))
    chosen = s.weighted(options)
    return chosen and _count(s, "count", chosen[0], many=plural(chosen[2]))


def ask_count_attribute(s: Speaker) -> Question | None:
    """How many of a colour, alone or within a category."""
    names = dict.fromkeys(s.thing(row).category for row in s.scene.shown)
    options: list[Option[Description]] = []
    for name in ("object", *(n for n in names if n not in UNCOUNTED)):
        for colour in COLOURS:
            description = Description(name, colour)
            rows = description.select(s.scene)
            if rows is not None and len(rows) <= MOST:
                options.append((str(len(rows)), 2.0 if name == "object" else 1.0, description))
    chosen = s.by_answer(options)
    return chosen and _count(s, "count_attribute", chosen[0], many=chosen[2].noun(many=True))


def carried(s: Speaker, row: int) -> list[int] | None:
    """Rows that stand on the row; None unless all of them are well visible."""
    rows = [t.index for t in s.scene.things if t.on == row]
    return None if s.scene.faint(rows) or len(rows) != s.thing(row).carries else rows


def ask_count_on(s: Speaker) -> Question | None:
    """How many things, or things of a category, stand on a piece of furniture."""
    loads = {row: carried(s, row) for row in s.handled}
    kinds = {s.thing(row).category for row, load in loads.items() if load}
    small = sorted({s.thing(item).category for load in loads.values() for item in load or ()} - set(UNCOUNTED))
    options: list[Option[tuple[str, int]]] = []
    for row, load in loads.items():
        if load is None or s.thing(row).category not in kinds:
            continue
        if any(s.thing(item).category in UNCOUNTED for item in load):
            continue
        for name in ("object", *small):
            number = sum(name in ("object", s.thing(item).category) for item in load)
            options.append((str(number), 1.0, (name, row)))
    chosen = s.by_answer(options, {"1": 3.0})
    return chosen and _count(s, "count_on", chosen[0], many=plural(chosen[2][0]), y=s.simple_the(chosen[2][1]))


def _count(s: Speaker, kind: str, number: str, **slots: str) -> Question:
    return s.ask(kind, number, count_answers(int(number)), **slots)


def ask_room_type(s: Speaker) -> Question | None:
    """The kind of room."""
    return s.ask("room_type", s.scene.room_type) if s.scene.room_type else None
