"""Curves of runs: what is read from a log, how it is smoothed and scaled, and that the picture shows every run."""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pytest
from PIL import Image, ImageColor

from vidllm.cli import main
from vidllm.export import line_chart
from vidllm.export.line_chart import COLOURS, PANEL, Panel, Series, line_charts, smoothed
from vidllm.io.atomic import write_json
from vidllm.training.config import tiny_test
from vidllm.training.plot import names, panels, plot_runs, read_log


def write_run(folder, count=40, scale=1.0):
    folder.mkdir(parents=True)
    write_json(folder / "config.json", asdict(tiny_test()))
    rows = [
        {"step": i, "seconds": 2.0 * i, "bad_steps": i // 30, "loss": scale * 100 * 0.8**i, "norm": 1.0 + i % 3,
         "window_steps": 1.0, **({"text": 2.0 - 0.01 * i} if i > 10 else {})}
        for i in range(1, count + 1)
    ]  # fmt: skip
    (folder / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"step": 41, "lo')
    return folder


def test_a_log_becomes_curves(tmp_path):
    log = read_log(write_run(tmp_path / "run"))
    assert list(log.curves) == ["bad_steps", "loss", "norm", "text", "learning_rate", "seconds_a_step"]
    assert log.curves["text"][0][0] == 11 and len(log.curves["loss"][0]) == 40
    assert np.allclose(log.curves["seconds_a_step"][1], 2.0)
    assert log.curves["learning_rate"][1][1] == tiny_test().learning_rate(1)


def test_the_clock_of_a_resumed_run_begins_anew(tmp_path):
    rows = [{"step": 1, "seconds": 5.0, "loss": 1.0}, {"step": 2, "seconds": 8.0, "loss": 1.0},
            {"step": 3, "seconds": 2.0, "loss": float("nan")}, {"step": 4, "seconds": 4.0, "loss": 1.0}]  # fmt: skip
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    curves = read_log(tmp_path).curves
    assert curves["seconds_a_step"][1].tolist() == [3.0, 2.0] and curves["loss"][0].tolist() == [1, 2, 4]


def test_smoothing_keeps_length_and_means():
    y = np.array([0.0, 3.0, 0.0, 3.0, 6.0])
    assert np.array_equal(smoothed(y, 1), y)
    assert np.allclose(smoothed(y, 3), [1.5, 1.0, 2.0, 3.0, 4.5])
    assert np.allclose(smoothed(np.full(9, 2.5), 4), 2.5)


def test_axes_are_logarithmic_where_values_span_decades():
    pytest.importorskip("matplotlib")
    steps = np.arange(5.0)
    spans = {"log": 10.0**-steps, "linear": 1 + steps, "flat": np.full(5, 2.0), "signed": 10.0**steps - 5}
    figure = line_charts([Panel(name, [Series(0, steps, y, y)]) for name, y in spans.items()], ["run"])
    assert [axes.get_yscale() for axes in figure.axes] == ["log", "linear", "linear", "linear"]
    for axes, y in zip(figure.axes, spans.values(), strict=True):
        low, high = axes.get_ylim()
        assert low < y.min() and y.max() < high
    with pytest.raises(ValueError, match="nothing to draw"):
        line_charts([], [])


def test_without_matplotlib_the_command_names_the_extra(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(line_chart, "can_plot", lambda: False)
    assert main(["train", "plot", str(tmp_path / "none")]) == 2
    assert "pip install vidllm[plot]" in capsys.readouterr().err


@pytest.mark.slow
def test_the_picture_shows_every_run_in_its_colour(tmp_path):
    pytest.importorskip("matplotlib")
    runs = [write_run(tmp_path / name, scale=scale) for name, scale in (("a", 1.0), ("b", 3.0))]
    path = plot_runs(runs, tmp_path / "new" / "both.png", smooth=1)
    with Image.open(path) as picture:
        found = {tuple(c) for c in np.array(picture.convert("RGB")).reshape(-1, 3).tolist()}
        assert picture.width == pytest.approx(4 * 100 * PANEL[0], abs=1)
    first, second, third = (ImageColor.getrgb(colour) for colour in COLOURS[:3])
    assert {first, second} <= found and third not in found
    titles = [panel.title for panel in panels([read_log(run) for run in runs])]
    assert titles == ["loss", "text", "learning rate", "norm", "bad steps", "seconds a step"]


def test_runs_are_told_apart_by_their_paths(tmp_path):
    runs = [write_run(tmp_path / a / b) for a, b in (("x", "run"), ("y", "run"))]
    assert names(runs) == ["x/run", "y/run"] and names(runs[:1]) == ["run"]


def test_the_command(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    run = write_run(tmp_path / "run")
    assert main(["train", "plot", str(run), "--smooth", "5"]) == 0
    assert capsys.readouterr().out.strip() == str(run / "curves.png") and (run / "curves.png").exists()
    for wrong, said in (
        ([str(tmp_path / "none")], "no log of a run here"), ([str(run), "-o", str(tmp_path / "a.jpg")], ".png"),
        ([str(run), "--smooth", "0"], "--smooth"),
    ):  # fmt: skip
        assert main(["train", "plot", *wrong]) == 2
        assert said in capsys.readouterr().err
    (run / "log.jsonl").write_text("no\n")
    assert main(["train", "plot", str(run)]) == 2 and "line 1" in capsys.readouterr().err
