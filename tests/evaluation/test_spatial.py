"""VSI-Bench and its relatives: numbers at the bounds, texts, means as the scripts take them, quirks, bad entries.

The scores were compared with those of the scripts themselves on random answers (60 sets a script, all digits).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from evaluation_data import load

from vidllm.evaluation.protocols.graded import exact_relative_accuracy, first_word, mean_relative_accuracy, number_in
from vidllm.evaluation.protocols.spatial import MMSI, OPENEQA, REVSI, SPAR, THREEDSR, VSI, VSI_KINDS
from vidllm.evaluation.scoring import read_references

Row = dict[str, Any]
COUNT, DIRECTION = "object_counting", "object_rel_direction"


def asked(*kinds_and_truths: tuple[str, Any], kind: str = "question_type", truth: str = "ground_truth") -> list[Row]:
    return [{"id": i, kind: name, truth: right} for i, (name, right) in enumerate(kinds_and_truths)]


def said(*texts: Any) -> list[Row]:
    return [{"id": number, "prediction": text} for number, text in enumerate(texts)]


def graded(protocol: Any, reference: tuple[str, Any], text: Any, **fields: str) -> float:
    """The grade of one answer to one question."""
    return float(protocol.per_item(asked(reference, **fields), said(text))["0"]["grade"])


@pytest.mark.parametrize(
    ("prediction", "truth", "official", "paper"),
    [
        (2.0, 4.0, 0.1, 0.0),  # at the widest bound: <= counts it, < does not
        (3.0, 4.0, 0.6, 0.5),
        (3.8, 4.0, 1.0, 0.9),
        (4.0, 4.0, 1.0, 1.0),
        (2.1, 3.0, 0.5, 0.4),  # 0.3 exactly, but 0.2999... in float64: the paper's < is exact here
        (8.1, 4.0, 0.0, 0.0),
    ],
)
def test_numbers_at_the_bounds(prediction: float, truth: float, official: float, paper: float) -> None:
    assert mean_relative_accuracy(prediction, truth) == official
    assert exact_relative_accuracy(prediction, truth) == paper
    row = (COUNT, str(truth))
    assert graded(VSI["official"], row, f"{prediction}.") == official
    assert graded(VSI["paper"], row, str(prediction)) == paper
    assert graded(VSI["lmms-eval-0.7.3"], row, f"about {prediction} m") == official


@pytest.mark.parametrize(
    ("text", "word", "number"),
    [
        ("3", "3", 3.0), ("3.5. metres", "3.5", 3.5), ("There are 3 boxes", "There", 3.0), (" 4", "", 4.0),
        ("4\n", "4", 4.0), ("-2", "-2", -2.0), ("Two chairs", "Two", 2.0), ("twenty-one", "twenty-one", 21.0),
        ("three hundred and twenty-one", "three", 321.0), ("one apple, room 2", "one", 1.0), ("", "", None),
        ("two thousand", "two", 2000.0), ("none", "none", None),
    ],
)  # fmt: skip
def test_words_and_numbers_of_a_text(text: str, word: str, number: float | None) -> None:
    assert first_word(text) == word
    assert number_in(text) == number


def test_letters_are_the_first_word_in_any_case() -> None:
    texts = {"B": 1, "b.": 1, "B. the sofa": 1, "(B)": 0, "B) sofa": 0, "The B": 0, "": 0, "A": 0}
    assert {text: graded(VSI["official"], ("route_planning", "B"), text) for text in texts} == texts


def test_what_is_no_number_counts_as_wrong() -> None:
    for text in ("", "four", "nan", "inf", "4,5"):
        assert [graded(VSI[name], (COUNT, 4), text) for name in ("official", "paper")] == [0.0, 0.0]
    assert graded(VSI["official"], (COUNT, 4), 4) == 1.0  # a number as such
    with pytest.raises(ValueError, match=r"entry 0 \(id 0\).*0 has no relative error"):
        VSI["official"].score(asked((COUNT, 0)), said("1"))


def test_overall_is_the_mean_of_tasks_and_direction_that_of_its_levels() -> None:
    rows = asked((COUNT, 4), (COUNT, 4), *((f"{DIRECTION}_{level}", "A") for level in ("easy", "medium", "hard")))
    answers = said("4", "9", "A", "B", "A")
    scores = VSI["official"].score(rows, answers)
    third = 100 * 2 / 3
    assert scores[f"{COUNT}_MRA:.5:.95:.05"] == 50.0 and scores[f"{DIRECTION}_accuracy"] == pytest.approx(third)
    assert next(iter(scores.items())) == ("overall", pytest.approx((50 + third) / 2))
    assert VSI["lmms-eval-0.7.3"].score(rows, answers) == {
        "vsibench_overall": 0.583333, f"{COUNT}_mra": 0.5, f"{DIRECTION}_accuracy": 0.666667
    }  # fmt: skip


def test_a_half_is_rounded_as_numpy_does() -> None:
    """0.0015625 to six digits: 0.001562, as lmms-eval prints it, where Python's own rounding gives 0.001563."""
    kinds = [kind for kind in VSI_KINDS if kind != COUNT]
    rows = asked(*((COUNT, 4) for _ in range(8)), *((kind, "9") for kind in kinds))
    scores = VSI["lmms-eval-0.7.3"].score(rows, said("2", *("0" for _ in rows[1:])))
    assert (scores["vsibench_overall"], scores[f"{COUNT}_mra"]) == (0.001562, 0.0125)


def test_every_digit_is_that_of_lmms_eval(golden: Path) -> None:
    """12 sets of random questions and answers, with what lmms-eval 0.7.3 made of them; 0 stands there for "none"."""
    for one in load(golden, "vsi_lmms")["sets"]:
        rows, answers = asked(*((kind, truth) for kind, truth, _ in one["items"])), said(*(i[2] for i in one["items"]))
        assert [row["grade"] for row in VSI["lmms-eval-0.7.3"].per_item(rows, answers).values()] == one["grades"]
        scores = VSI["lmms-eval-0.7.3"].score(rows, answers)
        assert one["metrics"] == dict.fromkeys(one["metrics"], 0.0) | scores


def test_levels_of_direction_that_are_not_there() -> None:
    without_easy = asked((COUNT, 4), (f"{DIRECTION}_hard", "A"))
    assert (
        VSI["official"].score(without_easy, said("4", "B"))["overall"] == 50.0
    )  # a task of its own, as the script has it
    for rows in (asked((f"{DIRECTION}_easy", "A")), without_easy):
        with pytest.raises(ValueError, match=r"object_rel_direction_medium.*levels of direction"):
            VSI["lmms-eval-0.7.3"].score(rows, said(*("A" for _ in rows)))
    with pytest.raises(ValueError, match="object_rel_direction_medium"):
        VSI["official"].score(asked((f"{DIRECTION}_easy", "A")), said("A"))


def test_the_debiased_set_is_scored_beside_the_whole(tmp_path: Path) -> None:
    file = tmp_path / "test.jsonl"
    file.write_text("\n".join(json.dumps(row) for row in asked((COUNT, 4), (COUNT, 4))))
    assert "debiased" not in VSI["official"].score(read_references(file), said("4", "9"))
    (tmp_path / "pruned_ids.txt").write_text("1\n")
    scores = VSI["official"].score(read_references(file), said("4", "9"))
    assert (scores["overall"], scores["debiased"]["overall"]) == (50.0, 100.0)


def test_a_parquet_table_is_read_without_its_pictures(tmp_path: Path) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    rows = [{"id": 7, "options": ["A. x"], "image": [{"bytes": b"png", "path": "a.png"}]}]
    parquet.write_table(arrow.Table.from_pylist(rows), tmp_path / "test.parquet")
    assert read_references(tmp_path / "test.parquet") == [{"id": 7, "options": ["A. x"]}]


def test_revsi_joins_its_parts_and_forgives_a_zero() -> None:
    rows = asked(
        ("object_counting_single", 4), ("object_counting_multiple", "0"), ("object_rel_distance_closest", "A"),
        ("object_rel_direction_forward_easy", "B"), ("object_rel_direction_backward_hard", "C"),
        ("route_planning", "D"),
    )  # fmt: skip
    scores = REVSI["lmms-eval-0.7.3"].score(rows, said(" 4", "1", "a", "B", "x", "D"))
    assert scores == {
        "overall_acc": 0.75, "route_planning_acc": 1.0, f"{DIRECTION}_acc": 0.5, "object_rel_distance_acc": 1.0,
        "object_counting_acc": 0.5,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("quirk", "kind", "truth", "text", "grade"),
    [
        ("empty is right", "position_matching", "B", "", 1.0),
        ("empty is right", "position_matching", "left", "eft", 1.0),
        ("first letter", "spatial_imagination_oo", "A", "Above", 1.0),
        ("first letter", "spatial_imagination_oo", "B", "Above", 0.0),
        ("last number", "depth_prediction_oc_mv", "4", "frame 1: 4", 1.0),
        ("last number", "depth_prediction_oc", "4", "frame 1: 4", 0.0),
        ("error by prediction", "view_change_infer", "move_right:1", "move_right:2", 0.82),
        ("error by prediction", "view_change_infer", "move_right:2", "move_right:1", 0.8),
        ("error by prediction", "view_change_infer", "move_right:1", "right", 0.0),
        ("absolute at zero", "distance_prediction_oo", "0", "0.3", 0.5),
    ],
)
def test_quirks_of_spar_bench(quirk: str, kind: str, truth: str, text: str, grade: float) -> None:
    fields = {"kind": "task", "truth": "answer"}
    assert graded(SPAR["official"], (kind, truth), text, **fields) == pytest.approx(grade), quirk
    if "prediction" in kind:
        assert graded(SPAR["lmms-eval-0.7.3"], (kind, truth), text, **fields) == 0.0, "no numbers"


def test_spar_bench_levels_leave_the_change_of_view_out() -> None:
    rows = asked(("position_matching", "A"), ("view_change_infer", "move_up:1"), kind="task", truth="answer")
    scores = SPAR["official"].score(rows, said("A", "move_up:1"))
    assert (scores["sparbench_score"], scores["middle"], scores["low"]) == (100.0, 1.0, 0.0)
    assert SPAR["official"].score(rows, said("A", "move_down:1"))["middle"] == 1.0


def test_3dsrbench_groups_need_every_member() -> None:
    rows = [
        {"index": i, "qid": qid, "category": "location_above", "answer": "A"}
        for i, qid in enumerate(("ABCDEFGH", "ABCDEFGH-1", "ABCDEFGH-flip", "ABCDEFGH-flip-1"))
    ]
    scores = THREEDSR["lmms-eval-0.7.3"].score(rows, said("(A)", "Answer: A", "A", "B"))
    assert (scores["vanilla_accuracy"], scores["flip_accuracy"], scores["circular_accuracy"]) == (0.75, 0.5, 0.5)
    assert (scores["flip_circular_accuracy"], scores["location_accuracy"], scores["height_accuracy"]) == (0, 0.75, 0)
    plain = [{key: value for key, value in row.items() if key != "qid"} for row in rows]
    assert "flip_accuracy" not in THREEDSR["lmms-eval-0.7.3"].score(plain, said("A", "A", "A", "B"))


def test_mmsi_bench_looks_into_marks_first_and_weighs_questions_alike() -> None:
    texts = {"``B``": 1, "`b`": 1, "{B}": 1, "It is B.": 1, "b": 1, "A cat": 0, "``A`` or B": 0, "": 0}
    for text, grade in texts.items():
        assert graded(MMSI["lmms-eval-0.7.3"], ("MSR", "B"), text, truth="answer") == grade, text
    rows = asked(("MSR", "A"), ("MSR", "A"), ("Positional Relationship (Obj.-Obj.)", "A"), truth="answer")
    scores = MMSI["lmms-eval-0.7.3"].score(rows, said("A", "B", "A"))
    assert scores == {"average": pytest.approx(2 / 3), "MSR": 0.5, "Positional Relationship (Obj.\u2013Obj.)": 1.0}


def test_openeqa_takes_the_marks_of_a_judge() -> None:
    rows = [
        {"question_id": key, "category": kind} for key, kind in (("x", "objects"), ("y", "objects"), ("z", "space"))
    ]
    scores = OPENEQA["official"].score(rows, {"x": 5, "y": 0, "z": 3})
    assert scores == {"final score": 50.0, "objects": 50.0, "space": 50.0}
    with pytest.raises(ValueError, match="no prediction for z"):
        OPENEQA["official"].score(rows, {"x": 5, "y": 1})


@pytest.mark.parametrize(
    ("rows", "answers", "message"),
    [
        (asked((COUNT, 4)), said(), "predictions: the list is empty"),
        (asked((COUNT, 4)), [{"id": 5, "prediction": "4"}], "no prediction for 0"),
        (asked((COUNT, 4)), said("4", "4"), "unknown ids 1"),
        (asked((COUNT, 4)), [*said("4"), *said("5")], r"entry 1 \(id 0\): the id 0 occurs twice"),
        (asked(("counting", 4)), said("4"), r"entry 0.*'question_type' to be one of"),
        (asked((COUNT, None)), said("4"), "'ground_truth' to be text or a number"),
        (asked((COUNT, 4)), [{"id": 0, "answer": "4"}], "needs 'prediction'"),
        (asked((COUNT, 4)), [{"prediction": "4"}], "entry 0: needs 'id'"),
    ],
)
def test_bad_entries_are_named(rows: list[Row], answers: list[Row], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VSI["official"].score(rows, answers)
