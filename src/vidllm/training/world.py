"""Several processes, one model: each computes its own batch, gradients are averaged (plain data parallelism).

Started with ``torchrun --nproc-per-node N -m vidllm train ...``. On a CPU two processes of one thread each do more than
one process of two threads. Every process draws its own batches, so the averaged step sees N times the scenes.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn


@dataclass(frozen=True)
class World:
    """Number of this process and how many there are."""

    rank: int = 0
    size: int = 1

    @classmethod
    def from_environment(cls) -> World:
        """Join the processes that torchrun started; a world of one when it did not."""
        size = int(os.environ.get("WORLD_SIZE", "1"))
        if size == 1:
            return cls()
        if not dist.is_initialized():
            dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
        return cls(dist.get_rank(), size)

    def seed(self, seed: int, step: int) -> list[int]:
        """What the random numbers of a step are drawn from: another batch in every process."""
        return [seed, step] if self.size == 1 else [seed, step, self.rank]

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace every gradient by its mean over the processes (zero where a process has none)."""
        if self.size == 1:
            return
        kept = list(parameters)
        flat = torch.cat([(p.new_zeros(p.shape) if p.grad is None else p.grad).flatten() for p in kept])
        dist.all_reduce(flat)
        flat /= self.size
        for parameter, mean in zip(kept, flat.split([p.numel() for p in kept]), strict=True):
            parameter.grad = mean.view_as(parameter)
