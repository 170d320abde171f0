"""The table of seconds and bytes: it runs where there is no GPU, and its arithmetic is the package's."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import full_size
import parts_timing


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    clip = tmp_path_factory.mktemp("clip") / "clip.mp4"
    full_size.write_clip(clip, 3, (28, 42))
    settings = parts_timing.Settings("tiny", 3, str(clip), size=(28, 42), language_dtype="int8", static_cache=True,
                                     llava=True, processor_time=True, repeats=1)  # fmt: skip
    return settings, parts_timing.measure(settings)


def test_every_part_is_timed(found):
    _, figures = found
    assert set(full_size.SCENE) <= set(figures) and all(value >= 0 for value in figures.values())
    assert (figures["frames"], figures["height"], figures["width"]) == (3, 28, 42)
    assert figures["visual tokens"] <= 3 * 2 * 3 + 8
    assert figures["peak bytes"] > 10e6 and figures["flops"] > 1e6
    assert json.loads(json.dumps(figures)) == figures


def test_the_column_of_a_measurement(found):
    settings, figures = found
    column = full_size.measured_column(figures, settings)
    assert column["encoder and adapter"].endswith(")")  # the floor beside it
    assert {"tokens a second", "a token, static cache", "plain LLaVA: a token", full_size.FIRST} <= set(column)
    assert not any("VGGT" in name for name in column)
    figures = figures | {"frames": 8, "height": 336, "width": 518}
    assert full_size.measured_column(figures, settings)["VGGT's backbone as published, H100"] == "0.11"


def test_without_a_video_nothing_is_decoded():
    clock = parts_timing.Clock(torch.device("cpu"), 1)
    config = parts_timing.benchmark_config("tiny")
    given = parts_timing.pictures(config, parts_timing.Settings("tiny", 3, None, size=(28, 42)), clock)
    usual = parts_timing.pictures(config, parts_timing.Settings("tiny", 2, None), clock)
    assert given.shape == (3, 3, 28, 42) and usual.shape == (2, 3, 112, 140) and not clock.found
    assert full_size.parse(["tiny", "--no-video"]).no_video


@pytest.mark.slow
def test_arithmetic_runs_nothing(capsys):
    full_size.main(["tiny", "--arithmetic", "--frames", "1", "2", "--tflops", "1", "--bandwidth", "1"])
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines()]
    assert rows[0] == ["| seconds (lower bound)", "1 frames", "2 frames |"]
    one, two = next(row[1:] for row in rows if "encoder and adapter" in row[0])
    assert float(one) < float(two.strip("| "))
    assert any("peak of the whole" in row[0] for row in rows)


def test_what_fails_is_told(monkeypatch, capsys):
    failed = subprocess.CompletedProcess([], 1, "", "Traceback\nOutOfMemoryError: CUDA out of memory")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    column = full_size.in_process(parts_timing.Settings("tiny", 2, "clip.mp4"))
    assert column == {"failed": "OutOfMemoryError: CUDA out of memory"}
    assert capsys.readouterr().err == "2 frames: OutOfMemoryError: CUDA out of memory\n"
