"""Predictions as other models' own scripts write them, brought into the fields that the protocols read.

A protocol that bears a model's name also takes the rows of that model's script: Video-3D-LLM and 3DRS
``{sample_id, pred_response}``, LLaVA-3D ``{question_id, text}``, Chat-Scene ``{qid, pred}``, LL3DA
``{"question_id-question": [answer]}``; ScanRefer of Video-3D-LLM ``{sample_id, pred_response}`` with the annotation's
row number and a box as centre and size in metres. Rows that have the usual fields stay as they are.
"""

from __future__ import annotations

import re
from itertools import product
from typing import Any

__all__ = ["usual_rows"]

_ANSWER = {"video3dllm": "pred_response", "3drs": "pred_response", "llava3d": "text", "chatscene": "pred"}
_ID = {"video3dllm": "sample_id", "3drs": "sample_id", "llava3d": "question_id", "chatscene": "qid"}
_SCANQA_ID = re.compile(r"scanqa_(.+)_\d+")

Row = dict[str, Any]


def usual_rows(task: str, protocol: str, references: Any, predictions: Any) -> Any:
    """The predictions with the usual fields; ValueError naming the row where a foreign one has another form."""
    if (task, protocol) == ("scanqa", "ll3da") and isinstance(predictions, dict):
        return _ll3da(references, predictions)
    if not isinstance(predictions, list):
        return predictions
    if task in ("scanqa", "sqa3d") and protocol in _ANSWER:
        return [_answer(task, protocol, row) for row in predictions]
    if (task, protocol) == ("scanrefer", "video3dllm"):
        return [_box(references, row, f"prediction {index}") for index, row in enumerate(predictions)]
    return predictions


def _answer(task: str, protocol: str, row: Any) -> Any:
    answer, name = _ANSWER[protocol], _ID[protocol]
    usual = "answer_top10" if task == "scanqa" else "answer"
    if not isinstance(row, dict) or usual in row or answer not in row:
        return row
    key = row.get("question_id", row.get(name))
    own = _SCANQA_ID.fullmatch(key) if isinstance(key, str) and name == "sample_id" else None
    said = row[answer]
    return {**row, "question_id": own[1] if own else key, usual: [said] if task == "scanqa" else said}


def _ll3da(references: Any, predictions: dict[str, Any]) -> list[Row]:
    entries = [entry for entry in references if isinstance(entry, dict)] if isinstance(references, list) else []
    known = {f"{entry.get('question_id')}-{entry.get('question')}": entry.get("question_id") for entry in entries}
    return [{"question_id": known.get(key, key), "answer_top10": answers} for key, answers in predictions.items()]


def _box(references: Any, row: Any, place: str) -> Any:
    if not isinstance(row, dict) or "bbox" in row or "pred_response" not in row:
        return row
    number, box = row.get("sample_id"), row["pred_response"]
    if type(number) is not int or not isinstance(references, list) or not 0 <= number < len(references):
        raise ValueError(f"{place}: expected 'sample_id' to be a row number of the references, got {number!r:.60}")
    if not isinstance(box, list) or len(box) != 6 or not all(type(v) in (int, float) for v in box):
        raise ValueError(f"{place}: expected 'pred_response' to be [x, y, z, w, d, h] in metres, got {box!r:.60}")
    ids = {name: references[number].get(name) for name in ("scene_id", "object_id", "ann_id")}
    corners = [[c + s * side / 2 for c, s, side in zip(box[:3], signs, box[3:], strict=True)]
               for signs in product((-1, 1), repeat=3)]  # fmt: skip
    return {**ids, "bbox": corners}
