"""What is in a scene, and how far apart: a made-up scene whose answers and lengths are known by hand."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from vidllm.export.geometry import SceneData
from vidllm.inventory import measure, pixel, room_of, take
from vidllm.scene import Box, Scale

WALL, SIDE = 4.0, 40  # metres to a wall ahead, pixels of the square pictures; a focal length of 20: 8 m across


def wall(depth_m: float = WALL) -> SceneData:
    """Two level cameras 1 m apart that look at a wall."""
    extrinsics = np.tile(np.eye(4), (2, 1, 1))
    extrinsics[1, 0, 3] = -1.0  # the second camera stands 1 m to the right
    scene_from_world = np.eye(4)
    scene_from_world[:3, :3] = [[0, 0, 1], [-1, 0, 0], [0, -1, 0]]
    return SceneData(
        rgb=np.zeros((2, SIDE, SIDE, 3), np.uint8), depth_m=np.full((2, SIDE, SIDE), depth_m, np.float32),
        extrinsics=extrinsics, intrinsics=np.tile(np.array([[20.0, 0, 20], [0, 20, 20], [0, 0, 1]]), (2, 1, 1)),
        scene_from_world=scene_from_world, timestamps_s=np.arange(2.0),
        processed_from_original=np.diag([0.5, 0.5, 1.0]), original_size=(80, 80),
    )  # fmt: skip


class Told:
    """A scene that answers from tables."""

    detector = None

    def __init__(self, boxes, answers, spread=0.1):
        self.boxes, self.answers, self.data = boxes, answers, wall()
        self.scale = Scale(2.0, spread, (), None if math.isnan(spread) else (1.5, 2.6))

    def ask_all(self, questions, max_new_tokens=64):
        return [self.answers.get(question, "no") for question, _ in questions]

    def ground(self, expression, several=True):
        return self.boxes.get(expression, [])

    def describe(self, at=None, max_new_tokens=96):
        return "a green chair, about 1 meter tall."


TABLE = Box((4.0, 1.0, -1.5), (1.0, 2.0, 0.8), 0.0, 0.9)
CHAIRS = [Box((4.0, -2.0, -1.5), (0.5, 0.5, 1.0), 0.0, 0.6), Box((4.0, -4.5, -1.5), (0.5, 0.5, 1.0), 0.0, 0.3)]
INSIDE = Box((4.0, -2.0, -1.5), (0.25, 0.25, 1.0), 0.0, 0.25)  # a second box of the first chair: IoU 0.25
DESK = Box((4.1, 1.0, -1.5), (1.0, 2.0, 0.8), 0.0, 0.5)  # the table again, under another name
SCENE = Told(
    {"the table": [TABLE], "the desk": [DESK], "the chair": [*CHAIRS, INSIDE]},
    {"Is there a table?": "yes", "Is there a desk?": "yes", "Is there a chair?": "yes", "What color is the table?":
     "brown.", "How many chairs are there?": "3", "How many tables are there?": "1"},
)  # fmt: skip


def test_everything_is_listed_once():
    found = take(SCENE, ("table", "desk", "chair", "sofa"))
    assert [thing.called for thing in found.things] == ["brown table", "green chair", "green chair"]
    assert found.counts == {"chair": 2, "table": 1}
    assert [thing.frames for thing in found.things] == [2, 2, 1]  # the second chair lies right of the first picture
    assert found.path_length == pytest.approx(1.0)
    told = json.loads(json.dumps(found.as_dict(distances=True), allow_nan=False))
    pairs = {tuple(d["between"]): (d["nearest"], d["centres"]) for d in told["distances"]}
    assert pairs[1, 2] == pytest.approx((1.75, 3.0)) and pairs[2, 3] == pytest.approx((2.0, 2.5))
    assert told["things"][0]["size_interval"][1] == pytest.approx([1.5, 2.6])
    assert "1. brown table: centre (4.00, 1.00, -1.50)" in found.as_text()


def test_what_is_not_known_is_null():
    told = take(Told({}, {}, math.nan), ("chair",)).as_dict(distances=True)
    assert told["scale"]["spread"] is None and told["things"] == told["distances"] == [] and told["counts"] == {}
    assert take(Told({"the table": [TABLE]}, SCENE.answers, math.nan), ("table",)).as_dict()["things"][0][
        "size_interval"] is None  # fmt: skip


def test_two_things_and_a_pixel_are_measured():
    found = measure(SCENE, "the table", "the chair")
    assert found.nearest.value == pytest.approx(1.75) and found.centres.value == pytest.approx(3.0)
    floor = -WALL * 19.5 / 20  # what the lowest row of pixels, 2.5% of all, shows
    assert found.places[0].top_over_floor.value == pytest.approx(-1.1 - floor)
    assert [point[1:] for point in found.points] == [pytest.approx((0, -1.5)), pytest.approx((-1.75, -1.5))]
    ahead = measure(SCENE, (0, 40.0, 40.0), (1, 40.0, 40.0))  # both look straight ahead, from 1 m apart
    assert ahead.nearest.value == ahead.centres.value == pytest.approx(1.0)
    assert ahead.places[0].center == pytest.approx((WALL, 0, 0))
    assert "distance between pixel 40,40 of frame 0" in ahead.as_text()
    assert measure(SCENE, "the table").nearest is None


@pytest.mark.parametrize(
    ("what", "message"),
    [("the lamp", "no such object"), ((2, 1.0, 1.0), "frames are 0 to 1"), ((0, 90.0, 1.0), "lies outside")],
)
def test_what_cannot_be_measured_is_said(what, message):
    with pytest.raises(ValueError, match=message):
        measure(SCENE, what)


def test_a_scene_without_depth_is_refused():
    with pytest.raises(ValueError, match="no point with depth"):
        room_of(wall(0.0).points()[0])


def test_the_floor_is_what_was_seen_and_a_ceiling_needs_many_points():
    rng = np.random.default_rng(0)
    floor = np.column_stack([rng.uniform(0, 4, 8000), rng.uniform(0, 3, 8000), np.zeros(8000)])
    assert room_of(floor).area == pytest.approx(12, rel=0.06) and room_of(floor).floor == 0.0
    assert room_of(np.concatenate((floor, floor + np.array([0, 0, 2.5])))).height == pytest.approx(2.5)
    assert room_of(np.concatenate((floor[:, [0, 2, 1]], floor))).height is None  # a floor and a wall


@pytest.mark.parametrize(("text", "read"), [("2:10,20.5", (2, 10.0, 20.5)), ("the table", None), ("2:10", None)])
def test_pixels_are_told_from_expressions(text, read):
    assert pixel(text) == read


def test_the_model_itself_is_asked(tmp_path):
    from small_model import noise_clip, save_small_model

    import vidllm

    scene = vidllm.load(save_small_model(tmp_path)).reconstruct(noise_clip())
    found = scene.inventory(["chair"])
    assert json.loads(json.dumps(found.as_dict(True), allow_nan=False))["schema"] == "vidllm-inventory/1"
    with pytest.raises(ValueError, match="reserved token"):
        scene.inventory(["<loc>"])


def test_a_detector_finds_the_things_in_place_of_the_model(tmp_path):
    from small_model import noise_clip, save_small_model

    import vidllm
    from vidllm.detection.fusion import Detected

    scene = vidllm.load(save_small_model(tmp_path)).reconstruct(noise_clip())
    asked = []

    def detect(picture, names):
        asked.append((picture.shape, tuple(names)))
        return [Detected(0, 0.7, (20.0, 15.0, 50.0, 45.0))]

    scene.detector = detect
    (box,) = scene.ground("the flamingo")  # any word
    assert asked == [((56, 70, 3), ("the flamingo",))] * 4 and box.center_error is None  # a model without calibration
    asked.clear()
    found = scene.inventory(["flamingo", "chair"])
    assert [thing.name for thing in found.things] == ["flamingo"]
    assert scene.inventory(("flamingo", "chair")) is found and len(asked) == 4  # it is kept
    scene.detector = lambda picture, names: []
    assert scene.inventory(["flamingo", "chair"]).things == ()
    scene.detector = detect
    assert scene.measure("the flamingo").places[0].size[0].value == pytest.approx(box.size[0])
