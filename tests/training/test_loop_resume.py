"""A run that was stopped goes on as the unbroken one: killed, out of disk, from an older or a damaged checkpoint."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from interruptions import interrupted_at
from micro_start import log_of, quiet, save_start, short_run, weights_of

from vidllm.io.atomic import write_json
from vidllm.training import checkpoints
from vidllm.training.checkpoints import list_checkpoints, load_checkpoint, save_checkpoint
from vidllm.training.config import RunConfig, changed
from vidllm.training.distributed import ProcessGroup
from vidllm.training.stage2 import train
from vidllm.training.trainable import Trainable

CHILD = """
import json, sys
from pathlib import Path
from vidllm.training import config, stage2
stage2.train(config.read_config(Path(sys.argv[1]), config.tiny()))
"""


@pytest.fixture(scope="module")
def config(rooms_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("resume")
    made = short_run(rooms_folder, save_start(folder / "start", rooms_folder), folder / "unbroken")
    return changed(made, language_only_share=0.5, keep_checkpoints=10)


@pytest.fixture(scope="module")
def unbroken(config):
    return weights_of(train(config, quiet))


@pytest.fixture
def as_unbroken(config, unbroken):
    """Checks the folder of a run that was broken and has gone on."""

    def check(folder: Path) -> None:
        weights = weights_of(folder)
        assert all(torch.equal(weights[name], tensor) for name, tensor in unbroken.items())
        assert log_of(folder.parent) == log_of(config.loop.out)

    return check


@pytest.mark.slow
def test_interrupted(config, as_unbroken, tmp_path):
    broken = changed(config, out=str(tmp_path / "run"))
    with interrupted_at(2):
        train(broken, quiet)
    with open(f"{broken.loop.out}/log.jsonl", "a") as file:  # told after the last checkpoint, then killed mid-line
        file.write('{"step": 3, "loss": 1.0}\n{"step": 4, "lo')
    said: list[str] = []
    as_unbroken(train(broken, said.append))
    assert "step 2 of" in said[0]


@pytest.mark.slow
def test_killed(config, as_unbroken, tmp_path):
    """SIGKILL while the third step is written down: no handler runs, no file is closed."""
    broken = changed(config, out=str(tmp_path / "run"))
    write_json(tmp_path / "config.json", asdict(broken))
    child = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", CHILD, str(tmp_path / "config.json")], stderr=subprocess.PIPE, text=True
    )
    assert child.stderr is not None
    heard = next((line for line in child.stderr if line.startswith("step 3/")), None)
    os.kill(child.pid, signal.SIGKILL)
    child.stderr.close()
    assert heard is not None and child.wait() == -signal.SIGKILL
    folder = tmp_path / "run" / "checkpoints"
    assert 2 <= len(list_checkpoints(folder)) <= 4
    as_unbroken(train(broken, quiet))


@pytest.mark.slow
def test_out_of_disk(config, as_unbroken, tmp_path, monkeypatch):
    broken = changed(config, out=str(tmp_path / "run"))
    honest = torch.save

    def full(state, path):
        if state["step"] == 3:
            Path(path).write_bytes(bytes(1000))
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        honest(state, path)

    monkeypatch.setattr(checkpoints.torch, "save", full)
    with pytest.raises(ValueError, match=r"step_0000003.*No space left.*last good one is kept.*step_0000002\.pt"):
        train(broken, quiet)
    monkeypatch.undo()
    names = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert names == ["step_0000001.pt", "step_0000002.pt"]
    as_unbroken(train(broken, quiet))


@pytest.mark.slow
def test_a_damaged_newest_checkpoint_is_passed_over(config, as_unbroken, tmp_path):
    folder = tmp_path / "run" / "checkpoints"
    folder.mkdir(parents=True)
    kept = Path(config.loop.out) / "checkpoints"
    (folder / "step_0000002.pt").write_bytes((kept / "step_0000002.pt").read_bytes())
    (folder / "step_0000003.pt").write_bytes((kept / "step_0000003.pt").read_bytes()[:5000])
    (tmp_path / "run" / "log.jsonl").write_text((Path(config.loop.out) / "log.jsonl").read_text())
    said: list[str] = []
    as_unbroken(train(changed(config, out=str(tmp_path / "run")), said.append))
    assert "step 2 of" in said[0]


class One(Trainable):
    """A run of one linear layer."""

    config = RunConfig()
    device = torch.device("cpu")

    def __init__(self):
        self.layer = torch.nn.Linear(10, 10)

    def modules(self):
        return {"layer": self.layer}

    def draw(self, step, rng):
        raise NotImplementedError

    losses = export = draw


# ---- the files themselves -------------------------------------------------------------------------------------------


def test_checkpoints_survive_damage_and_a_full_disk(tmp_path, monkeypatch):
    run = One()
    for step in (1, 2, 3):
        save_checkpoint(run, tmp_path, step, 2, ProcessGroup())
    assert [p.name for p in list_checkpoints(tmp_path)] == ["step_0000002.pt", "step_0000003.pt"]
    newest = tmp_path / "step_0000003.pt"
    whole = newest.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", b"junk"):
        newest.write_bytes(damaged)
        assert load_checkpoint(run, newest) is None
        assert load_checkpoint(run, list_checkpoints(tmp_path)[0]) == 2

    for error in (OSError("no space left on device"), RuntimeError("unexpected pos 64 vs 0")):  # torch has both

        def full(*args, error=error):
            raise error

        monkeypatch.setattr(torch, "save", full)
        with pytest.raises(ValueError, match="the last good one is kept"):
            save_checkpoint(run, tmp_path, 4, 2, ProcessGroup())
    assert len(list(tmp_path.iterdir())) == 2
    with pytest.raises(ValueError, match="there is no earlier one"):
        save_checkpoint(run, tmp_path / "new", 1, 2, ProcessGroup())


def test_folders_and_files_are_of_one_order(tmp_path):
    for name in ("step_0000003", "step_0000010.pt", "step_0000002.pt", "step_0000004.tmp", "step_x.pt"):
        (tmp_path / name).mkdir()
    assert [p.name for p in list_checkpoints(tmp_path)] == ["step_0000002.pt", "step_0000003", "step_0000010.pt"]
    save_checkpoint(One(), tmp_path, 11, 1, ProcessGroup())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step_0000004.tmp", "step_0000011.pt", "step_x.pt"]
