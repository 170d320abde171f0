"""Your own data, line by line: what is read, what is refused and how, frames of boxes, the report of a whole file."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from vidllm.cli import main
from vidllm.datasets.jsonl import camera_path, check_jsonl, parse_line, read_first_camera, read_jsonl, scene_places
from vidllm.geometry.boxes import box_corners
from vidllm.geometry.gravity import scene_from_world
from vidllm.io.video import write_video

BOX = {"center": [1.0, 0.5, -0.25], "size": [0.5, 1.0, 2.0], "yaw": 0.3}


@pytest.fixture
def folder(tmp_path):
    frames = np.random.default_rng(0).integers(0, 255, (5, 28, 42, 3), dtype=np.uint8)
    write_video(tmp_path / "hall.mp4", frames, 5)
    return tmp_path


def write(folder, *lines):
    path = folder / "data.jsonl"
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


def test_each_kind_of_line_is_read(folder):
    path = write(
        folder,
        {"video": "hall.mp4", "question": " How many doors? ", "answers": ["two", "2"], "situation": "I sit."},
        "",
        {"video": "hall.mp4", "question": "Where is the plant?", "answer": "by the door", "box": BOX, "kind": "where"},
        {"video": "hall.mp4", "expression": "the unicorn", "boxes": []},
        {"video": "hall.mp4", "caption": "A hall."},
        {"video": "hall.mp4", "captions": ["A plant.", "A fern."], "point": [1, 2, 3], "frame": "world", "id": 7},
    )
    first, second, third, fourth, fifth = read_jsonl(path)
    assert first.video == folder / "hall.mp4" and (first.task, first.kind) == ("question", "question")
    assert (first.text, first.answers, first.situation) == ("How many doors?", ("two", "2"), "I sit.")
    assert (second.line, second.kind) == (3, "where") and second.boxes == ((1.0, 0.5, -0.25, 0.5, 1.0, 2.0, 0.3),)
    assert third.task == "expression" and third.boxes == () and third.answers == ()
    assert fourth.task == "caption" and fourth.point is None and fourth.boxes is None
    assert fifth.answers == ("A plant.", "A fern.") and fifth.point == (1.0, 2.0, 3.0) and fifth.frame == "world"


ASKED = {"video": "hall.mp4", "question": "How many?", "answer": "two"}
FOUND = {"video": "hall.mp4", "expression": "the plant"}


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('{"video": ', "line 4: not JSON"),
        ("[1]", "expected an object"),
        ({"question": "q", "answer": "a"}, "needs 'video'"),
        ({"video": "hall.mp4", "answer": "two"}, "expected one of question, expression, caption, captions, got none"),
        ({**ASKED, "caption": "A hall."}, "got question, caption"),
        ({**ASKED, "anwser": "two"}, "unknown field 'anwser'; known are video"),
        ({**ASKED, "answers": ["two"]}, "either 'answer', a text, or 'answers'"),
        ({"video": "hall.mp4", "question": "How many?"}, "either 'answer', a text, or 'answers'"),
        ({**ASKED, "answer": " "}, "expected 'answer' to be text that is not empty"),
        ({**ASKED, "answer": 2}, "expected 'answer' to be text, got 2"),
        ({**ASKED, "question": ""}, "the question is empty"),
        ({**ASKED, "question": "what is at <coord>?"}, "reserved token <coord>"),
        ({**ASKED, "answer": "a </s> b"}, "the answer contains the reserved token </s>; leave it out"),
        ({"video": "hall.mp4", "captions": ["A hall.", "<Video>"]}, "the caption contains the reserved token <video>"),
        ("[" * 100_000, "JSON nested too deeply"),
        ('{"video": ' + "9" * 5000 + "}", "an integer of 5000 digits"),
        ('{"video": "a", "question": "q", "answer": "\\ud800"}', "an unpaired surrogate"),
        ({**ASKED, "point": [0, 0, 0]}, "a line with 'question' has no use for 'point'"),
        (FOUND, r"an expression needs 'box' or 'boxes'; \[\] says"),
        ({**FOUND, "box": BOX, "boxes": [BOX]}, "got both"),
        ({**FOUND, "box": [0, 0, 0, 1, 1, 1]}, "expected 'box' to be"),
        ({**FOUND, "box": {**BOX, "size": [1, 0, 1]}}, "expected 'size' to be three full side lengths above zero"),
        ({**FOUND, "box": {**BOX, "center": [0, 0]}}, "expected 'center' to be three finite numbers in metres"),
        ({**FOUND, "box": {**BOX, "yaw": "30"}}, "expected 'yaw' to be a number of radians"),
        ({**FOUND, "box": BOX, "frame": "camera"}, "expected 'frame' to be one of"),
    ],
)
def test_a_wrong_line_is_named_with_what_is_wrong(tmp_path, line, told):
    with pytest.raises(ValueError, match=told) as caught:
        parse_line(tmp_path / "data.jsonl", 4, line if isinstance(line, str) else json.dumps(line))
    assert "data.jsonl: line 4" in str(caught.value)


def camera(folder, tilt=0.3, heading=0.7):
    """A camera at (2, 1, 1.5) of a world with z up, looking along ``heading`` and down by ``tilt``; its file."""
    forward = np.array([math.cos(heading) * math.cos(tilt), math.sin(heading) * math.cos(tilt), -math.sin(tilt)])
    right = np.array([math.sin(heading), -math.cos(heading), 0.0])
    world_from_camera = np.eye(4)
    world_from_camera[:3, :3] = np.stack([right, np.cross(forward, right), forward], 1)
    world_from_camera[:3, 3] = (2.0, 1.0, 1.5)
    path = camera_path(folder / "hall.mp4")
    path.write_text(json.dumps({"world_from_camera": world_from_camera.tolist()}))
    return path, world_from_camera


def test_boxes_of_a_world_of_ones_own_are_moved_into_the_scene(folder):
    path, world_from_camera = camera(folder)
    (example,) = read_jsonl(write(folder, {**FOUND, "box": BOX, "frame": "world"}))
    ((*moved,),), point = scene_places(example)
    assert point is None and moved[3:6] == BOX["size"]
    # corners, by the pose and the definition of the scene frame, without boxes' own arithmetic
    corners = box_corners(torch.tensor([[*BOX["center"], *BOX["size"], BOX["yaw"]]], dtype=torch.float64))[0]
    camera_from_world = torch.linalg.inv(torch.from_numpy(world_from_camera))
    up = camera_from_world[:3, 2]
    seen = corners @ camera_from_world[:3, :3].T + camera_from_world[:3, 3]
    wanted = seen @ scene_from_world(up)[:3, :3].T
    torch.testing.assert_close(box_corners(torch.tensor([moved], dtype=torch.float64))[0], wanted, atol=1e-6, rtol=0)
    # the camera stands at the origin and looks along x: a point 3 m ahead at its height
    ahead = [2.0 + 3 * math.cos(0.7), 1.0 + 3 * math.sin(0.7), 1.5]
    line = {"video": "hall.mp4", "caption": "A plant.", "point": ahead, "frame": "world"}
    (example,) = read_jsonl(write(folder, line))
    assert scene_places(example)[1] == pytest.approx((3.0, 0.0, 0.0), abs=1e-6)
    assert np.allclose(read_first_camera(path) @ world_from_camera, np.eye(4))


def test_boxes_in_the_scene_frame_stay(folder):
    asked, found = read_jsonl(write(folder, ASKED, {**FOUND, "boxes": [BOX, BOX]}))
    assert scene_places(asked) == (None, None)
    assert scene_places(found) == ([[1.0, 0.5, -0.25, 0.5, 1.0, 2.0, 0.3]] * 2, None)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ({}, "expected one of 'camera_from_world' and 'world_from_camera'"),
        ({"camera_from_world": [[1, 0], [0, 1]]}, "must be a 4x4 matrix"),
        ({"camera_from_world": np.diag([2.0, 2, 2, 1]).tolist()}, "no rigid motion"),
        ({"camera_from_world": np.diag([1.0, 1, -1, 1]).tolist()}, "no rigid motion"),
    ],
)
def test_a_first_camera_that_is_none_is_refused(folder, content, told):
    path = camera_path(folder / "hall.mp4")
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=told):
        read_first_camera(path)


def test_the_report_counts_and_names_lines(folder, capsys):
    (folder / "film.mp4").write_bytes(b"no film")
    far = {"center": [1000, 0, 0], "size": [500, 500, 500], "yaw": 90}
    path = write(
        folder,
        ASKED,
        {**ASKED, "answer": "three"},
        ASKED,
        {**FOUND, "box": far},
        {**FOUND, "video": "lost.mp4", "box": BOX},
        {**FOUND, "video": "lost.mp4", "expression": "the lamp", "box": BOX},
        {**FOUND, "video": "film.mp4", "boxes": []},
        {"video": "hall.mp4"},
        {**FOUND, "expression": "the rug", "box": BOX, "frame": "world"},
    )
    report = check_jsonl(path)
    assert not report.usable
    assert [remark.line for remark in report.problems] == [5, 7, 8, 9]
    lost, film, nothing, rug = (remark.text for remark in report.problems)
    assert "lost.mp4: no such video (1 more lines with it)" in lost and "film.mp4" in film
    assert "expected one of" in nothing and "hall.camera.json: no such file" in rug
    assert [remark.line for remark in report.notes] == [4, 4, 2, 3]
    assert "1000 m; lengths are metres" in report.notes[0].text and "radians" in report.notes[1].text
    assert "as line 1, told otherwise" in report.notes[2].text and "the same as line 1" in report.notes[3].text
    summary = report.summary()
    assert (summary["videos"], summary["questions"], summary["expressions"]) == (3, 3, 5)
    assert (summary["boxes"], summary["no_such_object"], summary["in_a_world_frame"]) == (4, 1, 1)
    assert summary["frames_a_video"] == {"least": 5, "median": 5, "most": 5}
    assert main(["data", "check", str(path)]) == 2
    shown = capsys.readouterr()
    assert "problems: 4" in shown.err and "wrong: " in shown.out and "line 8" in shown.out
    assert main(["data", "check", str(write(folder, ASKED)), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["usable"]
    assert main(["data", "check", str(write(folder, ASKED, ASKED)), "--strict"]) == 2


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"lost\.jsonl: does not exist"):
        check_jsonl(tmp_path / "lost.jsonl")
    (tmp_path / "empty.jsonl").write_text("\n")
    assert "holds no line" in check_jsonl(tmp_path / "empty.jsonl").problems[0].text
    with pytest.raises(ValueError, match="holds no line"):
        read_jsonl(tmp_path / "empty.jsonl")
    (tmp_path / "latin.jsonl").write_bytes('{"video": "é"}'.encode("latin-1"))
    with pytest.raises(ValueError, match="not UTF-8"):
        read_jsonl(tmp_path / "latin.jsonl")


def test_one_bad_line_hides_no_other_remark(folder):
    path = write(folder, ASKED, {**ASKED, "anwser": 1})
    path.write_bytes(b"[" * 100_000 + b"\n\xff\n" + path.read_bytes())
    report = check_jsonl(path, quick=True)
    told = [(remark.line, remark.text) for remark in report.problems if remark.line < 5]
    assert [line for line, _ in told][:2] == [1, 2] and len(report.examples) == 1
    assert "nested too deeply" in told[0][1] and "not UTF-8" in told[1][1]
    assert any("unknown field 'anwser'" in text for _, text in told)


def test_check_notes_sentences_that_finetune_would_refuse(folder, capsys):
    path = write(folder, ASKED, {**ASKED, "question": "\u00e9\u4e2d" * 500})
    assert main(["data", "check", str(path)]) == 0
    assert "line 2 of the data has" in capsys.readouterr().out
