"""Lines of predictions: resumed after a cut, gathered in order, and never silently short, double or foreign."""

from __future__ import annotations

import json

import pytest

from vidllm.evaluation.prediction_files import PredictionFile, claim

WANTED = {"s0": ["a", "b"], "s1": ["c"]}


def row(key, answer="x"):
    return {"key": key, "scene_id": "s", "answer": answer}


def lines(*rows):
    return "".join(json.dumps(one) + "\n" for one in rows)


def test_two_processes_are_gathered_in_the_order_of_the_annotations(tmp_path):
    first, second = (PredictionFile(tmp_path, "t.val.m.raw", WANTED, rank) for rank in range(2))
    second.append([row("c")])
    assert first.done() == {"s1"}
    first.append([row("a"), row("b", "ü")])
    assert [r["key"] for r in first.gather()] == ["a", "b", "c"]
    assert first.path.read_text() == lines(row("a")) + json.dumps(row("b", "ü"), ensure_ascii=False) + "\n" + lines(
        row("c")
    )
    assert list((tmp_path / "parts").iterdir()) == [] and first.done() == {"s0", "s1"}


def test_half_a_line_and_half_a_scene_are_made_again(tmp_path):
    file = PredictionFile(tmp_path, "t", WANTED)
    part = tmp_path / "parts" / "t.0.jsonl"
    part.parent.mkdir()
    part.write_text(lines(row("c"), row("a")) + '{"key": "b", "sce')
    assert file.done() == {"s1"}
    file.repair()
    assert part.read_text() == lines(row("c"), row("a"))
    file.append([row("a"), row("b")])  # the scene again, with the same lines
    assert len(file.gather()) == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (lines(row("a"), row("z")), "unknown id z"),
        (lines(row("a"), row("a", "y")), "second, different prediction for a"),
        ("{broken\n", "not JSON"),
        ('["a"]\n', "expected an object with a 'key'"),
    ],
)
def test_what_cannot_be_right_is_named_with_file_and_line(tmp_path, text, message):
    part = tmp_path / "parts" / "t.0.jsonl"
    part.parent.mkdir()
    part.write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        PredictionFile(tmp_path, "t", WANTED).done()
    assert f"t.0.jsonl:{text.count(chr(10))}" in str(error.value)


def test_missing_predictions_are_counted_and_named(tmp_path):
    file = PredictionFile(tmp_path, "t", WANTED)
    file.append([row("a"), row("b")])
    with pytest.raises(ValueError, match="1 of 3 predictions are missing, the first is c"):
        file.gather()


def test_another_runs_predictions_are_refused(tmp_path):
    file = tmp_path / "t.run.json"
    claim(file, {"frames": 3, "model": {"name": "m"}}, "delete it")
    claim(file, {"frames": 3, "model": {"name": "m"}}, "delete it")
    with pytest.raises(ValueError, match=r"frames 3 \(now 4\), model.name m \(now n\); delete it"):
        claim(file, {"frames": 4, "model": {"name": "n"}}, "delete it")
