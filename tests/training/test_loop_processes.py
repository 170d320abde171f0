"""Two processes learn what one learns that adds up two micro-batches: whole weights (ddp) and sharded blocks (fsdp).

One pair of processes does all that the tests look at: to start it costs seconds.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from interruptions import free_port
from micro_start import log_of, quiet, save_start, short_run, weights_of
from torch import nn

from vidllm.training.config import TrainConfig, changed
from vidllm.training.distributed import ProcessGroup
from vidllm.training.loop import train_step
from vidllm.training.stage2 import Run, train


def _one(rank: int, port: int, configs: list[TrainConfig], bad: TrainConfig) -> None:
    os.environ.update(RANK=str(rank), WORLD_SIZE="2", LOCAL_RANK=str(rank), MASTER_ADDR="127.0.0.1")
    os.environ.update(LOCAL_WORLD_SIZE="2", MASTER_PORT=str(port), OMP_NUM_THREADS="1")
    torch.set_num_threads(1)
    _mean_gradients(rank, Path(bad.loop.out).parent)
    folders = [train(config, quiet) for config in configs]
    assert [folder.name for folder in folders] == ["model", "model"]  # every process knows where it is
    _bad_in_one(rank, bad)
    dist.destroy_process_group()


def _mean_gradients(rank: int, folder: Path) -> None:
    """Of a parameter that both processes use, one that the first alone uses, and one that neither uses."""
    processes = ProcessGroup.from_environment()
    first, second, third = nn.Parameter(torch.ones(2, 3)), nn.Parameter(torch.ones(4)), nn.Parameter(torch.ones(1))
    first.grad = torch.full((2, 3), float(rank + 1))
    if rank == 0:
        second.grad = torch.full((4,), 6.0)
    processes.average_gradients([first, second, third])
    assert third.grad is None and processes.gather(rank) == [0, 1] and processes.first(rank) == 0
    torch.save((first.grad, second.grad, processes.seeds(7, 5)), folder / f"gradients.{rank}.pt")


def _bad_in_one(rank: int, config: TrainConfig) -> None:
    """The second process's first micro-batch is not a number."""
    processes = ProcessGroup.from_environment()
    run = Run.build(config)
    honest = run.losses

    def losses(batch, step, rng):
        found = honest(batch, step, rng)
        factor = float("nan") if rank == 1 and step == 0 else 1.0
        return replace(found, terms={name: factor * term for name, term in found.terms.items()})

    run.losses = losses  # type: ignore[method-assign]
    before = torch.cat([p.detach().flatten() for p in run.parameters()])
    train_step(run, 0, processes)
    assert run.bad_steps == 1
    assert torch.equal(before, torch.cat([p.detach().flatten() for p in run.parameters()]))
    train_step(run, 1, processes)
    torch.save(torch.cat([p.detach().flatten() for p in run.parameters()]), f"{config.loop.out}.{rank}.pt")


@pytest.fixture(scope="module")
def runs(rooms_folder, tmp_path_factory):
    """One process with two micro-batches, two processes with one: whole, and with sharded blocks."""
    folder = tmp_path_factory.mktemp("processes")
    made = changed(
        short_run(rooms_folder, save_start(folder / "start", rooms_folder), folder / "one"), language_only_share=0.5,
        guide_weight=0.0, word_weight=0.0, true_geometry_until=10**9, keep_checkpoints=10, device="cpu", seed=3,
        gradient_checkpointing=True,
    )  # fmt: skip
    train(changed(made, accumulation=2), quiet)
    ddp, fsdp = (changed(made, out=str(folder / name), parallel=name) for name in ("ddp", "fsdp"))
    bad = changed(made, out=str(folder / "bad"), steps=2)
    mp.spawn(_one, args=(free_port(), [changed(ddp, save_minutes=60.0), fsdp], bad), nprocs=2)
    return folder, made


@pytest.mark.slow
def test_two_processes_hold_the_mean_and_draw_different_batches(runs):
    ours, theirs = (torch.load(runs[0] / f"gradients.{rank}.pt") for rank in range(2))
    for first, second, _ in (ours, theirs):
        assert torch.equal(first, torch.full((2, 3), 1.5))
        assert torch.equal(second, torch.full((4,), 3.0))
    assert ours[2] != theirs[2]


def test_a_group_of_one_changes_nothing():
    parameter = nn.Parameter(torch.ones(2))
    ProcessGroup().average_gradients([parameter])
    assert parameter.grad is None and ProcessGroup().gather(3) == [3]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ddp", "fsdp"])
def test_the_loss_curve_is_that_of_one_process(runs, name):
    folder, _ = runs
    one, two = log_of(folder / "one"), log_of(folder / name)
    kinds = {key for line in one for key in line if key.endswith("_steps")}
    assert {"window_steps", "clip_steps", "language_steps"} <= kinds
    assert len(one) == len(two) == 4
    for ours, theirs in zip(one, two, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-3, abs=1e-4)
    whole, parts = weights_of(folder / "one" / "model"), weights_of(folder / name / "model")
    for key, value in whole.items():
        torch.testing.assert_close(value, parts[key], rtol=1e-2, atol=1e-3)


@pytest.mark.slow
def test_a_sharded_run_goes_on_with_another_number_of_processes(runs, tmp_path):
    folder, config = runs
    checkpoint = folder / "fsdp" / "checkpoints" / "step_0000002"
    assert len(list(checkpoint.glob("*.distcp"))) == 2  # each process has written its part
    shutil.copytree(checkpoint, tmp_path / "run" / "checkpoints" / checkpoint.name)
    cut = tmp_path / "run" / "checkpoints" / "step_0000003"
    shutil.copytree(folder / "fsdp" / "checkpoints" / "step_0000003", cut)
    part = next(cut.glob("*.distcp"))
    part.write_bytes(part.read_bytes()[:1000])
    (tmp_path / "run" / "log.jsonl").write_text((folder / "fsdp" / "log.jsonl").read_text())
    said: list[str] = []
    model = train(changed(config, out=str(tmp_path / "run"), parallel="fsdp", accumulation=2), said.append)
    assert "step 2 of" in said[0]
    for ours, theirs in zip(log_of(tmp_path / "run"), log_of(folder / "one"), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-3, abs=1e-4)
    resumed = weights_of(model)
    for key, value in weights_of(folder / "one" / "model").items():
        torch.testing.assert_close(resumed[key], value, rtol=1e-2, atol=1e-3)


@pytest.mark.slow
def test_all_processes_skip_what_one_finds_bad(runs):
    folder, _ = runs
    ours, theirs = (torch.load(f"{folder}/bad.{rank}.pt", weights_only=True) for rank in range(2))
    assert bool(ours.isfinite().all()) and torch.equal(ours, theirs)


@pytest.mark.slow
def test_guides_do_not_read_sharded_weights(runs):
    with pytest.raises(ValueError, match="--guide-weight 0 --word-weight 0"):
        Run.build(changed(runs[1], parallel="fsdp", word_weight=0.5))


def test_micro_batches_are_the_same_whoever_computes_them():
    alone = ProcessGroup()
    assert ProcessGroup(1, 2).seeds(7, 5, 2) == alone.seeds(7, 5, 4)[2:] and alone.seeds(7, 5) == [[7, 5]]
    assert len({tuple(seed) for rank in range(4) for seed in ProcessGroup(rank, 4).seeds(7, 5, 2)}) == 8
