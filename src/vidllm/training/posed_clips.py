"""Real clips in training: RGB-D or posed captures of one's own as a share of the geometry steps (``--posed-clips``).

A clip is a folder:

    rgb/           pictures (JPEG or PNG), one a frame
    depth/         16-bit PNG by the same names, millimetres along the optical axis, 0 = none; of the same shape
    cameras.json   {"frames": [{"file": "00000", "K": 3x3 of the picture, "w2c": 3x4 or null}, ...]}: OpenCV axes,
                   metres, pixel centres at integer coordinates
    meta.json      optional; "up": [x, y, z] of the world, "depth": {"scale_to_metres": 0.001}

Frames without a pose are trained on one by one (depth and field of view), frames without depth beside others that have
it. Without "up" nothing is learned of gravity from a clip. Nothing is known of what things are called.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from vidllm.io.json_files import read_json_object
from vidllm.training.data import Batch
from vidllm.training.framing import PATCH_SIZE, crop_intrinsics, crop_maps, crop_pictures, crop_to

PICTURES = (".jpg", ".jpeg", ".png")
ASPECTS = (4 / 3, 5 / 4, 1.0)  # width over height of a batch's frames
ZOOM = 1.35  # at most: fields of view are varied by cropping
STRIDES = 6  # frames between two of a window, at most
HALF_PIXEL = 0.5  # from pixel centres at integer coordinates to ours


@dataclass(frozen=True)
class PosedFrame:
    """One frame: its files, K (3,3) of the picture with pixel centres at +0.5, camera-from-world (4,4) or None."""

    picture: Path
    depth: Path | None
    intrinsics: Tensor
    extrinsics: Tensor | None


@dataclass(frozen=True)
class TrainingClip:
    """Frames in their order; ``up`` (3,) of the world or None; metres a unit of the depth maps."""

    name: str
    frames: tuple[PosedFrame, ...]
    up: Tensor | None
    metres_per_unit: float

    @property
    def posed(self) -> bool:
        """Whether all frames have poses, so that several of them make a window."""
        return all(frame.extrinsics is not None for frame in self.frames)


class PosedClips:
    """Draws batches from a folder of clips, or from one clip."""

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise ValueError(f"--posed-clips {folder}: no such folder; give a clip's folder or a folder of clips")
        folders = [folder] if (folder / "cameras.json").exists() else sorted(
            p for p in folder.iterdir() if (p / "cameras.json").exists()
        )
        if not folders:
            raise ValueError(f"--posed-clips {folder}: no clip there (rgb/, depth/, cameras.json): docs/training.md")
        self.clips = [read_clip(p) for p in folders]

    def draw(self, rng: np.random.Generator, scenes: int, frames: int, side: int) -> Batch:
        """A batch of windows; of ``frames`` frames each where a clip with poses was drawn, else of single frames."""
        weights = np.array([math.sqrt(len(clip.frames)) for clip in self.clips])
        clip = self.clips[int(rng.choice(len(self.clips), p=weights / weights.sum()))]
        if not clip.posed:
            scenes, frames = scenes * frames, 1
        aspect = float(rng.choice(ASPECTS))
        size = side, int(side * aspect + 1e-6) // PATCH_SIZE * PATCH_SIZE
        drawn = [_scene(clip, _window(rng, clip, frames), size, rng) for _ in range(scenes)]
        names = ("images", "depth_m", "extrinsics", "intrinsics", "up")
        images, depth, extrinsics, intrinsics, up = (torch.stack([scene[n] for scene in drawn]) for n in names)
        patches = torch.zeros(*images.shape[:2], size[0] // PATCH_SIZE * (size[1] // PATCH_SIZE), dtype=torch.long)
        return Batch(images, depth, extrinsics, intrinsics, up, patches, patches, patches, [], named=False)


def _window(rng: np.random.Generator, clip: TrainingClip, frames: int) -> list[int]:
    """Neighbouring frames in either order, of which one at least has depth."""
    total = len(clip.frames)
    frames = min(frames, total)
    for _ in range(100):
        most = max(1, (total - 1) // max(1, frames - 1))
        stride = int(rng.integers(1, min(STRIDES, most) + 1))
        start = int(rng.integers(total - (frames - 1) * stride))
        order = [start + stride * i for i in range(frames)]
        if any(clip.frames[i].depth is not None for i in order):
            return order if rng.random() < 0.5 else order[::-1]
    raise ValueError(f"{clip.name}: hardly any frame has depth; leave this clip out of --posed-clips")


def _scene(
    clip: TrainingClip, order: Sequence[int], size: tuple[int, int], rng: np.random.Generator
) -> dict[str, Tensor]:
    """One window at ``size``, zoomed and mirrored at random."""
    zoom, mirrored = float(rng.uniform(1.0, ZOOM)), bool(rng.random() < 0.5)
    frames = [clip.frames[i] for i in order]
    parts = [_frame(clip, frame, size, zoom) for frame in frames]
    images, depth, intrinsics = (torch.stack([p[i] for p in parts]) for i in range(3))
    extrinsics = torch.stack([torch.eye(4) if f.extrinsics is None else f.extrinsics for f in frames])
    up = torch.full((3,), math.nan) if clip.up is None else extrinsics[0, :3, :3] @ clip.up
    if mirrored:
        flip = torch.diag(torch.tensor([-1.0, 1.0, 1.0, 1.0]))
        images, depth, extrinsics = images.flip(-1), depth.flip(-1), flip @ extrinsics @ flip
        intrinsics[:, 0, 2] = size[1] - intrinsics[:, 0, 2]
        up = flip[:3, :3] @ up
    return {"images": images, "depth_m": depth, "extrinsics": extrinsics, "intrinsics": intrinsics, "up": up}


def _frame(clip: TrainingClip, frame: PosedFrame, size: tuple[int, int], zoom: float) -> tuple[Tensor, Tensor, Tensor]:
    """Picture (3,H,W), depth (H,W) in metres and K of a frame, cropped to ``size``."""
    picture = torch.from_numpy(_open(frame.picture, "RGB").astype(np.float32) / 255).permute(2, 0, 1)[None]
    original = picture.shape[-2], picture.shape[-1]
    crop = crop_to(*original, size, zoom)
    depth = torch.zeros(1, *size)
    if frame.depth is not None:
        metres = torch.from_numpy(_open(frame.depth, None).astype(np.float32) * clip.metres_per_unit)
        if abs(metres.shape[0] * original[1] / (metres.shape[1] * original[0]) - 1) > 0.02:
            raise ValueError(f"{frame.depth}: {metres.shape[0]} x {metres.shape[1]} pixels are not of the shape of "
                             f"{frame.picture.name} ({original[0]} x {original[1]}); align depth to the pictures")
        depth = crop_maps(metres[None], crop, original[0] / metres.shape[0])
    images = crop_pictures(picture, crop).clamp(0, 1)
    return images[0], depth[0], crop_intrinsics(frame.intrinsics, original, crop)


def _open(path: Path, mode: str | None) -> np.ndarray:
    try:
        with Image.open(path) as picture:
            return np.asarray(picture if mode is None else picture.convert(mode))
    except (OSError, UnidentifiedImageError) as error:
        raise ValueError(f"{path}: cannot be read as a picture ({error}); fetch it again") from error


# ---- reading a clip ---------------------------------------------------------------------------------------------


def read_clip(folder: Path) -> TrainingClip:
    """The clip in ``folder``; ValueError of one line that names what is missing or wrong."""
    file = folder / "cameras.json"
    entries = read_json_object(file).get("frames")
    if not isinstance(entries, list) or not entries:
        raise ValueError(f'{file}: expected "frames", a list with an entry a frame; docs/training.md tells the form')
    pictures = {p.stem: p for p in sorted((folder / "rgb").glob("*")) if p.suffix.lower() in PICTURES}
    depths = {p.stem: p for p in sorted((folder / "depth").glob("*.png"))}
    frames = tuple(_read_frame(file, number, entry, pictures, depths) for number, entry in enumerate(entries))
    if all(frame.depth is None for frame in frames):
        raise ValueError(f"{folder}: no frame has a depth map (depth/NAME.png); poses alone tell no distances")
    poses = [frame.extrinsics is not None for frame in frames]
    if any(poses) and not all(poses):
        frames = tuple(frame for frame in frames if frame.extrinsics is not None)
    meta = read_json_object(folder / "meta.json") if (folder / "meta.json").exists() else {}
    return TrainingClip(folder.name, frames, _up(folder, meta), _unit(folder, meta))


def _read_frame(
    file: Path, number: int, entry: Any, pictures: dict[str, Path], depths: dict[str, Path]
) -> PosedFrame:
    name = entry.get("file") if isinstance(entry, dict) else None
    if not isinstance(name, str) or name not in pictures:
        raise ValueError(f"{file}: frame {number} names {name!r}, and rgb/ has no such picture")
    intrinsics = _matrix(file, name, entry, "K", 3)
    if intrinsics is None or not bool((intrinsics.diagonal() > 0).all()):
        got = entry.get("K")
        raise ValueError(f'{file}: frame {name} needs "K", 3x3 with positive focal lengths in pixels, got {got}')
    intrinsics[:2, 2] += HALF_PIXEL
    pose = _matrix(file, name, entry, "w2c", 4)
    if pose is not None:
        turned = pose[:, :3] @ pose[:, :3].T
        if not torch.allclose(turned, torch.eye(3), atol=1e-2):
            raise ValueError(f'{file}: "w2c" of frame {name} is no rotation with a translation; expected 3x4')
        pose = torch.cat([pose, torch.tensor([[0.0, 0.0, 0.0, 1.0]])])
    return PosedFrame(pictures[name], depths.get(name), intrinsics, pose)


def _matrix(file: Path, name: str, entry: dict[str, Any], key: str, columns: int) -> Tensor | None:
    """A matrix of three rows, None where there is none; ValueError for another shape or numbers that are not finite."""
    if entry.get(key) is None:
        return None
    try:
        found = torch.tensor(np.asarray(entry[key], dtype=np.float64)).float()
    except (TypeError, ValueError):
        found = torch.empty(0)
    if key == "w2c" and found.shape == (4, 4):
        found = found[:3]
    if found.shape != (3, columns) or not bool(found.isfinite().all()):
        raise ValueError(f'{file}: "{key}" of frame {name} is not a 3x{columns} matrix of numbers')
    return found


def _up(folder: Path, meta: dict[str, Any]) -> Tensor | None:
    up = meta.get("up")
    if up is None:
        return None
    good = isinstance(up, list) and len(up) == 3 and all(isinstance(x, int | float) for x in up)
    vector = torch.tensor(up, dtype=torch.float32) if good else torch.zeros(3)
    if not vector.norm() > 0:
        raise ValueError(f'{folder / "meta.json"}: "up" is {up!r}; expected three numbers, against gravity')
    return vector / vector.norm()


def _unit(folder: Path, meta: dict[str, Any]) -> float:
    depth = meta.get("depth")
    unit = depth.get("scale_to_metres", 0.001) if isinstance(depth, dict) else 0.001
    if not isinstance(unit, int | float) or not 0 < unit < 10:
        raise ValueError(f'{folder / "meta.json"}: depth.scale_to_metres is {unit!r}; expected metres a unit, as 0.001')
    return float(unit)
