"""Nr3D and Sr3D: the groups of the official code, choices of instances, boxes, and bad entries."""

from __future__ import annotations

from typing import Any

import pytest
from evaluation_data import corners

from vidllm.evaluation.protocols.referit3d import PROTOCOLS, is_view_dependent, objects_in_context


def row(number: int, stimulus: str, words: str, **more: Any) -> dict[str, Any]:
    target = int(stimulus.split("-")[3])
    return {"assignmentid": number, "stimulus_id": stimulus, "target_id": target, "tokens": words.split()} | more


ROWS = [
    row(10, "scene0525_00-plant-2-5-9", "the plant by the wall", bbox=corners(0, 1)),
    row(11, "scene0525_00-office_chair-3-7-8-9", "the chair left of the desk", bbox=corners(0, 1)),
    row(12, "scene0011_00-door-4-1-2-3-4", "door with glass", bbox=corners(0, 1)),
    row(13, "scene0011_00-lamp-2-6-8", "lamp in front", bbox=corners(0, 1)),
]


def chosen(*targets: int) -> list[dict[str, Any]]:
    return [{"assignmentid": r["assignmentid"], "target_id": t} for r, t in zip(ROWS, targets, strict=True)]


def test_a_stimulus_is_read() -> None:
    assert objects_in_context("scene0525_00-office_chair-3-7-8-9") == 3
    assert objects_in_context("s-sink-1-4") == 1
    for bad in ("scene-chair-3-1-2", "scene-chair", "scene-chair-x-1"):
        with pytest.raises(ValueError, match="stimulus_id"):
            objects_in_context(bad)


def test_view_dependence_is_by_whole_tokens() -> None:
    assert is_view_dependent(["facing", "it"])
    assert not is_view_dependent(["Left", "backpack", "rightly"])


def test_accuracy_by_group() -> None:
    scores = PROTOCOLS["official"].score(ROWS, chosen(5, 7, 2, 8))
    assert scores == {"all": 50, "easy": 50, "hard": 50, "v-dep": 50, "v-indep": 50, "n": 4, "n_not_scored": 0}
    assert PROTOCOLS["official"].per_item(ROWS, chosen(5, 7, 2, 8)) == {"10": 1, "11": 1, "12": 0, "13": 0}


def test_descriptions_the_authors_drop_are_not_scored() -> None:
    long = row(14, "s-bed-2-1-2", "word " * 25)
    vague = row(15, "s-bed-2-1-2", "that one", mentions_target_class="False")
    scores = PROTOCOLS["official"].score([*ROWS, long, vague], chosen(5, 7, 1, 6))
    assert (scores["all"], scores["n"], scores["n_not_scored"]) == (100.0, 4, 2)


def test_rows_without_an_id_go_by_their_number_and_tokens_may_be_text() -> None:
    rows = [
        {"stimulus_id": "s-bed-2-1-2", "target_id": "1", "tokens": "['the', 'bed']"},
        {"stimulus_id": "s-bed-3-2-1-3", "target_id": "2", "tokens": "['the', 'bed']"},
    ]
    scores = PROTOCOLS["official"].score(rows, [{"id": 1, "target_id": 2}, {"id": "0", "target_id": 3}])
    assert (scores["all"], scores["easy"], scores["hard"], scores["v-dep"]) == (50.0, 0.0, 100.0, None)


def test_boxes_are_scored_by_iou() -> None:
    ends = 1.0, 0.7, 3.0, float("nan")
    boxes = [{"id": r["assignmentid"], "bbox": corners(0, end)} for r, end in zip(ROWS, ends, strict=True)]
    scores = PROTOCOLS["video3dllm"].score(ROWS, boxes)
    assert (scores["all acc@0.25iou"], scores["all acc@0.5iou"], scores["n"]) == (0.5, 0.25, 4)
    assert (scores["easy acc@0.25iou"], scores["v-dep acc@0.25iou"]) == (0.5, 0.5)


def test_bad_entries_are_named() -> None:
    score, right = PROTOCOLS["official"].score, chosen(5, 7, 1, 6)
    for predictions, message in (
        (right[:3], "no prediction, the first is 13"),
        ([*right, {"id": 99, "target_id": 1}], "99.* is for no description"),
        ([*right, right[0]], "a second time"),
        ([*right[:3], {"id": 13}], "no 'target_id'"),
        ([*right[:3], {"id": 13, "target_id": "lamp"}], "to be a whole number"),
        ([{"target_id": 1}], "has no 'id'"),
    ):
        with pytest.raises(ValueError, match=message):
            score(ROWS, predictions)
    with pytest.raises(ValueError, match="repeats the id"):
        score([ROWS[0], ROWS[0]], right)
    with pytest.raises(ValueError, match="to be a list of words"):
        score([ROWS[0] | {"tokens": "the bed"}], right)
