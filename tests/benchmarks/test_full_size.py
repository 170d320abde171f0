"""The table of seconds and bytes: it runs where there is no GPU, and its arithmetic is the package's."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import full_size
import parts_timing
from vggt_form import attend_as_vggt

from vidllm.model.configuration import AttentionConfig
from vidllm.model.global_frame_attention import GlobalFrameAttention


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    clip = tmp_path_factory.mktemp("clip") / "clip.mp4"
    full_size.write_clip(clip, 3, (28, 42))
    settings = parts_timing.Settings("tiny", (3,), str(clip), size=(28, 42), language_dtype="int8", static_cache=True,
                                     llava=True, vggt=True, processor_time=True, repeats=1)  # fmt: skip
    (figures,) = parts_timing.measure(settings)
    return settings, figures


@pytest.mark.slow
def test_every_part_is_timed(found):
    _, figures = found
    assert set(full_size.SCENE) <= set(figures) and all(value >= 0 for value in figures.values())
    assert (figures["frames"], figures["height"], figures["width"]) == (3, 28, 42)
    assert figures["visual tokens"] <= 3 * 2 * 3 + 8
    assert figures["peak bytes"] > 10e6 and figures["flops"] > 1e6
    assert json.loads(json.dumps(figures)) == figures


@pytest.mark.slow
def test_the_column_of_a_measurement(found):
    settings, figures = found
    column = full_size.measured_column(figures, settings)
    assert column["encoder and adapter"].endswith(")")  # the floor beside it
    others = {"a token, static cache", "plain LLaVA: a token", "attention alone", "the same in VGGT's form"}
    assert {"tokens a second", full_size.FIRST, *others} <= set(column)
    assert not any("as published" in name for name in column)
    figures = figures | {"frames": 8, "height": 336, "width": 518}
    assert full_size.measured_column(figures, settings)["VGGT's backbone as published, H100"] == "0.11"


def test_without_a_video_nothing_is_decoded():
    clock, cpu = parts_timing.Clock(torch.device("cpu"), 1), torch.device("cpu")
    model = parts_timing.random_model(parts_timing.benchmark_config("tiny"), cpu, torch.bfloat16, None, None)
    given = parts_timing.pictures(model, parts_timing.Settings("tiny", (3,), None, size=(28, 42)), 3, clock)
    usual = parts_timing.pictures(model, parts_timing.Settings("tiny", (2,), None), 2, clock)
    assert given.shape == (1, 3, 3, 28, 42) and usual.shape == (1, 2, 3, 112, 140) and not clock.found
    assert given.dtype == torch.bfloat16
    assert full_size.parse(["tiny", "--no-video"]).no_video


@pytest.mark.slow
def test_arithmetic_runs_nothing(capsys):
    full_size.main(["tiny", "--arithmetic", "--frames", "1", "2", "--tflops", "1", "--bandwidth", "1"])
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines()]
    assert rows[0] == ["| seconds (lower bound)", "1 frames", "2 frames |"]
    one, two = next(row[1:] for row in rows if "encoder and adapter" in row[0])
    assert float(one) < float(two.strip("| "))
    assert any("peak of the whole" in row[0] for row in rows)


def test_what_fails_is_told_and_what_was_measured_stays(monkeypatch, tmp_path, capsys):
    """The process ends at the second number of frames; the table has the first."""
    process = tmp_path / "process"
    process.write_text("#!/bin/sh\necho a warning\necho '{\"frames\": 2}'\necho Traceback >&2\n"
                       "echo OutOfMemoryError: CUDA out of memory >&2\nexit 1\n")  # fmt: skip
    process.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(process))
    monkeypatch.setattr(full_size, "measured_column", lambda found, _: {k: str(v) for k, v in found.items()})
    full_size.main(["paper", "--device", "cuda", "--no-video", "--frames", "2", "8", "-o", str(tmp_path / "table")])
    rows = (tmp_path / "table").read_text().splitlines()
    assert rows[0] == "| seconds (lower bound) | 2 frames | 8 frames |" and "| frames | 2 | 8 |" in rows
    assert "| failed |  | OutOfMemoryError: CUDA out of memory |" in rows
    monkeypatch.undo()
    settings = parts_timing.Settings("tiny", (8,), None)
    column = full_size.measured_column({"frames": 8, "failed": "out of memory"}, settings)
    assert column == {"failed": "out of memory"} and capsys.readouterr().err == "8 frames: out of memory\n"


def test_out_of_memory_ends_a_measurement_with_its_reason(monkeypatch):
    def measured(model, settings, frames, clock):
        if frames > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate")
        clock.found["frames"] = frames

    monkeypatch.setattr(parts_timing, "random_model", lambda *_: None)
    monkeypatch.setattr(parts_timing, "measure_clip", measured)
    first, second = parts_timing.measure(parts_timing.Settings("tiny", (2, 4, 8), None, repeats=1))
    assert first["frames"] == 2 and first["flops"] > 0
    assert second == {"frames": 4, "failed": "CUDA out of memory. Tried to allocate"}


@torch.no_grad()
def test_vggts_way_of_writing_the_attention_gives_the_same_tokens():
    torch.manual_seed(0)
    ours = GlobalFrameAttention(AttentionConfig(depth=2, num_heads=2, layer_scale_init=0.5), 16)
    for parameter in ours.parameters():
        parameter.normal_(std=0.3)
    tokens = torch.randn(2, 3, 4 * 5, 16)
    expected = ours(tokens, (4, 5), (0, 1))
    found = attend_as_vggt(ours, tokens, (4, 5))
    before = 1 + ours.config.num_register_tokens
    for layer, tokens in enumerate(found):
        torch.testing.assert_close(tokens[:, :, before:], expected.intermediate_features[layer])
    torch.testing.assert_close(found[-1][:, :, :before], expected.special)
