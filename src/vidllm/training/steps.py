"""What every run does around its losses: autocast, one optimiser step, skipped bad steps, the log and checkpoints."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn

from vidllm.training.checkpoints import save_checkpoint
from vidllm.training.joint import Losses
from vidllm.training.progress import Clock, write_log
from vidllm.training.schedule import Scheduled
from vidllm.training.world import World

MAX_BAD_STEPS = 50
ALONE = World()


@runtime_checkable
class Stepping(Scheduled, Protocol):
    """A configuration of steps: schedule, gradient clipping and bookkeeping."""

    @property
    def clip_norm(self) -> float:
        """Largest norm of a step's gradient."""
        ...

    @property
    def log_every(self) -> int:
        """Steps between two lines of the log."""
        ...

    @property
    def save_minutes(self) -> float:
        """Minutes between two checkpoints."""
        ...

    @property
    def keep_checkpoints(self) -> int:
        """How many checkpoints stay."""
        ...


@runtime_checkable
class Stepped(Protocol):
    """A run that takes steps."""

    bad_steps: int

    @property
    def config(self) -> Stepping:
        """Its configuration."""
        ...

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """Its optimiser."""
        ...

    def parameters(self) -> Iterator[nn.Parameter]:
        """Every trained parameter."""
        ...

    def state(self, step: int) -> dict[str, Any]:
        """Everything that resuming needs."""
        ...


def autocast(dtype: str, device: str) -> AbstractContextManager[Any]:
    """Mixed precision of a configuration's ``dtype``; "float32" switches it off."""
    return nullcontext() if dtype == "float32" else torch.autocast(device, dtype=getattr(torch, dtype))


def descend(run: Stepped, losses: Losses, step: int, world: World) -> tuple[dict[str, float], bool]:
    """One optimiser step: its figures, and whether it was taken. One that is not finite is skipped and counted.

    Raises RuntimeError when too many were.
    """
    total = losses.total()
    run.optimizer.zero_grad(set_to_none=True)
    total.backward()
    trained = list(run.parameters())
    world.average_gradients(trained)
    norm = torch.nn.utils.clip_grad_norm_(trained, run.config.clip_norm).item()
    taken = math.isfinite(norm)
    if taken:
        run.optimizer.step()
    else:
        run.bad_steps += 1
        if run.bad_steps > MAX_BAD_STEPS:
            raise RuntimeError(f"{run.bad_steps} steps had a loss or gradient that is not finite; stopped at {step}")
    terms = {name: term.item() for name, term in losses.terms.items()}
    return {"loss": total.item(), "norm": norm, **terms, **losses.figures}, taken


def keep(run: Stepped, done: int, clock: Clock, out: Path, say: Callable[[str], None]) -> bool:
    """Log and save when it is time; whether a checkpoint was saved."""
    config = run.config
    if done % config.log_every == 0:
        write_log(out / "log.jsonl", clock.line(done, run.bad_steps))
        say(clock.text)
    due = clock.due(config.save_minutes) or done == config.steps
    if due:
        save_checkpoint(out / "checkpoints", done, run.state(done), config.keep_checkpoints)
    return due
