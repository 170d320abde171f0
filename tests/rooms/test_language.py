"""The language of the rooms: answers re-derived from the scene, unique references, balanced answers, phrasings."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable

import numpy as np
import pytest
from guessing import answer_counts

from vidllm.datasets.language import Language, Question
from vidllm.english import NUMBER_WORDS, answer_matches, plural
from vidllm_rooms.language import make_language
from vidllm_rooms.language.captions import OBJECT_TEMPLATES, ROOM_TEMPLATES
from vidllm_rooms.language.facts import observe
from vidllm_rooms.language.guessing import COUNTS
from vidllm_rooms.language.questions import ASK
from vidllm_rooms.language.references import REFER, REQUESTS, REQUESTS_MANY
from vidllm_rooms.language.situations import SIDE_WORDS, SITUATIONS
from vidllm_rooms.language.speaker import QUESTIONS, RELATIONS, Speaker
from vidllm_rooms.world import COLOURS, Clip, Room, RoomObject
from vidllm_rooms.world.catalogue import CATALOGUE
from vidllm_rooms.world.layout import build_room

SIZES = {
    "chair": (0.45, 0.45, 0.9),
    "sofa": (1.9, 0.8, 0.8),
    "table": (1.4, 0.8, 0.75),
    "desk": (1.3, 0.6, 0.74),
    "bed": (1.6, 2.0, 0.6),
    "wardrobe": (1.2, 0.6, 2.0),
    "plant": (0.4, 0.4, 1.1),
    "box": (0.35, 0.35, 0.3),
    "floor lamp": (0.35, 0.35, 1.6),
    "gramophone": (0.4, 0.4, 0.5),
}
SMALL = {"book": (0.2, 0.15, 0.04), "cup": (0.08, 0.08, 0.1), "vase": (0.12, 0.12, 0.3), "box": (0.2, 0.2, 0.2)}
MATERIALS = ("wood", "metal", "plastic", "fabric")
HEIGHT, WIDTH, FOCAL, PITCH = 56, 70, 35.0, 0.2
ROOMS = 48


def thing(
    number: int, category: str, colour: str, centre: tuple[float, float, float],
    size: tuple[float, float, float], on: int | None = None, material: str = "wood", yaw: float = 0.0,
) -> RoomObject:  # fmt: skip
    return RoomObject(number, category, colour, material, centre, size, yaw, on, ())


def fake_room(seed: int) -> Room:
    """Furniture on a jittered grid of 7 x 6 m, small things on tables and desks, a picture on the wall."""
    rng = np.random.default_rng(seed)
    objects: list[RoomObject] = []
    cells = [(x, y) for x in (1.0, 2.8, 4.6, 6.2) for y in (1.5, 3.2, 5.0)]
    colours = list(COLOURS)

    def add(category: str, x: float, y: float, z: float, size: tuple[float, float, float], on: int | None) -> int:
        colour, material = colours[rng.integers(12)], MATERIALS[rng.integers(4)]
        number, yaw = len(objects) + 1, float(rng.integers(4)) * math.pi / 2
        scaled = tuple(float(side * rng.uniform(0.85, 1.15)) for side in size)
        centre = (x, y, z + scaled[2] / 2)
        objects.append(thing(number, category, colour, centre, scaled, on, material, yaw))
        return number

    for index in rng.permutation(len(cells))[: int(rng.integers(6, 11))]:
        name = list(SIZES)[rng.integers(len(SIZES))]
        x, y = (float(v + rng.uniform(-0.2, 0.2)) for v in cells[index])
        number = add(name, x, y, 0.0, SIZES[name], None)
        if name in ("table", "desk"):
            top = objects[-1].size[2]
            for step in range(int(rng.integers(0, 3))):
                small = list(SMALL)[rng.integers(len(SMALL))]
                add(small, x + 0.35 * step - 0.2, y, top, SMALL[small], number)
    add("picture", float(rng.uniform(1, 6)), 6.0, 1.4, (0.6, 0.05, 0.5), None)
    polygon = ((0.0, 0.0), (7.0, 0.0), (7.0, 6.0), (0.0, 6.0))
    return Room(seed, "rectangle", "office", polygon, 2.6, (), tuple(objects), ())


def look(eye: tuple[float, float, float], heading: float, pitch: float = PITCH) -> np.ndarray:
    """Camera-from-room (4, 4) of an upright camera at ``eye`` turned ``heading`` from x, looking down by ``pitch``."""
    level = np.array([math.cos(heading), math.sin(heading), 0.0])
    right = np.array([level[1], -level[0], 0.0])
    forward = level * math.cos(pitch) - np.array([0.0, 0.0, math.sin(pitch)])
    rotation = np.stack([right, np.cross(forward, right), forward])
    extrinsics = np.eye(4)
    extrinsics[:3, :3], extrinsics[:3, 3] = rotation, -rotation @ np.array(eye)
    return extrinsics


def fake_clip(room: Room, seed: int = 0, frames: int = 4) -> Clip:
    """A clip of flat rectangles: every object's projected bounds, nearer ones over farther ones."""
    rng = np.random.default_rng(seed)
    corner = np.array(room.polygon).min(0) + 0.2
    eye = (float(corner[0]), float(corner[1]), 1.5)
    start = math.pi / 4 + rng.uniform(-0.2, 0.2)
    extrinsics = np.stack([look(eye, start + 0.15 * math.sin(1.5 * f)) for f in range(frames)])
    instance = np.stack([_paint(room, camera) for camera in extrinsics])
    shape = instance.shape
    intrinsics = np.tile(np.array([[FOCAL, 0, WIDTH / 2], [0, FOCAL, HEIGHT / 2], [0, 0, 1]]), (frames, 1, 1))
    return Clip(room, np.zeros((*shape, 3), np.uint8), np.ones(shape, np.float32), instance, extrinsics, intrinsics)


def _paint(room: Room, extrinsics: np.ndarray) -> np.ndarray:
    frame = np.zeros((HEIGHT, WIDTH), np.uint8)
    drawn = []
    for item in room.objects:
        signs = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)]) / 2
        local = signs * item.size
        turn = np.array([[math.cos(item.yaw), -math.sin(item.yaw)], [math.sin(item.yaw), math.cos(item.yaw)]])
        corners = np.concatenate([local[:, :2] @ turn.T, local[:, 2:]], 1) + item.centre
        seen = corners @ extrinsics[:3, :3].T + extrinsics[:3, 3]
        if seen[:, 2].min() > 0.2:
            drawn.append((seen[:, 2].mean(), item.id, FOCAL * seen[:, :2] / seen[:, 2:] + (WIDTH / 2, HEIGHT / 2)))
    for _, number, pixels in sorted(drawn, key=lambda entry: -entry[0]):
        left, top = np.maximum(pixels.min(0), 0).astype(int)
        right, bottom = np.maximum(pixels.max(0), 0).astype(int)
        frame[top : bottom + 1, left : right + 1] = number
    return frame


class Told:
    """A clip with its language, and the scene measured once more, by other means than the code under test."""

    def __init__(self, seed: int) -> None:
        self.clip = fake_clip(fake_room(seed), seed)
        self.language: Language = make_language(self.clip, np.random.default_rng(seed))
        self.things = {i: self.clip.room.object(i) for i in self.clip.visible()}
        extrinsics = self.clip.extrinsics[0]
        self.view: dict[int, np.ndarray] = {}
        for number, item in self.things.items():
            x, y, z = extrinsics[:3, :3] @ np.array(item.centre) + extrinsics[:3, 3]
            level = z * math.cos(PITCH) - y * math.sin(PITCH)
            self.view[number] = np.array([x, level, -z * math.sin(PITCH) - y * math.cos(PITCH)])
        self.phrases = self._phrases()

    def _phrases(self) -> dict[str, int]:
        """Noun phrases by name, colour and material that fit one visible thing only."""
        found: dict[str, set[int]] = defaultdict(set)
        for number, item in self.things.items():
            material = "wooden" if item.material == "wood" else item.material
            for words in (item.category, f"{item.colour} {item.category}", f"{material} {item.category}"):
                found[f"the {words}"].add(number)
        return {words: numbers.pop() for words, numbers in found.items() if len(numbers) == 1}

    def mentioned(self, text: str) -> list[int]:
        """Ids of the things that a text names, in order."""
        options = sorted(self.phrases, key=len, reverse=True)
        return [self.phrases[m] for m in re.findall(rf"\b({'|'.join(options)})\b", text[:1].lower() + text[1:])]

    def far(self, first: int, second: int) -> float:
        """Distance between two centres."""
        return float(np.linalg.norm(np.array(self.things[first].centre) - self.things[second].centre))

    def counted(self, text: str, among: list[int] | None = None) -> int:
        """How many things the plural in a text means: "chairs", "red chairs", "red objects"."""
        plurals = {plural(name): name for name in (*SIZES, *SMALL, "picture", "object", *ABSENT)}
        words = re.search(rf"(?:({'|'.join(COLOURS)}) )?\b({'|'.join(sorted(plurals, key=len, reverse=True))})\b", text)
        assert words, text
        colour, name = words[1], plurals[words[2]]
        rows = list(self.things) if among is None else among
        chosen = [self.things[i] for i in rows if name in ("object", self.things[i].category)]
        return sum(colour in (None, item.colour) for item in chosen)

    def names(self, question: Question, number: int) -> bool:
        """Whether the answer fits the thing: its category, or words that mean it."""
        answer = question.answers[0]
        return answer == self.things[number].category or self.phrases.get(f"the {answer}") == number


#: Categories of the world that fake rooms never hold.
ABSENT = tuple(name for name in CATALOGUE if name not in SIZES and name not in SMALL and name != "picture")


@pytest.fixture(scope="module")
def told() -> list[Told]:
    return [Told(seed) for seed in range(ROOMS)]


def side_from(t: Told, situation: str, number: int) -> str:
    """left, right, front or behind of a thing for someone in a situation, by complex arithmetic in the room frame."""
    place, target = (complex(*t.things[i].centre[:2]) for i in t.mentioned(situation)[:2])
    away = any(words in situation for words in ("back", "behind", "away"))
    turned = (complex(*t.things[number].centre[:2]) - place) / (target - place) * (-1 if away else 1)
    if abs(turned.real) > abs(turned.imag):
        return "front" if turned.real > 0 else "behind"
    return "left" if turned.imag > 0 else "right"


def said_side(text: str) -> str:
    return next(side for side, words in SIDE_WORDS.items() if any(w in text for w in words))


def relation_holds(t: Told, text: str, first: int, second: int) -> bool:
    pairs = [(name, word) for name, words in RELATIONS.items() for word in words]
    name = next(n for n, word in sorted(pairs, key=lambda p: -len(p[1])) if f" {word} the" in text)
    a, b = t.view[first], t.view[second]
    low, high = (np.array(t.things[i].centre)[2] - t.things[i].size[2] / 2 for i in (first, second))
    return {
        "left": lambda: a[0] < b[0],
        "right": lambda: a[0] > b[0],
        "front": lambda: a[1] < b[1],
        "behind": lambda: a[1] > b[1],
        "near": lambda: t.far(first, second) < 2.0,
        "above": lambda: low > high + t.things[second].size[2],
        "under": lambda: high > low + t.things[first].size[2],
        "on": lambda: t.things[first].on == second,
    }[name]()


def attribute_true(t: Told, q: Question, name: str) -> bool:
    found = t.mentioned(q.question)
    values = {getattr(item, name) for item in t.things.values()}
    alone = len(found) == 1 and not any(w in q.question for w in ("est ", "most", " to ", " of the ", " on the"))
    return q.answers[0] == getattr(t.things[found[0]], name) if alone else q.answers[0] in values


def existence_true(t: Told, q: Question) -> bool:
    text = q.question
    names = sorted({*SIZES, *SMALL, "picture", *ABSENT}, key=len, reverse=True)
    words = re.search(rf"\b[Aa]n? (?:({'|'.join(COLOURS)}) )?({'|'.join(names)})\b", text)
    assert words, text
    there = any(i.category == words[2] and words[1] in (None, i.colour) for i in t.things.values())
    return there == (q.answers[0] == "yes")


def compare_true(t: Told, q: Question) -> bool:
    a, b = t.mentioned(q.question)
    side = (lambda i: max(t.things[i].size[:2])) if "longer" in q.question else (lambda i: t.things[i].size[2])
    less = "shorter" in q.question or "less" in q.question
    return t.names(q, (min if less else max)((a, b), key=side))


def extreme_true(t: Told, q: Question, choose: Callable[..., int]) -> bool:
    found = t.mentioned(q.question)
    if len(found) == 1:
        return t.names(q, choose((i for i in t.things if i != found[0]), key=lambda i: t.far(i, found[0])))
    anchor = found[0] if q.question.startswith(("Which", "What")) else found[-1]
    return t.names(q, choose((i for i in found if i != anchor), key=lambda i: t.far(i, anchor)))


def situated_object_true(t: Told, q: Question) -> bool:
    assert q.situation
    place, target = t.mentioned(q.situation)[:2]
    side = said_side(q.question)
    rows = [i for i in t.things if i not in (place, target) and t.things[i].on != place]
    near = [i for i in rows if side_from(t, q.situation, i) == side and t.things[i].category == q.answers[0]]
    return bool(near)


def situated_count_true(t: Told, q: Question) -> bool:
    assert q.situation
    rows = [i for i in t.things if i not in t.mentioned(q.situation)[:2]]
    inside = [i for i in rows if side_from(t, q.situation, i) == said_side(q.question)]
    return t.counted(q.question, inside) == int(q.answers[0])


def on_it(t: Told, q: Question) -> list[int]:
    """Ids of what stands on the one thing that the question names."""
    support = t.mentioned(q.question)[0]
    return [i for i, o in t.things.items() if o.on == support]


def side_of(t: Told, q: Question) -> str:
    return side_from(t, q.situation or "", t.mentioned(q.question)[0])


def metres_of(q: Question) -> float:
    return float(q.answers[0].split()[0])


CHECKS: dict[str, Callable[[Told, Question], bool]] = {
    "color": lambda t, q: attribute_true(t, q, "colour"),
    "material": lambda t, q: attribute_true(t, q, "material"),
    "existence": existence_true,
    "count": lambda t, q: t.counted(q.question) == int(q.answers[0]),
    "count_attribute": lambda t, q: t.counted(q.question) == int(q.answers[0]),
    "count_on": lambda t, q: t.counted(q.question, on_it(t, q)) == int(q.answers[0]),
    "category_at": lambda t, q: any(
        relation_holds(t, q.question, i, t.mentioned(q.question)[0])
        for i, o in t.things.items()
        if o.category == q.answers[0]
    ),
    "relation_viewer": lambda t, q: (q.answers[0] == "left") == in_order(t, q, "relation_viewer", 0),
    "relation_depth": lambda t, q: (q.answers[0] == "front") == in_order(t, q, "relation_depth", 1),
    "relation_objects": lambda t, q: relation_holds(t, q.question, *t.mentioned(q.question)) == (q.answers[0] == "yes"),
    "nearest": lambda t, q: extreme_true(t, q, min),
    "farthest": lambda t, q: extreme_true(t, q, max),
    "on_top": lambda t, q: {t.things[i].category for i in on_it(t, q)} == {q.answers[0]},
    "support": lambda t, q: (
        (t.things[on].category if (on := t.things[t.mentioned(q.question)[0]].on) else "floor") == q.answers[0]
    ),
    "closer_camera": lambda t, q: t.names(q, min(t.mentioned(q.question), key=lambda i: np.linalg.norm(t.view[i]))),
    "compare_size": compare_true,
    "distance_camera": lambda t, q: abs(metres_of(q) - np.linalg.norm(t.view[t.mentioned(q.question)[0]])) < 0.21,
    "distance": lambda t, q: abs(metres_of(q) - t.far(*t.mentioned(q.question))) < 0.21,
    "size_height": lambda t, q: abs(metres_of(q) - t.things[t.mentioned(q.question)[0]].size[2]) < 0.21,
    "size_length": lambda t, q: abs(metres_of(q) - max(t.things[t.mentioned(q.question)[0]].size[:2])) < 0.21,
    "situated_direction": lambda t, q: side_of(t, q) == q.answers[0],
    "situated_exists": lambda t, q: (side_of(t, q) == said_side(q.question)) == (q.answers[0] == "yes"),
    "situated_object": situated_object_true,
    "situated_count": situated_count_true,
    "room_type": lambda t, q: q.answers[0] == t.clip.room.room_type,
}


def in_order(t: Told, q: Question, kind: str, axis: int) -> bool:
    """Whether the subject of a question lies before its landmark along the axis; the phrasing says which is which."""
    for template in QUESTIONS[kind]:
        pattern = re.escape(template).replace(r"\{x\}", "(?P<x>.+)").replace(r"\{y\}", "(?P<y>.+)")
        slots = re.fullmatch(pattern, q.question, re.I)
        if slots and all(len(t.mentioned(slots[name])) == 1 for name in "xy"):
            x, y = (t.view[t.mentioned(slots[name])[0]][axis] for name in "xy")
            return bool(x < y)
    raise AssertionError(q.question)


@pytest.mark.parametrize("kind", ASK)
def test_answers_hold_when_derived_again(kind: str, told: list[Told]) -> None:
    asked = [(t, q) for t in told for q in t.language.questions if q.kind == kind]
    assert len(asked) >= 5
    for t, question in asked:
        assert CHECKS[kind](t, question), (question, t.mentioned(question.question))


@pytest.mark.parametrize("kind", ASK)
def test_every_kind_has_eight_phrasings(kind: str) -> None:
    for name in (kind, f"{kind}_choice"):
        phrasings = QUESTIONS.get(name, QUESTIONS[kind])
        assert len(set(phrasings)) >= 8
        assert all(p.endswith(("?", ".")) for p in phrasings)


def test_other_phrasings_are_many_enough() -> None:
    tables = (*SITUATIONS.values(), REQUESTS, REQUESTS_MANY, OBJECT_TEMPLATES, ROOM_TEMPLATES)
    assert all(len(set(table)) >= 8 for table in tables)
    assert set(QUESTIONS) == {*ASK, "nearest_choice", "farthest_choice"}


def test_number_and_variety_of_questions(told: list[Told]) -> None:
    assert all(len(t.language.questions) == 24 and len(t.language.references) == 8 for t in told)
    for t in told:
        texts = [(q.question, q.situation) for q in t.language.questions]
        assert len(set(texts)) == len(texts)
        assert len({q.kind for q in t.language.questions}) >= 14
        answers = [q.answers[0] for q in t.language.questions]
        assert all(answer == answer.lower() and len(answer.split()) <= 3 for answer in answers)


@pytest.mark.parametrize(
    "kind", ["existence", "relation_objects", "relation_viewer", "relation_depth", "situated_exists"]
)
def test_two_way_answers_are_even(kind: str, told: list[Told]) -> None:
    """Within four standard deviations of a half."""
    answers: Counter[str] = Counter()
    for seed, t in enumerate(told):
        speaker = Speaker(observe(t.clip), np.random.default_rng(1000 + seed))
        answers.update(q.answers[0] for q in (ASK[kind](speaker) for _ in range(20)) if q)
    total = answers.total()
    assert total > 500 and len(answers) == 2
    assert abs(max(answers.values()) / total - 0.5) < 4 * 0.5 / math.sqrt(total), answers


def test_open_answers_are_spread(told: list[Told]) -> None:
    answers = answer_counts([q for t in told for q in t.language.questions])
    largest = {kind: max(counts.values()) / counts.total() for kind, counts in answers.items()}
    assert largest["color"] < 0.25
    assert largest["count"] < 0.6
    assert largest["situated_direction"] < 0.5
    assert largest["distance"] < 0.3


def test_references_mean_what_they_say(told: list[Told]) -> None:
    kinds: Counter[str] = Counter()
    for t in told:
        for reference in t.language.references:
            kinds[reference.kind] += 1
            assert set(reference.targets) <= set(t.things)
            expected = {"none": (0, 0), "several": (2, 99)}.get(reference.kind, (1, 1))
            assert expected[0] <= len(reference.targets) <= expected[1], reference
            if reference.kind in ("unique_category", "unique_attribute"):
                assert t.mentioned(reference.expression) == list(reference.targets), reference
            if reference.kind == "relation" and len(found := t.mentioned(reference.expression)) == 2:
                assert relation_holds(t, reference.expression, reference.targets[0], found[1])
    assert set(kinds) == set(REFER) and min(kinds.values()) > ROOMS // 3


def test_related_references_are_unique(told: list[Told]) -> None:
    """No other thing of the target's category is in the stated relation."""
    checked = 0
    for t in told:
        for reference in (r for r in t.language.references if r.kind == "relation"):
            target = t.things[reference.targets[0]]
            anchors = [i for i in t.mentioned(reference.expression) if i != target.id]
            same = [i for i, o in t.things.items() if o.category == target.category]
            rivals = [i for i in same if i != target.id and i not in anchors]
            if len(anchors) == 1:
                checked += len(rivals)
                also = [rival for rival in rivals if relation_holds(t, reference.expression, rival, anchors[0])]
                assert not also, reference
    assert checked > 10


def test_nothing_that_is_denied_is_there(told: list[Told]) -> None:
    plain = rf"(?:^|\W)(?:({'|'.join(COLOURS)}) )?({'|'.join([*SIZES, *SMALL, *ABSENT, 'picture'])})$"
    for t in told:
        for reference in (r for r in t.language.references if r.kind == "none"):
            words = re.fullmatch(rf"the{plain}", reference.expression)
            if words:
                assert not any(o.category == words[2] and words[1] in (None, o.colour) for o in t.things.values())


def test_captions_have_several_references(told: list[Told]) -> None:
    for t in told:
        room, *objects = t.language.captions
        assert room.object_id is None and len(room.texts) >= 3
        assert len(objects) == min(4, len(t.things))
        for caption in objects:
            item = t.things[caption.object_id or 0]
            assert len(caption.texts) >= 4
            assert all(item.category in text.lower() and item.colour in text.lower() for text in caption.texts)
        for text in room.texts:
            assert "office" in text and re.search(r"\ban? |two|three|four", text)


def test_same_seed_same_language() -> None:
    clip = fake_clip(fake_room(3), 3)
    first, again = (make_language(clip, np.random.default_rng(5)) for _ in range(2))
    assert first == again
    assert first != make_language(clip, np.random.default_rng(6))


def test_only_visible_things_are_seen_and_empty_rooms_are_survived() -> None:
    clip = fake_clip(fake_room(1), 1)
    scene = observe(clip)
    assert tuple(scene.things[row].id for row in scene.shown) == clip.visible()
    blank = Clip(clip.room, clip.rgb, clip.depth_m, np.zeros_like(clip.instance), clip.extrinsics, clip.intrinsics)
    language = make_language(blank, np.random.default_rng(0))
    assert {q.kind for q in language.questions} <= {"existence", "count", "count_attribute", "room_type"}
    assert all(q.answers[0] in ("no", "0", "office") for q in language.questions)
    assert all(not r.targets for r in language.references)


def test_wider_names_are_avoided_where_they_would_confuse() -> None:
    room = fake_room(2)
    first, *rest = room.objects
    chair = thing(first.id, "office chair", "red", first.centre, first.size)
    clip = fake_clip(Room(2, "rectangle", "office", room.polygon, 2.6, (), (chair, *rest), ()), 2)
    for seed in range(10):
        for q in make_language(clip, np.random.default_rng(seed)).questions:
            assert not re.search(r"(?<!office )\bchairs?\b", q.question), q.question


def test_furnished_rooms_are_spoken_of() -> None:
    assert set(COUNTS) <= set(CATALOGUE)
    for seed in range(4):
        room = build_room(seed)
        language = make_language(fake_clip(room, seed), np.random.default_rng(seed), questions=12, references=4)
        assert len(language.questions) == 12
        for reference in language.references:
            assert all(room.object(i).category for i in reference.targets)


def test_words_are_few(told: list[Told]) -> None:
    words: set[str] = set()
    for t in told:
        texts = [q.question for q in t.language.questions] + [r.expression for r in t.language.references]
        words.update(re.findall(r"[a-z]+", " ".join(texts).lower()))
    assert len(words) < 600
    assert set(NUMBER_WORDS) and answer_matches("Two.", ("2",))
