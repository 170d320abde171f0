"""Scan2Cap's protocols against stored numbers (METEOR apart, which needs Java), and bad entries."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from evaluation_data import differences, load

from vidllm.evaluation.protocols.scan2cap import PROTOCOLS

DETECTORS = ("cvpr21", "benchmark", "ll3da")


@pytest.fixture(scope="module")
def data(golden: Path) -> Any:
    return load(golden, "scan2cap")


@pytest.fixture(autouse=True)
def no_java(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIDLLM_METEOR_JAR", "/nowhere/meteor.jar")


def test_3drs_is_scored_as_video3dllm(data: Any) -> None:
    assert PROTOCOLS["3drs"].metric is PROTOCOLS["video3dllm"].metric
    assert data["scores"]["3drs"] == data["scores"]["video3dllm"]


@pytest.mark.parametrize("name", [name for name in PROTOCOLS if name != "3drs"])
def test_scores_agree_with_the_published_evaluator(data: Any, name: str) -> None:
    predictions = data["predictions" if name in DETECTORS else "object_predictions"]
    assert differences(PROTOCOLS[name].score(data["references"], predictions), data["scores"][name]) == []


@pytest.mark.parametrize(("name", "stored"), [("cvpr21", "cvpr21_at_0.5"), ("benchmark", "benchmark")])
def test_every_object_agrees(data: Any, name: str, stored: str) -> None:
    items = PROTOCOLS[name].per_item
    assert differences(items(data["references"], data["predictions"]), data["per_item"][stored], tolerance=1e-8) == []


def corners(low: float, high: float) -> list[list[float]]:
    ends = ((high, high), (high, low), (low, low), (low, high))
    return [[x, y, z] for z in (high, low) for x, y in ends]


def thing(number: int, low: float, text: str = "a red chair .") -> dict[str, Any]:
    names = {"scene_id": "s", "object_id": str(number), "object_name": "chair", "ann_id": "0"}
    return names | {"description": text, "token": text.split(), "bbox": corners(low, low + 1)}


def proposal(low: float, caption: str, sure: float = 0.9, size: float = 1.0) -> dict[str, Any]:
    return {"caption": caption, "box": corners(low, low + size), "obj_prob": [1 - sure, sure]}


THINGS = [thing(1, 0.0), thing(2, 5.0, "the long wooden table by the window .")]
EXACT, OFF = "sos a red chair . eos", "sos something else eos"


def captions(name: str, *proposals: dict[str, Any]) -> dict[str, Any]:
    items = PROTOCOLS[name].per_item
    return items(THINGS, {"s": list(proposals)})


def test_the_last_of_several_proposals_stays_in_cvpr21_and_the_best_in_ll3da() -> None:
    rows = proposal(0.0, EXACT), proposal(0.1, OFF)
    assert captions("cvpr21", *rows)["s|1|chair"]["candidate"] == OFF
    assert captions("cvpr21", *rows)["s|2|chair"]["candidate"] == "sos eos"
    scores = PROTOCOLS["ll3da"].score(THINGS, {"s": list(rows)})
    assert scores["@0.5IoU"]["CiDEr@0.5"] > PROTOCOLS["cvpr21"].score(THINGS, {"s": list(rows)})["@0.5IoU"]["CIDEr"]


def test_background_and_weak_overlap_do_not_count() -> None:
    assert captions("cvpr21", proposal(0.0, EXACT, sure=0.5))["s|1|chair"]["candidate"] == "sos eos"
    assert captions("cvpr21", proposal(0.4, EXACT))["s|1|chair"]["candidate"] == "sos eos"


def test_captions_end_at_their_first_eos() -> None:
    found = captions("cvpr21", proposal(0.0, "sos a chair eos and more"))
    assert found["s|1|chair"]["candidate"] == "sos a chair eos"


def test_the_benchmark_gives_left_over_objects_the_first_proposal() -> None:
    found = captions("benchmark", proposal(5.0, EXACT))
    assert found["s|2"] == {"iou": pytest.approx(1.0), "caption": EXACT}
    assert found["s|1"] == {"iou": 0.0, "caption": EXACT}


def test_the_benchmark_refuses_what_the_server_refuses() -> None:
    score = PROTOCOLS["benchmark"].score
    for predictions in ({}, {"s": []}):
        with pytest.raises(ValueError, match="scene s"):
            score(THINGS, predictions)
    points = [thing(1, 0.0) | {"bbox": [[0.0, 0.0, 0.0]] * 8}]
    with pytest.raises(ValueError, match="scene s cannot be matched: costs contain NaN"):
        score(points, {"s": [proposal(0.0, EXACT, size=0.0)]})


def test_f1_of_no_overlap_is_not_a_number() -> None:
    scores = PROTOCOLS["benchmark"].score(THINGS, {"s": [proposal(20.0, EXACT), proposal(30.0, OFF)]})
    assert scores["@0.5IoU"]["precision"]["CIDEr"] == 0.0
    assert scores["@0.5IoU"]["f1-score"]["CIDEr"] is None


def answered(number: object = 1, **changes: Any) -> dict[str, Any]:
    entry = {"scene_id": "s", "object_id": number, "iou": 0.7, "pred_response": "a red chair ."}
    return {key: value for key, value in (entry | changes).items() if value is not None}


def test_a_box_may_stand_for_the_iou() -> None:
    rows = [answered(), answered("2", iou=None, box=corners(5.0, 6.0))]
    assert PROTOCOLS["video3dllm"].score(THINGS, rows)["@0.5IoU"]["n"] == 2
    near = [answered(), answered("2", iou=0.99)]
    assert PROTOCOLS["leo"].score(THINGS, rows) == PROTOCOLS["leo"].score(THINGS, near)


def test_only_chatscene_counts_objects_without_an_answer() -> None:
    assert PROTOCOLS["leo"].score(THINGS, [answered()])["@0.5IoU"]["BLEU-4"] > 0.9
    assert PROTOCOLS["video3dllm"].score(THINGS, [answered()])["@0.5IoU"]["n"] == 1
    both = PROTOCOLS["chatscene"].score(THINGS, [answered(), answered("2", pred_response="")])
    assert PROTOCOLS["chatscene"].score(THINGS, [answered()]) == both


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([answered(9)], "no object of the references"),
        ([answered(iou=None)], "no 'box'"),
        ([answered(iou="high")], "expected 'iou' to be a number"),
        ([answered(pred_response=None)], "no 'pred_response'"),
        ([], "no predictions"),
        ({}, "must be a list"),
    ],
)
def test_bad_answers_are_named(rows: Any, message: str) -> None:
    for name in ("leo", "video3dllm", "3drs", "vgllm", "chatscene"):
        with pytest.raises(ValueError, match=message):
            PROTOCOLS[name].score(THINGS, rows)
