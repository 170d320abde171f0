"""Checkpoints that survive a kill at any moment: written to a temporary name, moved into place, the last few kept."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import torch

_NAME = re.compile(r"step_(\d+)\.pt$")


def save_checkpoint(folder: Path, step: int, state: dict[str, Any], keep: int) -> Path:
    """Write ``step_N.pt``; older ones beyond ``keep`` go. A full disk leaves the last good checkpoint."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"step_{step:07d}.pt"
    temporary = path.with_suffix(".tmp")
    try:
        torch.save(state, temporary)
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise ValueError(f"cannot write checkpoint {path}: {error}; the last good one is kept") from error
    for old in list_checkpoints(folder)[: -max(1, keep)]:
        old.unlink()
    return path


def list_checkpoints(folder: Path) -> list[Path]:
    """Checkpoints of a run, oldest first."""
    return sorted(p for p in folder.glob("step_*.pt") if _NAME.search(p.name))


def load_latest(folder: Path) -> dict[str, Any] | None:
    """The newest readable checkpoint, or None."""
    for path in reversed(list_checkpoints(folder)):
        try:
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
            return state
        except Exception:  # torch.load has no error of its own for a cut file: zip, pickle, struct, ...
            continue
    return None
