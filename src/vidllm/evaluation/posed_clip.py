"""Measure the reconstruction of a real clip with ground truth: a folder of frames, depth maps and poses.

The folder holds ``rgb/`` and ``depth/`` (16-bit PNG; pictures paired by file stem), ``poses_c2w.txt`` (a line a frame:
stem and the 12 numbers of camera-to-world, metres, OpenCV axes), ``intrinsics.json`` (fx, fy, cx, cy in pixels) and
``meta.json`` with ``depth.scale_to_metres``; TUM RGB-D and similar recordings are easily brought into it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vidllm.evaluation.reconstruction_metrics import depth_metrics, depth_on_frames, pose_errors
from vidllm.geometry.cameras import invert_extrinsics
from vidllm.io.json_files import read_json_object
from vidllm.io.sources import InputError
from vidllm.scene import VidLLM


@dataclass(frozen=True)
class PosedClip:
    """Paths and poses of a clip: pictures, depth maps, camera-from-world (F,4,4) and metres per depth unit."""

    name: str
    pictures: tuple[Path, ...]
    depths: tuple[Path, ...]
    extrinsics: Tensor
    metres_per_unit: float


def read_posed_clip(folder: Path) -> PosedClip:
    """The clip in ``folder``; InputError names what is missing."""
    for needed in ("rgb", "depth", "poses_c2w.txt", "meta.json"):
        if not (folder / needed).exists():
            raise InputError(f"{folder} has no {needed}; vidllm.evaluation.posed_clip tells the layout of a posed clip")
    depth = {p.stem: p for p in (folder / "depth").glob("*.png")}
    picture = {p.stem: p for p in sorted((folder / "rgb").iterdir())}
    names, poses = [], []
    for line in (folder / "poses_c2w.txt").read_text().splitlines():
        stem, *numbers = line.split()
        if stem.startswith("#") or stem not in depth or stem not in picture:
            continue
        names.append(stem)
        poses.append([float(v) for v in numbers] + [0.0, 0.0, 0.0, 1.0])
    if not names:
        raise InputError(f"{folder}: no frame has a picture, a depth map and a pose of the same name")
    world_from_camera = torch.tensor(poses, dtype=torch.float64).reshape(-1, 4, 4)
    units = _metres_per_unit(folder / "meta.json")
    return PosedClip(
        folder.name,
        tuple(picture[n] for n in names),
        tuple(depth[n] for n in names),
        invert_extrinsics(world_from_camera),
        units,
    )


def _metres_per_unit(path: Path) -> float:
    depth = read_json_object(path).get("depth")
    units = depth.get("scale_to_metres") if isinstance(depth, dict) else None
    if isinstance(units, bool) or not isinstance(units, int | float) or not (math.isfinite(units) and units > 0):
        raise InputError(f"{path}: expected depth.scale_to_metres to be a number above zero, got {units!r:.60}")
    return float(units)


def measure_clip(model: VidLLM, clip: PosedClip, num_frames: int | None = None) -> dict[str, float]:
    """Depth, scale and pose errors of a clip, from its pictures alone."""
    scene = model.reconstruct([str(p) for p in clip.pictures], num_frames)
    chosen = [int(i) for i in scene.frames.indices]
    maps = (np.asarray(Image.open(clip.depths[i])).astype(np.float32) * clip.metres_per_unit for i in chosen)
    true = np.concatenate([depth_on_frames(one[None], scene.frames) for one in maps])
    angle, travel = pose_errors(scene.extrinsics, clip.extrinsics[chosen].float())
    still, _ = pose_errors(torch.eye(4).expand(len(chosen), 4, 4), clip.extrinsics[chosen].float())
    return {
        "frames": float(len(chosen)),
        **depth_metrics(scene.depth.numpy(), true),
        "rotation_deg": float(angle.median()),
        "rotation_deg_if_still": float(still.median()),
        "translation_m": float(travel.median()),
        "spread": scene.scale.spread,
    }
