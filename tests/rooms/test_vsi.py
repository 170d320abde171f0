"""Rooms in the form of VSI-Bench: two measurements that agree, answers by hand, balance, and the exported file."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from vidllm.datasets.annotations import read_vsi
from vidllm.datasets.scannet import ScanNetScene
from vidllm.evaluation.protocols.spatial import VSI, VSI_KINDS
from vidllm.io.cameras.matrices import half_centres
from vidllm_rooms.language.measures import Measures, box_distance_m, in_room
from vidllm_rooms.language.vsi import _DIRECTIONS, MOST_BLIND, Asker, _direction, _route, numbered
from vidllm_rooms.official.export import export_rooms
from vidllm_rooms.official.scan import Scan, cameras, recorded, scan_room
from vidllm_rooms.official.scan_measures import in_scan
from vidllm_rooms.shards import render_scene
from vidllm_rooms.world import Clip, RoomObject

SEEDS, FRAMES, SIZE = (3, 23), 12, (84, 112)


@pytest.fixture(scope="module")
def rooms() -> list[tuple[Clip, Scan]]:
    clips = [render_scene(seed, FRAMES, *SIZE)[0] for seed in SEEDS]
    return [(clip, scan_room(clip)) for clip in clips]


def scanned(clip: Clip, scan: Scan) -> Measures:
    frames = list(recorded(clip, scan))
    depth_m = np.stack([millimetres / 1000.0 for _, millimetres, _ in frames])
    poses = np.stack([pose for *_, pose in frames])
    return in_scan(scan, depth_m, poses, half_centres(cameras(clip)[1], scan.name))


def test_both_measurements_of_a_room_agree(rooms: list[tuple[Clip, Scan]]) -> None:
    apart, first = [], []
    for clip, scan in rooms:
        built, seen = in_room(clip), scanned(clip, scan)
        assert set(built.centre) == set(seen.centre)
        assert seen.area_m2 == pytest.approx(built.area_m2, rel=0.02)
        for number in built.centre:
            assert seen.longest_m[number] == pytest.approx(built.longest_m[number], abs=0.03)
            first.append(seen.first_frames[number][0] in built.first_frames[number])
        for a, b in combinations(built.centre, 2):
            between = [float(np.linalg.norm(one.centre[a] - one.centre[b])) for one in (built, seen)]
            assert between[1] == pytest.approx(between[0], abs=0.03)
            apart.append(seen.apart(a, b) >= built.apart(a, b) - 0.01)  # a thing lies within its box
    assert np.mean(apart) == 1.0
    assert np.mean(first) > 0.9


@pytest.mark.slow
def test_a_wrong_convention_leaves_nothing_to_ask(rooms: list[tuple[Clip, Scan]]) -> None:
    clip, scan = rooms[0]
    built, seen = in_room(clip), scanned(clip, scan)
    kinds = Counter(entry["question_type"] for entry in Asker(clip, (built, seen)).questions())
    assert set(kinds) >= set(VSI_KINDS) - {"obj_appearance_order"}
    mirrored = replace(seen, centre={n: at * (-1, 1) for n, at in seen.centre.items()})
    for entry in Asker(clip, (built, mirrored)).questions():  # what lies behind stays there
        assert (
            "direction" not in entry["question_type"]
            or entry["options"]["ABC".index(entry["ground_truth"])][3:] == "back"
        )
    frames = list(recorded(clip, scan))
    wrong = np.stack([pose for *_, pose in frames])
    wrong[:, :3, 3] = -np.einsum("fji,fj->fi", wrong[:, :3, :3], wrong[:, :3, 3])  # -R^T t of world-from-camera
    depth_m = np.stack([millimetres / 1000.0 for _, millimetres, _ in frames])
    elsewhere = in_scan(scan, depth_m, wrong, half_centres(cameras(clip)[1], scan.name))
    differ = [elsewhere.first_frames[n] != seen.first_frames[n] for n in seen.first_frames]
    assert np.mean(differ) > 0.5


def thing(
    number: int, x: float, y: float, size: tuple[float, float, float] = (1.0, 1.0, 1.0), yaw: float = 0.0
) -> RoomObject:
    return RoomObject(number, "box", "red", "wood", (float(x), float(y), size[2] / 2), size, yaw, None, ())


def test_distances_of_boxes_by_hand() -> None:
    assert box_distance_m(thing(1, 0, 0), thing(2, 3, 0)) == pytest.approx(2)
    assert box_distance_m(thing(1, 0, 0), thing(2, 3, 3)) == pytest.approx(math.hypot(2, 2))
    turned = thing(2, 3, 0, yaw=math.pi / 4)  # a corner towards the other one
    assert box_distance_m(thing(1, 0, 0), turned) == pytest.approx(3 - 0.5 - math.sqrt(0.5))
    assert box_distance_m(thing(1, 0, 0), thing(2, 0.5, 0.5)) == 0
    high = replace(thing(2, 3, 0), centre=(3.0, 0.0, 2.5))
    assert box_distance_m(thing(1, 0, 0), high) == pytest.approx(math.hypot(2, 1))


def at(*places: tuple[float, float]) -> Measures:
    return Measures(0.0, {}, {n: np.array(place, float) for n, place in enumerate(places)}, {}, lambda a, b: 0.0)


@pytest.mark.parametrize(
    ("place", "easy", "medium", "hard"),
    [
        ((-2, 2), "left", "left", "front-left"),
        ((2, 2), "right", "right", "front-right"),
        ((-2, -1), "left", "left", "back-left"),
        ((1, -2), "right", "back", "back-right"),
        ((0, -2), None, "back", None),
        ((0.1, 3), None, None, None),
        ((0.1, 0.1), None, None, None),  # too near to be anywhere
    ],
)
def test_directions_by_hand(place: tuple[float, float], easy: str, medium: str, hard: str) -> None:
    """At the origin, facing +y."""
    found = [_direction(at((0, 0), (0, 2), place), (0, 1, 2), ranges) for _, ranges in _DIRECTIONS.values()]
    assert found == [easy, medium, hard]


def test_routes_by_hand() -> None:
    """From the origin, facing +y: to the left, and there to the right; then to the back."""
    places = at((0, 0), (0, 2), (-2, 0), (-2, 2), (0.2, 0.1), (2, 0))
    assert _route(places, (0, 1, 2, 3)) == "Turn Left, Turn Right"
    assert _route(places, (0, 1, 2, 5)) == "Turn Left, Turn Back"
    assert _route(places, (0, 1, 3, 2)) is None  # between left and ahead


@pytest.mark.slow
def test_the_exported_file(tmp_path: Path) -> None:
    export_rooms(tmp_path, SEEDS[:1], split="test", frames=FRAMES, height=SIZE[0], width=SIZE[1])
    questions = read_vsi(tmp_path / "vsi" / "test.jsonl")
    assert {question.scene_id for question in questions} == {"scene9003_00"}
    assert [question.question_id for question in questions] == [str(n) for n in range(len(questions))]
    for question in questions:
        (answer,) = question.answers
        if question.options:
            assert [option[:3] for option in question.options] == [f"{x}. " for x in "ABCD"[: len(question.options)]]
            assert answer in "ABCD"[: len(question.options)] and len(set(question.options)) == len(question.options)
            assert question.prompt.endswith("choices directly.")
        else:
            assert float(answer) > 0 and question.prompt.startswith("These are frames of a video.\n")
    rows = [json.loads(line) for line in (tmp_path / "vsi" / "test.jsonl").read_text().splitlines()]
    right = [{"id": row["id"], "prediction": row["ground_truth"]} for row in rows]
    assert VSI["lmms-eval-0.7.3"].score(rows, right)["vsibench_overall"] == 1.0
    scene = ScanNetScene(tmp_path / "scans" / "scene9003_00")  # the same from the files, through ScanNet's reader
    clip = render_scene(SEEDS[0], FRAMES, *SIZE)[0]
    scan = scan_room(clip)
    depth_m, poses = (np.stack([read(n) for n in range(FRAMES)]) for read in (scene.depth_m, scene.pose))
    assert in_scan(scan, depth_m, poses, scene.depth_intrinsics).first_frames == scanned(clip, scan).first_frames
    boxes = {item.object_id: np.array(item.box) for item in scene.instances if item.box is not None}
    built = in_room(clip)
    ids = scan.object_id_of()
    for a, b in combinations(built.centre, 2):
        read = np.linalg.norm(boxes[ids[a]][:2] - boxes[ids[b]][:2])
        assert read == pytest.approx(np.linalg.norm(built.centre[a] - built.centre[b]), abs=0.03)


def test_what_other_rooms_foretell_is_pruned() -> None:
    def entry(value: float, topic: str) -> dict[str, object]:
        return {"dataset": "rooms", "scene_name": "s", "question_type": "object_size_estimation", "question": "q",
                "options": None, "ground_truth": str(value), "topic": topic}  # fmt: skip

    rows = numbered([*(entry(200, "bed") for _ in range(8)), *(entry(10 * 3**n, "plant") for n in range(6))])
    assert [row["pruned"] for row in rows].count(True) >= 1
    assert not any(row["pruned"] for row in rows[8:]) and "topic" not in rows[0]
    assert 0 < MOST_BLIND < 1


def test_references_among_several_of_a_category(rooms: list[tuple[Clip, Scan]]) -> None:
    found = 0
    for clip, scan in rooms:
        built = in_room(clip)
        asker = Asker(clip, (built, scanned(clip, scan)))
        for name, meant, anchor, nearest in asker.nearest_of():
            to = asker.single[anchor]
            away = {n: np.linalg.norm(built.centre[n] - built.centre[to]) for n in asker.ids[name]}
            assert meant == (min if nearest else max)(away, key=away.__getitem__)
            found += 1
    assert found
