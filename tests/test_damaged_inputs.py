"""Every file format times every damage: exit code 2 and one line that names the file, in seconds, under a gigabyte.

Without the slow ones: all damages of one file of each kind of reader that needs no model.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from damaged import HANG, SECONDS, Outcome, Target, attempt, damages, fault, run_child
from damaged_targets import FAST, TARGETS, Copier, build_all, build_light


@pytest.fixture(scope="module")
def light(tmp_path_factory: pytest.TempPathFactory) -> Copier:
    """Copies a sandbox of whole files that need no model; what reads them is imported already."""
    import vidllm.cli.data
    import vidllm.cli.evaluating
    import vidllm.training.plot  # noqa: F401

    return build_light(tmp_path_factory.mktemp("light") / "set")


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory, rooms_folder: Path) -> Copier:
    """Copies a sandbox in which every file is whole; the modules that commands import are warm."""
    import vidllm.cli.data
    import vidllm.cli.scenes
    import vidllm.scene
    import vidllm.training.stage2  # noqa: F401

    torch.manual_seed(0)
    return build_all(tmp_path_factory.mktemp("good") / "set", rooms_folder)


@pytest.mark.parametrize("name", FAST)
def test_damaged_data_get_one_line(light: Copier, name: str, tmp_path: Path) -> None:
    assert _faults(light, TARGETS[name], tmp_path / "box") == {}


@pytest.mark.slow
def test_whole_files_are_accepted(good: Copier, tmp_path: Path) -> None:
    refused = {}
    for name, target in TARGETS.items():
        good(tmp_path / "box", target)
        outcome = run_child(target.command, tmp_path / "box")
        if outcome.code != 0:
            refused[name] = outcome.err
        shutil.rmtree(tmp_path / "box")
    assert refused == {}


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in TARGETS if name not in FAST])
def test_damaged_files_get_one_line(good: Copier, name: str, tmp_path: Path) -> None:
    assert _faults(good, TARGETS[name], tmp_path / "box") == {}


def _faults(build: Copier, target: Target, box: Path) -> dict[str, str]:
    told = {kind: attempt(build, target, kind, box) for kind in damages(target)}
    return {kind: text for kind, text in told.items() if text}


def test_what_is_wrong_is_seen() -> None:
    """The judge itself: each kind of fault is told, and a good refusal is not."""
    target = Target("a.json", ("ask",), json=True)
    right = Outcome(2, "", "vidllm: error: a.json: not JSON\n", 0.1, 0)
    assert fault(target, "empty", right) is None
    for outcome, word in (
        (Outcome(-9, "", "", HANG, 0), "hangs"),
        (Outcome(1, "", "", 0.1, 0), "exit code 1"),
        (Outcome(2, "", "vidllm: error: 'x'; ... VIDLLM_DEBUG=1 shows a.json\n", 0.1, 0), "shows"),
        (Outcome(2, "", right.err, SECONDS + 1, 0), "takes 11 s"),
        (Outcome(2, "", right.err, 0.1, 3 * 2**30), "takes 3.0 GB"),
        (Outcome(0, "fine", "", 0.1, 0), "accepted"),
        (Outcome(2, "", right.err * 2, 0.1, 0), "not one line"),
        (Outcome(2, "", "vidllm: error: not JSON\n", 0.1, 0), "does not name"),
    ):
        assert word in (fault(target, "empty", outcome) or "")
