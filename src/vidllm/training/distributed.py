"""Data parallelism: each process computes its own micro-batches, and gradients are averaged.

Started with ``torchrun --nproc-per-node N -m vidllm train ...`` or ``accelerate launch``. On a CPU two processes with
one thread each are faster than one process with two threads. A step consists of ``processes * accumulation``
micro-batches, and micro-batch m is drawn from (seed, step, m) by whichever process computes it: only this product
affects the result.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from vidllm.io.atomic import OutputError
from vidllm.training.trainable import Trainable

T = TypeVar("T")
BUCKET = 2**25  # gradient values per all-reduce
MICRO = 1  # keeps a micro-batch's draws apart from those that a step's micro-batches share (run.PLAN)


@dataclass(frozen=True)
class ProcessGroup:
    """Index of this process and number of processes."""

    rank: int = 0
    size: int = 1

    @classmethod
    def from_environment(cls, *, cpu: bool = False) -> ProcessGroup:
        """Join the processes that torchrun or accelerate started, each on its own GPU (``cpu``: on none); otherwise a
        group of one. ValueError if accelerate is not installed.
        """
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return cls()
        if not dist.is_initialized():
            check_processes()
            from accelerate import PartialState

            PartialState(cpu=cpu)
        return cls(dist.get_rank(), dist.get_world_size())

    def seeds(self, seed: int, step: int, accumulation: int = 1) -> list[list[int]]:
        """The seeds of this process's micro-batches of a step."""
        if self.size * accumulation == 1:
            return [[seed, step]]
        first = self.rank * accumulation
        return [[seed, step, first + i, MICRO] for i in range(accumulation)]

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace every gradient by its mean over the processes, with zero where a process has none; a gradient that no
        process has stays None. Gradients of sharded parameters (FSDP2) are averaged already.
        """
        if self.size == 1:
            return
        kept = [p for p in parameters if not isinstance(p, DTensor)]
        if not kept:
            return
        used = torch.tensor([p.grad is not None for p in kept], dtype=torch.int32, device=kept[0].device)
        dist.all_reduce(used, dist.ReduceOp.MAX)
        for bucket in _buckets([p for p, is_used in zip(kept, used.tolist(), strict=True) if is_used]):
            flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in bucket])
            dist.all_reduce(flat)
            flat /= self.size
            for parameter, mean in zip(bucket, flat.split([p.numel() for p in bucket]), strict=True):
                parameter.grad = mean.view_as(parameter)

    def gather(self, value: T) -> list[T]:
        """The values of all processes, in order of rank, in every process."""
        if self.size == 1:
            return [value]
        found: list[T | None] = [None] * self.size
        dist.all_gather_object(found, value)
        return found  # type: ignore[return-value]

    @contextmanager
    def in_turn(self) -> Iterator[None]:
        """The first process runs the block, then the others, which find what it has written."""
        if self.rank > 0:
            dist.barrier()
        yield
        if self.rank == 0 and self.size > 1:
            dist.barrier()

    def do_first(self, work: Callable[[], T]) -> T:
        """The result of ``work`` in the first process, in all processes; its ValueError (or OutputError) is raised in
        all.
        """
        if self.size == 1:
            return work()
        found: tuple[T | None, str | None] = None, None
        if self.rank == 0:
            try:
                found = work(), None
            except (ValueError, OutputError) as error:
                found = None, str(error)
        value, fault = self.first(found)
        if fault is not None:
            raise ValueError(fault)
        return value  # type: ignore[return-value]

    def first(self, value: T) -> T:
        """The value of the first process, in all processes."""
        return self.gather(value)[0]


def several_processes() -> bool:
    """Whether this process belongs to a group of several."""
    return dist.is_initialized() and dist.get_world_size() > 1


def check_processes() -> None:
    """ValueError if torchrun started several processes and accelerate is not installed."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and find_spec("accelerate") is None:
        raise ValueError("several processes need accelerate, which is not installed: pip install 'vidllm[train]'")


def _buckets(parameters: Iterable[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    """Parameters of one type together, up to :data:`BUCKET` values or one that is larger."""
    open_buckets: dict[torch.dtype, list[nn.Parameter]] = {}
    for parameter in parameters:
        bucket = open_buckets.setdefault(parameter.dtype, [])
        if bucket and sum(p.numel() for p in bucket) + parameter.numel() > BUCKET:
            yield open_buckets.pop(parameter.dtype)
            bucket = open_buckets.setdefault(parameter.dtype, [])
        bucket.append(parameter)
    yield from open_buckets.values()


def clip_gradients(parameters: Iterable[nn.Parameter], most: float) -> float:
    """Scale all gradients, including sharded ones, to a norm of at most ``most``; returns the norm before."""
    given = [p for p in parameters if p.grad is not None]
    sharded = [p for p in given if isinstance(p, DTensor)]
    whole = [p for p in given if not isinstance(p, DTensor)]
    if not sharded:
        return float(nn.utils.clip_grad_norm_(given, most))
    parts: list[list[nn.Parameter]] = [whole, list(sharded)]
    norms = [nn.utils.get_total_norm([p.grad for p in part if p.grad is not None]) for part in parts if part]
    total = torch.stack([norm.full_tensor() if isinstance(norm, DTensor) else norm for norm in norms]).norm()
    for part in parts:
        nn.utils.clip_grads_with_norm_(part, most, total)
    return float(total)


#: Class names of blocks that every process calls equally often in a step. (Grounding is called where there is a <loc>.)
BLOCKS = re.compile(r"Block|Dinov2\w*Layer|CLIPEncoderLayer|\w*DecoderLayer")


def is_sharded(run: Trainable) -> bool:
    """Whether any parameter of a run is sharded."""
    return any(isinstance(p, DTensor) for p in run.named_parameters().values())


def shard_blocks(run: Trainable, size: int) -> None:
    """Shard the blocks of a run over ``size`` processes, before its optimiser is made."""
    mesh = init_device_mesh(run.device.type, (size,))
    for module in run.modules().values():
        for block in [part for part in module.modules() if BLOCKS.fullmatch(type(part).__name__)]:
            fully_shard(block, mesh=mesh, reshard_after_forward=True)


def gather_weights(run: Trainable, *, keep: bool) -> None:
    """Gather a run's sharded weights (or their averages) for export, in float16. Called by all processes; those without
    ``keep`` drop them. The run cannot be trained afterwards.
    """
    averaging = run.averaging()
    for module in run.modules().values():
        for path, part in module.named_modules():
            for name, value in list(part._parameters.items()):
                if isinstance(value, DTensor):
                    of = f"{path}.{name}".removeprefix(".")
                    source = run.averaged.pop(of, value) if module is averaging else value
                    assert isinstance(source, DTensor)
                    whole = source.full_tensor().detach().to("cpu", torch.float16)
                    part._parameters[name] = nn.Parameter(whole, value.requires_grad) if keep else None
