"""Template questions on places agree with the rooms' own facts: relations, distances, directions from a situation."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from vidllm.training.texts import scene_boxes, scene_from_room
from vidllm_rooms.language.facts import observe
from vidllm_rooms.language.situations import SIDES, angles_off
from vidllm_rooms.language.template_questions import place_questions
from vidllm_rooms.shards import render_scene, scene_record

TURNED = ("On which side of", "Relative to", "From the first view", "Which side of")  # what is asked of comes last


@pytest.fixture(scope="module")
def scenes():
    made = []
    for seed in range(4):
        clip, language = render_scene(seed, 4, 56, 70)
        record = scene_record(clip, language)
        boxes = scene_boxes(record, scene_from_room(torch.from_numpy(clip.extrinsics).float()))
        made.append((observe(clip), record, boxes))
    return made


def _asked(scenes, kinds):
    """(scene, question, rows of the things it names, in order), the situation's first."""
    for scene, record, boxes in scenes:
        rows = {t.category.replace("_", " "): t.index for t in scene.things}
        for q in place_questions(record, boxes, np.random.default_rng(0), 60):
            said = f"{q.situation or ''} {q.question}".lower()
            longest_last = sorted(rows.items(), key=lambda r: len(r[0]))
            found = {said.find(f"the {name}"): row for name, row in longest_last}
            if q.kind in kinds:
                yield scene, q, [row for at, row in sorted(found.items()) if at >= 0]


def test_sides(scenes):
    answers = []
    for scene, q, rows in _asked(scenes, {"relation_viewer"}):
        a, b = rows[::-1] if q.question.startswith(TURNED) else rows
        if scene.relations[q.answers[0]][a][b] != 0:  # 0: one stands on the other
            assert scene.relations[q.answers[0]][a][b] == 1
            answers.append(q.answers[0])
    assert min(Counter(answers)[side] for side in ("left", "right")) > 5


def test_what_is_nearer(scenes):
    told = Counter()
    for scene, q, rows in _asked(scenes, {"closer_camera", "nearest", "farthest"}):
        chosen = next(t.index for t in scene.things if t.category.replace("_", " ") == q.answers[0])
        others = [row for row in rows if row != chosen]
        if q.kind == "closer_camera":
            assert scene.camera_m[chosen] < scene.camera_m[others[0]]
        else:  # three are named: the anchor is the one to which the answer is nearer (farther)
            sign = 1 if q.kind == "nearest" else -1
            far = scene.distance_m
            anchored = [(x, z) for x, z in (others, others[::-1]) if f"the {scene.things[z].category}" in q.question]
            assert any(sign * (far[chosen][z] - far[x][z]) < 0 for x, z in anchored)
        told[q.kind] += 1
    assert min(told[kind] for kind in ("closer_camera", "nearest", "farthest")) > 3


def test_distances_to_the_half_metre(scenes):
    told = Counter()
    for scene, q, rows in _asked(scenes, {"distance", "distance_camera"}):
        true = scene.camera_m[rows[0]] if q.kind == "distance_camera" else scene.distance_m[rows[0]][rows[1]]
        assert float(q.answers[0].split()[0]) == pytest.approx(true, abs=0.25)
        told[q.kind] += 1
    assert min(told.values()) > 3 and len(told) == 2


def test_directions_from_a_situation(scenes):
    sides = Counter()
    for scene, q, (place, target, thing) in _asked(scenes, {"situated_direction"}):
        away = any(word in q.situation for word in ("back", "behind", "away"))
        flat = np.array([t.position[:2] for t in scene.things])
        off = angles_off(flat, flat[[place]], flat[target], away)[0, thing]
        assert SIDES[int(off.argmin())] == q.answers[0] and off.min() < 35
        sides[q.answers[0]] += 1
    assert set(sides) == set(SIDES)


def test_seeds_repeat_and_no_more_than_asked(scenes):
    _, record, boxes = scenes[0]
    first, again = (place_questions(record, boxes, np.random.default_rng(1), 5) for _ in range(2))
    assert first == again and len(first) == 5
    assert place_questions(record, boxes, np.random.default_rng(1), 0) == []
