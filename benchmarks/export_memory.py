"""Print the peak memory of a long scene of noise while its points are taken and its files written.

    python benchmarks/export_memory.py [--frames 2048] [--size 112x140] [--formats points,ply,scene]

``before``: resident memory with the model and the scene, in MiB; ``peak``: the most while exporting.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import replace

import numpy as np
import torch
from own_process import memory, most

import vidllm
from vidllm.cli.reading import words
from vidllm.long_video.streaming import FrameMaps, LongScene


def noise_scene(frames: int, size: tuple[int, int]) -> LongScene:
    """A long scene whose camera walks in circles through noise."""
    rng = np.random.default_rng(0)
    clip = rng.integers(0, 256, (9, 112, 140, 3), dtype=np.uint8)
    scene = next(iter(vidllm.load().stream(clip, window=9, overlap=2)))
    record = scene._record
    record.maps, record.depths = FrameMaps(), [torch.full((frames,), 2.5)]
    record.first = replace(record.first, images=torch.zeros(1, 3, *size))
    for begin in range(0, frames, 64):
        shape = min(64, frames - begin), *size
        record.maps.add(rgb=rng.integers(0, 256, (*shape, 3), np.uint8), depth=2 + rng.random(shape, np.float32),
                        confidence=np.ones(shape, np.float16), log_std=np.full(shape, 0.1, np.float16))  # fmt: skip
    turn = torch.arange(frames) * 0.05
    extrinsics = torch.eye(4)[:3].repeat(frames, 1, 1)
    extrinsics[:, 0, 0] = extrinsics[:, 2, 2] = turn.cos()
    extrinsics[:, 0, 2], extrinsics[:, 2, 0] = turn.sin(), -turn.sin()
    record.times, record.indices = [float(n) for n in range(frames)], list(range(frames))
    record.names = [f"frame_{n:06d}" for n in range(frames)]
    record.motion.views, record.contrasts = list(range(frames)), [0.2] * frames
    snapshot = replace(scene._snapshot, extrinsics=extrinsics,
                       intrinsics=scene.intrinsics[:1].expand(frames, 3, 3).clone())  # fmt: skip
    return LongScene(scene._model, scene._processor, snapshot, record)


def main() -> None:
    """Read the arguments, export, print one line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=2048)
    parser.add_argument("--size", default="112x140")
    parser.add_argument("--formats", default="points,depth,cameras,tum,ply,overview,scene")
    args = parser.parse_args()
    height, width = map(int, args.size.split("x"))
    scene = noise_scene(args.frames, (height, width))
    pixels = len(scene) * height * width
    for name in words([args.formats]):
        before, start = memory("VmRSS"), time.monotonic()
        with tempfile.TemporaryDirectory() as folder, most("VmRSS") as peak:
            if name == "points":
                print(f"points {len(scene.points):,} of {pixels:,} pixels")
            else:
                scene.save(folder, (name,))
        print(f"{args.frames} frames, {name}: before {before >> 20}, peak {before + peak['VmRSS'] >> 20} MiB, "
              f"{time.monotonic() - start:.0f} s", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
