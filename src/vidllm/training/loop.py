"""The training loop: one readable loop with resume, JSONL log, progress and skipped bad steps."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from vidllm.training.checkpoints import load_latest
from vidllm.training.config import TrainConfig
from vidllm.training.exporting import export_model
from vidllm.training.progress import Clock, trim_log
from vidllm.training.run import Run, batch_of_step, losses_of_step
from vidllm.training.schedule import learning_rate
from vidllm.training.steps import ALONE, autocast, descend, keep
from vidllm.training.world import World


def train(config: TrainConfig, log: Callable[[str], None] | None = None) -> Path:
    """Run (or resume) joint training; returns the folder of the final model.

    Raises RuntimeError when too many steps had a loss or gradient that is not finite.
    """
    world = World.from_environment()
    say = log or (lambda line: print(line, file=sys.stderr, flush=True))
    torch.set_num_threads(config.threads)
    torch.set_flush_denormal(True)
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    run = Run.build(config)
    if world.rank == 0:
        config.write(out / "config.json")
    start = _resume(run, out)
    if world.rank == 0:
        trim_log(out / "log.jsonl", start)
        say(f"{out}: step {start} of {config.steps}, {world.size} process{'es' * (world.size > 1)}")
    clock = Clock(config, start)
    for step in range(start, config.steps):
        figures = train_step(run, step, world)
        if world.rank:
            continue
        clock.add(figures)
        if keep(run, step + 1, clock, out, say):
            run.data.refresh()
    return export_model(run, out / "model") if world.rank == 0 else out / "model"


def train_step(run: Run, step: int, world: World = ALONE) -> dict[str, float]:
    """One optimiser step; a step that is not finite is skipped and counted."""
    config = run.config
    rng = np.random.default_rng(world.seed(config.seed, step))
    batch, kind = batch_of_step(run, step, rng)
    for group in run.optimizer.param_groups:
        group["lr"] = learning_rate(step, config) * group["scale"]
    with autocast(config.dtype, run.model.device.type):
        losses = losses_of_step(run, batch, kind, step, rng)
    figures, taken = descend(run, losses, step, world)
    if taken:
        run.average(step)
    return figures | {f"{kind}_steps": 1.0}


def _resume(run: Run, out: Path) -> int:
    state = load_latest(out / "checkpoints")
    if state is None:
        return 0
    run.load_state(state)
    return int(state["step"])
