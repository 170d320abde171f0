"""Benchmarks answered by a vision-language model in place of the model's own words."""

from __future__ import annotations

import json

import pytest
from small_vlms import save_vlm, without_torchvision

import vidllm
from vidllm.cli import main
from vidllm.datasets.layout import DataRoot
from vidllm.evaluation import predicting
from vidllm.evaluation.harness import Plan, evaluate
from vidllm.evaluation.recording import EvaluationScene


@pytest.fixture(scope="module")
def vlm_folder(tmp_path_factory):
    return save_vlm("idefics3", tmp_path_factory.mktemp("vlm"))


@pytest.fixture(scope="module")
def told(small_folder, vlm_folder):
    return vidllm.load(small_folder, vlm=vlm_folder, dtype="float32")


@pytest.fixture(autouse=True)
def short_answers(monkeypatch):
    without_torchvision(monkeypatch)
    monkeypatch.setattr(predicting, "MAX_ANSWER_TOKENS", 4)
    monkeypatch.setattr(predicting, "MAX_CAPTION_TOKENS", 4)


def test_it_sees_the_scans_own_pictures_and_the_baseline_no_metres(exported, told):
    case = EvaluationScene(DataRoot(exported), "scene91000_00", told, 2)
    ours, plain = (case.placed("raw", positions).scene.in_words.shown for positions in (True, False))
    assert [one.size for one in ours.pictures] == [(128, 96)] * 2
    assert ours.pictures[0].tobytes() == case.source.colour(case.recording.numbers[0]).tobytes()
    assert "square metres" in ours.facts and plain.facts == ""


@pytest.mark.parametrize("task", ["scanqa", "sqa3d", "scan2cap", "scanrefer", "nr3d", "vsi"])
def test_every_task(task, exported, told, vlm_folder, tmp_path):
    plan = Plan(task, exported, tmp_path, ("official" if task not in ("sqa3d", "scan2cap") else
                {"sqa3d": "leo", "scan2cap": "benchmark"}[task],), scenes=("scene91000_00",), frames=2,
                baselines=("2d",), settings=("raw",))  # fmt: skip
    results = evaluate(plan, told)
    assert results["model"]["vlm"]["name"] == str(vlm_folder) and len(results["model"]["vlm"]["sha256"]) == 64
    assert "{facts}" in results["prompt"]["template"] and results["decoding"].startswith("greedy")
    assert f"answers by {vlm_folder}" in (tmp_path / "table.txt").read_text()


def test_answers_are_the_models_and_those_of_another_are_not_taken_for_them(exported, told, small, small_folder,
                                                                            vlm_folder, tmp_path, capsys):  # fmt: skip
    words = f"eval scanqa --data {exported} -o {tmp_path} --model {small_folder} --frames 2".split()
    words += ["--scenes", "scene91000_00", "--setting", "raw", "--baselines", "none", "--dtype", "float32"]
    assert main([*words, "--vlm", str(vlm_folder)]) == 0
    lines = (tmp_path / "predictions" / "scanqa.val.vidllm.raw.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    case = EvaluationScene(DataRoot(exported), "scene91000_00", told, 2)
    shown = case.placed("raw").scene.in_words.shown
    first = next(q for q in DataRoot(exported).annotations("scanqa", "val") if q.question_id == rows[0]["key"])
    assert rows[0]["answer"] == told.model.speaker.answers(shown, [(first.question, None)], 4)[0]
    capsys.readouterr()
    assert main(words) == 2
    assert "predictions" in capsys.readouterr().err
