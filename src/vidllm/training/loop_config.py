"""What every training run has, stage 2 as the teachers: data, optimiser, schedule, processes and bookkeeping."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from vidllm.io.atomic import atomic_path


@dataclass(frozen=True)
class LoopConfig:
    """The part of a run's configuration that the loop reads (docs/method.md, "The loop")."""

    data: str = "runs/shards"  # folder of shards (vidllm rooms shards)
    out: str = "runs/run"  # run folder: config.json, log.jsonl, checkpoints, final model
    seed: int = 0
    steps: int = 2000
    minutes: float = 0.0  # above 0: stop after this time too, the learning rate falling towards it instead
    # optimiser [P: AdamW, weight decay 0.05, clip 1.0; learning rate and schedule are ours]
    learning_rate: float = 1e-3
    final_fraction: float = 0.02  # learning rate at the end, as a fraction of the peak
    warmup_steps: int = 100
    decay_fraction: float = 0.3  # the last part of the steps, over which the rate falls linearly
    weight_decay: float = 0.05
    beta2: float = 0.999
    clip_norm: float = 1.0
    accumulation: int = 1  # micro-batches that each process adds up to a step
    gradient_checkpointing: bool = False  # less memory, a third more time
    parallel: Literal["ddp", "fsdp"] = "ddp"  # several processes: whole weights in each, or blocks sharded (FSDP2)
    dtype: str = "auto"  # autocast; "float32" switches it off; "auto": bfloat16 where the hardware has it
    device: str = "auto"  # "auto": a GPU where there is one
    threads: int = 1  # on a CPU
    prefetch: int = 0  # batches drawn ahead, each by a thread of its own; what is drawn is the same
    compile_blocks: bool = False  # torch.compile of the transformer blocks: a minute at the start, then faster on a GPU
    # bad steps: a loss or gradient that is not finite, or that jumps, is skipped
    spike_factor: float = 10.0  # this many times the running median is a jump; 0: none is
    spike_window: int = 100  # steps of the running median
    max_bad_steps: int = 50  # of the last hundred: more, and the run stops
    # bookkeeping
    log_every: int = 20
    save_minutes: float = 4.0
    keep_checkpoints: int = 2
    trackers: tuple[str, ...] = ()  # beside log.jsonl: "tensorboard", "wandb"


def write_config(config: LoopConfig, path: Path) -> None:
    """Write a configuration as JSON."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(asdict(config), indent=1) + "\n")
