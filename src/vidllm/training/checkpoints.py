"""Checkpoints, written atomically (:mod:`vidllm.io.atomic`); the newest few are kept.

Both forms store a run's tensors by name (``weights|NAME``, ``averaged|NAME``, ``optimizer|SLOT|NAME``) and its
counters. ``step_N.pt`` is one file; with sharded blocks, ``step_N`` is a folder of torch.distributed.checkpoint to
which every process writes its part. Any number of processes can resume from either, sharded or not. Unpickling is
restricted to tensors (:mod:`vidllm.io`).

Moments are named here rather than by torch's ``get_optimizer_state_dict``, whose counterpart gives parameters without a
gradient moments of one step, which would change their first real step.
"""

from __future__ import annotations

import json
import re
import warnings
import zipfile
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.tensor import DTensor, distribute_tensor

from vidllm.io.atomic import atomic_folder, atomic_path, remove_folder
from vidllm.io.files import read_json_object
from vidllm.io.sharded_tensors import TensorsReader, read_metadata
from vidllm.io.tensors import load_pickled, reason_without_advice
from vidllm.training.distributed import ProcessGroup, is_sharded
from vidllm.training.trainable import Trainable

REST = "run.json"  # in a folder, the counts
SEPARATOR = "|"
_NAME = re.compile(r"step_(\d+)(\.pt)?")
#: Errors of loading a checkpoint of another run, or a damaged one.
_UNFIT = (CheckpointException, AssertionError, AttributeError, KeyError, OSError, RuntimeError, TypeError, ValueError)


def save_checkpoint(run: Trainable, folder: Path, step: int, keep: int, processes: ProcessGroup) -> Path:
    """Write a run's state and remove older checkpoints beyond ``keep``. Called by all processes.

    ValueError if the disk is full; the last good checkpoint is kept.
    """
    path = folder / f"step_{step:07d}"
    counts = {
        "step": step, "steps_averaged": run.steps_averaged, "bad_steps": run.bad_steps, "watch": run.spike_guard.state()
    }  # fmt: skip
    try:
        if is_sharded(run):
            with atomic_folder(path) if processes.rank == 0 else nullcontext(path) as part:
                part = processes.first(part)
                save(tensors_of(run), storage_writer=FileSystemWriter(part))
                if processes.rank == 0:
                    (part / REST).write_text(json.dumps(counts))
        elif processes.rank == 0:
            path = path.with_suffix(".pt")
            with atomic_path(path) as temporary:
                torch.save({**counts, "tensors": tensors_of(run)}, temporary)
    except (OSError, RuntimeError, CheckpointException) as error:  # torch's writer has a RuntimeError for a full disk
        good = list_checkpoints(folder)
        last = f"the last good one is kept: {good[-1]}" if good else "there is no earlier one"
        cause = error.__cause__ if isinstance(error.__cause__, OSError) else error
        raise ValueError(f"cannot write checkpoint {path} ({' '.join(str(cause).split())[:300]}); {last}; free disk "
                         "space and start again: the run resumes") from error  # fmt: skip
    if processes.rank == 0:
        for old in list_checkpoints(folder)[: -max(1, keep)]:
            remove_folder(old) if old.is_dir() else old.unlink()
    processes.first(None)
    return path


def load_checkpoint(run: Trainable, path: Path) -> int | None:
    """Read a file or folder into a run, sharded or not; returns the step to resume from, None if it is damaged.

    Raises:
        ValueError: it belongs to another run.
    """
    try:
        if path.is_dir():
            read_metadata(path)
            rest = read_json_object(path / REST)
        else:
            rest = load_pickled(path) if _passes_checksums(path) else {}
    except ValueError:  # damaged, or it holds code (which is not run)
        return None
    if not isinstance(rest, dict) or not isinstance(rest.get("step"), int):
        return None
    try:
        _take(run, _read_folder(run, path) if path.is_dir() else rest["tensors"])
        run.steps_averaged, run.bad_steps = rest["steps_averaged"], rest["bad_steps"]
        run.spike_guard.load(rest["watch"])  # the key that earlier checkpoints have
    except _UNFIT as error:
        cause = next(iter(error.failures.values()))[0] if isinstance(error, CheckpointException) else error
        told = " ".join(str(cause).split())[:200]
        reason = reason_without_advice(cause) if "weights_only" in told else f"{type(cause).__name__}: {told}"
        raise ValueError(
            f"{path}: not a checkpoint of this run, or damaged ({reason}); delete it, or give another --out"
        ) from None
    return int(rest["step"])


def tensors_of(run: Trainable) -> dict[str, Any]:
    """Every tensor of a run by name, on its device."""
    found: dict[str, Any] = {}
    for name, module in run.modules().items():
        found |= {f"weights{SEPARATOR}{name}.{key}": value for key, value in module.state_dict().items()}
    for name, parameter in run.named_parameters().items():
        for slot, value in run.optimizer.state.get(parameter, {}).items():
            found[f"optimizer{SEPARATOR}{slot}{SEPARATOR}{name}"] = value
    return found | {f"averaged{SEPARATOR}{name}": value for name, value in run.averaged.items()}


def _take(run: Trainable, found: Mapping[str, Tensor]) -> None:
    """Load the tensors of a checkpoint into the run."""
    options = StateDictOptions(full_state_dict=not any(isinstance(value, DTensor) for value in found.values()))
    named: dict[str, dict[str, Any]] = {name: {} for name in run.modules()}
    parameter_of = _parameters_by_key(run)
    run.averaged.clear()
    for key, value in found.items():
        sort, *slot, name = key.split(SEPARATOR)
        if sort == "weights":
            part, name = name.split(".", 1)
            named[part][name] = value
        elif sort == "averaged":
            run.averaged[name] = _like(parameter_of(key), value)
        else:
            run.optimizer.state[parameter_of(key)][slot[0]] = _like(parameter_of(key), value)
    for name, module in run.modules().items():
        set_model_state_dict(module, named[name], options=options)


def _read_folder(run: Trainable, path: Path) -> dict[str, Any]:
    """The tensors of a folder, of each the part that this process needs."""
    reader = TensorsReader(path)
    wanted, parameter_of = tensors_of(run), _parameters_by_key(run)
    for key in reader.read_metadata().state_dict_metadata:
        if key not in wanted:  # moments and averages that a fresh run does not have yet
            like = parameter_of(key).detach()
            wanted[key] = torch.zeros((), device=like.device) if "|step|" in key else torch.zeros_like(like)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # one process is meant
        load(wanted, storage_reader=reader)
    return wanted


def _parameters_by_key(run: Trainable) -> Callable[[str], torch.nn.Parameter]:
    """From the key of a moment or an average to its parameter; ValueError for one that the run does not have."""
    averaging = run.averaging()
    averaged = {} if averaging is None else dict(averaging.named_parameters())
    known = {"optimizer": run.named_parameters(), "averaged": averaged}

    def parameter_of(key: str) -> torch.nn.Parameter:
        sort, *_, name = key.split(SEPARATOR)
        if name not in known.get(sort, {}):
            raise ValueError(f"it holds {key!r}, which this run does not have")
        return known[sort][name]

    return parameter_of


def _like(parameter: Tensor, value: Tensor) -> Tensor:
    """A value on a parameter's device, sharded as it is where it has its shape."""
    if isinstance(value, DTensor) or not isinstance(parameter, DTensor) or value.shape != parameter.shape:
        return value.to(parameter.device)
    return distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements)


def list_checkpoints(folder: Path) -> list[Path]:
    """Checkpoints of a run, oldest first."""
    found = [(match, path) for path in folder.glob("step_*") if (match := _NAME.fullmatch(path.name))]
    return [path for _, path in sorted(found, key=lambda pair: (int(pair[0][1]), pair[1].name))]


def _passes_checksums(path: Path) -> bool:
    """Whether the checksums that torch writes into a file still hold; torch itself does not look at them.

    A file that is no archive (another format, or truncated) has none; reading it fails with an error of its own.
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
