"""Scenes a second that the loader of training draws from a warm shard, beside what a GPU can take in stage 1.

    python benchmarks/loader.py                  # eight frames of 518 x 644, in this process (one core)
    python benchmarks/loader.py --workers 2      # by processes, as --prefetch 4 --workers 2 of a training

What a GPU takes is counted: operations of a step of stage 1 (student forward, backward and once more forward for
checkpointed activations; both teachers forward) over a share of the device's rate.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import torch

from vidllm.datasets.shards import save_shard
from vidllm.model.presets import preset
from vidllm.profiling import Extent, costs
from vidllm.training.data import ClipDraw, RoomsData
from vidllm.training.trainable import Ahead
from vidllm_rooms.world.catalogue import LABELS

SIZE = 518, 644
FRAMES = 8
H100 = 989e12  # operations a second in bfloat16, as its maker states them
REACHED = 0.5  # of that, generously
CLIP_L = 0.382e12  # operations of CLIP-L/14 on 336 x 336: 303 million weights, 577 tokens, 24 layers of attention


def write_shard(folder: Path, scenes: int, frames: int) -> None:
    """Scenes of noise: their bytes are read as any others."""
    shape = scenes, frames, *SIZE
    generator = torch.Generator().manual_seed(0)
    tensors = {
        "rgb": torch.randint(256, (*shape, 3), generator=generator, dtype=torch.uint8),
        "depth_m": torch.full(shape, 2.0, dtype=torch.float16),
        "instance": torch.zeros(shape, dtype=torch.uint8),
        "extrinsics": torch.eye(4).repeat(scenes, frames, 1, 1),
        "intrinsics": torch.eye(3).repeat(scenes, frames, 1, 1),
    }
    save_shard(folder / "noise.safetensors", tensors, [{"seed": n, "objects": []} for n in range(scenes)], LABELS)


def rate(ahead: Ahead, count: int, before: int = 4) -> float:
    """Batches of one scene a second, after some that warm up."""
    begin = 0.0
    for step in range(before + count):
        if step == before:
            begin = time.perf_counter()
        ahead.want([(step + n, [0, step + n]) for n in range(5)])
        ahead.take(step, [0, step])
    return count / (time.perf_counter() - begin)


def main() -> None:
    """Draw, count, print."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--workers", type=int, default=0)
    options.add_argument("--scenes", type=int, default=4)
    options.add_argument("--frames", type=int, default=32)
    options.add_argument("--draws", type=int, default=48)
    given = options.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        write_shard(Path(name), given.scenes, given.frames)
        draw = ClipDraw(RoomsData(Path(name)), 0, FRAMES, (FRAMES,))
        ahead = Ahead(draw, 4 if given.workers else 0, given.workers)
        cpu = time.process_time()
        told = rate(ahead, given.draws)
        spent = "" if given.workers else f", {(given.draws + 4) / (time.process_time() - cpu):.1f} a second of a core"
        ahead.close()
    print(f"{told:.1f} scenes of {FRAMES} frames a second by {given.workers or 'no'} workers{spent}")
    rows = {row.name: row.flops for row in costs(preset("paper"), Extent(2 * FRAMES, *SIZE))}
    encoder, adapter = rows["encoder"], rows["cross-task adapter"]
    step = 4 * (encoder + adapter) + encoder + 2 * FRAMES * CLIP_L
    print(f"stage 1 on {2 * FRAMES} frames: {step / 1e12:.0f} TFLOP a step, {step / (REACHED * H100):.2f} s at "
          f"{REACHED:.0%} of an H100's rate: {2 * REACHED * H100 / step:.1f} scenes of {FRAMES} frames a second")


if __name__ == "__main__":
    main()
