"""Every file format times every damage: exit code 2 and one line that names the file, in seconds, under a gigabyte."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from damaged import attempt, damages, run_child
from damaged_targets import TARGETS, build_all

Build = Callable[[Path], None]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory, rooms_folder: Path) -> Build:
    """Copies a sandbox in which every file is whole; the modules that commands import are warm."""
    import vidllm.cli.scenes
    import vidllm.scene
    import vidllm.training.loop  # noqa: F401

    torch.manual_seed(0)
    return build_all(tmp_path_factory.mktemp("good") / "set", rooms_folder)


def test_whole_files_are_accepted(good: Build, tmp_path: Path) -> None:
    refused = {}
    for name, target in TARGETS.items():
        good(tmp_path / "box")
        outcome = run_child(target.command, tmp_path / "box")
        if outcome.code != 0:
            refused[name] = outcome.err
        shutil.rmtree(tmp_path / "box")
    assert refused == {}


@pytest.mark.parametrize("name", TARGETS)
def test_damaged_files_get_one_line(good: Build, name: str, tmp_path: Path) -> None:
    target = TARGETS[name]
    faults = {kind: attempt(good, target, kind, tmp_path / "box") for kind in damages(target)}
    assert {kind: told for kind, told in faults.items() if told} == {}
