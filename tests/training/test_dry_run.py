"""A dry run: its arithmetic against real runs, what it finds wrong, and that it writes nothing."""

from __future__ import annotations

import json
import shutil
from collections import namedtuple
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import micro_model
from teacher_models import save_teachers
from torch import nn

from vidllm.cli import main
from vidllm.model.live_memory import LiveBytes
from vidllm.model.summary import build_on_meta, parts, total
from vidllm.rooms.shards import plan_shards
from vidllm.training import dry_run_checks
from vidllm.training.activations import checkpoint_activations
from vidllm.training.config import TrainConfig, tiny_test
from vidllm.training.dry_run import RUNS_NAME, dry_run
from vidllm.training.estimates import count_run, estimate, model_settings
from vidllm.training.run import Run
from vidllm.training.stage1 import Stage1Config
from vidllm.training.step_costs import fake_module, measure_step, no_storage
from vidllm.training.step_walks import plans
from vidllm.training.teacher_runs import LanguageTeacherConfig


@pytest.fixture(scope="module")
def places(rooms_folder, tmp_path_factory):
    return save_teachers(tmp_path_factory.mktemp("teachers"), sorted(rooms_folder.iterdir()))


@pytest.fixture
def config(rooms_folder, places, tmp_path):
    start = replace(tiny_test(), data=str(rooms_folder), out=str(tmp_path / "run"), init_from=places[2], device="cpu")
    return replace(start, language_start=0, guide_weight=0.0, word_weight=0.0, max_text_tokens=120)


# ---- arithmetic ---------------------------------------------------------------------------------------------------


def test_operations_and_bytes_of_one_layer():
    with no_storage():
        layer = fake_module(nn.Linear(8, 16, device="meta"))

        def step(walk):
            out = layer(torch.rand(5, 8))
            walk.part("layer", out)
            return out.sum()

        cost = measure_step([layer], step, "float32", "cpu")
    assert cost.forward == {"layer": 2 * 5 * 8 * 16} and cost.backward == {"layer": 2 * 5 * 8 * 16}
    assert cost.copies == 0 and cost.activations >= 4 * (5 * 8 + 5 * 16)


def test_half_precision_copies_are_told():
    with no_storage():
        layer = fake_module(nn.Linear(32, 64, bias=False, device="meta"))
        cost = measure_step([layer], lambda walk: layer(torch.rand(512, 32)).float().sum(), "bfloat16", "cpu")
    assert cost.copies == 2 * 32 * 64


def test_tied_weights_stay_tied_and_nothing_is_allocated():
    model = build_on_meta(model_settings(TrainConfig(preset="compact", out="nowhere")))
    with no_storage():
        fake_module(model)
        assert model.get_input_embeddings().weight is model.get_output_embeddings().weight
    assert all(type(p.data).__name__ != "Tensor" or p.is_meta for p in model.parameters())


def test_fake_steps_cost_what_real_ones_do():
    model = micro_model().train()
    images = torch.rand(1, 2, 3, 28, 42)

    def step(walk):
        features = model.see(torch.rand(1, 2, 3, 28, 42))
        cameras = model.locate(features)
        walk.part("all", *cameras.pose_encodings)
        return cameras.pose_encodings[-1].sum()

    real = measure_step([model], step, "float32", "cpu")
    with LiveBytes([*model.parameters(), *model.buffers()]) as counted:
        model.locate(model.see(images)).pose_encodings[-1].sum().backward()
    other = build_on_meta(model.config).train()
    with no_storage():
        model = fake_module(other)
        fake = measure_step([model], step, "float32", "cpu")
    assert fake.forward == real.forward and fake.backward == real.backward
    assert fake.activations == pytest.approx(real.activations, rel=0.02)
    assert counted.peak == pytest.approx(real.activations, rel=0.2)


def test_counts_are_those_of_the_run(config):
    for changed in (config, replace(config, freeze_encoder=True), replace(config, lora_rank=2)):
        run, counts = Run.build(changed), count_run(changed)
        assert counts.model == sum(p.numel() for p in run.model.parameters()) == counts.averaged
        assert counts.held == sum(p.numel() for p in run.named_parameters().values())
        assert counts.trained == sum(p.numel() for p in run.parameters())


def test_a_real_step_needs_what_was_estimated(config):
    config = replace(config, dtype="float32", language_share=1.0, language_only_share=0.0)
    told = estimate(config, (56, 70), "cpu")
    (plan, cost) = told.largest
    run = Run.build(config)
    assert plan.kind == "clip" == run.kind(run.draw(0, np.random.default_rng(0)))
    weights = [t for m in run.modules().values() for t in (*m.parameters(), *m.buffers())]
    rng = np.random.default_rng(0)
    batch = run.draw(0, rng)
    with LiveBytes(weights) as counted:
        run.losses(batch, 0, rng).total().backward()
    gradients = 4 * told.counts.trained
    assert cost.activations < 2 * counted.peak and counted.peak - gradients < 2 * cost.activations


def test_the_papers_size_is_counted_without_its_memory():
    counts = count_run(TrainConfig(preset="paper", out="nowhere", freeze_encoder=True))
    settings = model_settings(TrainConfig(preset="paper", out="nowhere"))
    assert counts.model == total(parts(settings)) > 7.8e9
    one, eight = counts.states(), counts.states(8)
    assert one["weights"] == 4 * counts.held and one["gradients"] == 4 * counts.trained
    assert one["AdamW's moments"] == 2 * one["gradients"] and one["gradients"] < one["weights"] - 4 * 3e8
    assert all(one[name] / 8 < eight[name] < one[name] / 5 for name in one)
    assert 2e8 < counts.largest_block < 2.1e8  # a layer of Llama-7B


def test_shares_of_the_kinds_of_step_add_up():
    for given in (
        TrainConfig(spread_share=0.3, named_share=0.4), TrainConfig(language_start=10**9), Stage1Config(),
        LanguageTeacherConfig(), LanguageTeacherConfig(contrastive_steps=4000),
    ):  # fmt: skip
        assert sum(plan.share for plan in plans(given)) == pytest.approx(1.0)
    names = {plan.kind for plan in plans(TrainConfig(spread_share=0.3, named_share=0.4))}
    assert names == {"window", "spread", "clip", "language", "named"} and set(RUNS_NAME) & names == {"spread"}


def test_frames_at_the_papers_resolution_are_whole_patches():
    sizes = {(h, w) for _, h, w in plan_shards(0, 64, shorter_side=518)}
    assert sizes == {(518, 644), (644, 518), (518, 518)}
    with pytest.raises(ValueError, match="multiple of 14"):
        list(plan_shards(0, 16, shorter_side=500))


# ---- the report ---------------------------------------------------------------------------------------------------


def test_a_good_run_is_estimated_timed_and_left_alone(config, capsys, tmp_path):
    report = dry_run(config)
    assert not report.problems and set(report.by_kind) == {plan.kind for plan in plans(config)}
    assert report.seconds > 0 and "timed" in report.rate and report.total > 16 * report.estimate.counts.trained
    assert not (tmp_path / "run").exists()
    lines = report.lines()
    assert lines[0].startswith("ok     data") and any("2 scenes of 4 frames 56x70" in line for line in lines)
    assert report.to_json()["memory_bytes"]["total"] == report.total
    json.dumps(report.to_json())


def test_the_command_tells_json_and_exits_2_when_not_ready(config, capsys, places):
    told = ["--data", config.data, "--out", config.out, "--init-from", places[2], "--clip-frames", "4"]
    geometry, language = ("--teacher-geometry", places[0]), ("--teacher-language", places[1])
    dry = ["--dry-run", "--json", "--tflops", "0.1"]
    assert main(["train", "stage1", *told, *geometry, *language, *dry]) == 0
    report = json.loads(capsys.readouterr().out)
    assert [f["good"] for f in report["findings"]] == [True] * 7 and "0.1 TFLOP/s" in report["rate"]
    assert set(report["flops_of_a_mean_step"]) >= {"encoder", "cross-task adapter", "teachers"}
    assert main(["train", "stage1", *told, *geometry, *dry]) == 2
    assert "not ready: language teacher" in capsys.readouterr().err
    assert main(["train", "blind", "--dry-run"]) == 2 and "goes with" in capsys.readouterr().err
    assert main(["train", "stage2", "--dry-run", "--gpus", "0"]) == 2


def test_what_is_wrong_is_named(config, tmp_path, monkeypatch, places):
    def wrong(**changed):
        found = dry_run_checks.look(replace(config, **changed), lambda: count_run(config))
        return {f.what: f.told for f in found if not f.good}

    assert wrong() == {}
    assert "no shards of rooms" in wrong(data=str(tmp_path / "none"))["data"]
    assert "clip_frames" in wrong(clip_frames=(2, 8))["data"]
    assert "checkpoint" in wrong(init_from=str(tmp_path))["weights"]
    bad = tmp_path / "shards"
    shutil.copytree(config.data, bad)
    first = sorted(bad.iterdir())[0]
    first.write_bytes(first.read_bytes()[:-100])
    assert first.name in wrong(data=str(bad))["data"]
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(dry_run_checks.shutil, "disk_usage", lambda _: usage(10, 9, 1000))
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
    found = {f.what: f for f in dry_run_checks.look(replace(config, init_from=str(broken)), lambda: count_run(config))}
    assert not found["weights"].good and name in found["weights"].told


def test_what_does_not_learn_costs_no_gradient(config):
    told = estimate(replace(config, freeze_encoder=True, lora_rank=2), (56, 70), "cpu")
    table = told.flops()
    assert table["encoder"][1] == 0 < table["cross-task adapter"][1]
    assert 0.9 < table["language model"][1] / table["language model"][0] < 1.7  # of inputs and LoRA, not of weights


def test_a_frozen_encoder_has_no_backward_pass_where_activations_are_computed_anew():
    model = micro_model().train()
    model.encoder.requires_grad_(False)
    checkpoint_activations(model)
    assert not model.see(torch.rand(1, 2, 3, 28, 28)).seen.tokens.requires_grad
    assert model.encoder.gradient_checkpointing
