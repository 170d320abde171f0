"""The training loop: one readable loop with resume, JSONL log, progress and skipped bad steps."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vidllm.training.checkpoints import load_latest, save_checkpoint
from vidllm.training.config import TrainConfig
from vidllm.training.exporting import export_model
from vidllm.training.joint import Losses
from vidllm.training.progress import Clock as _Clock
from vidllm.training.progress import trim_log, write_log
from vidllm.training.run import Run, batch_of_step, losses_of_step
from vidllm.training.schedule import learning_rate
from vidllm.training.world import World

MAX_BAD_STEPS = 50
ALONE = World()


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
    clock = _Clock(config, start)
    for step in range(start, config.steps):
        figures = train_step(run, step, world)
        if world.rank:
            continue
        clock.add(figures)
        if (step + 1) % config.log_every == 0:
            write_log(out / "log.jsonl", clock.line(step + 1, run.bad_steps))
            say(clock.text)
        if clock.due(config.save_minutes) or step + 1 == config.steps:
            save_checkpoint(out / "checkpoints", step + 1, run.state(step + 1), config.keep_checkpoints)
            run.data.refresh()
    return export_model(run, out / "model") if world.rank == 0 else out / "model"


def train_step(run: Run, step: int, world: World = ALONE) -> dict[str, float]:
    """One optimiser step; a step that is not finite is skipped and counted."""
    config = run.config
    rng = np.random.default_rng(world.seed(config.seed, step))
    batch, kind = batch_of_step(run, step, rng)
    for group in run.optimizer.param_groups:
        group["lr"] = learning_rate(step, config) * group["scale"]
    with _autocast(config, run.model.device.type):
        losses = losses_of_step(run, batch, kind, step, rng)
    total = losses.total()
    run.optimizer.zero_grad(set_to_none=True)
    total.backward()
    world.average_gradients(run.parameters())
    norm = torch.nn.utils.clip_grad_norm_(run.parameters(), config.clip_norm)
    if math.isfinite(norm.item()):
        run.optimizer.step()
        run.average(step)
    else:
        run.bad_steps += 1
        if run.bad_steps > MAX_BAD_STEPS:
            raise RuntimeError(f"{run.bad_steps} steps had a loss or gradient that is not finite; stopped at {step}")
    return {"loss": total.item(), "norm": norm.item(), **_values(losses, kind)}


def _values(losses: Losses, kind: str) -> dict[str, float]:
    values = {name: term.item() for name, term in losses.terms.items()} | losses.figures
    return values | {f"{kind}_steps": 1.0}


def _autocast(config: TrainConfig, device: str) -> AbstractContextManager[Any]:
    if config.dtype == "float32":
        return nullcontext()
    return torch.autocast(device, dtype=getattr(torch, config.dtype))


def _resume(run: Run, out: Path) -> int:
    state = load_latest(out / "checkpoints")
    if state is None:
        return 0
    run.load_state(state)
    return int(state["step"])
