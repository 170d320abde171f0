"""The interface between the training loop and a run: modules, batches, losses and export.

The loop (:mod:`vidllm.training.loop`) is the same for stage 2, stage 1, the teachers and fine-tuning; each is a
:class:`Trainable`. This file also has the threads that prepare batches and the detection of loss spikes.
"""

from __future__ import annotations

import math
import signal
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import torch.multiprocessing
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from vidllm.model.loading import local_part
from vidllm.training.config import RunConfig
from vidllm.training.losses import Losses

RECENT = 100  # steps over which the skipped ones are counted
KNOWN = 20  # steps of a kind before its loss spikes are detected
AVERAGE_EVERY, AVERAGE_DECAY = 5, 0.995  # of the weights


class Trainable(ABC):
    """Modules and the losses of a micro-batch."""

    config: RunConfig
    device: torch.device
    bad_steps: int = 0  # that were skipped
    steps_averaged: int = 0

    @abstractmethod
    def modules(self) -> dict[str, nn.Module]:
        """The modules of a checkpoint, by name; parameters that require a gradient are trained."""

    def draw(self, step: int, rng: np.random.Generator) -> Any:
        """The batch of a micro-batch, at full precision, by :attr:`drawer` if there is one."""
        assert self.drawer is not None
        return self.drawer(step, rng)

    @abstractmethod
    def losses(self, batch: Any, step: int, rng: np.random.Generator) -> Losses:
        """The losses of a micro-batch."""

    @abstractmethod
    def export(self, folder: Path) -> Path:
        """Write the result into the run's folder; returns its path."""

    def kind(self, batch: Any) -> str:
        """The kind of step of a batch; loss spikes are detected per kind."""
        return type(batch).__name__

    def averaging(self) -> nn.Module | None:
        """The module whose weights are averaged over the steps; None: no averages."""
        return None

    def prepare(self, say: Callable[[str], None]) -> None:  # noqa: B027 - nothing to do is the rule
        """Called once before the first step of a run that does not resume."""

    def read_later(self) -> None:  # noqa: B027 - as the last
        """Called after blocks have been sharded, to read weights that were not read yet."""

    def refresh(self) -> None:  # noqa: B027 - nothing to do is the rule
        """Called after every checkpoint."""

    def rates(self) -> list[tuple[float, list[nn.Parameter]]]:
        """Trained parameters with the factor of their learning rate."""
        return [(1.0, list(self.parameters()))]

    @cached_property
    def optimizer(self) -> torch.optim.Optimizer:
        """AdamW, made at its first use, after sharding. Weight decay applies to tensors of two and more dimensions, not
        to vectors (norms, biases, scales). The fused form needs separate groups for sharded parameters.
        """
        settings, groups = self.config.optimiser, []
        for scale, parameters in self.rates():
            for decays in (True, False):
                for sharded in (False, True):
                    part = [p for p in parameters if (p.ndim >= 2) == decays and isinstance(p, DTensor) == sharded]
                    decay = settings.weight_decay if decays else 0.0
                    groups += [{"params": part, "weight_decay": decay, "scale": scale}] if part else []
        return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(0.9, settings.beta2), fused=True)

    @cached_property
    def averaged(self) -> dict[str, Tensor]:
        """Exponential moving averages of the weights of :meth:`averaging`, by name."""
        return {}

    @property
    def drawer(self) -> Draw | None:
        """A function that draws batches without the model, also in other processes; None: :meth:`draw` does it."""
        return None

    def draw_anew(self) -> None:
        """Restart the drawing processes with the current data."""
        if self.config.loop.workers > 0:
            self.ahead.close()
            del self.ahead

    @cached_property
    def ahead(self) -> Ahead:
        """The batches that are prepared ahead."""
        loop, drawer = self.config.loop, self.drawer
        if drawer is None and loop.workers > 0:
            raise ValueError("--workers: this run draws its batches in threads alone; leave it out")
        return Ahead(drawer or self.draw, loop.prefetch, loop.workers, pin=self.device.type == "cuda")

    @cached_property
    def spike_guard(self) -> LossSpikeGuard:
        """The detection of loss spikes."""
        return LossSpikeGuard(self.config.loop.spike_factor, self.config.loop.spike_window)

    def named_parameters(self) -> dict[str, nn.Parameter]:
        """Every parameter, trained or not, as ``module.name``."""
        return {f"{m}.{n}": p for m, module in self.modules().items() for n, p in module.named_parameters()}

    def parameters(self) -> Iterator[nn.Parameter]:
        """Every trained parameter."""
        for module in self.modules().values():
            yield from (p for p in module.parameters() if p.requires_grad)

    def average(self, step: int) -> None:
        """Update the averages, every few steps."""
        module = self.averaging()
        if module is None or step % AVERAGE_EVERY:
            return
        decay = min(AVERAGE_DECAY, (1 + self.steps_averaged) / (10 + self.steps_averaged))
        self.steps_averaged += 1
        with torch.no_grad():
            for name, value in module.named_parameters():
                if name not in self.averaged:
                    self.averaged[name] = value.detach().clone()
                local_part(self.averaged[name]).lerp_(local_part(value.detach()), 1 - decay)


Drawn = tuple[Any, np.random.Generator]
Draw = Callable[[int, np.random.Generator], Any]
Wanted = tuple[int, list[int]]  # step and what its random numbers are drawn from


class Ahead:
    """Draws by ``draw(step, rng)``, ``count`` batches ahead in as many threads; without threads, when a batch is taken.

    ``workers``: processes that draw for the threads; ``draw`` is sent to them. ``pin``: use pinned memory.
    """

    def __init__(self, draw: Draw, count: int, workers: int = 0, *, pin: bool = False) -> None:
        self._draw, self._pin = draw, pin
        self._pool = ThreadPoolExecutor(count, "batches") if count > 0 else None
        self._workers: ProcessPoolExecutor | None = None
        if self._pool is not None and workers > 0:
            context = torch.multiprocessing.get_context("spawn")  # tensors come back through shared memory
            self._workers = ProcessPoolExecutor(workers, context, _begin_worker, (draw,))
        self._drawn: dict[tuple[int, ...], Future[Drawn]] = {}

    def want(self, wanted: Sequence[Wanted]) -> None:
        """Start to draw these batches, and forget all others."""
        if self._pool is None:
            return
        keys = {(step, *seed): (step, seed) for step, seed in wanted}
        self._drawn = {key: future for key, future in self._drawn.items() if key in keys}
        for key, (step, seed) in keys.items():
            if key not in self._drawn:
                self._drawn[key] = self._pool.submit(self._make, step, seed)

    def take(self, step: int, seed: list[int]) -> Drawn:
        """The batch of a step and its generator; errors of the draw are raised here."""
        future = self._drawn.pop((step, *seed), None)
        return self._make(step, seed) if future is None else future.result()

    def close(self) -> None:
        """Stop drawing, and end the processes."""
        for pool in (self._pool, self._workers):
            if pool is not None:
                pool.shutdown(cancel_futures=True)

    def _make(self, step: int, seed: list[int]) -> Drawn:
        if self._workers is not None:
            batch, rng = self._workers.submit(_draw_in_worker, step, seed).result()
        else:
            batch, rng = _drawn(self._draw, step, seed)
        return (_pinned(batch) if self._pin else batch), rng


def _drawn(draw: Draw, step: int, seed: list[int]) -> Drawn:
    rng = np.random.default_rng(seed)
    return draw(step, rng), rng


def _pinned(batch: Any) -> Any:
    if isinstance(batch, tuple):
        return tuple(map(_pinned, batch))
    return batch.pin_memory() if hasattr(batch, "pin_memory") else batch


_worker_draws: list[Draw] = []  # of a process that draws


def _begin_worker(draw: Draw) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that trains
    torch.set_num_threads(1)
    _worker_draws[:] = [draw]


def _draw_in_worker(step: int, seed: list[int]) -> Drawn:
    return _drawn(_worker_draws[0], step, seed)


class LossSpikeGuard:
    """Losses and gradient norms of recent steps, by kind, and which of the last hundred steps were skipped."""

    def __init__(self, factor: float = 10.0, window: int = 100) -> None:
        self.factor, self.window = factor, window
        self._seen: dict[str, deque[tuple[float, float]]] = {}
        self._skipped: deque[bool] = deque(maxlen=RECENT)
        self.reason: str | None = None  # of the last step that was not taken

    def judge(self, kind: str, loss: float, norm: float) -> str | None:
        """The reason to skip a step of this kind, or None; the values of a step that is not skipped are stored."""
        reason = self._reason(kind, loss, norm)
        self.reason = reason or self.reason
        if reason is None:
            self._seen.setdefault(kind, deque(maxlen=self.window)).append((loss, norm))
        self._skipped.append(reason is not None)
        return reason

    def skipped(self) -> int:
        """How many of the last hundred steps were skipped."""
        return sum(self._skipped)

    def _reason(self, kind: str, loss: float, norm: float) -> str | None:
        if not (math.isfinite(loss) and math.isfinite(norm)):
            return f"loss {loss} or gradient norm {norm} is not finite"
        seen = self._seen.get(kind, ())
        for name, value, past in zip(("loss", "gradient norm"), (loss, norm), zip(*seen, strict=True), strict=False):
            if self.factor > 0 and len(seen) >= KNOWN and value > self.factor * median(past):
                return f"{name} {value:.3g} is over {self.factor:g} times the median {median(past):.3g}"
        return None

    def state(self) -> dict[str, Any]:
        """As plain values."""
        return {"seen": {k: [list(pair) for pair in v] for k, v in self._seen.items()}, "skipped": list(self._skipped)}

    def load(self, state: dict[str, Any]) -> None:
        """The inverse of :meth:`state`."""
        self._seen = {k: deque(((a, b) for a, b in v), maxlen=self.window) for k, v in state["seen"].items()}
        self._skipped = deque(state["skipped"], maxlen=RECENT)
