"""A dry run: its counts against real runs, what it finds wrong, the steps it times, and that it writes nothing."""

from __future__ import annotations

import json
import shutil
from collections import namedtuple

import pytest
import torch
from helpers import micro_model
from teacher_models import save_teachers

from vidllm.cli import main
from vidllm.profiling import parts, total
from vidllm.training import preflight
from vidllm.training.config import TrainConfig, changed, tiny_test
from vidllm.training.models import checkpoint_activations
from vidllm.training.preflight import count_run, dry_run, model_settings
from vidllm.training.stage2 import Run
from vidllm_rooms.shards import plan_shards


@pytest.fixture(scope="module")
def places(rooms_folder, tmp_path_factory):
    return save_teachers(tmp_path_factory.mktemp("teachers"), sorted(rooms_folder.iterdir()))


@pytest.fixture
def config(rooms_folder, places, tmp_path):
    start = changed(tiny_test(), data=str(rooms_folder), out=str(tmp_path / "run"), init_from=places[2], device="cpu")
    return changed(start, language_start=0, guide_weight=0.0, word_weight=0.0, max_text_tokens=120)


# ---- arithmetic ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_counts_are_those_of_the_run(config):
    for each in (config, changed(config, freeze_encoder=True), changed(config, lora_rank=2)):
        run, counts = Run.build(each), count_run(each)
        assert counts.model == sum(p.numel() for p in run.model.parameters()) == counts.averaged
        assert counts.held == sum(p.numel() for p in run.named_parameters().values())
        assert counts.trained == sum(p.numel() for p in run.parameters())


def test_the_papers_size_is_counted_without_its_memory():
    counts = count_run(changed(TrainConfig(), preset="paper", out="nowhere", freeze_encoder=True))
    settings = model_settings(changed(TrainConfig(), preset="paper", out="nowhere"))
    assert counts.model == total(parts(settings)) > 7.8e9
    one, eight = counts.states(), counts.states(8)
    assert one["weights"] == 4 * counts.held and one["gradients"] == 4 * counts.trained
    assert one["AdamW's moments"] == 2 * one["gradients"] and one["gradients"] < one["weights"] - 4 * 3e8
    assert all(one[name] / 8 < eight[name] < one[name] / 5 for name in one)
    assert 2e8 < counts.largest_block < 2.1e8  # a layer of Llama-7B


def test_frames_at_the_papers_resolution_are_whole_patches():
    sizes = {(h, w) for _, h, w in plan_shards(0, 64, shorter_side=518)}
    assert sizes == {(518, 644), (644, 518), (518, 518)}
    with pytest.raises(ValueError, match="multiple of 14"):
        list(plan_shards(0, 16, shorter_side=500))


# ---- the report ---------------------------------------------------------------------------------------------------


def test_what_is_wrong_is_named(config, tmp_path, monkeypatch, places):
    def wrong(**values):
        found = preflight.look(changed(config, **values))
        return {f.what: f.told for f in found if not f.good}

    assert wrong() == {}
    assert "no training shards" in wrong(data=str(tmp_path / "none"))["data"]
    assert "clip_frames" in wrong(clip_frames=(2, 8))["data"]
    assert "checkpoint" in wrong(init_from=str(tmp_path))["weights"]
    bad = tmp_path / "shards"
    shutil.copytree(config.loop.data, bad)
    first = sorted(bad.iterdir())[0]
    first.write_bytes(first.read_bytes()[:-100])
    assert first.name in wrong(data=str(bad))["data"]
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda _: usage(10, 9, 1000))
    assert "are free" in wrong()["output"]


def test_weights_that_do_not_fit_are_named(config, places, tmp_path):
    from safetensors.torch import load_file, save_file

    broken = tmp_path / "broken"
    shutil.copytree(places[2], broken)
    file = next(broken.glob("*.safetensors"))
    tensors = load_file(file)
    name = next(n for n in tensors if n.startswith("adapter."))
    del tensors[name]
    save_file(tensors, file, metadata={"format": "pt"})
    found = {f.what: f for f in preflight.look(changed(config, init_from=str(broken)))}
    assert not found["weights"].good and name in found["weights"].told


def test_a_frozen_encoder_has_no_backward_pass_where_activations_are_computed_anew():
    model = micro_model().train()
    model.encoder.requires_grad_(False)
    checkpoint_activations(model)
    assert not model.encode(torch.rand(1, 2, 3, 28, 28)).encoder.tokens.requires_grad
    assert model.encoder.gradient_checkpointing


def test_a_good_run_is_timed_and_left_alone(config, tmp_path):
    report = dry_run(changed(config, language_start=2))
    assert not report.problems and report.timing is not None and report.untimed == ""
    assert set(report.timing.seconds) == {"window", "clip"} and sum(report.timing.shares.values()) == 1
    assert 0 < report.timing.mean <= max(report.timing.seconds.values())
    assert report.memory["activations at their peak"] == report.timing.peak > 1e6
    assert not (tmp_path / "run").exists()
    lines = report.lines()
    assert lines[0].startswith("ok     data") and any("2 scenes of 4 frames 56x70" in line for line in lines)
    assert "real steps on cpu" in lines[-1]
    assert json.loads(json.dumps(report.to_json()))["memory_bytes"]["weights"] == 4 * report.counts.held


def test_what_cannot_be_timed_is_said(config, monkeypatch):
    assert "start it with torchrun" in dry_run(config, gpus=2).lines()[-1]
    monkeypatch.setattr(preflight, "_host_memory", lambda: 10**6)
    assert "this cpu has" in dry_run(config).lines()[-1]


@pytest.mark.slow
def test_the_command_tells_json_and_exits_2_when_not_ready(config, capsys, places):
    loop = config.loop
    told = ["--data", loop.data, "--out", loop.out, "--init-from", places[2], "--clip-frames", "4", "--steps", "2"]
    geometry, language = ("--teacher-geometry", places[0]), ("--teacher-language", places[1])
    dry = ["--dry-run", "--json", "--device", "cpu"]
    assert main(["train", "stage1", *told, *geometry, *language, *dry]) == 0
    report = json.loads(capsys.readouterr().out)
    assert [f["good"] for f in report["findings"]] == [True] * 5
    assert set(report["timing"]["seconds_by_kind"]) == {"Batch"} and report["timing"]["hours"] > 0
    assert main(["train", "stage1", *told, *geometry, *dry]) == 2
    assert "not ready: teachers" in capsys.readouterr().err
    assert main(["train", "blind", "--dry-run"]) == 2 and "--dry-run is only for" in capsys.readouterr().err
    assert main(["train", "stage2", "--dry-run", "--gpus", "0"]) == 2
