"""The training loop: what a run leaves behind, micro-batches, bad steps, and that it learns."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import micro_config
from micro_start import log_of, quiet, save_start, short_run
from safetensors.torch import load_file

from vidllm.datasets.shards import Shard
from vidllm.model.huggingface import VidLLMForConditionalGeneration, VidLLMProcessor
from vidllm.model.loading import load_pretrained
from vidllm.model.text import read_tokenizer
from vidllm.training.checkpoints import list_checkpoints
from vidllm.training.config import (
    TrainConfig,
    changed,
    read_config,
    tiny,
    tiny_test,
)
from vidllm.training.distributed import ProcessGroup
from vidllm.training.loop import train_step
from vidllm.training.models import AUXILIARY_FILE, LANGUAGE_HALF, VOCABULARY
from vidllm.training.progress import Clock
from vidllm.training.stage2 import Run, train
from vidllm.training.texts import load_or_build_tokenizer
from vidllm.training.trainable import KNOWN


@pytest.fixture(scope="module")
def start(rooms_folder, tmp_path_factory):
    return save_start(tmp_path_factory.mktemp("start"), rooms_folder)


@pytest.fixture
def config(rooms_folder, start, tmp_path):
    return short_run(rooms_folder, start, tmp_path / "run")


def test_a_run_leaves_configuration_log_checkpoints_and_a_model(config, capsys):
    folder = train(config)
    captured = capsys.readouterr()
    assert captured.out == "" and "step 4/4" in captured.err  # progress goes to stderr
    out = folder.parent
    assert read_config(out / "config.json", tiny()) == config
    lines = log_of(config.loop.out)
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert {"loss", "camera", "gravity", "depth", "points", "metric", "semantic"} <= set(lines[0])
    assert "text" not in lines[0]
    assert {"text", "token_acc", "box_nce", "prefix"} <= set(lines[3]) and lines[3]["bad_steps"] == 0
    assert [p.name for p in list_checkpoints(out / "checkpoints")] == ["step_0000003.pt", "step_0000004.pt"]
    assert not list(out.rglob("*.tmp"))
    model, processor = load_pretrained(folder)
    assert model.config.video_token_id == processor.video_token_id
    assert model.device.type == "cpu" and all(bool(p.isfinite().all()) for p in model.parameters())


def test_a_step_that_is_not_finite_is_skipped_and_counted(config, monkeypatch):
    run = Run.build(config)
    before = {n: p.clone() for n, p in run.model.named_parameters()}
    honest = run.losses

    def broken(*args):
        losses = honest(*args)
        losses.terms["depth"] = losses.terms["depth"] * float("nan")
        return losses

    monkeypatch.setattr(run, "losses", broken)
    figures = train_step(run, 0)
    assert math.isnan(figures["loss"]) and run.bad_steps == figures["skipped_steps"] == 1
    assert all(torch.equal(p, before[n]) for n, p in run.model.named_parameters())
    clock = Clock(config.loop, 0)
    clock.add(figures)
    line = clock.line(1, run.bad_steps)
    assert "NaN" not in json.dumps(line) and line["skipped_steps"] == 1 and "skipped_steps 1" in clock.text
    monkeypatch.undo()
    train_step(run, 1)
    assert run.bad_steps == 1 and any(not torch.equal(p, before[n]) for n, p in run.model.named_parameters())


def test_a_spike_is_skipped_and_too_many_stop_the_run(config, capsys):
    """Steps of this kind have been far smaller, as far as the run remembers."""
    run = Run.build(changed(config, max_bad_steps=1))
    for _ in range(KNOWN):
        assert run.spike_guard.judge("window", 0.01, 0.01) is None
    before = [p.clone() for p in run.parameters()]
    assert train_step(run, 0)["skipped_steps"] == 1 and "10 times the median 0.01" in str(run.spike_guard.reason)
    assert all(torch.equal(p, q) for p, q in zip(run.parameters(), before, strict=True))
    with pytest.raises(ValueError, match=r"step 1: 2 of the last 100 steps were skipped .*--learning-rate"):
        train_step(run, 1)


def test_two_micro_batches_are_averaged(config):
    """The gradient of a step with two is the mean of theirs, its figures the means of theirs."""
    run = Run.build(changed(config, accumulation=2, clip_norm=1e9))
    figures = train_step(run, 0)
    gradients = [None if p.grad is None else p.grad.clone() for p in run.parameters()]
    alone = Run.build(changed(config, clip_norm=1e9))
    parts, sums = [], None
    for seed in ProcessGroup().seeds(config.loop.seed, 0, 2):
        rng = np.random.default_rng(seed)
        losses = alone.losses(alone.draw(0, rng), 0, rng)
        found = torch.autograd.grad(losses.total(), list(alone.parameters()), materialize_grads=True)
        sums = found if sums is None else [a + b for a, b in zip(sums, found, strict=True)]
        parts.append(losses)
    assert figures["camera"] == pytest.approx(sum(float(p.terms["camera"].detach()) for p in parts) / 2, rel=1e-5)
    for mean, total in zip(gradients, sums, strict=True):
        torch.testing.assert_close(torch.zeros_like(total) if mean is None else mean, total / 2, rtol=1e-3, atol=1e-5)


def test_gradient_checkpointing_changes_no_number(config):
    plain, spared = (
        Run.build(changed(config, language_start=0, gradient_checkpointing=on)) for on in (False, True)
    )
    for part in ("attention", "depth_head", "language_model.base_model.layers.0"):
        assert spared.model.get_submodule(part).gradient_checkpointing, part
    ours, theirs = (train_step(run, 0) for run in (plain, spared))
    assert ours == pytest.approx(theirs, rel=1e-4) and {"guide", "words", "text"} <= set(ours)
    for p, q in zip(plain.parameters(), spared.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-6)


def test_a_damaged_shard_is_named_before_the_first_step(config, rooms_folder, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(rooms_folder, data)
    path = sorted(data.iterdir())[1]
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=rf"{path.name}.*cut.*render or pack it again"):
        train(changed(config, data=str(data)), quiet)
    assert not Path(config.loop.out).exists()


@pytest.mark.slow
def test_losses_fall_on_two_scenes(config, rooms_folder, tmp_path):
    one = tmp_path / "one"
    one.mkdir()
    first = sorted(rooms_folder.iterdir())[0]
    (one / first.name).write_bytes(first.read_bytes())
    alone = {"naming_weight": 0.0, "word_weight": 0.0}  # thirty steps are few for everything at once
    run = Run.build(changed(config, data=str(one), steps=40, learning_rate=4e-3, language_start=0, beta2=0.95, **alone))
    history = [train_step(run, step) for step in range(30)]
    for name in ("loss", "text", "metric", "depth", "semantic"):
        early, late = (sum(h[name] for h in part) / 5 for part in (history[:5], history[-5:]))
        assert late < 0.9 * early, (name, early, late)


def test_a_frozen_encoder_stays_and_the_rest_moves(config):
    run = Run.build(changed(config, freeze_encoder=True, language_start=0))
    before = {n: p.clone() for n, p in run.model.named_parameters()}
    for step in range(2):
        train_step(run, step)
    moved = {n for n, p in run.model.named_parameters() if not torch.equal(p, before[n])}
    assert not any(n.startswith("encoder.") for n in moved)
    for part in ("adapter", "attention", "camera_head", "metric_depth", "language_model", "grounding", "projector"):
        assert any(n.startswith(part) for n in moved), part


def test_one_part_can_be_trained_alone(config):
    run = Run.build(changed(config, train_only=("metric_depth",), language_start=100))
    before = {n: p.clone() for n, p in run.model.named_parameters()}
    train_step(run, 0)
    moved = {n.partition(".")[0] for n, p in run.model.named_parameters() if not torch.equal(p, before[n])}
    assert moved == {"metric_depth"}
    speaking = changed(config, train_only=("metric_depth",), language_start=0, language_share=1, language_only_share=1)
    assert train_step(Run.build(speaking), 0)["norm"] == 0  # nothing to be learned
    with pytest.raises(ValueError, match=r"--train-only metres: this model has no such part; it has .*metric_depth"):
        Run.build(changed(config, train_only=("metres",)))


def test_bfloat16_autocast_runs(config):
    run = Run.build(changed(config, dtype="bfloat16", language_start=0))
    assert math.isfinite(train_step(run, 0)["loss"])
    assert all(p.dtype is torch.float32 for p in run.model.parameters())


def test_language_alone_trains_no_vision(config):
    run = Run.build(changed(config, language_start=0, language_only_share=1.0))
    figures = train_step(run, 0)
    assert figures["language_steps"] == 1 and math.isfinite(figures["text"])
    for part in ("encoder", "adapter", "attention", "camera_head", "depth_head", "metric_depth"):
        assert all(p.grad is None for p in getattr(run.model, part).parameters()), part
    assert any(p.grad is not None for p in run.model.projector.parameters())


def test_fresh_weights_come_from_the_preset_and_the_data(rooms_folder, tmp_path):
    run = Run.build(changed(tiny_test(), data=str(rooms_folder), out=str(tmp_path)))
    told = run.model.config
    assert (told.video_token_id, told.loc_token_id, told.coord_token_id) == run.texts.special_ids
    assert told.text_config.vocab_size == len(run.texts.tokenizer) <= VOCABULARY
    assert len({id(p) for p in run.parameters()}) == sum(len(g["params"]) for g in run.optimizer.param_groups)


def test_a_start_with_another_tokenizer_is_refused(config, start, tmp_path):
    tokenizer = read_tokenizer(start)
    assert Run.build(config).texts.tokenizer.get_vocab() == tokenizer.get_vocab()
    other = tmp_path / "other"
    VidLLMForConditionalGeneration(micro_config(20)).save_pretrained(other)
    VidLLMProcessor.from_config(micro_config(20), tokenizer).save_pretrained(other)
    with pytest.raises(ValueError, match="is not that of"):
        Run.build(changed(config, init_from=str(other)))
    with pytest.raises(ValueError, match="no such folder"):
        Run.build(changed(config, init_from=str(tmp_path / "nowhere" / "at" / "all"), out=str(tmp_path / "new")))


@pytest.mark.slow
def test_seeing_and_speaking_come_from_two_runs(config, tmp_path):
    """The recipe: one run sees, one speaks on names alone, a third starts from both halves."""
    mute = changed(config, out=str(tmp_path / "see"), language_start=1_000_000, spread_share=0.5, steps=2)
    seeing = train(mute, quiet)
    speaking = changed(config, out=str(tmp_path / "speak"), language_start=0, language_only_share=1.0, named_share=1.0)
    spoken = train(changed(speaking, steps=2), quiet)
    line = json.loads((tmp_path / "speak" / "log.jsonl").read_text().splitlines()[0])
    assert line["named_steps"] == 1 and "camera" not in line and line["words"] > 0
    both = Run.build(changed(config, out=str(tmp_path / "both"), init_from=str(seeing), language_from=str(spoken)))
    saw, said = load_pretrained(str(seeing))[0].state_dict(), load_pretrained(str(spoken))[0].state_dict()
    halves = {name: name.split(".")[0] in LANGUAGE_HALF for name in saw}
    assert any(halves.values()) and not all(halves.values())
    for name, value in both.model.state_dict().items():
        torch.testing.assert_close(value, (said if halves[name] else saw)[name], rtol=0, atol=0)
    heads = load_file(tmp_path / "see" / AUXILIARY_FILE)
    for name, value in both.auxiliary.state_dict().items():
        torch.testing.assert_close(value, heads[name], rtol=0, atol=0)


# ---- parts ----------------------------------------------------------------------------------------------------------


def test_the_learning_rate_is_a_trapezoid():
    config = changed(TrainConfig(), steps=100, warmup_steps=10, decay_fraction=0.2)
    config = changed(config, learning_rate=1.0, final_fraction=0.1)
    rates = [config.learning_rate(step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1) and rates[9] == rates[50] == rates[80] == pytest.approx(1.0)
    assert rates[90] == pytest.approx(0.55) and 0.1 < rates[99] < 0.15
    config = changed(config, language_start=10, true_geometry_until=50)
    assert [config.curriculum.true_geometry_share(s) for s in (10, 30, 50, 90)] == [1.0, 0.5, 0.0, 0.0]


def test_unknown_options_are_named():
    config = changed(TrainConfig(), steps=7, window_frames=(2, 3))
    assert config.loop.steps == 7 and config.batches.window_frames == (2, 3) and changed(config, steps=9000) != config
    with pytest.raises(ValueError, match=r"\['stepz'\].*'steps'"):
        changed(config, stepz=1)


def test_the_tokenizer_of_a_run_is_kept(rooms_folder, tmp_path):
    shards = sorted(rooms_folder.iterdir())
    first = load_or_build_tokenizer(tmp_path, shards, 600)
    again = load_or_build_tokenizer(tmp_path, shards[:1], 600)
    assert again.get_vocab() == first.get_vocab() and Shard(shards[0]).records
