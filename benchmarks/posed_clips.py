"""Print one table: reconstruction errors of real clips with ground truth (folders; see datasets/posed_clips.py).

    python benchmarks/posed_clips.py CLIP [CLIP ...] [--model M] [--frames 8] [--windows 6] [--refine]

``metres``: the median of the depth over that of the truth.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import vidllm
from vidllm.datasets.posed_clips import PosedClip, PosedFrame, read_clip
from vidllm.evaluation.reconstruction_metrics import depth_metrics, depth_on_frames, pose_errors
from vidllm.scene import VidLLM


def measure_clip(
    model: VidLLM, clip: PosedClip, num_frames: int | None = None, windows: int | None = None
) -> dict[str, float]:
    """Depth, scale and pose errors of a real clip, from its pictures alone.

    ``num_frames`` are spread over the clip; with ``windows``, the mean over so many runs of ``num_frames`` neighbours.
    ValueError for a clip without poses.
    """
    frames = [frame for frame in clip.frames if frame.depth is not None]
    if not clip.posed or not frames:
        raise ValueError(f"{clip.name}: measuring needs a pose and a depth map of each frame")
    if windows is None:
        return _measure(model, frames, clip.metres_per_unit, num_frames)
    count = min(num_frames or model.processor.image_processor.num_frames, len(frames))
    starts = sorted({round(s) for s in np.linspace(0, len(frames) - count, windows)})
    found = [_measure(model, frames[s : s + count], clip.metres_per_unit, count) for s in starts]
    return {name: float(np.mean([metrics[name] for metrics in found])) for name in found[0]}


def _measure(
    model: VidLLM, frames: Sequence[PosedFrame], metres_per_unit: float, num_frames: int | None
) -> dict[str, float]:
    count = num_frames or model.processor.image_processor.num_frames
    scene = model.reconstruct([str(frame.picture) for frame in frames], count)
    chosen = [frames[int(i)] for i in scene.frames.indices]
    extrinsics = torch.stack([frame.extrinsics for frame in chosen if frame.extrinsics is not None])
    maps = (np.asarray(Image.open(f.depth)).astype(np.float32) * metres_per_unit for f in chosen if f.depth is not None)
    true = np.concatenate([depth_on_frames(one[None], scene.frames) for one in maps])
    predicted = scene.depth.numpy()
    angle, travel = pose_errors(scene.extrinsics, extrinsics)
    still, _ = pose_errors(torch.eye(4).expand(len(chosen), 4, 4), extrinsics)
    both = (true > 0) & (predicted > 0)
    return {
        "frames": float(len(chosen)),
        **depth_metrics(predicted, true),
        "metres": float(np.median(predicted[both]) / np.median(true[both])),
        "rotation_deg": float(angle.median()),
        "rotation_deg_if_still": float(still.median()),
        "translation_m": float(travel.median()),
        "spread": scene.scale.spread,
    }


def main() -> None:
    """Read the arguments, measure every clip, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("clips", nargs="+", type=Path)
    parser.add_argument("--model", default=None)
    parser.add_argument("--frames", type=int, default=None)
    parser.add_argument("--windows", type=int, help="mean over so many runs of neighbours (default: one, spread)")
    parser.add_argument("--refine", action="store_true", help="docs/refinement.md")
    args = parser.parse_args()
    model = vidllm.load(args.model, refine=args.refine or None)
    rows = {path.name: measure_clip(model, read_clip(path), args.frames, args.windows) for path in args.clips}
    names = list(next(iter(rows.values())))
    print("| clip | " + " | ".join(names) + " |")
    print("|---" * (len(names) + 1) + "|")
    mean = {name: sum(figures[name] for figures in rows.values()) / len(rows) for name in names}
    for clip, figures in [*rows.items(), ("mean", mean)]:
        print(f"| {clip} | " + " | ".join(f"{figures[n]:.3f}" for n in names) + " |")


if __name__ == "__main__":
    main()
