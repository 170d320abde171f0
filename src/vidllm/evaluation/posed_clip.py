"""Measure the reconstruction of real clips with ground truth (:mod:`vidllm.datasets.posed_clips`)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from vidllm.datasets.posed_clips import PosedClip, PosedFrame
from vidllm.evaluation.rooms import depth_figures, pose_figures
from vidllm.frames import Frames
from vidllm.scene import VidLLM


def depth_at(frames: Frames, index: int, path: Path, metres_per_unit: float, picture: Path) -> np.ndarray:
    """A depth map (H,W) in metres at the processed resolution: the nearest original pixel of each; 0 where invalid."""
    original = np.asarray(Image.open(path)).astype(np.float32) * metres_per_unit
    with Image.open(picture) as shown:
        shrink = original.shape[1] / shown.width
    height, width = frames.images.shape[-2:]
    v, u = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    at = frames.to_original(torch.stack([u, v], -1).double()).numpy() * shrink
    row = np.clip(np.floor(at[..., 1]).astype(int), 0, original.shape[0] - 1)
    column = np.clip(np.floor(at[..., 0]).astype(int), 0, original.shape[1] - 1)
    inside = (at[..., 0] >= 0) & (at[..., 0] < original.shape[1]) & (at[..., 1] >= 0) & (at[..., 1] < original.shape[0])
    return np.where(inside, original[row, column], 0.0)


def measure_clip(
    model: VidLLM, clip: PosedClip, num_frames: int | None = None, windows: int | None = None
) -> dict[str, float]:
    """Depth, scale and pose errors of a clip, from its pictures alone.

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
    return {name: float(np.mean([figures[name] for figures in found])) for name in found[0]}


def _measure(
    model: VidLLM, frames: Sequence[PosedFrame], metres_per_unit: float, num_frames: int | None
) -> dict[str, float]:
    scene = model.reconstruct([str(frame.picture) for frame in frames], num_frames)
    chosen = [frames[int(i)] for i in scene.frames.indices]
    extrinsics = torch.stack([frame.extrinsics for frame in chosen if frame.extrinsics is not None])
    true = np.stack([
        depth_at(scene.frames, int(i), frame.depth, metres_per_unit, frame.picture)
        for i, frame in zip(scene.frames.indices, chosen, strict=True) if frame.depth is not None
    ])  # fmt: skip
    figures = depth_figures(scene.depth.numpy(), true)
    angle, travel = pose_figures(scene.extrinsics, extrinsics)
    still, _ = pose_figures(torch.eye(4).expand(len(chosen), 4, 4), extrinsics)
    both = (true > 0) & (scene.depth.numpy() > 0)
    return {
        "frames": float(len(chosen)),
        **figures,
        "metres": float(np.median(scene.depth.numpy()[both]) / np.median(true[both])),
        "rotation_deg": float(angle.median()),
        "rotation_deg_if_still": float(still.median()),
        "translation_m": float(travel.median()),
        "spread": scene.scale.spread,
    }
