"""Checkpoints that survive a kill at any moment: written whole or not at all (:mod:`vidllm.io.atomic`), a few kept.

``step_N.pt`` is a file; where blocks are sharded, ``step_N`` is a folder (:mod:`sharded_checkpoints`).
"""

from __future__ import annotations

import re
import zipfile
from pathlib import Path
from typing import Any

import torch

from vidllm.io.atomic import atomic_path, remove_folder
from vidllm.io.tensors import load_pickled

_NAME = re.compile(r"step_(\d+)(\.pt)?")


def save_checkpoint(folder: Path, step: int, state: dict[str, Any], keep: int) -> Path:
    """Write ``step_N.pt``; older ones beyond ``keep`` go. ValueError on a full disk, which leaves the last good one."""
    path = folder / f"step_{step:07d}.pt"
    try:
        with atomic_path(path) as temporary:
            torch.save(state, temporary)
    except (OSError, RuntimeError) as error:  # torch's writer has a RuntimeError for a full disk
        raise unwritten(path, error) from error
    forget_old(folder, keep)
    return path


def unwritten(path: Path, error: BaseException) -> ValueError:
    """What is said when a checkpoint could not be written."""
    good = list_checkpoints(path.parent)
    last = f"the last good one is kept: {good[-1]}" if good else "there is no earlier one"
    cause = error.__cause__ if isinstance(error.__cause__, OSError) else error
    reason = " ".join(str(cause).split())[:300]
    return ValueError(f"cannot write checkpoint {path} ({reason}); {last}; make room and start again: the run goes on")


def list_checkpoints(folder: Path) -> list[Path]:
    """Checkpoints of a run, oldest first."""
    found = [(match, path) for path in folder.glob("step_*") if (match := _NAME.fullmatch(path.name))]
    return [path for _, path in sorted(found, key=lambda pair: (int(pair[0][1]), pair[1].name))]


def read_checkpoint(path: Path) -> dict[str, Any] | None:
    """What a file holds; None when it is damaged, or holds code (which is not run)."""
    try:
        state = load_pickled(path)
    except ValueError:
        return None
    return state if isinstance(state, dict) else None


def passes_checksums(path: Path) -> bool:
    """Whether the checksums that torch writes into a file still hold; torch itself does not look at them.

    A file that is no archive (another format, or cut) has none: whoever reads it tells.
    """
    if not path.is_file():  # a pipe or a device: opening it would wait
        return False
    if not zipfile.is_zipfile(path):
        return True
    try:
        with zipfile.ZipFile(path) as file:
            return file.testzip() is None
    except Exception:  # zipfile has many: BadZipFile, zlib.error, struct.error, EOFError, NotImplementedError
        return False


def clear_unfinished(folder: Path) -> None:
    """Remove what a killed run of an earlier version left half written; call it under the run folder's lock."""
    for path in folder.glob("step_*.tmp"):
        _remove(path)


def forget_old(folder: Path, keep: int) -> None:
    """Remove all but the newest ``keep`` (at least one)."""
    for old in list_checkpoints(folder)[: -max(1, keep)]:
        _remove(old)


def _remove(path: Path) -> None:
    if path.is_dir():
        remove_folder(path)
    else:
        path.unlink()
