"""A run on rooms and real clips: both kinds of steps, sizes drawn, batches ahead, stopped by the clock, int8 out."""

from __future__ import annotations

import math

import numpy as np
import pytest
from micro_start import log_of, quiet, save_start, short_run
from test_posed_clips import label, write_clip

from vidllm.model.loading import load_pretrained
from vidllm.training.config import changed
from vidllm.training.stage2 import Run, train


@pytest.fixture
def config(rooms_folder, tmp_path):
    start = save_start(tmp_path / "start", rooms_folder)
    write_clip(tmp_path / "clips" / "a", meta={"up": [0, -1, 0]})
    write_clip(tmp_path / "clips" / "b", 3, poses=False)
    run = short_run(rooms_folder, start, tmp_path / "run")
    return changed(
        run, language_start=100, posed_clips=str(tmp_path / "clips"), posed_share=0.6, sides=(28, 42), vary_share=0.5,
        prefetch=2, dtype="auto", export="int8",
    )  # fmt: skip


@pytest.mark.slow
def test_rooms_and_clips_in_one_run(config):
    folder = train(config, quiet)
    lines = log_of(config.loop.out)
    assert len(lines) == 4 and all(math.isfinite(line["loss"]) for line in lines)
    assert sum(line.get("posed_steps", 0) for line in lines) >= 1
    assert sum(line.get("window_steps", 0) for line in lines) >= 1
    assert all("semantic" not in line for line in lines if "posed_steps" in line)
    assert list(folder.glob("model.int8-*")) and not list(folder.glob("model.safetensors"))
    model, _ = load_pretrained(folder)
    assert all(bool(p.isfinite().all()) for p in model.parameters())


def test_every_step_has_the_size_that_was_drawn_for_it(config):
    run = Run.build(config)
    kinds = set()
    for step in range(8):
        batch, kind, _ = run.draw(step, np.random.default_rng([0, step]))
        assert min(batch.images.shape[-2:]) in config.batches.sides
        kinds.add(kind)
    assert kinds == {"window", "posed"}


def test_labels_teach_names_on_real_clips(config, tmp_path):
    label(tmp_path / "clips" / "a", **{f"n{n:05d}": [("couch", 0, 0, 48, 32)] for n in range(6)})
    run, said, named = Run.build(config), [], 0
    run.prepare(said.append)
    assert [line.partition("; ")[2] for line in said] == ["6 frames have labels; taken: couch as sofa"]
    for step in range(12):
        drawn = run.draw(step, np.random.default_rng([0, step]))
        if drawn[1] == "posed":
            losses = run.losses(drawn, step, np.random.default_rng(step))
            told = {"semantic", "naming"} & set(losses.terms), {"clip_category", "patch_category"} & set(losses.figures)
            assert told == (({"semantic", "naming"}, {"clip_category"}) if drawn[0].named else (set(), set()))
            assert all(bool(term.isfinite()) for term in losses.terms.values())
            named += drawn[0].named
    assert named


def test_a_run_ends_when_its_time_is_over(config):
    lines: list[str] = []
    timed = changed(config, steps=10**6, minutes=0.02, posed_clips=None, prefetch=0, export="half")
    folder = train(timed, lines.append)
    done = log_of(config.loop.out)[-1]["step"]
    assert 1 <= done < 1000 and (folder / "config.json").exists()
    assert any(line.startswith("computing in ") for line in lines)
