"""What the loop needs of a run: modules, an optimiser, a batch for every micro-batch, its losses, and what it leaves.

The loop (:mod:`driver`) is the same for stage 2, stage 1, the teachers and fine-tuning; each is a :class:`Trainable`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from vidllm.training.ahead import Ahead
from vidllm.training.joint import Losses
from vidllm.training.loop_config import LoopConfig
from vidllm.training.spikes import Watch


class Trainable(ABC):
    """Modules, optimiser and the losses of a micro-batch."""

    config: LoopConfig
    device: torch.device
    optimizer: torch.optim.Optimizer
    bad_steps: int = 0  # that were skipped
    steps_averaged: int = 0

    @abstractmethod
    def modules(self) -> dict[str, nn.Module]:
        """What is saved in a checkpoint, by name; parameters that want a gradient are trained."""

    @abstractmethod
    def draw(self, step: int, rng: np.random.Generator) -> Any:
        """The batch of a micro-batch, at full precision."""

    @abstractmethod
    def losses(self, batch: Any, step: int, rng: np.random.Generator) -> Losses:
        """The losses of a micro-batch."""

    @abstractmethod
    def export(self, folder: Path) -> Path:
        """Write what the run was for below the run's folder; returns where."""

    def kind(self, batch: Any) -> str:
        """Which of a run's kinds of steps a batch belongs to: each has losses of its own size."""
        return type(batch).__name__

    def averaging(self) -> nn.Module | None:
        """The module whose weights are averaged over the steps; None: none is."""
        return None

    def refresh(self) -> None:  # noqa: B027 - nothing to do is the rule
        """Called whenever a checkpoint has been written."""

    @cached_property
    def averaged(self) -> dict[str, Tensor]:
        """Exponential moving averages of the weights of :meth:`averaging`, by name."""
        return {}

    @cached_property
    def ahead(self) -> Ahead:
        """What draws the batches."""
        return Ahead(self.draw, self.config.prefetch)

    @cached_property
    def watch(self) -> Watch:
        """What decides whether a step is taken."""
        return Watch(self.config.spike_factor, self.config.spike_window)

    def named_parameters(self) -> dict[str, nn.Parameter]:
        """Every parameter, trained or not, as ``module.name``."""
        return {f"{m}.{n}": p for m, module in self.modules().items() for n, p in module.named_parameters()}

    def parameters(self) -> Iterator[nn.Parameter]:
        """Every trained parameter."""
        for module in self.modules().values():
            yield from (p for p in module.parameters() if p.requires_grad)

    def average(self, step: int, every: int = 5, decay: float = 0.995) -> None:
        """Move the averages towards the weights, every few steps."""
        module = self.averaging()
        if module is None or step % every:
            return
        decay = min(decay, (1 + self.steps_averaged) / (10 + self.steps_averaged))
        self.steps_averaged += 1
        with torch.no_grad():
            for name, value in module.named_parameters():
                if name not in self.averaged:
                    self.averaged[name] = value.detach().clone()
                _local(self.averaged[name]).lerp_(_local(value.detach()), 1 - decay)

    def counts(self) -> dict[str, Any]:
        """What resuming needs beside tensors, as plain values."""
        return {
            "steps_averaged": self.steps_averaged, "bad_steps": self.bad_steps, "watch": self.watch.state()
        }

    def load_counts(self, counts: dict[str, Any]) -> None:
        """The inverse of :meth:`counts`; older checkpoints do not have all of them."""
        self.steps_averaged, self.bad_steps = counts.get("steps_averaged", 0), counts["bad_steps"]
        if "watch" in counts:
            self.watch.load(counts["watch"])

    def state(self, step: int) -> dict[str, Any]:
        """Everything that resuming needs."""
        weights = {name: module.state_dict() for name, module in self.modules().items()}
        kept = {"step": step, **weights, "optimizer": self.optimizer.state_dict(), **self.counts()}
        return kept if self.averaging() is None else kept | {"averaged": self.averaged}

    def load_state(self, state: dict[str, Any]) -> int:
        """The inverse of :meth:`state`; returns the step to go on with."""
        for name, module in self.modules().items():
            module.load_state_dict(state[name])
        self.optimizer.load_state_dict(state["optimizer"])
        self.averaged.clear()
        self.averaged.update({name: value.to(self.device) for name, value in state.get("averaged", {}).items()})
        self.load_counts(state)
        return int(state["step"])


def adamw(config: LoopConfig, modules: dict[str, nn.Module]) -> torch.optim.AdamW:
    """AdamW over what wants a gradient; tensors of two and more dimensions decay, vectors do not."""
    trained = [p for module in modules.values() for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, config.beta2), fused=True)


def _local(tensor: Tensor) -> Tensor:
    """The part of a sharded tensor that this process has; any other tensor as it is."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
