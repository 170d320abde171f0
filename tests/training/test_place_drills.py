"""Drills on left and right, and on what is nearer, agree with the rooms' own relations."""

from __future__ import annotations

import numpy as np
import torch

from vidllm.rooms.language.facts import observe
from vidllm.rooms.shards import render_scene, scene_record
from vidllm.training.data import scene_boxes, scene_from_room
from vidllm.training.drills import place_drills

BESIDE = ("On which side of", "Relative to", "From the first view", "Which side of")  # what is asked of comes last


def _record(seed: int):
    clip, language = render_scene(seed, 4, 56, 70)
    record = scene_record(clip, language)
    boxes = scene_boxes(record, scene_from_room(torch.from_numpy(clip.extrinsics).float()))
    return observe(clip), record, boxes


def test_sides_and_distances_are_those_of_the_rooms():
    answers = []
    for seed in range(3):
        scene, record, boxes = _record(seed)
        rows = {t.category.replace("_", " "): t.index for t in scene.things}
        for q in place_drills(record, boxes, np.random.default_rng(0), 99):
            text = q.question.lower()
            named = sorted((text.find(f"the {n}"), row) for n, row in rows.items() if f"the {n}" in text)[:2]
            a, b = (row for _, row in (reversed(named) if q.question.startswith(BESIDE) else named))
            if q.kind == "closer_camera":
                near, far = (a, b) if rows[q.answers[0]] == a else (b, a)
                assert scene.camera_m[near] < scene.camera_m[far]
                answers.append("first" if near == a else "second")
            elif scene.relations[q.answers[0]][a][b] != 0:  # 0: one stands on the other, or hardly apart
                assert scene.relations[q.answers[0]][a][b] == 1
                answers.append(q.answers[0])
    assert len(answers) > 20 and set(answers) == {"left", "right", "first", "second"}


def test_seeds_repeat_and_no_more_than_asked():
    _, record, boxes = _record(0)
    assert len(place_drills(record, boxes, np.random.default_rng(1), 2)) == 2
    assert place_drills(record, boxes, np.random.default_rng(1), 5) == place_drills(
        record, boxes, np.random.default_rng(1), 5
    )
    assert place_drills(record, boxes, np.random.default_rng(1), 0) == []
