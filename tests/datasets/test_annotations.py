"""Annotation files in their official forms, ids as numbers or text, and broken entries by name."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import agent_pose

from vidllm.datasets import scannet_mesh
from vidllm.datasets.annotations import (
    group_by_object,
    read_multi3drefer,
    read_referit3d,
    read_scanqa,
    read_scanrefer,
    read_scene_list,
    read_sqa3d,
)
from vidllm.datasets.scannet_mesh import read_proposals


def write(path: Path, value: Any) -> Path:
    path.write_text(json.dumps(value))
    return path


SCANQA = {
    "answers": ["dark brown", "brown"],
    "object_ids": [4, "5"],
    "object_names": ["chair", "chair"],
    "question": "What color is the chair?",
    "question_id": "val-scene0011-0",
    "scene_id": "scene0011_00",
}


def test_scanqa(tmp_path: Path) -> None:
    bare = {key: SCANQA[key] for key in ("question", "question_id", "scene_id")}  # the test files
    first, second = read_scanqa(write(tmp_path / "q.json", [SCANQA, bare]))
    assert first.answers == ("dark brown", "brown") and first.object_ids == (4, 5)
    assert second.answers == () and second.question_id == "val-scene0011-0"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"question": None}, "entry 1 .*val-scene0011-0.*expected 'question' to be text, got None"),
        ({"scene_id": " "}, "expected 'scene_id' to be a name"),
        ({"answers": "brown"}, "expected 'answers' to be a list, got 'brown'"),
        ({"answers": []}, "at least one answer"),
        ({"answers": [1]}, "a list of texts"),
        ({"object_ids": ["x"]}, "expected 'object_ids' to be a whole number, got 'x'"),
        ({"object_ids": [True]}, "a whole number"),
    ],
)
def test_broken_entries_are_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = write(tmp_path / "q.json", [SCANQA, {**SCANQA, **change}])
    with pytest.raises(ValueError, match=message) as caught:
        read_scanqa(path)
    assert str(path) in str(caught.value)


def test_broken_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "q.json"
    path.write_text('[{"a": 1},\n')
    with pytest.raises(ValueError, match=r"q.json: not JSON at line 2"):
        read_scanqa(path)
    path.write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(ValueError, match=r"q.json: not"):
        read_scanqa(path)
    with pytest.raises(ValueError, match=r"expected a list of ScanQA questions, got dict"):
        read_scanqa(write(path, {}))
    with pytest.raises(ValueError, match=r"entry 0: expected an object, got 3"):
        read_scanqa(write(path, [3]))
    with pytest.raises(ValueError, match=r"entry 0: needs 'scene_id'; there is no .* its fields \['question'\]"):
        read_scanqa(write(path, [{"question": "x"}]))
    with pytest.raises(ValueError, match=r"none.json: does not exist"):
        read_scanqa(tmp_path / "none.json")


def sqa3d_pair(folder: Path, ids: tuple[Any, ...] = (220602000002,), **change: Any) -> Path:
    question = {
        "scene_id": "scene0050_00",
        "situation": "I am facing a window.",
        "alternative_situation": ["I look out.", "I stand at the window."],
        "question": "What is behind me?",
    }
    annotation = {
        "scene_id": "scene0050_00",
        "question_type": "N/A",
        "answer_type": "other",
        "answers": [{"answer": "piano", "answer_confidence": "yes", "answer_id": 1}],
        "rotation": {"_x": 0, "_y": 0, "_z": math.sin(math.pi / 4), "_w": math.cos(math.pi / 4)},
        "position": {"x": 0.7, "y": -0.1, "z": 0},
        **change,
    }
    annotations = [{"question_id": 220602000002, **annotation}]
    write(folder / "v1_balanced_sqa_annotations_test_scannetv2.json", {"info": {}, "annotations": annotations})
    questions = [{**question, "question_id": number} for number in ids]
    return write(folder / "v1_balanced_questions_test_scannetv2.json", {"info": {}, "questions": questions})


def test_sqa3d_joins_its_pair(tmp_path: Path) -> None:
    (item,) = read_sqa3d(sqa3d_pair(tmp_path, ("220602000002",)))  # an id as text
    assert item.question_id == 220602000002 and item.answers == ("piano",)
    assert item.situation.alternatives[1] == "I stand at the window."
    pose = agent_pose(item.situation)
    np.testing.assert_allclose(-pose[:3, 0], [0, -1, 0], atol=1e-12)  # -x, turned to the left by 90 degrees
    np.testing.assert_allclose(pose[:3, 3], [0.7, -0.1, 0])


def test_sqa3d_refuses(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"entry 1 .*question_id 7.*has no entry of this question_id"):
        read_sqa3d(sqa3d_pair(tmp_path, (220602000002, 7)))
    with pytest.raises(ValueError, match=r"is also that of entry 0"):
        read_sqa3d(sqa3d_pair(tmp_path, (220602000002, 220602000002)))
    with pytest.raises(ValueError, match=r"sqa_annotations_test.* a unit quaternion"):
        read_sqa3d(sqa3d_pair(tmp_path, rotation={"_x": 0, "_y": 0, "_z": 0, "_w": 0}))
    with pytest.raises(ValueError, match="expected 'position' to be finite numbers x, y, z"):
        read_sqa3d(sqa3d_pair(tmp_path, position={"x": math.nan, "y": 0, "z": 0}))
    with pytest.raises(ValueError, match="'answers' to be a list of"):
        read_sqa3d(sqa3d_pair(tmp_path, answers=[]))
    with pytest.raises(ValueError, match="expected 'scene_id' to be scene0050_00, as v1_balanced_questions"):
        read_sqa3d(sqa3d_pair(tmp_path, scene_id="scene0051_00"))
    with pytest.raises(ValueError, match="expected an object with 'questions'"):
        read_sqa3d(write(tmp_path / "x_questions_.json", []))


SCANREFER = {
    "scene_id": "scene0011_00",
    "object_id": "1",
    "object_name": "kitchen_cabinets",
    "ann_id": "0",
    "description": "There are cabinets. placed on the side, of the kitchen.",
    "token": ["there", "are", "cabinets", "."] + ["x"] * 40,
}


def test_scanrefer_and_scan2cap(tmp_path: Path) -> None:
    other = {**SCANREFER, "ann_id": 1, "object_id": 1, "object_name": "cabinets"}
    path = write(tmp_path / "s.json", [SCANREFER, {**SCANREFER, "object_id": "2"}, other])
    items = read_scanrefer(path)
    assert [(d.object_id, d.ann_id) for d in items] == [(1, 0), (2, 0), (1, 1)]
    first, second = group_by_object(items)
    assert (first.object_id, first.object_name, len(first.descriptions)) == (1, "kitchen_cabinets", 2)
    assert second.descriptions == (items[1],) and len(items[0].tokens) == 44


def test_scene_lists_have_no_final_newline(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_text("scene0001_00\nscene0000_00\nscene0001_00")
    assert read_scene_list(path) == ["scene0001_00", "scene0000_00"]
    path.write_text("")
    with pytest.raises(ValueError, match="the file is empty"):
        read_scene_list(path)


def test_multi3drefer(tmp_path: Path) -> None:
    base = {"scene_id": "scene0000_00", "object_name": "chair", "ann_id": 3, "description": "chairs"}
    rows = [{**base, "object_ids": [], "eval_type": "zt_wo_d"}, {**base, "object_ids": ["4", 5], "eval_type": "mt"}]
    none, many = read_multi3drefer(write(tmp_path / "m.json", rows))
    assert none.object_ids == () and many.object_ids == (4, 5) and many.ann_id == 3
    with pytest.raises(ValueError, match="as many as eval_type st_w_d says, got"):
        read_multi3drefer(write(tmp_path / "m.json", [{**base, "object_ids": [1, 2], "eval_type": "st_w_d"}]))
    with pytest.raises(ValueError, match="expected 'eval_type' to be one of zt_wo_d"):
        read_multi3drefer(write(tmp_path / "m.json", [{**base, "object_ids": [], "eval_type": "zero"}]))


def write_csv(path: Path, **change: str) -> Path:
    row = {
        "assignmentid": "9",
        "stimulus_id": "scene0525_00-t-shirt rack-3-9-10-12",
        "utterance": "The one on the left",
        "target_id": "9",
        "instance_type": "t-shirt rack",
        "scan_id": "scene0525_00",
        "tokens": "['the', 'one', 'on', 'the', 'left']",
        "dataset": "nr3d",
        "mentions_target_class": "False",
        "correct_guess": "TRUE",
        **change,
    }
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(row))
        writer.writeheader()
        writer.writerow(row)
    return path


def test_referit3d(tmp_path: Path) -> None:
    (item,) = read_referit3d(write_csv(tmp_path / "nr3d.csv"))
    assert (item.scene_id, item.target_id, item.distractor_ids) == ("scene0525_00", 9, (10, 12))
    assert item.n_objects == 3 and item.correct_guess is True and not item.mentions_target_class
    anchors = {"anchor_ids": "[4, 5]", "reference_type": "between", "dataset": "sr3d"}
    (item,) = read_referit3d(write_csv(tmp_path / "sr3d.csv", **anchors, stimulus_id="scene0525_00-rack-2-9-10"))
    assert item.anchor_ids == (4, 5) and item.reference_type == "between" and item.n_objects == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target_id": "8"}, "entry 0 .*expected 'stimulus_id' to be scene-label-n-8-distractors"),
        ({"target_id": ""}, "expected 'target_id' to be a whole number, got ''"),
        ({"tokens": "__import__('os').getcwd()"}, "expected 'tokens' to be a list of str"),
        ({"correct_guess": "maybe"}, "'correct_guess' to be True or False"),
    ],
)
def test_referit3d_refuses(tmp_path: Path, change: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_referit3d(write_csv(tmp_path / "nr3d.csv", **change))


def test_referit3d_of_another_table(tmp_path: Path) -> None:
    path = tmp_path / "nr3d.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match=r"columns \['scan_id', 'stimulus_id', 'target_id', 'utterance'\] are missing"):
        read_referit3d(path)


MASKS = np.array([[1, 0, 0, 1, 0], [0, 0, 0, 0, 0], [0, 1, 1, 0, 1]], bool)


def sparse(kind: str) -> dict[str, Any]:
    """What scipy's save_npz stores for MASKS in one of three forms."""
    row, column = np.nonzero(MASKS)
    common = {"format": np.array(kind.encode()), "shape": np.array(MASKS.shape), "data": np.ones(len(row), bool)}
    if kind == "coo":
        return {**common, "row": row, "col": column}
    if kind == "csr":
        return {**common, "indices": column, "indptr": np.array([0, 2, 2, 5])}
    row, column = np.nonzero(MASKS.T)
    return {**common, "indices": column, "indptr": np.concatenate([[0], np.cumsum(MASKS.sum(0))])}


@pytest.mark.parametrize("kind", ["csr", "csc", "coo"])
def test_proposals(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "scene.mask.npz"
    np.savez_compressed(path, **sparse(kind))
    proposals = read_proposals(path)
    assert [row.tolist() for row in proposals.rows] == [np.flatnonzero(mask).tolist() for mask in MASKS]
    vertices = np.arange(15, dtype=float).reshape(5, 3)
    boxes = proposals.boxes(vertices)
    np.testing.assert_allclose(boxes[0], [4.5, 5.5, 6.5, 9, 9, 9])
    assert np.isnan(boxes[1]).all()
    monkeypatch.setattr(scannet_mesh, "MAX_PROPOSALS", 2)
    assert len(read_proposals(path)) == 2
    with pytest.raises(ValueError, match="expected the 5 vertices that the masks number, got 4"):
        proposals.boxes(vertices[:4])


def test_broken_proposals_are_named(tmp_path: Path) -> None:
    path = tmp_path / "scene.mask.npz"
    path.write_bytes(b"no zip")
    with pytest.raises(ValueError, match=r"scene.mask.npz: not a readable .npz"):
        read_proposals(path)
    np.savez(path, masks=MASKS)
    with pytest.raises(ValueError, match=r"not a sparse matrix .* it holds \['masks'\]"):
        read_proposals(path)
    np.savez(path, **{**sparse("coo"), "col": np.array([0, 3, 1, 2, 9])})
    with pytest.raises(ValueError, match=r"not a sparse matrix .*exceeds matrix"):
        read_proposals(path)
