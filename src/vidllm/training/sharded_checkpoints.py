"""Checkpoints of a sharded run: every process writes its own part (torch.distributed.checkpoint).

A folder ``step_N`` holds the tensors by name and ``run.json`` the rest. It is read by any number of processes, one
among them, each taking the parts that it needs.
"""

from __future__ import annotations

import json
import os
import shutil
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from vidllm.io.atomic import temporary_beside
from vidllm.training.checkpoints import forget_old, unwritten
from vidllm.training.trainable import Trainable
from vidllm.training.world import World

REST = "run.json"
SEPARATOR = "|"  # weights|NAME, averaged|NAME, optimizer|SLOT|NAME


def save_sharded(run: Trainable, folder: Path, step: int, keep: int, world: World) -> Path:
    """Write ``step_N``; called by all processes. ValueError on a full disk, which leaves the last good one."""
    path = folder / f"step_{step:07d}"
    temporary = world.first(temporary_beside(path))
    try:
        if world.rank == 0:
            temporary.mkdir(parents=True)
        world.first(None)
        save(_tensors(run), storage_writer=FileSystemWriter(temporary))
        if world.rank == 0:
            (temporary / REST).write_text(json.dumps({"step": step, **run.counts()}))
            os.replace(temporary, path)
            forget_old(folder, keep)
        world.first(None)
    except (OSError, RuntimeError, CheckpointException) as error:
        raise unwritten(path, error) from error
    finally:
        if world.rank == 0:
            shutil.rmtree(temporary, ignore_errors=True)
    return path


def load_sharded(run: Trainable, path: Path) -> int:
    """Read a folder into a run, sharded or whole; returns the step to go on with."""
    wanted = _tensors(run)
    for name in FileSystemReader(path).read_metadata().state_dict_metadata:
        if name not in wanted:
            wanted[name] = _room_for(run, name)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # one process is meant
        load(wanted, storage_reader=FileSystemReader(path))
    parameters = run.named_parameters()
    for key, value in wanted.items():
        sort, *slot, name = key.split(SEPARATOR)
        if sort == "averaged":
            run.averaged[name] = value
        elif sort == "optimizer":
            run.optimizer.state[parameters[name]][slot[0]] = value
    rest = json.loads((path / REST).read_text())
    run.load_counts(rest)
    return int(rest["step"])


def is_whole(path: Path) -> bool:
    """Whether everything that a folder's metadata names is there."""
    try:
        stored = FileSystemReader(path).read_metadata().storage_data or {}
        ends: dict[str, int] = {}
        for info in stored.values():
            ends[info.relative_path] = max(ends.get(info.relative_path, 0), info.offset + info.length)
        return (path / REST).exists() and all((path / name).stat().st_size >= end for name, end in ends.items())
    except Exception:  # a cut metadata file: pickle, EOF, missing, ...
        return False


def _tensors(run: Trainable) -> dict[str, Any]:
    """Every tensor of a run by name, where it is."""
    found: dict[str, Any] = {}
    for name, module in run.modules().items():
        found |= {f"weights{SEPARATOR}{name}.{key}": value for key, value in module.state_dict().items()}
    for name, parameter in run.named_parameters().items():
        for slot, value in run.optimizer.state.get(parameter, {}).items():
            found[f"optimizer{SEPARATOR}{slot}{SEPARATOR}{name}"] = value
    return found | {f"averaged{SEPARATOR}{name}": value for name, value in run.averaged.items()}


def _room_for(run: Trainable, key: str) -> Tensor:
    """An empty tensor for an entry that a fresh run does not have yet."""
    sort, *slot, name = key.split(SEPARATOR)
    if sort == "averaged":
        module = run.averaging()
        assert module is not None
        return torch.zeros_like(module.get_parameter(name), requires_grad=False)
    parameter = run.named_parameters()[name]
    if slot == ["step"]:
        return torch.zeros((), dtype=torch.float32, device=parameter.device)
    return torch.zeros_like(parameter, requires_grad=False)
