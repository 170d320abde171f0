"""RGB-D or posed captures, of one's own or of a dataset, as folders that training and evaluation read.

A clip is a folder:

    rgb/           pictures (JPEG or PNG), one a frame
    depth/         16-bit PNG by the same names, millimetres along the optical axis, 0 = none; of the same shape
    cameras.json   {"frames": [{"file": "00000", "K": 3x3 of the picture, "w2c": 3x4 or null}, ...]}: OpenCV axes,
                   metres, pixel centres at integer coordinates
    meta.json      optional; "up": [x, y, z] of the world, "depth": {"scale_to_metres": 0.001}

In place of cameras.json there may be ``intrinsics.json`` (fx, fy, cx, cy, for all frames) and ``poses_c2w.txt`` (a line
a frame: name and the 12 numbers of camera-to-world), as recordings of TUM RGB-D are easily brought into.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vidllm.io.files import read_json_object, read_text

CAMERAS, POSES = "cameras.json", "poses_c2w.txt"
PICTURES = (".jpg", ".jpeg", ".png")
HALF_PIXEL = 0.5  # from pixel centres at integer coordinates to ours


@dataclass(frozen=True)
class PosedFrame:
    """One frame: its files, K (3,3) of the picture with pixel centres at +0.5, camera-from-world (4,4) or None."""

    picture: Path
    depth: Path | None
    intrinsics: Tensor
    extrinsics: Tensor | None


@dataclass(frozen=True)
class PosedClip:
    """Frames in their order; ``up`` (3,) of the world or None; metres a unit of the depth maps."""

    name: str
    frames: tuple[PosedFrame, ...]
    up: Tensor | None
    metres_per_unit: float

    @property
    def posed(self) -> bool:
        """Whether all frames have poses, so that several of them make a window."""
        return all(frame.extrinsics is not None for frame in self.frames)


def is_clip(folder: Path) -> bool:
    """Whether a folder has the cameras of a clip."""
    return (folder / CAMERAS).exists() or (folder / POSES).exists()


def read_clip(folder: Path) -> PosedClip:
    """The clip in ``folder``; ValueError of one line that names what is missing or wrong."""
    pictures = {p.stem: p for p in sorted((folder / "rgb").glob("*")) if p.suffix.lower() in PICTURES}
    depths = {p.stem: p for p in sorted((folder / "depth").glob("*.png"))}
    if (folder / CAMERAS).exists():
        file = folder / CAMERAS
        entries = read_json_object(file).get("frames")
    elif (folder / POSES).exists():
        file = folder / POSES
        entries = [entry for entry in _entries(folder) if entry["file"] in pictures]
    else:
        raise ValueError(f"{folder}: no clip (neither {CAMERAS} nor {POSES} there); docs/training.md tells the form")
    if not isinstance(entries, list) or not entries:
        raise ValueError(f'{file}: expected "frames", a list with an entry a frame; docs/training.md tells the form')
    frames = tuple(_read_frame(file, number, entry, pictures, depths) for number, entry in enumerate(entries))
    if all(frame.depth is None for frame in frames):
        raise ValueError(f"{folder}: no frame has a depth map (depth/NAME.png); poses alone tell no distances")
    poses = [frame.extrinsics is not None for frame in frames]
    if any(poses) and not all(poses):
        frames = tuple(frame for frame in frames if frame.extrinsics is not None)
    meta = read_json_object(folder / "meta.json") if (folder / "meta.json").exists() else {}
    return PosedClip(folder.name, frames, _up(folder, meta), _unit(folder, meta))


def _entries(folder: Path) -> list[dict[str, Any]]:
    """The frames of ``poses_c2w.txt`` and ``intrinsics.json``, as cameras.json lists them."""
    told = read_json_object(folder / "intrinsics.json")
    missing = [name for name in ("fx", "fy", "cx", "cy") if not isinstance(told.get(name), int | float)]
    if missing:
        raise ValueError(f"{folder / 'intrinsics.json'}: {missing[0]} is missing or no number; expected pixels")
    k = [[told["fx"], 0, told["cx"]], [0, told["fy"], told["cy"]], [0, 0, 1]]
    entries = []
    for number, line in enumerate(read_text(folder / POSES).splitlines(), 1):
        name, *numbers = line.split() or ["#"]
        if name.startswith("#"):
            continue
        try:
            pose = np.array([float(x) for x in numbers]).reshape(3, 4)
        except ValueError:
            raise ValueError(f"{folder / POSES}: line {number}: expected a name and 12 numbers") from None
        rotation = pose[:, :3].T
        entries.append({"file": name, "K": k, "w2c": np.column_stack([rotation, -rotation @ pose[:, 3]]).tolist()})
    return entries


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
