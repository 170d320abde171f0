"""Predictions in other models' own fields score as those in the usual ones; empty references are an error."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from evaluation_data import corners

from vidllm.cli import main
from vidllm.evaluation.protocols import protocol
from vidllm.evaluation.scoring import PredictionFiles

QUESTIONS = [
    {"scene_id": "s", "question_id": f"val-s-{i}", "question": f"How many {i}?", "answers": [answer]}
    for i, answer in enumerate(("two", "the red chair", "left"))
]
GIVEN = ("two", "a red chair", "right")
USUAL = [{"question_id": q["question_id"], "answer_top10": [a]} for q, a in zip(QUESTIONS, GIVEN, strict=True)]
IDS = [q["question_id"] for q in QUESTIONS]
OTHERS: dict[str, Any] = {
    "video3dllm": [{"sample_id": f"scanqa_{i}_0", "pred_response": a} for i, a in zip(IDS, GIVEN, strict=True)],
    "3drs": [{"sample_id": f"scanqa_{i}_0", "pred_response": a} for i, a in zip(IDS, GIVEN, strict=True)],
    "llava3d": [{"question_id": i, "text": a} for i, a in zip(IDS, GIVEN, strict=True)],
    "chatscene": [{"scene_id": "s", "gt_id": 0, "qid": i, "pred": a} for i, a in zip(IDS, GIVEN, strict=True)],
    "ll3da": {f"{q['question_id']}-{q['question']}": [a] for q, a in zip(QUESTIONS, GIVEN, strict=True)},
}


def write(folder: Path, name: str, value: Any, lines: bool = False) -> Path:
    path = folder / name
    path.write_text("\n".join(map(json.dumps, value)) + "\n" if lines else json.dumps(value))
    return path


def score_files(task: str, predictions: Path, references: Path, name: str) -> dict[str, Any]:
    return PredictionFiles(predictions, references).result(task, protocol(task, name))


def scores(predictions: Path, references: Path, name: str) -> dict[str, Any]:
    """The record, but for what it says of the file of predictions."""
    found = score_files("scanqa", predictions, references, name)
    assert found.pop("predictions")["file"] == predictions.name
    return found


@pytest.mark.parametrize("name", OTHERS)
def test_scanqa_in_the_fields_of_the_protocol(tmp_path: Path, name: str) -> None:
    references = write(tmp_path, "references.json", QUESTIONS)
    usual = scores(write(tmp_path, "usual.json", USUAL), references, name)
    rows = OTHERS[name]
    assert scores(write(tmp_path, "own.json", rows), references, name) == usual
    if isinstance(rows, list):
        for file in ("own.jsonl", "lines.json"):
            assert scores(write(tmp_path, file, rows, lines=True), references, name) == usual


def test_a_protocol_of_another_name_does_not_take_them(tmp_path: Path) -> None:
    references = write(tmp_path, "references.json", QUESTIONS)
    with pytest.raises(ValueError, match="'answer_top10'"):
        score_files("scanqa", write(tmp_path, "own.json", OTHERS["llava3d"]), references, "official")


REFERENCE = {"scene_id": "s", "object_id": "1", "object_name": "chair", "ann_id": "0", "bbox": corners(0, 1)}


def test_scanrefer_boxes_as_centre_and_size_by_row(tmp_path: Path) -> None:
    references = write(tmp_path, "references.json", [REFERENCE, {**REFERENCE, "ann_id": "1"}])
    rows = [{"sample_id": 1, "pred_response": [0.5, 0.5, 0.5, 1, 1, 1]}]
    found = score_files("scanrefer", write(tmp_path, "own.jsonl", rows, lines=True), references, "video3dllm")
    assert found["scores"]["all iou@0.5"] == 100
    rows = [{"sample_id": 2, "pred_response": [0.5, 0.5, 0.5, 1, 1, 1]}]
    with pytest.raises(ValueError, match="prediction 0: expected 'sample_id' to be a row number"):
        score_files("scanrefer", write(tmp_path, "own.jsonl", rows, lines=True), references, "video3dllm")


@pytest.mark.parametrize("task", ("scanqa", "scanrefer", "scan2cap", "nr3d", "sr3d"))
def test_empty_references_are_an_error(tmp_path: Path, task: str, capsys: pytest.CaptureFixture[str]) -> None:
    references = write(tmp_path, "references.json", [])
    rows = [{**REFERENCE, **USUAL[0], "id": "0", "target_id": 1, "unique_multiple": 0, "others": 0}]
    predictions = write(tmp_path, "predictions.json", {"s": []} if task == "scan2cap" else rows)
    given = ["--predictions", str(predictions), "--references", str(references)]
    assert main(["eval", task, *given, "--protocol", "all"]) == 2
    error = capsys.readouterr().err
    assert "references" in error and "references.json" in error and error.count("\n") == 1


def test_nr3d_counts_every_row_as_the_script_does(tmp_path: Path) -> None:
    entry = {"assignmentid": "7", "stimulus_id": "s-chair-2-1-2", "target_id": 1, "tokens": ["it"]}
    entry["bbox"] = corners(0, 1)
    references = write(tmp_path, "references.json", [entry, {**entry, "assignmentid": "8"}])
    hit, miss = {"id": "7", "bbox": corners(0, 1)}, {"id": "7", "bbox": corners(5, 6)}
    with pytest.warns(UserWarning, match="no prediction for 8"):
        found = score_files("nr3d", write(tmp_path, "p.json", [hit, miss]), references, "video3dllm")
    assert found["scores"]["all acc@0.25iou"] == 0.5 and found["scores"]["n"] == 2
