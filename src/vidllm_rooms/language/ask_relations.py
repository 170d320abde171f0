"""Questions about where things are, to the viewer at the start and to each other."""

from __future__ import annotations

from vidllm.datasets.language import Question
from vidllm_rooms.language.ask_things import TRIES, carried
from vidllm_rooms.language.describe import RELATION_WORDS, outdoes
from vidllm_rooms.language.priors import load_share, present_share, support_share
from vidllm_rooms.language.speaker import Option, Speaker, choice_answers, told_apart

ABOUT_M = 1.5  # what is beyond this free space is not said to be beside something
LIFTABLE = {"box", "ball", "plant", "vase", "basket"}
ACCEPTED_SHARE = 0.25  # what is more usual on a support is asked the more rarely
VIEWER_RELATIONS = ("left", "right", "front", "behind")


def ask_relation_viewer(s: Speaker) -> Question | None:
    """Left or right, each half of the time."""
    return _either(s, "relation_viewer", "left", "right")


def ask_relation_depth(s: Speaker) -> Question | None:
    """In front or behind, each half of the time."""
    return _either(s, "relation_depth", "front", "behind")


def _either(s: Speaker, kind: str, relation: str, converse: str) -> Question | None:
    table = s.scene.relations[relation]
    pairs = [(a, b) for a in s.handled for b in s.handled if table[a][b] > 0]
    if not pairs:
        return None
    a, b = s.pick(pairs)
    swap = s.coin()
    a, b = (b, a) if swap else (a, b)
    return s.ask(kind, converse if swap else relation, x=s.simple_the(a), y=s.simple_the(b))


def ask_relation_objects(s: Speaker) -> Question | None:
    """Whether a relation holds: yes and no half each, within every relation."""
    for relation in s.shuffled(list(s.scene.relations)):
        true = _true_pairs(s, relation)
        false = _false_pairs(s, relation, true)
        if true and false:
            yes = s.coin()
            a, b = s.pick(true if yes else false)
            slots = {"rel": s.pick(RELATION_WORDS[relation]), "x": s.simple_the(a), "y": s.simple_the(b)}
            return s.ask("relation_objects", "yes" if yes else "no", **slots)
    return None


def _true_pairs(s: Speaker, relation: str) -> list[tuple[int, int]]:
    table = s.scene.relations[relation]
    return [(a, b) for a in s.handled for b in s.handled if table[a][b] > 0]


def _false_pairs(s: Speaker, relation: str, true: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Pairs that are clearly not so, of things that elsewhere are: a cup that stands on another table."""
    table = s.scene.relations[relation]
    firsts, seconds = dict.fromkeys(a for a, _ in true), dict.fromkeys(b for _, b in true)
    return [(a, b) for a in firsts for b in seconds if a != b and table[a][b] < 0]


def ask_category_at(s: Speaker) -> Question | None:
    """What stands in a direction of a thing, where only one kind of object does."""
    options: list[Option[tuple[str, int]]] = []
    for relation in ("left", "right", "front", "behind", "near", "above", "under"):
        for anchor in s.handled:
            name = _only_category(s, relation, anchor)
            if name is not None:
                options.append((name, 1 / present_share(name), (relation, anchor)))
    chosen = s.weighted(options)
    if chosen is None:
        return None
    relation, anchor = chosen[2]
    return s.ask("category_at", chosen[0], rel=s.pick(RELATION_WORDS[relation]), y=s.simple_the(anchor))


def _only_category(s: Speaker, relation: str, anchor: int) -> str | None:
    """The one category of the things about the anchor that are in the relation, or could be thought to be."""
    clear: set[str] = set()
    possible: set[str] = set()
    for row, thing in enumerate(s.scene.things):
        if row == anchor or s.scene.gap_m[row][anchor] > ABOUT_M or s.scene.relations[relation][row][anchor] < 0:
            continue
        if s.scene.relations["on"][row][anchor] != -1 or s.scene.relations["on"][anchor][row] != -1:
            continue
        inside, doubtful = _in_cone(s, relation, row, anchor)
        if inside and thing.shown and s.scene.relations[relation][row][anchor] > 0:
            clear.add(thing.category)
        elif doubtful:
            possible.add(thing.category)
    clear_answer = len(clear) == 1 and possible <= clear and s.thing(anchor).category not in clear
    return clear.pop() if clear_answer else None


def _in_cone(s: Speaker, relation: str, row: int, anchor: int) -> tuple[bool, bool]:
    """Whether the row lies within 45 degrees of the direction, and whether within about 65."""
    if relation not in VIEWER_RELATIONS:
        return True, True
    here, there = s.thing(row).position, s.thing(anchor).position
    sideways, ahead = here[0] - there[0], here[1] - there[1]
    along = {"left": -sideways, "right": sideways, "front": -ahead, "behind": ahead}[relation]
    across = abs(ahead) if relation in ("left", "right") else abs(sideways)
    return along > across, along > 0.5 * across


def ask_nearest(s: Speaker) -> Question | None:
    """The kind of the object nearest to a thing, or the nearer of two."""
    return _choice(s, "nearest") if s.coin() else _extreme(s, "nearest")


def ask_farthest(s: Speaker) -> Question | None:
    """The kind of the object farthest from a thing, or the farther of two."""
    return _choice(s, "farthest") if s.coin(0.7) else _extreme(s, "farthest")


def _extreme(s: Speaker, kind: str) -> Question | None:
    options: list[Option[int]] = []
    for anchor in s.handled:
        row = _clear_extreme(s, kind, anchor)
        if row is not None:
            name = s.thing(row).category
            options.append((name, 1 / present_share(name), anchor))
    chosen = s.weighted(options)
    return chosen and s.ask(kind, chosen[0], y=s.simple_the(chosen[2]))


def _clear_extreme(s: Speaker, kind: str, anchor: int) -> int | None:
    """The row that is nearest (farthest) by centres with a clear lead over other kinds, and also by free space."""
    sign = 1 if kind == "nearest" else -1
    distance, gap = s.scene.distance_m[anchor], s.scene.gap_m[anchor]
    rows = [row for row in range(len(s.scene.things)) if row != anchor]
    if len(rows) < 3:
        return None
    best = min(rows, key=lambda row: sign * distance[row])
    others = [row for row in rows if s.thing(row).category != s.thing(best).category]
    clear = all(outdoes(s.scene, kind, best, row, anchor) and sign * (gap[row] - gap[best]) > -0.1 for row in others)
    return best if others and clear and s.thing(best).shown else None


def _choice(s: Speaker, kind: str) -> Question | None:
    """Which of two, named in either order."""
    for _ in range(2 * TRIES if len(s.handled) > 2 else 0):
        anchor, a, b = s.shuffled(s.handled)[:3]
        if not told_apart(s, a, b):
            continue
        for winner, loser in ((a, b), (b, a)):
            if outdoes(s.scene, kind, winner, loser, anchor):
                slots = {"x": s.simple_the(a), "y": s.simple_the(b), "z": s.simple_the(anchor)}
                answers = choice_answers(s, winner, loser, slots["x" if winner == a else "y"])
                return s.ask(kind, answers[0], answers[1:], template=f"{kind}_choice", **slots)
    return None


def ask_on_top(s: Speaker) -> Question | None:
    """What stands on a thing that carries one kind of object only."""
    options: list[Option[int]] = []
    for row in s.handled:
        load = carried(s, row)
        names = {s.thing(item).category for item in load or ()}
        if len(names) == 1:
            name = names.pop()
            share = load_share(s.thing(row).category, name)
            options += [(name, 1 / share, row)] if s.coin(ACCEPTED_SHARE / share) else []
    chosen = s.weighted(options)
    return chosen and s.ask("on_top", chosen[0], y=s.simple_the(chosen[2]))


def ask_support(s: Speaker) -> Question | None:
    """What carries a thing: furniture, or the floor for such things as elsewhere stand on furniture."""
    lifted = {t.category for t in s.scene.things if t.on is not None}
    options: list[Option[int]] = []
    for row in s.scene.shown:
        thing = s.thing(row)
        standing = thing.position[2] - thing.height / 2 < 0.05
        if thing.on is not None and thing.on >= 0 and s.thing(thing.on).shown:
            name = s.thing(thing.on).category
            if s.coin(ACCEPTED_SHARE / support_share(name, thing.category)):
                options.append((name, 1.0, row))
        elif thing.on is None and standing and thing.category in lifted | LIFTABLE:
            options.append(("floor", 1.0, row))
    chosen = s.by_answer([option for option in options if option[2] in s.simple])
    if chosen is None or (len({option[0] for option in options}) == 1 and s.coin(0.7)):
        return None
    return s.ask("support", chosen[0], x=s.simple_the(chosen[2]))
