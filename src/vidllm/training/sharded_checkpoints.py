"""Checkpoints of a sharded run: every process writes its own part (torch.distributed.checkpoint).

A folder ``step_N`` holds the tensors by name and ``run.json`` the rest. It is read by any number of processes, one
among them, each taking the parts that it needs. Nothing in it is unpickled without a guard (:mod:`vidllm.io`).
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
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from vidllm.io.atomic import temporary_beside
from vidllm.io.files import read_json_object
from vidllm.io.sharded_tensors import TensorsReader, read_metadata
from vidllm.io.tensors import reason_without_advice
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
    """Read a folder into a run, sharded or whole; returns the step to go on with. ValueError where it does not fit."""
    reader = TensorsReader(path)
    wanted = _tensors(run)
    for name in reader.read_metadata().state_dict_metadata:
        if name not in wanted:
            wanted[name] = _room_for(run, name, path)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # one process is meant
            load(wanted, storage_reader=reader)
    except (CheckpointException, AssertionError, KeyError, OSError, RuntimeError, ValueError) as error:
        raise ValueError(f"{path}: does not fit this run, or is damaged ({_reason(error)}); delete it to go on from an "
                         "earlier one") from None  # fmt: skip
    parameters = run.named_parameters()
    for key, value in wanted.items():
        sort, *slot, name = key.split(SEPARATOR)
        if sort == "averaged":
            run.averaged[name] = value
        elif sort == "optimizer":
            run.optimizer.state[parameters[name]][slot[0]] = value
    rest = read_json_object(path / REST)
    run.load_counts(rest)
    return int(rest["step"])


def is_whole(path: Path) -> bool:
    """Whether everything that a folder's metadata names is there."""
    try:
        read_metadata(path)
        return isinstance(read_json_object(path / REST).get("step"), int)
    except ValueError:
        return False


def _reason(error: BaseException) -> str:
    """The first error of a process in one line, without torch's advice to let code run."""
    if isinstance(error, CheckpointException):
        error = next(iter(error.failures.values()))[0]
    return reason_without_advice(error)


def _tensors(run: Trainable) -> dict[str, Any]:
    """Every tensor of a run by name, where it is."""
    found: dict[str, Any] = {}
    for name, module in run.modules().items():
        found |= {f"weights{SEPARATOR}{name}.{key}": value for key, value in module.state_dict().items()}
    for name, parameter in run.named_parameters().items():
        for slot, value in run.optimizer.state.get(parameter, {}).items():
            found[f"optimizer{SEPARATOR}{slot}{SEPARATOR}{name}"] = value
    return found | {f"averaged{SEPARATOR}{name}": value for name, value in run.averaged.items()}


def _room_for(run: Trainable, key: str, path: Path) -> Tensor:
    """An empty tensor for an entry that a fresh run does not have yet; ValueError where it can have none."""
    sort, *slot, name = key.split(SEPARATOR)
    parameter = run.named_parameters().get(name)
    if sort == "averaged" and (module := run.averaging()) is not None:
        parameter = dict(module.named_parameters()).get(name)
    elif sort != "optimizer" or len(slot) != 1:
        parameter = None
    if parameter is None:
        raise ValueError(f"{path}: holds {key!r}, which this run does not have; delete it, or choose another folder")
    if slot == ["step"]:
        return torch.zeros((), dtype=torch.float32, device=parameter.device)
    return torch.zeros_like(parameter, requires_grad=False)
