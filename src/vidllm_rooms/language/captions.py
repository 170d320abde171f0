"""Captions with several references each: one object with its looks, size and place, or the whole room."""

from __future__ import annotations

from collections import Counter

from vidllm.datasets.language import Caption
from vidllm.datasets.words import capitalised, counted, listing, metres, number_word, plural, with_article
from vidllm_rooms.language.describe import RELATION_WORDS
from vidllm_rooms.language.facts import Thing
from vidllm_rooms.language.speaker import Speaker

#: {a} "a red chair", {name} "chair", {color}, {mat} "wood", {place} "next to the table", {size} "about 1 meter tall".
OBJECT_TEMPLATES: tuple[str, ...] = (
    "This is {a}. It is {place}.",
    "{a} {place}.",
    "There is {a} made of {mat} {place}.",
    "The {name} is {color} and made of {mat}. It is {place}.",
    "{a}, {size}, {place}.",
    "A {color} {mat_adj} {name} that is {place}.",
    "This {name} is {color}. You can find it {place}.",
    "It is {a} {place}, made of {mat}.",
    "{place} there is {a}, {size}.",
    "The {color} {name} {place}. It is {size}.",
)
ROOM_TEMPLATES: tuple[str, ...] = (
    "{a_room} with {items}.",
    "This is {a_room}. It has {items}.",
    "The video shows {a_room} with {items}.",
    "{a_room} furnished with {items}.",
    "In this {room} {there} {items}.",
    "{there} {items} in this {room}.",
    "A look around {a_room}: one sees {items}.",
    "The room is {a_type} and its floor is {shape}. You can see {items}.",
)
OBJECT_REFERENCES, ROOM_REFERENCES = 5, 4
SHAPES = {"rectangle": "rectangular", "square": "square", "L": "L-shaped", "T": "T-shaped"}
FACES = ("left", "right", "front", "behind", "near", "above", "under")


def caption_object(s: Speaker, row: int) -> Caption:
    """Five captions of a thing."""
    thing = s.thing(row)
    templates = [t for t in OBJECT_TEMPLATES if "{mat" not in t or thing.material != "leaf"]
    texts = [_object_text(s, thing, template) for template in s.shuffled(templates)]
    return Caption(thing.id, tuple(dict.fromkeys(texts))[:OBJECT_REFERENCES])


def _object_text(s: Speaker, thing: Thing, template: str) -> str:
    material = {"wood": "wooden"}.get(thing.material, thing.material)
    if template.startswith("A {color}"):
        template = template.replace("A {color} {mat_adj} {name}", "{full}")
    text = template.format(
        a=with_article(f"{thing.colour} {thing.category}"),
        full=with_article(f"{thing.colour} {material} {thing.category}"),
        name=thing.category,
        color=thing.colour,
        mat=thing.material,
        place=_place(s, thing),
        size=_size(thing),
    )
    return capitalised(text)


def _place(s: Speaker, thing: Thing) -> str:
    """Where it is: on its support, in a clear relation to something near, or as the first view has it."""
    here = thing.index
    if thing.on is not None and thing.on in s.simple and s.coin(0.6):
        return f"{s.pick(RELATION_WORDS['on'][:2])} {s.simple_the(thing.on)}"
    close = [row for row in s.handled if row != here and s.scene.gap_m[here][row] < 1.5]
    for other in s.shuffled(close)[:4]:
        holding = [name for name in FACES if s.scene.relations[name][here][other] > 0]
        if holding:
            return f"{s.pick(RELATION_WORDS[s.pick(holding)])} {s.simple_the(other)}"
    return _place_in_view(s, thing)


def _place_in_view(s: Speaker, thing: Thing) -> str:
    """Bearing and distance at the start."""
    x, y, _ = thing.position
    beside = "on the left" if x < 0 else "on the right"
    side = "behind the first view" if y < 0 else "straight ahead" if abs(x) < 0.4 * y else beside
    return f"{side}, about {metres(max(0.5, round(s.scene.camera_m[thing.index] * 2) / 2))} from the camera"


def _size(thing: Thing) -> str:
    value = thing.height if thing.height >= thing.length else thing.length
    word = "tall" if thing.height >= thing.length else "long"
    return f"about {metres(round(value * 2) / 2)} {word}" if value >= 0.75 else f"less than 1 meter {word}"


def caption_room(s: Speaker) -> Caption:
    """Four captions of the room: its kind and shape, and the main furniture with counts and colours."""
    texts = dict.fromkeys(_room_text(s, template) for template in s.shuffled(ROOM_TEMPLATES))
    return Caption(None, tuple(texts)[:ROOM_REFERENCES])


def _room_text(s: Speaker, template: str) -> str:
    kind = s.scene.room_type or "room"
    shape = SHAPES.get(s.scene.shape, "irregular")
    items = room_items(s) or ["little furniture"]
    text = template.format(
        a_room=with_article(f"{shape} {kind}"),
        room=f"{shape} {kind}",
        a_type=with_article(kind),
        shape=shape,
        there="there is" if items[0].startswith(("a ", "an ", "little ")) else "there are",
        items=listing(items),
    )
    return capitalised(text)


def room_items(s: Speaker, most: int = 5) -> list[str]:
    """Phrases like "two red chairs" for the categories with the largest things, largest first."""
    volume: Counter[str] = Counter()
    groups: dict[str, list[Thing]] = {}
    for thing in (s.thing(row) for row in s.scene.shown):
        groups.setdefault(thing.category, []).append(thing)
        volume[thing.category] = max(volume[thing.category], int(1000 * thing.volume))
    chosen = [name for name, _ in volume.most_common(most)]
    return [_group_words(s, name, groups[name]) for name in chosen]


def _group_words(s: Speaker, name: str, things: list[Thing]) -> str:
    colours = [thing.colour for thing in things]
    if len(set(colours)) == 1:
        return counted(len(things), f"{colours[0]} {name}" if s.coin(0.8) else name)
    if len(things) == 2 and s.coin(0.6):
        return f"{with_article(f'{colours[0]} {name}')} and {with_article(f'{colours[1]} one')}"
    return f"{number_word(len(things))} {plural(name)}"


def make_captions(s: Speaker, objects: int) -> tuple[Caption, ...]:
    """The room's caption and those of up to ``objects`` things, drawn from the well visible ones first."""
    rows = s.shuffled(s.scene.shown)
    rows.sort(key=lambda row: s.thing(row).fraction < 0.01)
    return (caption_room(s), *(caption_object(s, row) for row in rows[:objects]))
