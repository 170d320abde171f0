"""One optimiser step: its micro-batches, averaged gradients, and whether it is taken at all."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch

from vidllm.model.precision import resolve_dtype
from vidllm.training.schedule import learning_rate
from vidllm.training.spikes import RECENT
from vidllm.training.trainable import Trainable
from vidllm.training.world import World, clip_gradients

ALONE = World()


def autocast(dtype: str, device: str) -> AbstractContextManager[Any]:
    """Mixed precision of a configuration's ``dtype``; float32, named or meant by "auto", switches it off."""
    name, _ = resolve_dtype(dtype, device)
    return nullcontext() if name == "float32" else torch.autocast(device, dtype=getattr(torch, name))


def train_step(run: Trainable, step: int, world: World = ALONE, spent: float = 0.0) -> dict[str, float]:
    """One step of all processes: its figures, means over their micro-batches. A bad one is skipped and counted.

    ``spent``: the share of the run's ``minutes`` that has passed. Every process decides alike. ValueError when too
    many of the last steps were skipped.
    """
    config = run.config
    for group in run.optimizer.param_groups:
        group["lr"] = learning_rate(step, config, spent) * group.get("scale", 1.0)
    run.optimizer.zero_grad(set_to_none=True)
    seeds = world.seeds(config.seed, step, config.accumulation)
    later = [each for n in range(1, config.prefetch + 1)
             for each in ((step + n, seed) for seed in world.seeds(config.seed, step + n, config.accumulation))]
    run.ahead.want([(step, seed) for seed in seeds] + later)  # fmt: skip
    told = [_micro_batch(run, step, seed) for seed in seeds]
    trained = list(run.parameters())
    world.average_gradients(trained)
    norm = clip_gradients(trained, config.clip_norm)
    gathered = world.gather((told, norm))
    figures = _means([figures for each, _ in gathered for _, figures in each])
    figures = {"loss": figures["loss"], "norm": gathered[0][1], **figures}
    reason = run.watch.judge(told[0][0], figures["loss"], figures["norm"])
    if reason is None:
        run.optimizer.step()
        run.average(step)
        return figures
    run.bad_steps += 1
    _stop_when_many(run, step, reason)
    return figures | {"skipped_steps": 1.0}


def _micro_batch(run: Trainable, step: int, seed: list[int]) -> tuple[str, dict[str, float]]:
    """Add a micro-batch's share to the gradients; its kind and its figures."""
    torch.manual_seed(int(np.random.SeedSequence(seed).generate_state(1)[0]))  # for dropout, where there is any
    batch, rng = run.ahead.take(step, seed)
    with autocast(run.config.dtype, run.device.type):
        losses = run.losses(batch, step, rng)
    total = losses.total()
    (total / run.config.accumulation).backward()
    terms = {name: term.item() for name, term in losses.terms.items()}
    return run.kind(batch), {"loss": total.item(), **terms, **losses.figures}


def _means(figures: Sequence[dict[str, float]]) -> dict[str, float]:
    """The mean of each figure over the micro-batches that have it."""
    names = dict.fromkeys(name for each in figures for name in each)
    return {name: float(np.mean([each[name] for each in figures if name in each])) for name in names}


def _stop_when_many(run: Trainable, step: int, reason: str) -> None:
    if run.watch.skipped() > run.config.max_bad_steps:
        raise ValueError(
            f"training stopped at step {step}: {run.watch.skipped()} of the last {RECENT} steps were skipped "
            f"({reason}); lower --learning-rate or look at the data, then start again: it resumes from the last "
            f"checkpoint in {run.config.out}"
        )
