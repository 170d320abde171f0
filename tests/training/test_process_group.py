"""Two processes average their gradients; a group of one leaves them alone."""

from __future__ import annotations

import os
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from interruptions import free_port
from torch import nn

from vidllm.training.distributed import ProcessGroup


def _one(rank: int, port: int, folder: str) -> None:
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), OMP_NUM_THREADS="1")
    os.environ.update(WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    processes = ProcessGroup.from_environment()
    first, second = nn.Parameter(torch.ones(2, 3)), nn.Parameter(torch.ones(4))
    first.grad = torch.full((2, 3), float(rank + 1))
    if rank == 0:  # the other process never used it
        second.grad = torch.full((4,), 6.0)
    third = nn.Parameter(torch.ones(1))  # no process used it
    processes.average_gradients([first, second, third])
    assert third.grad is None and processes.gather(rank) == [0, 1] and processes.first(rank) == 0
    torch.save((first.grad, second.grad, processes.seeds(7, 5)), Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_hold_the_mean_and_draw_different_batches(tmp_path: Path) -> None:
    mp.spawn(_one, args=(free_port(), str(tmp_path)), nprocs=2)
    ours, theirs = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    for first, second, _ in (ours, theirs):
        assert torch.equal(first, torch.full((2, 3), 1.5))
        assert torch.equal(second, torch.full((4,), 3.0))
    assert ours[2] != theirs[2]


def test_a_world_of_one_changes_nothing() -> None:
    parameter = nn.Parameter(torch.ones(2))
    ProcessGroup().average_gradients([parameter])
    assert parameter.grad is None
    assert ProcessGroup().seeds(7, 5) == [[7, 5]] and ProcessGroup().gather(3) == [3]
