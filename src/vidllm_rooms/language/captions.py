"""Captions with several references each: of one object with its appearance, size and place, or of the whole room.

Slots for objects: {a} "a red chair", {mat_full} "a red wooden chair", {name} "chair", {color}, {mat} "wood",
{place} "next to the table", {size} "about 1 meter tall".
"""

from __future__ import annotations

from vidllm.datasets.language import Caption
from vidllm.english import capitalised, counted, listing, metres, number_word, plural, with_article
from vidllm_rooms.language.facts import Thing
from vidllm_rooms.language.speaker import PHRASES, RELATIONS, Description, Speaker

OBJECT_TEMPLATES: list[str] = PHRASES["object_captions"]
ROOM_TEMPLATES: list[str] = PHRASES["room_captions"]
OBJECT_REFERENCES, ROOM_REFERENCES, MOST_ITEMS = 5, 4, 5


def make_captions(s: Speaker, objects: int) -> tuple[Caption, ...]:
    """Captions of the room and of up to ``objects`` objects, well visible ones first."""
    rows = sorted(s.shuffled(s.scene.shown), key=lambda row: s.thing(row).fraction < 0.01)
    room = dict.fromkeys(_room_text(s, template) for template in s.shuffled(ROOM_TEMPLATES))
    return (Caption(None, tuple(room)[:ROOM_REFERENCES]), *(_object(s, s.thing(row)) for row in rows[:objects]))


def _object(s: Speaker, thing: Thing) -> Caption:
    templates = [t for t in OBJECT_TEMPLATES if "{mat" not in t or thing.material != "leaf"]
    texts = [_object_text(s, thing, template) for template in s.shuffled(templates)]
    return Caption(thing.id, tuple(dict.fromkeys(texts))[:OBJECT_REFERENCES])


def _object_text(s: Speaker, thing: Thing, template: str) -> str:
    text = template.format(
        a=with_article(f"{thing.colour} {thing.category}"),
        mat_full=with_article(Description(thing.category, thing.colour, thing.material).noun()),
        name=thing.category,
        color=thing.colour,
        mat=thing.material,
        place=_place(s, thing),
        size=_size(thing),
    )
    return capitalised(text)


def _place(s: Speaker, thing: Thing) -> str:
    """Place of an object: on its support, in a clear relation to a near object, or relative to the first view."""
    here = thing.index
    if thing.on is not None and thing.on in s.simple and s.coin(0.6):
        return f"{s.pick(RELATIONS['on'][:2])} {s.simple_the(thing.on)}"
    close = [row for row in s.handled if row != here and s.scene.gap_m[here][row] < 1.5]
    for other in s.shuffled(close)[:4]:
        holding = [name for name, table in s.scene.relations.items() if name != "on" and table[here][other] > 0]
        if holding:
            return f"{s.pick(RELATIONS[s.pick(holding)])} {s.simple_the(other)}"
    x, y, _ = thing.position
    beside = "on the left" if x < 0 else "on the right"
    side = "behind the first view" if y < 0 else "straight ahead" if abs(x) < 0.4 * y else beside
    return f"{side}, about {metres(max(0.5, round(s.scene.camera_m[here] * 2) / 2))} from the camera"


def _size(thing: Thing) -> str:
    value, word = (thing.height, "tall") if thing.height >= thing.length else (thing.length, "long")
    return f"about {metres(round(value * 2) / 2)} {word}" if value >= 0.75 else f"less than 1 meter {word}"


def _room_text(s: Speaker, template: str) -> str:
    """The room's kind and shape, and the main furniture with counts and colours."""
    kind = s.scene.room_type or "room"
    shape = PHRASES["shapes"].get(s.scene.shape, "irregular")
    items = _room_items(s) or ["little furniture"]
    text = template.format(
        a_room=with_article(f"{shape} {kind}"),
        room=f"{shape} {kind}",
        a_type=with_article(kind),
        shape=shape,
        there="there is" if items[0].startswith(("a ", "an ", "little ")) else "there are",
        items=listing(items),
    )
    return capitalised(text)


def _room_items(s: Speaker) -> list[str]:
    """Phrases like "two red chairs" for the categories with the largest things, largest first."""
    groups: dict[str, list[Thing]] = {}
    for thing in s.shown:
        groups.setdefault(thing.category, []).append(thing)
    largest = sorted(groups.values(), key=lambda things: -max(int(1000 * thing.volume) for thing in things))
    return [_group_words(s, things[0].category, things) for things in largest[:MOST_ITEMS]]


def _group_words(s: Speaker, name: str, things: list[Thing]) -> str:
    colours = [thing.colour for thing in things]
    if len(set(colours)) == 1:
        return counted(len(things), f"{colours[0]} {name}" if s.coin(0.8) else name)
    if len(things) == 2 and s.coin(0.6):
        return f"{with_article(f'{colours[0]} {name}')} and {with_article(f'{colours[1]} one')}"
    return f"{number_word(len(things))} {plural(name)}"
