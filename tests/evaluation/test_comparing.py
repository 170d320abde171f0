"""The paired bootstrap: known spread, tasks weighed alike, seeds, and files that do not belong together."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from vidllm.cli import main
from vidllm.evaluation.comparing import compare
from vidllm.evaluation.results import headline_first


def test_the_interval_is_that_of_the_mean() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(0.1, 1.0, 400)
    first, nothing = ({str(i): float(v) for i, v in enumerate(column)} for column in (values, np.zeros(400)))
    found = compare(first, nothing, None, 4000)
    spread = 1.96 * values.std() / 20
    assert found.difference == pytest.approx(values.mean())
    assert [found.low, found.high] == pytest.approx([values.mean() - spread, values.mean() + spread], abs=0.02)
    assert found == compare(first, nothing, None, 4000)
    assert found != compare(first, nothing, None, 4000, seed=1)


def test_pairs_cancel_what_both_share() -> None:
    base = np.random.default_rng(1).normal(size=200)
    first = {str(i): {"grade": float(v + 0.01)} for i, v in enumerate(base)}
    second = {str(i): {"grade": float(v)} for i, v in enumerate(base)}
    found = compare(first, second)
    assert not found.is_noise and found.low == pytest.approx(0.01) and found.metric == "grade"
    assert compare(second, second).is_noise


def test_tasks_count_alike_and_parts_within_them() -> None:
    tasks = ["count"] * 90 + ["direction/easy"] * 6 + ["direction/hard"] * 4
    first = {str(i): {"grade": float(task == "direction/hard"), "task": task} for i, task in enumerate(tasks)}
    second = {key: {**item, "grade": 0.0} for key, item in first.items()}
    assert compare(first, second).first == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("first", "second", "metric", "message"),
    [
        ({"a": 1.0}, {"b": 1.0}, None, "only one of them has a"),
        ({"a": {"said": "x"}}, {"a": {"said": "y"}}, None, "no number at all"),
        ({"a": {"em": 1}}, {"a": {"em": 0}}, "cider", "no number cider.*em"),
    ],
)
def test_what_cannot_be_compared(first: object, second: object, metric: str | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compare(first, second, metric)


def test_the_command_calls_a_small_difference_noise(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"id": i, "question_type": "object_counting", "ground_truth": "4"} for i in range(40)]
    answers = {"a": ["4"] * 21 + ["9"] * 19, "b": ["9"] * 20 + ["4"] * 20, "c": ["9"] * 40}
    (tmp_path / "test.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for name, texts in answers.items():
        lines = [json.dumps({"key": str(i), "scene_id": "s", "answer": text}) for i, text in enumerate(texts)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    rest = ["--task", "vsi", "--references", str(tmp_path / "test.jsonl")]
    assert main(["compare", str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl"), *rest]) == 0
    assert "A - B +0.0250" in (said := capsys.readouterr().out) and "within the noise (2000 resamples, seed 0)" in said
    assert main(["compare", str(tmp_path / "a.jsonl"), str(tmp_path / "c.jsonl"), *rest, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert not found["is_noise"] and found["difference"] == 0.525 and len(found["A"]["sha256"]) == 64
    assert main(["compare", str(tmp_path / "a.jsonl"), str(tmp_path / "c.jsonl"), *rest, "--protocol", "all"]) == 2
    assert "--protocol: give one protocol that has values per item; vsi has them for" in capsys.readouterr().err


def test_tables_begin_with_what_papers_quote() -> None:
    metrics = {"Bleu_1": [0.5], "EM@10": [0.6], "zero": [0.0, None], "CIDEr": [1.2], "EM@1": [0.0]}
    assert headline_first(metrics) == ["EM@1", "CIDEr", "Bleu_1", "EM@10", "zero"]
    metrics = {"unique iou@0.25": [0.2], "all iou@0.5": [0.1], "all iou@0.25": [0.3]}
    assert headline_first(metrics) == ["all iou@0.25", "all iou@0.5", "unique iou@0.25"]
    metrics = {"@0.25IoU / CIDEr": [1], "@0.5IoU / BLEU-4": [1], "@0.5IoU / CIDEr": [1]}
    assert headline_first(metrics)[0] == "@0.5IoU / CIDEr"
