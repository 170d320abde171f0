"""ScanRefer's protocols against stored numbers, the two labelling rules, and bad entries."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from evaluation_data import differences, load

from vidllm.evaluation.protocols.scanrefer import PROTOCOLS, Annotation, scanrefer_labels, twenty_class_labels


@pytest.fixture(scope="module")
def data(golden: Path) -> Any:
    return load(golden, "scanrefer")


@pytest.mark.parametrize("name", ["official", "m3dref", "video3dllm"])
def test_scores_agree_with_the_published_evaluator(data: Any, name: str) -> None:
    found = PROTOCOLS[name].score(data["references"], data["predictions"])
    assert differences(found, data["scores"][name]) == []


def test_the_iou_of_every_prediction_agrees(data: Any) -> None:
    items = PROTOCOLS["official"].per_item
    found = items(data["references"], data["predictions"])
    assert differences(found, data["per_item"]["official"], tolerance=1e-12) == []


def test_labels_follow_both_rules(data: Any) -> None:
    given = [thing(r["object_id"], r["object_name"], r["scene_id"]) for r in data["references"]]
    assert [list(pair) for pair in scanrefer_labels(given)] == [row[:2] for row in data["labels"]]
    assert twenty_class_labels(given) == [row[2] for row in data["labels"]]


def thing(number: object, name: str, scene: str = "s") -> Annotation:
    return Annotation((scene, str(number), "0"), np.zeros((8, 3)), name, None, "entry")


def test_walls_and_things_without_a_class_share_others_only_for_scanrefer() -> None:
    pair = [thing(0, "wall"), thing(1, "blanket"), thing(2, "office_chair")]
    assert scanrefer_labels(pair) == [(1, 1), (1, 1), (0, 0)]
    assert twenty_class_labels(pair) == ["unique", "unique", "unique"]


def test_one_object_with_many_descriptions_is_unique() -> None:
    same = [thing(0, "couch"), thing(0, "couch")]
    assert scanrefer_labels(same) == [(0, 0), (0, 0)]
    assert twenty_class_labels([*same, thing(1, "sofa")]) == ["multiple"] * 3


def test_flags_left_out_are_worked_out_from_the_references(data: Any) -> None:
    known = {(r["scene_id"], r["object_id"], r["ann_id"]) for r in data["references"]}
    kept = [p for p in data["predictions"] if (p["scene_id"], p["object_id"], p["ann_id"]) in known]
    bare = [{k: v for k, v in p.items() if k not in ("unique_multiple", "others")} for p in kept]
    official = PROTOCOLS["official"].score
    assert official(data["references"], bare) == official(data["references"], kept)


def test_whole_numbers_and_text_name_the_same_object(data: Any) -> None:
    numbers = [p | {"object_id": int(p["object_id"]), "ann_id": int(p["ann_id"])} for p in data["predictions"]]
    for protocol in PROTOCOLS.values():
        assert protocol.score(data["references"], numbers) == protocol.score(data["references"], data["predictions"])


def test_a_box_with_nan_is_a_miss(data: Any) -> None:
    truth = data["references"][:1]
    hit = [{k: truth[0][k] for k in ("scene_id", "object_id", "ann_id", "bbox")}]
    broken = copy.deepcopy(hit)
    broken[0]["bbox"][0][0] = float("nan")
    for name, key in (("video3dllm", "all iou@0.25"), ("video3dllm", "all iou@0.5")):
        assert PROTOCOLS[name].score(truth, hit)[key] == 100.0
        assert PROTOCOLS[name].score(truth, broken)[key] == 0.0
    assert PROTOCOLS["m3dref"].score(truth, broken)["all_ground_truth_overall_only"]["Acc@0.25"] == 0.0


@pytest.mark.parametrize(
    ("box", "message"), [([[0, 0, 0]], "8 corners"), ([["a", 0, 0]] * 8, "numbers"), ([[0, 0]] * 8, "8 corners")]
)
def test_bad_boxes_are_named(data: Any, box: Any, message: str) -> None:
    entry = data["predictions"][5] | {"bbox": box}
    for protocol in PROTOCOLS.values():
        with pytest.raises(ValueError, match=message) as raised:
            protocol.score(data["references"], [entry])
        assert entry["scene_id"] in str(raised.value)


def test_only_the_benchmark_counts_repeated_and_unknown_predictions(data: Any) -> None:
    more = [*data["predictions"], data["predictions"][5] | {"object_id": "999"}, data["predictions"][5]]
    scores = PROTOCOLS["official"].score(data["references"], more)
    assert scores["as_is"]["stats"]["overall"]["overall"] == 250
    assert scores["deduplicated_known_only"] == data_scores(data)["deduplicated_known_only"]
    for name in ("m3dref", "video3dllm"):
        same = PROTOCOLS[name].score(data["references"], data["predictions"])
        assert PROTOCOLS[name].score(data["references"], more) == same


def data_scores(data: Any) -> dict[str, Any]:
    return PROTOCOLS["official"].score(data["references"], data["predictions"])


def test_no_prediction_at_all_is_an_error(data: Any) -> None:
    for protocol in PROTOCOLS.values():
        with pytest.raises(ValueError, match="no predictions"):
            protocol.score(data["references"], [])
    with pytest.raises(ValueError, match="no prediction is for"):
        PROTOCOLS["m3dref"].score(data["references"], [data["predictions"][0] | {"scene_id": "elsewhere"}])
    with pytest.raises(ValueError, match="no 'ann_id'"):
        PROTOCOLS["official"].score(data["references"], [{"scene_id": "s", "object_id": "1"}])
