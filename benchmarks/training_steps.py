"""Print a line a training step: seconds, peak memory and loss of a preset's stage 2, from random weights.

    vidllm rooms shards --seeds 10000:10016 --frames 8 --shorter-side 518 -o SHARDS
    python benchmarks/training_steps.py paper --data SHARDS --lora-rank 16 --device cuda
    python benchmarks/training_steps.py compact --data SHARDS --sharded --device cuda

The steps are those of ``vidllm train stage2 --preset PRESET``; nothing is written (a checkpoint of ``paper``: 76 GB).
``--sharded``: the blocks lie in FSDP2, in a group of one process. Weights are made on the device.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import replace
from statistics import median
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
from parts_timing import forget_peak, peak, wait

from vidllm.training import stage2
from vidllm.training.config import NO_SUPERVISION, PRESETS, TrainConfig, changed
from vidllm.training.distributed import shard_blocks
from vidllm.training.loop import train_step
from vidllm_rooms.language.template_questions import template_questions

COLUMNS = ("step", "kinds", "seconds", "loss", "gradient norm", "peak memory until here, GB")


def configuration(options: argparse.Namespace, folder: str) -> TrainConfig:
    """The preset's with language from the first step on, so that every kind of step that it has is met."""
    config = changed(
        PRESETS[options.preset](), data=options.data, out=folder, device=options.device, steps=max(options.steps, 1000),
        lora_rank=options.lora_rank, language_start=0, prefetch=2, parallel="fsdp" if options.sharded else "ddp",
    )  # fmt: skip
    return replace(config, supervision=NO_SUPERVISION)  # as compact and paper have it; sharded blocks allow no other


def built(config: TrainConfig, device: torch.device) -> stage2.Run:
    """The run, its weights made on the device: on one core of the host `paper` would take minutes."""
    make = stage2.starting_model

    def made(*given: Any, **named: Any) -> Any:
        with device:
            return make(*given, **named)

    with patch.object(stage2, "starting_model", made):
        return stage2.Run.build(config, template_questions)


def main() -> None:
    """Take the steps."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("preset", choices=sorted(PRESETS))
    parser.add_argument("--data", required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--lora-rank", type=int, default=0)
    parser.add_argument("--sharded", action="store_true")
    options = parser.parse_args()
    device = torch.device(options.device)
    with tempfile.TemporaryDirectory() as folder:
        begin = time.perf_counter()
        run = built(configuration(options, folder), device)
        if options.sharded:
            backend, store = "nccl" if device.type == "cuda" else "gloo", f"file://{folder}/group"
            dist.init_process_group(backend, init_method=store, rank=0, world_size=1)
            shard_blocks(run, 1)
        forget_peak(device)
        wait(device)
        numbers, learn = (sum(p.numel() for p in run.named_parameters().values() if p.requires_grad or everything)
                          for everything in (True, False))  # fmt: skip
        print(f"{numbers:,} numbers, {learn:,} learn; made in {time.perf_counter() - begin:.1f} s\n")
        print("| " + " | ".join(COLUMNS) + " |\n" + "|---" * len(COLUMNS) + "|", flush=True)
        try:
            taken = [step_taken(run, step) for step in range(options.steps)]
        finally:
            run.ahead.close()
        print(f"\n{median(taken[1:] or taken):.3g} s a step (median after the first)")
    if options.sharded:
        dist.destroy_process_group()


def step_taken(run: stage2.Run, step: int) -> float:
    """Take a step, print its line, return its seconds."""
    begin = time.perf_counter()
    figures = train_step(run, step)
    wait(run.device)
    seconds = time.perf_counter() - begin
    kinds = ", ".join(name.removesuffix("_steps") for name in figures if name.endswith("_steps"))
    told = (f"{seconds:.3g}", f"{figures['loss']:.3f}", f"{figures['norm']:.3g}", f"{peak(run.device) / 1e9:.1f}")
    print(f"| {step} | {kinds} | " + " | ".join(told) + " |", flush=True)
    return seconds


if __name__ == "__main__":
    main()
