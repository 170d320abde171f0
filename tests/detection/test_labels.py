"""Labels of a recording's pictures: what a detector finds comes back, and what is wrong is said in one line."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from vidllm.cli import main
from vidllm.detection.fusion import Detected
from vidllm.detection.labels import Label, read_labels, write_labels
from vidllm.io.captures.capture import Capture

GOOD = {"category": "chair", "bbox": [4, 6, 20, 10], "score": 0.7}


@pytest.fixture
def capture(tmp_path):
    files = [tmp_path / f"{n}.png" for n in range(2)]
    for file in files:
        Image.new("RGB", (48, 32)).save(file)
    return Capture("RGB-D", [f.name for f in files], files, where=str(tmp_path))


def test_what_a_detector_finds_comes_back(capture):
    def detect(picture, names):
        assert picture.shape == (32, 48, 3) and names == ("chair", "Table")
        return [Detected(1, 0.8, (-3.0, 2.0, 40.04, 30.0)), Detected(0, 0.3, (1.0, 1.0, 9.0, 9.0))]

    told = []
    file, boxes = write_labels(capture, detect, ("chair", "Table"), 0.4, lambda *done: told.append(done))
    assert (file.name, boxes, told) == ("labels.json", 2, [(1, 2), (2, 2)])
    assert json.loads(file.read_text())["frames"]["0.png"] == [
        {"category": "Table", "bbox": [0.0, 2.0, 40.0, 28.0], "score": 0.8}  # cut to the picture, COCO's order
    ]
    label = Label("table", (0.0, 2.0, 40.0, 30.0))
    assert read_labels(capture) == {0: [label], 1: [label]}


def test_a_recording_of_one_file_has_them_beside_it(tmp_path, capture):
    file = tmp_path / "scan.r3d"
    file.touch()
    one = Capture("Record3D", capture.names, capture.pictures, where=str(file))
    assert read_labels(one) == {}
    (tmp_path / "scan.r3d.labels.json").write_text(json.dumps({"frames": {"1.png": [GOOD], "0.png": []}}))
    assert read_labels(one) == {0: [], 1: [Label("chair", (4, 6, 24, 16))]}


def test_pictures_of_one_name_are_not_mixed_up(tmp_path, capture):
    same = Capture("transforms.json", ["0.png", "0.png"], capture.pictures, where=str(tmp_path))
    (tmp_path / "labels.json").write_text(json.dumps({"frames": {"0.png": [GOOD]}}))
    with pytest.raises(ValueError, match="two pictures of the recording have the same name"):
        read_labels(same)


@pytest.mark.parametrize(
    ("held", "told"),
    [
        ({"images": []}, r"expected .*, got the keys \['images'\]"),
        ({"frames": {"9.png": [GOOD]}}, r"frame '9.png' is not in the recording, whose first is '0.png'"),
        ({"frames": {"0.png": GOOD}}, "frame '0.png': expected a list of boxes, got dict"),
        ({"frames": {"0.png": [GOOD, GOOD | {"id": 3}]}}, r"frame '0.png', box 2: expected the keys .*'id'"),
        ({"frames": {"0.png": [{"category": "chair"}]}}, r"box 1: expected the keys .*got \['category'\]"),
        ({"frames": {"0.png": [GOOD | {"category": 3}]}}, '"category" is 3; expected a name'),
        ({"frames": {"0.png": [GOOD | {"score": 70}]}}, '"score" is 70; expected a number from 0 to 1'),
        ({"frames": {"0.png": [GOOD | {"bbox": [1, 2, float("nan"), 4]}]}}, '"bbox" is .*nan.*; expected'),
        ({"frames": {"0.png": [GOOD | {"bbox": [30, 2, 20, 4]}]}}, "reaches out of the picture of 48 x 32 pixels"),
        ({"frames": {"0.png": [GOOD | {"bbox": [9, 2, 0, 4]}]}}, "width, height. in pixels, both above 0"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(tmp_path, capture, held, told):
    (tmp_path / "labels.json").write_text(json.dumps(held))
    with pytest.raises(ValueError, match=rf"labels.json: .*{told}") as error:
        read_labels(capture)
    assert "\n" not in str(error.value)


def test_clips_that_are_none_are_told_before_a_detector_is_loaded(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    for name, told in (("none", "no such folder"), ("empty", "no clip there")):
        assert main(["data", "label", str(tmp_path / name), "--detector", str(tmp_path / "absent")]) == 2
        error = capsys.readouterr().err
        assert f"data label {tmp_path / name}: {told}" in error and len(error.strip().splitlines()) == 1
