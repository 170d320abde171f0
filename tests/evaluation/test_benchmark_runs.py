"""Benchmarks run on exported rooms: every setting and baseline, the same digits again, killed, or on two processes."""

from __future__ import annotations

import csv
import json
import os
import shutil
import socket
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

import vidllm
from vidllm.cli import main
from vidllm.datasets.layout import DataRoot
from vidllm.evaluation import harness, predicting
from vidllm.evaluation.harness import Plan, Run, evaluate
from vidllm.evaluation.protocols import protocols
from vidllm.evaluation.results import lines_of, rows_of
from vidllm.evaluation.tasks import variants
from vidllm.model import prompts

SCENES = ("scene91000_00", "scene91001_00")


@pytest.fixture(autouse=True)
def short_answers(monkeypatch):
    """A random model never stops by itself."""
    monkeypatch.setattr(predicting, "MAX_ANSWER_TOKENS", 4)
    monkeypatch.setattr(predicting, "MAX_CAPTION_TOKENS", 4)


def plan(task, exported, out, **given):
    return Plan(task, exported, out, tuple(protocols(task)), **{"frames": 2, **given})


def read_rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def files(out):
    return {p.name: p.read_bytes() for p in sorted((out / "predictions").glob("*.jsonl"))}


@pytest.fixture(scope="module")
def answered(exported, small, tmp_path_factory):
    out = tmp_path_factory.mktemp("answered")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(predicting, "MAX_ANSWER_TOKENS", 4)
        return out, evaluate(plan("scanqa", exported, out), small)


def test_a_table_says_what_it_rests_on(answered, exported):
    out, results = answered
    assert results["prompt"]["template"] == prompts.qa_prompt("{question}")
    assert len(results["prompt"]["sha256"]) == 64 and len(results["model"]["sha256"]) == 64
    assert list(results["annotations"]) == ["scanqa/ScanQA_v1.0_val.json"]
    names = [(c["system"], c["setting"]) for c in results["columns"]]
    assert names == [
        ("vidllm", "raw"), ("vidllm", "oracle-geometry"), ("2d", "raw"), ("language-only", "no-video"),
        ("most-frequent", "no-video"),
    ]  # fmt: skip
    assert results["columns"][-1]["counted_over"] == "the references themselves"
    assert json.loads((out / "results.json").read_text()) == {"scanqa.val": results}
    text = "\n".join(lines_of(results))
    for part in ("protocol official", "ATR-DBI/ScanQA", "oracle-geometry", "most-frequent", "sha256"):
        assert part in text
    assert text + "\n" == (out / "table.txt").read_text()
    *_, most_frequent = rows_of(results, "official")["EM@1"]
    assert most_frequent > 0


def test_the_numbers_are_those_of_the_same_predictions_as_a_file(answered, exported, tmp_path, capsys):
    out, results = answered
    rows = read_rows(out / "predictions/scanqa.val.language-only.no-video.jsonl")
    path = tmp_path / "submission.json"
    path.write_text(json.dumps([{"question_id": r["key"], "answer_top10": [r["answer"]]} for r in rows]))
    references = exported / "scanqa/ScanQA_v1.0_val.json"
    assert main(["eval", "scanqa", "--predictions", str(path), "--references", str(references), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["scores"] == results["protocols"]["official"]["scores"]["language-only.no-video"]


def test_again_and_after_a_kill_the_bytes_are_the_same(answered, exported, small, tmp_path):
    out, _ = answered
    shutil.copytree(out, tmp_path / "out")
    (tmp_path / "out/predictions/scanqa.val.2d.raw.jsonl").unlink()
    ours = tmp_path / "out/predictions/scanqa.val.vidllm.raw.jsonl"
    whole = ours.read_bytes()
    ours.unlink()
    part = tmp_path / "out/predictions/parts/scanqa.val.vidllm.raw.0.jsonl"
    part.parent.mkdir(exist_ok=True)
    part.write_bytes(whole[: len(whole) * 3 // 4])
    told = []
    evaluate(plan("scanqa", exported, tmp_path / "out"), small, progress=lambda done, total: told.append((done, total)))
    assert told == [(0, 2), (1, 2), (2, 2)]
    assert files(tmp_path / "out") == files(out)
    assert (tmp_path / "out/results.json").read_bytes() == (out / "results.json").read_bytes()
    evaluate(plan("scanqa", exported, tmp_path / "out"), small, progress=lambda *_: pytest.fail("no scene is left"))


def _second(_: int, where: dict[str, str], root: str, model: str, out: str) -> None:
    os.environ.update(where, RANK="1")
    torch.set_num_threads(1)
    predicting.MAX_ANSWER_TOKENS = 4
    assert evaluate(plan("scanqa", Path(root), Path(out)), vidllm.load(model)) is None


@pytest.mark.slow
def test_two_processes_write_the_same_bytes(answered, exported, small_folder, tmp_path, monkeypatch):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    where = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    other = mp.spawn(_second, (where, str(exported), str(small_folder), str(tmp_path)), nprocs=1, join=False)
    for name, value in {**where, "RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(harness, "_PATIENCE", timedelta(seconds=100))  # should the other process die
    told = []
    try:
        both = evaluate(
            plan("scanqa", exported, tmp_path), vidllm.load(small_folder), progress=lambda done, _: told.append(done)
        )
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
        while not other.join():
            pass
    out, results = answered
    assert told == [0, 1]  # one of the two scenes
    assert files(tmp_path) == files(out)
    assert both["protocols"] == results["protocols"]


def test_situations_are_told_and_the_vocabulary_is_used(exported, small, tmp_path):
    results = evaluate(plan("sqa3d", exported, tmp_path, baselines=("most-frequent",), settings=("raw",)), small)
    scores = results["protocols"]["official_closed"]["scores"]
    assert scores["most-frequent.no-video"]["raw_prediction_string"]["overall"] > 0
    assert results["prompt"]["template"] == prompts.situated_prompt("{situation}", "{question}")
    llm = results["protocols"]["official_llm"]["scores"]["most-frequent.no-video"]
    assert llm["full"]["total"] == results["items"]
    assert llm["full"]["correct"] > 0  # items are known by scene, pose and words


def write_proposals(exported, root):
    """The exported root with Mask3D's files: the vertices of each object, in reverse order, as masks."""
    shutil.copytree(exported, root)
    data = DataRoot(root)
    for scene in SCENES:
        vertices = data.scene(scene).aligned_vertices()
        objects = [i for i in data.scene(scene).instances if i.box is not None][::-1]
        boxes = np.array([i.box for i in objects])
        inside = [(np.abs(vertices - b[:3]) <= b[3:] / 2 + 1e-6).all(1) for b in boxes]
        rows, columns_ = np.nonzero(np.stack(inside))
        (root / "mask3d").mkdir(exist_ok=True)
        np.savez(
            root / "mask3d" / f"{scene}.mask.npz", format=np.array("coo"), shape=np.array([len(inside), len(vertices)]),
            data=np.ones(len(rows), bool), row=rows, col=columns_,
        )  # fmt: skip


@pytest.fixture(scope="module")
def with_proposals(exported, tmp_path_factory):
    root = tmp_path_factory.mktemp("proposals") / "root"
    write_proposals(exported, root)
    return root


def test_grounding_in_three_settings_never_mixed(with_proposals, small, tmp_path):
    results = evaluate(plan("scanrefer", with_proposals, tmp_path), small)
    names = [f"{c['system']}.{c['setting']}" for c in results["columns"]]
    assert names == [
        "vidllm.raw", "vidllm.proposals-mask3d", "vidllm.oracle-geometry", "2d.raw", "2d.proposals-mask3d",
        "mean-box.raw", "mean-box.proposals-mask3d",
    ]  # fmt: skip
    given = read_rows(tmp_path / "predictions/scanrefer.val.vidllm.proposals-mask3d.jsonl")
    boxes = {scene: DataRoot(with_proposals).scene(scene).instances for scene in SCENES}
    for row in given:  # what was chosen is one of what was given
        low, high = np.array(row["boxes"][0]).min(0), np.array(row["boxes"][0]).max(0)
        middle = (low + high) / 2
        assert min(np.abs(middle - np.array(i.box[:3])).max() for i in boxes[row["scene_id"]] if i.box) < 1e-3
    for scores in results["protocols"]["official"]["scores"].values():
        assert scores["as_is"]["stats"]["overall"]["overall"] == results["items"]


def test_several_objects_from_the_annotated_ones(exported, small, tmp_path):
    given = plan("multi3drefer", exported, tmp_path, settings=("proposals",), proposals="gt", baselines=("mean-box",))
    results = evaluate(given, small)
    assert [c["setting"] for c in results["columns"]] == ["proposals-gt", "proposals-gt"]
    rows = read_rows(tmp_path / "predictions/multi3drefer.val.vidllm.proposals-gt.jsonl")
    assert all(len(r["boxes"]) == len(r["object_ids"]) == len(r["scores"]) for r in rows)
    assert results["protocols"]["official"]["scores"]["mean-box.proposals-gt"]["F1@0.5"]["overall"] is not None


@pytest.mark.slow
def test_captions_carry_the_box_of_their_setting(exported, small, tmp_path):
    results = evaluate(plan("scan2cap", exported, tmp_path, proposals="gt"), small)
    rows = {
        setting: read_rows(tmp_path / f"predictions/scan2cap.val.vidllm.{setting}.jsonl")
        for setting in ("raw", "proposals-gt", "oracle-geometry")
    }
    assert all(row["iou"] > 0.999 for row in rows["proposals-gt"])
    assert all(row["iou"] < 0.9 for row in rows["raw"])  # the model's own
    scores = results["protocols"]["cvpr21"]["scores"]
    assert scores["most-frequent.proposals-gt"]["@0.5IoU"]["n_placeholder"] == 0
    assert scores["most-frequent.proposals-gt"]["@0.5IoU"]["CIDEr"] > scores["most-frequent.raw"]["@0.5IoU"]["CIDEr"]
    assert results["protocols"]["video3dllm"]["scores"]["vidllm.raw"]["@0.5IoU"]["n"] == results["items"]


def write_nr3d(exported, root):
    """An Nr3D table of the descriptions of ScanRefer."""
    shutil.copytree(exported, root)
    entries = json.loads((root / "scanrefer/ScanRefer_filtered_val.json").read_text())
    (root / "referit3d").mkdir()
    with (root / "referit3d/nr3d_test.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["assignmentid", "scan_id", "target_id", "utterance", "stimulus_id", "tokens", "dataset"])
        for number, e in enumerate(entries):
            label = e["object_name"].replace("_", " ")
            stimulus = f"{e['scene_id']}-{label}-2-{e['object_id']}-0"
            table.writerow(
                [number + 100, e["scene_id"], e["object_id"], e["description"], stimulus, e["token"], "nr3d"]
            )


@pytest.mark.slow
def test_nr3d_is_a_choice_among_the_annotated_objects(exported, small, tmp_path):
    write_nr3d(exported, tmp_path / "root")
    results = evaluate(plan("nr3d", tmp_path / "root", tmp_path / "out", split="test", baselines=("mean-box",)), small)
    scores = results["protocols"]["official"]["scores"]
    assert scores["vidllm.proposals-gt"]["n"] == results["items"] and scores["mean-box.proposals-gt"]["all"] is not None
    assert "proposals-gt" in scores["vidllm.raw"]["not_available"]
    boxes = results["protocols"]["video3dllm"]["scores"]
    assert boxes["vidllm.proposals-gt"]["all acc@0.5iou"] == pytest.approx(scores["vidllm.proposals-gt"]["all"] / 100)


def test_what_is_missing_or_unknown_is_named(exported, small, tmp_path):
    base = plan("scanqa", exported, tmp_path / "out")
    cases = [
        (replace(base, scenes=("scene9999_00",)), "name no scene scene9999_00"),
        (replace(base, settings=("proposals",)), "need no boxes"),
        (replace(base, settings=("cooked",)), "no setting 'cooked'"),
        (replace(base, baselines=("mean-box",)), "no baseline 'mean-box' of this task; known: 2d"),
        (replace(base, settings=()), "at least one setting"),
        (replace(base, protocols=("house",)), "no protocol 'house'"),
        (replace(base, split="train"), r"no ScanQA_v1\.0_train\.json"),
        (replace(base, task="vqa"), "no task 'vqa'"),
        (replace(base, baselines=("language-only",), blind=tmp_path), "no language-only model here"),
        (replace(base, task="scanrefer", protocols=("official",), settings=("proposals",)), "--proposals gt"),
    ]
    for bad, message in cases:
        with pytest.raises(ValueError, match=message):
            Run(bad, small)
    shutil.copytree(exported, tmp_path / "root")
    shutil.rmtree(tmp_path / "root/scans/scene91001_00")
    with pytest.raises(ValueError, match=r"1 scenes .* not there, the first is scene91001_00"):
        Run(replace(base, root=tmp_path / "root"), small)


def test_answers_that_are_withheld_make_a_submission(exported, small, tmp_path):
    shutil.copytree(exported, tmp_path / "root")
    entries = json.loads((tmp_path / "root/scanqa/ScanQA_v1.0_val.json").read_text())
    bare = [{k: e[k] for k in ("scene_id", "question_id", "question")} for e in entries][:3]
    (tmp_path / "root/scanqa/ScanQA_v1.0_test_wo_obj.json").write_text(json.dumps(bare))
    out = tmp_path / "out"
    results = evaluate(plan("scanqa", tmp_path / "root", out, split="test_wo_obj", settings=("raw",)), small)
    assert results["protocols"] == {} and "most-frequent" not in {c["system"] for c in results["columns"]}
    sent = json.loads((out / "submission.scanqa.test_wo_obj.vidllm.raw.json").read_text())
    assert [e["question_id"] for e in sent] == [e["question_id"] for e in bare]


def test_columns_of_every_kind():
    def named(*given):
        return [c.name for c in variants(*given)]

    assert named("answer", ("raw",), None, ("2d",)) == ["vidllm.raw", "2d.raw"]
    assert named("box", ("proposals", "oracle-geometry"), "gt", ("mean-box",)) == [
        "vidllm.proposals-gt", "vidllm.oracle-geometry", "mean-box.proposals-gt",
    ]  # fmt: skip


def test_the_command_prints_a_table_and_resumes(exported, small_folder, tmp_path, capsys):
    words = ["eval", "sqa3d", "--data", str(exported), "-o", str(tmp_path / "out"), "--model", str(small_folder)]
    words += ["--frames", "2", "--setting", "raw", "--baselines", "none", "--protocol", "leo"]
    assert main(words) == 0
    said = capsys.readouterr()
    assert "protocol leo" in said.out and "em_overall" in said.out and "scenes 2/2" in said.err
    assert main([*words, "--json"]) == 0
    again = capsys.readouterr()
    assert json.loads(again.out)["task"] == "sqa3d" and again.err == ""
    for extra, message in ((["--frames", "3"], "frames 2 (now 3)"), (["--predictions", "x"], "give one of the two")):
        assert main([*words, *extra]) == 2
        assert message in capsys.readouterr().err
    assert main(["eval", "scanqa"]) == 2 and "--data ROOT" in capsys.readouterr().err
