"""A run does not execute what was planted into its folder, and begins anew or says why not."""

from __future__ import annotations

import os
import pickle
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from micro_start import quiet, save_start, short_run

from vidllm.training import checkpoints
from vidllm.training.checkpoints import load_checkpoint, save_checkpoint
from vidllm.training.config import changed
from vidllm.training.distributed import ProcessGroup
from vidllm.training.stage2 import Run, train


class Planted:
    """Unpickling it makes a folder."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


@pytest.fixture(scope="module")
def config(rooms_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("planted")
    made = short_run(rooms_folder, save_start(folder / "start", rooms_folder), folder / "run")
    return changed(made, steps=1, guide_weight=0.0, word_weight=0.0, device="cpu")


@pytest.fixture(scope="module")
def saved(config):
    """A sharded checkpoint of one process."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch: one process is meant
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(checkpoints, "is_sharded", lambda run: True)
            return save_checkpoint(Run.build(config), Path(config.loop.out) / "kept", 1, 3, ProcessGroup())


def test_a_planted_checkpoint_does_not_run(config, saved, tmp_path):
    mark, folder = tmp_path / "ran", tmp_path / "run" / "checkpoints"
    shutil.copytree(saved, folder / saved.name)
    assert (folder / saved.name / ".metadata").is_file()
    (folder / saved.name / ".metadata").write_bytes(pickle.dumps(Planted(mark)))
    torch.save({"step": 1, "model": Planted(mark)}, folder / "step_0000000.pt")
    with pytest.raises(ValueError, match=r"step_0000001, .*step_0000000\.pt: damaged"):
        train(changed(config, out=str(tmp_path / "run")), quiet)
    assert not mark.exists()


def test_what_does_not_fit_a_run_is_said_in_one_line(config, saved, tmp_path):
    run = Run.build(changed(config, out=str(tmp_path / "run")))
    assert load_checkpoint(run, saved) == 1
    parts = list(saved.glob("*.distcp"))
    for content in (b"\0" * parts[0].stat().st_size, pickle.dumps(Planted(tmp_path / "ran")) * 100_000):
        broken = shutil.copytree(saved, tmp_path / "broken", dirs_exist_ok=True)
        (broken / parts[0].name).write_bytes(content)
        with pytest.raises(ValueError) as caught:
            load_checkpoint(run, broken)
        line = str(caught.value)
        assert str(broken) in line and "\n" not in line and "weights_only" not in line and "Traceback" not in line
    assert not (tmp_path / "ran").exists()
