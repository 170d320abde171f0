"""Learning rate: linear warm-up, constant, linear decay (trapezoid), so that a run can be prolonged at any time."""

from __future__ import annotations

from vidllm.training.config import TrainConfig
from vidllm.training.loop_config import LoopConfig


def learning_rate(step: int, config: LoopConfig, spent: float = 0.0) -> float:
    """The rate of step ``step`` (from 0); ``spent``: the share of ``config.minutes`` that has passed."""
    rise = min(1.0, (step + 1) / max(1, config.warmup_steps))
    decay_steps = max(1, round(config.decay_fraction * config.steps))
    left = (config.steps - step) / decay_steps
    if config.minutes > 0:
        left = min(left, (1 - spent) / max(1e-6, config.decay_fraction))
    fall = config.final_fraction + (1 - config.final_fraction) * min(1.0, max(0.0, left))
    return config.learning_rate * rise * fall


def true_geometry_share(step: int, config: TrainConfig) -> float:
    """Share of language steps lifted with true geometry: 1 at ``language_start``, 0 from ``true_geometry_until``."""
    span = max(1, config.true_geometry_until - config.language_start)
    return min(1.0, max(0.0, (config.true_geometry_until - step) / span))
