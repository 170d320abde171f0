"""The dry run's estimate of activations against real steps of `tiny` on a CPU.

    python benchmarks/dry_run_memory.py --data SHARDS

For each kind of step: what the estimate says, what the tensors of a real step took at their peak (without gradients of
weights), and by how much the process grew (``ru_maxrss``, which never falls: kinds run from the smallest up).
"""

from __future__ import annotations

import argparse
import resource
import tempfile
from dataclasses import replace

import numpy as np

from vidllm.model.live_memory import LiveBytes
from vidllm.training.config import TrainConfig
from vidllm.training.dry_run_checks import largest_frame
from vidllm.training.estimates import estimate
from vidllm.training.run import Run
from vidllm.training.steps import autocast


def resident() -> int:
    """The most bytes this process has held."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def real_step(run: Run, kind: str, size: tuple[int, int], frames: int) -> int:
    """Bytes of the tensors of a real step of this kind, frame size and number of frames."""
    for step in range(10_000):
        rng = np.random.default_rng([run.config.seed, step])
        batch = run.draw(step, rng)
        shape = batch[0].images.shape
        if run.kind(batch) == kind and set(shape[-2:]) == set(size) and shape[1] == frames:
            break
    for parameter in run.parameters():
        parameter.register_post_accumulate_grad_hook(lambda p: setattr(p, "grad", None))
    weights = [t for module in run.modules().values() for t in (*module.parameters(), *module.buffers())]
    with LiveBytes(weights) as counted:
        with autocast(run.config.dtype, "cpu"):
            losses = run.losses(batch, step, rng)
        losses.total().backward()
    return counted.peak


def main() -> None:
    """Print a line for each kind of step."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--data", required=True, help="shards of rooms")
    config = TrainConfig(data=options.parse_args().data, device="cpu", named_share=0.3, language_start=0)
    with tempfile.TemporaryDirectory() as folder:
        config = replace(config, out=folder)
        size = largest_frame(config)
        told = sorted(estimate(config, size, "cpu").steps, key=lambda pair: pair[1].activations)
        run = Run.build(config)
        print(f"{'step':10s}{'estimate':>10s}{'tensors':>10s}{'ratio':>7s}{'process':>10s}  MiB")
        before = resident()
        for plan, cost in told:
            peak = real_step(run, plan.kind, size, plan.frames)
            grown = resident() - before
            figures = f"{cost.activations / 2**20:10.0f}{peak / 2**20:10.0f}{cost.activations / peak:7.2f}"
            print(f"{plan.kind:10s}{figures}{grown / 2**20:10.0f}", flush=True)


if __name__ == "__main__":
    main()
