"""The processes of an evaluation: scenes in turn, and one wait at the end (torchrun's or accelerate's environment)."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import torch.distributed as dist

from vidllm.io.locks import folder_lock
from vidllm.training.world import World

T = TypeVar("T")
_PATIENCE = timedelta(days=7)  # a process may be done long before the others


@dataclass(frozen=True)
class Processes:
    """Number of this process and how many there are."""

    rank: int = 0
    size: int = 1

    @classmethod
    def from_environment(cls) -> Processes:
        """Join the processes that torchrun or accelerate started; one alone when they did not."""
        if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized():
            dist.init_process_group("gloo", timeout=_PATIENCE)
        world = World.from_environment()
        return cls(world.rank, world.size)

    def share(self, work: Sequence[T]) -> list[T]:
        """What is this process's to do: every ``size``-th, from its own number on."""
        return list(work[self.rank :: self.size])

    @contextmanager
    def alone(self, folder: Path, name: str) -> Iterator[None]:
        """While the first process holds a lock of `folder`: ValueError where another command makes the same there."""
        with folder_lock(folder, f".{name}.lock") if self.rank == 0 else nullcontext():
            yield

    def wait(self) -> None:
        """Until every process has come here."""
        if self.size > 1:
            dist.barrier()


def own_device(device: str) -> str:
    """``cuda`` as this process's own GPU; any other name as it is."""
    local = os.environ.get("LOCAL_RANK")
    return f"cuda:{local}" if device == "cuda" and local is not None else device
