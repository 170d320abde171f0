"""Trackers beside the log: what is sent, and what is said when one is not installed."""

from __future__ import annotations

import pytest

from vidllm.training import progress
from vidllm.training.config import RunConfig, changed
from vidllm.training.progress import Trackers, check_trackers


def test_a_missing_tracker_is_named_with_what_to_install(monkeypatch):
    monkeypatch.setattr(progress, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"'wandb' is not installed; pip install 'vidllm\[wandb\]'"):
        Trackers(changed(RunConfig(), trackers=("wandb",)))
    with pytest.raises(ValueError, match="known are tensorboard, wandb"):
        check_trackers(("paper",))


def test_without_trackers_nothing_happens():
    for config in (None, RunConfig()):
        none = Trackers(config)
        assert none.log({"step": 1, "loss": 2.0}, 1) is None and none.close() is None


def test_lines_are_sent(tmp_path, monkeypatch):
    import accelerate

    sent: list[object] = []

    class Recorder:
        def __init__(self, log_with, project_dir):
            sent.append((log_with, project_dir))

        def init_trackers(self, name, config, init_kwargs):
            sent.append((name, config["trackers"], config["steps"]))

        def log(self, values, step):
            sent.append((values, step))

        def end_training(self):
            sent.append("end")

    monkeypatch.setattr(progress, "find_spec", lambda name: object())
    monkeypatch.setattr(accelerate, "Accelerator", Recorder)
    out = str(tmp_path / "run")
    told = Trackers(changed(RunConfig(), out=out, trackers=("tensorboard",)))
    told.log({"step": 7, "loss": 2.0}, 7)
    told.close()
    assert sent == [(["tensorboard"], out), ("vidllm", "('tensorboard',)", 2000), ({"loss": 2.0}, 7), "end"]
