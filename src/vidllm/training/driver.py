"""One loop for the runs before stage 2 (stage 1, the teachers): resume, log, skipped bad steps, several processes.

A run is a :class:`Trainable`: it says which modules it trains and what a step's losses are. Every step draws its random
numbers from (seed, step, process), so a resumed run goes on as an unbroken one.
"""

from __future__ import annotations

import json
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from vidllm.training.checkpoints import load_latest
from vidllm.training.joint import Losses
from vidllm.training.progress import Clock, trim_log
from vidllm.training.schedule import learning_rate
from vidllm.training.steps import ALONE, autocast, descend, keep
from vidllm.training.world import World


@dataclass(frozen=True)
class LoopConfig:
    """What every such run has: data, optimiser, schedule and bookkeeping."""

    data: str = "runs/shards"  # folder of shards (vidllm rooms shards)
    out: str = "runs/run"  # run folder: config.json, log.jsonl, checkpoints, final model
    seed: int = 0
    steps: int = 2000
    learning_rate: float = 1e-3
    final_fraction: float = 0.02
    warmup_steps: int = 100
    decay_fraction: float = 0.3
    weight_decay: float = 0.05  # [P]
    beta2: float = 0.999  # [P]
    clip_norm: float = 1.0  # [P]
    dtype: str = "bfloat16"  # autocast; "float32" switches it off
    device: str = "auto"
    threads: int = 1  # on a CPU
    log_every: int = 20
    save_minutes: float = 4.0
    keep_checkpoints: int = 2


class Trainable(ABC):
    """Modules, optimiser and the losses of a step."""

    config: LoopConfig
    device: torch.device
    optimizer: torch.optim.Optimizer
    bad_steps: int = 0

    @abstractmethod
    def modules(self) -> dict[str, nn.Module]:
        """What is saved in a checkpoint, by name; parameters that want a gradient are trained."""

    @abstractmethod
    def draw(self, step: int, rng: np.random.Generator) -> Any:
        """The batch of a step, at full precision."""

    @abstractmethod
    def losses(self, batch: Any, step: int, rng: np.random.Generator) -> Losses:
        """The losses of a step on its batch."""

    @abstractmethod
    def export(self, folder: Path) -> Path:
        """Write what the run was for below the run's folder; returns where."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """Every trained parameter."""
        for module in self.modules().values():
            yield from (p for p in module.parameters() if p.requires_grad)

    def state(self, step: int) -> dict[str, Any]:
        """Everything that resuming needs."""
        weights = {name: module.state_dict() for name, module in self.modules().items()}
        return {"step": step, **weights, "optimizer": self.optimizer.state_dict(), "bad_steps": self.bad_steps}

    def load_state(self, state: dict[str, Any]) -> int:
        """The inverse of :meth:`state`; returns the step to go on with."""
        for name, module in self.modules().items():
            module.load_state_dict(state[name])
        self.optimizer.load_state_dict(state["optimizer"])
        self.bad_steps = state["bad_steps"]
        return int(state["step"])


def adamw(config: LoopConfig, modules: dict[str, nn.Module]) -> torch.optim.AdamW:
    """AdamW over what wants a gradient; tensors of two and more dimensions decay, vectors do not."""
    trained = [p for module in modules.values() for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, config.beta2), fused=True)


def drive(build: Callable[[], Trainable], config: LoopConfig, log: Callable[[str], None] | None = None) -> Path:
    """Run (or resume) what ``build`` makes; returns where it was exported.

    Raises RuntimeError when too many steps had a loss or gradient that is not finite.
    """
    world = World.from_environment()
    say = log or (lambda line: print(line, file=sys.stderr, flush=True))
    torch.set_num_threads(config.threads)
    torch.set_flush_denormal(True)
    torch.manual_seed(config.seed)
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    run = build()
    saved = load_latest(out / "checkpoints")
    start = 0 if saved is None else run.load_state(saved)
    if world.rank == 0:
        (out / "config.json").write_text(json.dumps(asdict(config), indent=1) + "\n")
        trim_log(out / "log.jsonl", start)
        say(f"{out}: step {start} of {config.steps}, {world.size} process{'es' * (world.size > 1)}")
    clock = Clock(config, start)
    for step in range(start, config.steps):
        figures = train_step(run, step, world)
        if world.rank == 0:
            clock.add(figures)
            keep(run, step + 1, clock, out, say)
    return run.export(out) if world.rank == 0 else out


def train_step(run: Trainable, step: int, world: World = ALONE) -> dict[str, float]:
    """One optimiser step; a step that is not finite is skipped and counted."""
    config = run.config
    rng = np.random.default_rng(world.seed(config.seed, step))
    for group in run.optimizer.param_groups:
        group["lr"] = learning_rate(step, config)
    batch = run.draw(step, rng)
    with autocast(config.dtype, run.device.type):
        losses = run.losses(batch, step, rng)
    return descend(run, losses, step, world)[0]
