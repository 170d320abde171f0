"""Stage 1: what it trains and what it leaves alone, resuming, the start of stage 2, and that it learns."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import micro_config, scatter
from interruptions import interrupted_at
from teacher_models import save_teachers

from vidllm.model.huggingface import VidLLMForConditionalGeneration
from vidllm.model.loading import load_pretrained
from vidllm.training.config import changed, tiny_test
from vidllm.training.distillation import Projections, Streams, distillation_losses, unit
from vidllm.training.loop import train_step
from vidllm.training.stage1 import Stage1Config, Stage1Run, compact_stage1, paper_stage1, train_stage1
from vidllm.training.stage2 import Run


@pytest.fixture(scope="module")
def places(rooms_folder, tmp_path_factory):
    return save_teachers(tmp_path_factory.mktemp("teachers"), sorted(rooms_folder.iterdir()))


@pytest.fixture
def config(rooms_folder, places, tmp_path):
    geometry, language, student = places
    return changed(
        Stage1Config(), data=str(rooms_folder), out=str(tmp_path / "run"), init_from=student, teacher_geometry=geometry,
        teacher_language=language, steps=4, warmup_steps=1, clip_images=4, clip_frames=(2,), save_minutes=0.0,
        log_every=1, dtype="float32",
    )  # fmt: skip


def quiet(line: str) -> None:
    pass


def log_of(config):
    """The lines of a run's log, without the time they took."""
    with open(f"{config.loop.out}/log.jsonl") as file:
        return [{**json.loads(line), "seconds": 0} for line in file]


@pytest.mark.slow
def test_a_run_leaves_a_model_that_stage_2_starts_from(config, rooms_folder, tmp_path):
    folder = train_stage1(config, quiet)
    lines = [json.loads(line) for line in (folder.parent / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4] and {"geo", "lang", "structure", "loss"} <= set(lines[0])
    assert json.loads((folder.parent / "config.json").read_text())["teacher_language"] == config.teacher_language
    before, after = (load_pretrained(place)[0].state_dict() for place in (config.init_from, folder))
    moved = {name.split(".")[0] for name, value in after.items() if float((value - before[name]).abs().max()) > 1e-3}
    assert moved == {"encoder", "adapter"}
    stage2 = changed(tiny_test(), data=str(rooms_folder), out=str(tmp_path / "stage2"), init_from=str(folder))
    run = Run.build(stage2)
    assert all(torch.equal(value, after[name]) for name, value in run.model.state_dict().items())


@pytest.mark.parametrize("tuned", [True, False])
def test_gradients_are_zero_where_they_must_be(config, tuned):
    run = Stage1Run.build(changed(config, tune_encoder=tuned))
    rng = np.random.default_rng(0)
    run.losses(run.draw(0, rng), 0, rng).total().backward()
    for name, parameter in run.model.named_parameters():
        part = name.split(".")[0]
        if part == "adapter":
            # the bridge's own tokens are read by neither stream's loss but through the write-back
            assert parameter.grad is not None and bool(parameter.grad.any()), name
        elif part == "encoder" and tuned:
            assert parameter.grad is not None or "mask_token" in name, name
        else:
            assert parameter.grad is None and not parameter.requires_grad, name
    assert all(bool(p.grad.any()) for p in run.projections.parameters())
    for sight in (run.geometry, run.language):
        assert all(p.grad is None for p in sight.model.parameters())
    trained = {id(p) for p in run.parameters()}
    assert trained == {id(p) for group in run.optimizer.param_groups for p in group["params"]}


@pytest.mark.slow
def test_a_resumed_run_goes_on_as_the_unbroken_one(config, tmp_path):
    unbroken = load_pretrained(train_stage1(config, quiet))[0].state_dict()
    broken = changed(config, out=str(tmp_path / "broken"))
    with interrupted_at(2):
        train_stage1(broken, quiet)
    said: list[str] = []
    resumed = load_pretrained(train_stage1(broken, said.append))[0].state_dict()
    assert "step 2 of" in said[0] and all(torch.equal(resumed[name], value) for name, value in unbroken.items())
    assert log_of(config) == log_of(broken)


def test_kept_tokens_change_nothing(config, tmp_path):
    live, kept = (Stage1Run.build(changed(config, teacher_cache=place)) for place in (None, str(tmp_path / "cache")))
    a, b = (train_step(run, 0) for run in (live, kept))
    assert a["loss"] == pytest.approx(b["loss"], rel=1e-3) and len(list((tmp_path / "cache").iterdir())) == 2


@pytest.mark.slow
def test_fifty_steps_on_two_scenes_reach_near_zero(config, places, rooms_folder, tmp_path):
    one = tmp_path / "one"
    one.mkdir()
    first = sorted(rooms_folder.iterdir())[0]
    (one / first.name).write_bytes(first.read_bytes())
    config = changed(config, data=str(one), steps=50, learning_rate=4e-3, beta2=0.9, clip_frames=(4,), clip_images=8)
    run = wide_student(config, Stage1Run.build(config))
    history = [train_step(run, step) for step in range(50)]
    start, end = history[0], history[-1]
    assert end["loss"] < 0.06 < 2.0 < start["loss"], (start, end)
    batch = run.draw(0, np.random.default_rng(0))  # what tokens that are everywhere the same would reach
    teacher = Streams(*(sight.on_grid(batch, (4, 5)) for sight in (run.geometry, run.language)))
    mean = Streams(*(unit(x).mean((0, 1, 2), keepdim=True).expand_as(x) for x in (teacher.geometry, teacher.language)))
    assert end["loss"] < 0.03 * float(sum(distillation_losses(mean, teacher).values()))


def wide_student(config, run):
    """The same run with a student wide enough to remember 160 patches."""
    told = micro_config(len(run.texts.tokenizer), encoder=replace(run.model.config.encoder, hidden_size=96))
    torch.manual_seed(2)
    model = scatter(VidLLMForConditionalGeneration(told))
    return Stage1Run(config, model, (run.geometry, run.language), run.data, run.texts)


def test_bfloat16_autocast_runs(config, tmp_path):
    for cache in (None, str(tmp_path / "cache")):
        figures = train_step(Stage1Run.build(changed(config, dtype="bfloat16", teacher_cache=cache)), 0)
        assert 0 < figures["loss"] < 8


def test_without_structure_it_is_told_but_not_trained(config):
    run = Stage1Run.build(changed(config, structure_weight=0.0))
    figures = train_step(run, 0)
    assert figures["structure_now"] > 0 and figures["loss"] == pytest.approx(figures["geo"] + figures["lang"], rel=1e-5)


def test_a_projection_between_equal_widths_starts_as_the_identity():
    tokens = torch.randn(1, 2, 3, 8)
    same, other = Projections(8, 8, 5)(tokens, tokens).geometry, Projections(8, 8, 5)(tokens, tokens).language
    assert torch.equal(same, tokens) and other.shape[-1] == 5


def test_both_teachers_are_asked_for(config):
    with pytest.raises(ValueError, match="--teacher-language"):
        Stage1Run.build(changed(config, teacher_language=""))
    with pytest.raises(ValueError, match="clips of 8 frames"):  # as the dry run
        Stage1Run.build(changed(config, clip_frames=(8,)))
    assert compact_stage1().structure_weight == paper_stage1().structure_weight == 1.0
