"""Multi3DRefer's protocols against stored numbers, missing queries, and bad entries."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from evaluation_data import corners, differences, load

from vidllm.evaluation.protocols.multi3drefer import PROTOCOLS


@pytest.fixture(scope="module")
def data(golden: Path) -> Any:
    return load(golden, "multi3drefer")


@pytest.mark.parametrize("name", ["official", "video3dllm"])
def test_scores_and_items_agree_with_the_published_evaluator(data: Any, name: str) -> None:
    protocol = PROTOCOLS[name]
    assert differences(protocol.score(data["references"], data["predictions"]), data["scores"][name]) == []
    assert differences(protocol.per_item(data["references"], data["predictions"]), data["per_item"][name]) == []


def test_missing_queries_count_as_zero_overall(data: Any) -> None:
    missing = set(data["missing"]["missing_keys"])
    fewer = {s: [q for q in rows if f"{s}|{q['ann_id']}" not in missing] for s, rows in data["predictions"].items()}
    found = PROTOCOLS["official"].score(data["references"], fewer)
    overall = {name: {"overall": scores["overall"]} for name, scores in found.items()}
    wanted = {k: {"overall": v} for k, v in data["missing"]["overall_when_last_10_queries_missing"].items()}
    assert differences(overall, wanted) == []
    assert PROTOCOLS["video3dllm"].score(data["references"], fewer)["all"]["n"] == 257


def query(kind: str, *boxes: tuple[float, float]) -> dict[str, Any]:
    return {"s": [{"ann_id": 0, "eval_type": kind, "aabb_bound": [[[a] * 3, [b] * 3] for a, b in boxes]}]}


def answer(*boxes: tuple[float, float], number: object = 0) -> dict[str, Any]:
    return {"s": [{"ann_id": number, "aabb": [corners(a, b) for a, b in boxes]}]}


def f1(references: Any, predictions: Any) -> float:
    return float(PROTOCOLS["official"].score(references, predictions)["F1@0.5"]["overall"])


def test_f1_of_small_sets() -> None:
    assert f1(query("zt_wo_d"), answer()) == 1.0
    assert f1(query("zt_wo_d"), answer((0, 1))) == 0.0
    assert f1(query("st_w_d", (0, 1)), answer()) == 0.0
    assert f1(query("st_w_d", (0, 1)), answer((0, 1), (0, 1))) == pytest.approx(2 / 3)  # a repeated box costs
    assert f1(query("mt", (0, 1), (2, 3)), answer((2, 3), number="0")) == pytest.approx(2 / 3)


def test_types_without_queries_have_no_score() -> None:
    scores = PROTOCOLS["official"].score(query("mt", (0, 1)), answer((0, 1)))
    assert scores["F1@0.25"] == {
        "zt_wo_d": None,
        "zt_w_d": None,
        "st_wo_d": None,
        "st_w_d": None,
        "mt": 1,
        "overall": 1,
    }
    assert set(PROTOCOLS["video3dllm"].score(query("mt", (0, 1)), answer((0, 1)))) == {"all", "mt"}


def test_bad_entries_are_named() -> None:
    one = query("mt", (0, 1))
    for predictions, message in (
        (answer((0, 1), number=7), r"ann_id 7\) is for no query"),
        (answer((0, float("nan"))), r"ann_id 0\): a box holds NaN"),
        (answer(number="x"), "to be a whole number"),
        ({"s": [{"ann_id": 0}]}, "no 'aabb'"),
        ({"s": [{"ann_id": 0, "aabb": [[[0, 0, 0]]]}]}, "8 corners"),
        ([], "must map each scene"),
    ):
        with pytest.raises(ValueError, match=message):
            PROTOCOLS["official"].score(one, predictions)
    with pytest.raises(ValueError, match="eval_type"):
        PROTOCOLS["official"].score(query("several", (0, 1)), answer())
    with pytest.raises(ValueError, match="no boxes"):
        PROTOCOLS["official"].score(query("mt"), answer())
