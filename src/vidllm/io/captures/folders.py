"""Recordings written by programs: a transforms.json, RGB-D folders of vidllm, and TUM RGB-D."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from vidllm.io.cameras.depth import MILLIMETRES
from vidllm.io.cameras.json_frames import read_json_intrinsics, read_json_poses
from vidllm.io.cameras.matrices import read_pose_table
from vidllm.io.cameras.records import PerFrame
from vidllm.io.captures.capture import Capture, check_complete, trusted_depth
from vidllm.io.captures.phones import nearest_row
from vidllm.io.files import data_lines, number, read_json_object, read_text
from vidllm.io.pictures import IMAGE_SUFFIXES

# ---- transforms.json -----------------------------------------------------------------------------------------------


def read_transforms(folder: Path) -> Capture | None:
    """A folder with a transforms.json and its pictures, as written by nerfstudio and instant-ngp."""
    file = folder / "transforms.json"
    if not file.is_file():
        return None
    content = read_json_object(file)
    posed, lens = read_json_poses(file), read_json_intrinsics(file)
    frames = content["frames"]
    files = [_inside(folder, frame, "file_path", n, file) for n, frame in enumerate(frames)]
    check_complete([f for f in files if f is None or not f.is_file()], len(files), "a picture", folder)
    maps = {n: _inside(folder, frame, "depth_file_path", n, file) for n, frame in enumerate(frames)}
    depths = {n: partial(trusted_depth, path) for n, path in maps.items() if path is not None}
    check_complete([p for p in maps.values() if p is not None and not p.is_file()], len(files), "a depth map", folder)
    given = lens.given.matrices if isinstance(lens.given, PerFrame) else lens.given
    pictures = [f for f in files if f is not None]
    return Capture("transforms.json", [f.name for f in pictures], pictures, posed.given.matrices, given, lens.size,
                   depths, metric=posed.metric, times_s=posed.given.times_s)  # fmt: skip


def _inside(folder: Path, frame: dict[str, Any], key: str, n: int, file: Path) -> Path | None:
    """The file named by a frame, None without one; ValueError if it is outside the folder."""
    told = frame.get(key)
    if told is None:
        return None
    if not isinstance(told, str) or not (folder / told).resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"{file}: frame {n + 1}: {key} {str(told)[:80]!r} is not in this folder; move the pictures "
                         "there")  # fmt: skip
    path = folder / told
    return path if path.is_file() or path.suffix else path.with_suffix(".png")  # instant-ngp leaves .png out


# ---- our own form --------------------------------------------------------------------------------------------------
#
# rgb/           pictures, one a frame
# depth/         16-bit PNG by the same names, millimetres along the optical axis, 0 = none; of the same shape
# cameras.json   {"frames": [{"file": "00000", "K": 3x3 of the picture, "w2c": 3x4 or null}, ...]}: OpenCV axes,
#                metres, pixel centres at integer coordinates
# meta.json      optional; "up": [x, y, z] of the world, "depth": {"scale_to_metres": 0.001}
#
# In place of cameras.json there may be intrinsics.json (fx, fy, cx, cy, for all frames) and poses_c2w.txt (a line a
# frame: name and the 12 numbers of camera-to-world).

HALF_PIXEL = 0.5  # from pixel centres at integer coordinates to ours


def read_clip(folder: Path) -> Capture | None:
    """An RGB-D folder of vidllm; None for another folder."""
    cameras, poses = folder / "cameras.json", folder / "poses_c2w.txt"
    if not (folder / "rgb").is_dir() or not (cameras.is_file() or poses.is_file()):
        return None
    pictures = {p.stem: p for p in sorted((folder / "rgb").glob("*")) if p.suffix.lower() in IMAGE_SUFFIXES}
    if cameras.is_file():
        file, entries = cameras, read_json_object(cameras).get("frames")
    else:
        file, entries = poses, [entry for entry in _entries(folder) if entry["file"] in pictures]
    if not isinstance(entries, list) or not entries:
        raise ValueError(f'{file}: expected "frames", a list with an entry a frame; docs/training.md tells the form')
    names = [_name(file, n, entry, pictures) for n, entry in enumerate(entries)]
    lenses = np.stack([_lens(file, name, entry) for name, entry in zip(names, entries, strict=True)])
    placed = [_pose(file, name, entry) for name, entry in zip(names, entries, strict=True)]
    known = any(pose is not None for pose in placed)
    lost = np.full((4, 4), np.nan)
    meta = read_json_object(folder / "meta.json") if (folder / "meta.json").is_file() else {}
    unit, maps = _unit(folder, meta), {n: folder / "depth" / f"{name}.png" for n, name in enumerate(names)}
    return Capture(
        "RGB-D", [pictures[name].name for name in names], [pictures[name] for name in names],
        np.stack([lost if pose is None else pose for pose in placed]) if known else None, lenses,
        depths={n: partial(trusted_depth, path, None, unit) for n, path in maps.items() if path.is_file()},
        up=_up(folder, meta),
    )  # fmt: skip


def _entries(folder: Path) -> list[dict[str, Any]]:
    """The frames of ``poses_c2w.txt`` and ``intrinsics.json``, as cameras.json lists them."""
    told = read_json_object(folder / "intrinsics.json")
    missing = [name for name in ("fx", "fy", "cx", "cy") if not isinstance(told.get(name), int | float)]
    if missing:
        raise ValueError(f"{folder / 'intrinsics.json'}: {missing[0]} is missing or not a number; expected pixels")
    k = [[told["fx"], 0, told["cx"]], [0, told["fy"], told["cy"]], [0, 0, 1]]
    entries, file = [], folder / "poses_c2w.txt"
    for line, text in data_lines(read_text(file)):
        name, *words = text.split()
        try:
            pose = np.array([float(x) for x in words]).reshape(3, 4)
        except ValueError:
            raise ValueError(f"{file}: line {line}: expected a name and 12 numbers") from None
        rotation = pose[:, :3].T
        entries.append({"file": name, "K": k, "w2c": np.column_stack([rotation, -rotation @ pose[:, 3]]).tolist()})
    return entries


def _name(file: Path, n: int, entry: Any, pictures: dict[str, Path]) -> str:
    name = entry.get("file") if isinstance(entry, dict) else None
    if not isinstance(name, str) or name not in pictures:
        raise ValueError(f"{file}: frame {n} names {name!r}, and rgb/ has no such picture")
    return name


def _lens(file: Path, name: str, entry: dict[str, Any]) -> np.ndarray:
    """K with pixel centres at +0.5."""
    intrinsics = _matrix(file, name, entry, "K", 3)
    if intrinsics is None or not (intrinsics.diagonal() > 0).all():
        got = entry.get("K")
        raise ValueError(f'{file}: frame {name} needs "K", 3x3 with positive focal lengths in pixels, got {got}')
    intrinsics[:2, 2] += HALF_PIXEL
    return intrinsics


def _pose(file: Path, name: str, entry: dict[str, Any]) -> np.ndarray | None:
    """World-from-camera (4,4); None if it is unknown."""
    pose = _matrix(file, name, entry, "w2c", 4)
    if pose is None:
        return None
    if not np.allclose(pose[:, :3] @ pose[:, :3].T, np.eye(3), atol=1e-2):
        raise ValueError(f'{file}: "w2c" of frame {name} is not a rigid transform; expected 3x4')
    return np.linalg.inv(np.vstack([pose, [0, 0, 0, 1]]))


def _matrix(file: Path, name: str, entry: dict[str, Any], key: str, columns: int) -> np.ndarray | None:
    """A matrix of three rows, None without one; ValueError for another shape or numbers that are not finite."""
    if entry.get(key) is None:
        return None
    try:
        found = np.asarray(entry[key], dtype=np.float64)
    except (TypeError, ValueError):
        found = np.empty(0)
    if key == "w2c" and found.shape == (4, 4):
        found = found[:3]
    if found.shape != (3, columns) or not np.isfinite(found).all():
        raise ValueError(f'{file}: "{key}" of frame {name} is not a 3x{columns} matrix of numbers')
    return found.copy()


def _up(folder: Path, meta: dict[str, Any]) -> tuple[float, float, float] | None:
    up = meta.get("up")
    if up is None:
        return None
    good = isinstance(up, list) and len(up) == 3 and all(isinstance(x, int | float) for x in up)
    length = float(np.linalg.norm(up)) if good else 0.0
    if not length > 0:
        raise ValueError(f'{folder / "meta.json"}: "up" is {up!r}; expected three numbers, against gravity')
    x, y, z = (float(value) / length for value in up)
    return x, y, z


def _unit(folder: Path, meta: dict[str, Any]) -> float:
    depth = meta.get("depth")
    unit = depth.get("scale_to_metres", MILLIMETRES) if isinstance(depth, dict) else MILLIMETRES
    if not isinstance(unit, int | float) or not 0 < unit < 10:
        raise ValueError(f'{folder / "meta.json"}: depth.scale_to_metres is {unit!r}; expected metres a unit, as 0.001')
    return float(unit)


# ---- TUM RGB-D -----------------------------------------------------------------------------------------------------
#
# rgb.txt, depth.txt: time and file, a line a picture; groundtruth.txt: poses. Depth is in 1/5000 m.

_TUM_UNIT_M, _TUM_APART_S = 1 / 5000, 0.02


def read_tum(folder: Path) -> Capture | None:
    """A sequence of TUM RGB-D; None for another folder. It has no file of intrinsics."""
    if not (folder / "rgb.txt").is_file() or not any((folder / n).is_file() for n in ("depth.txt", "groundtruth.txt")):
        return None
    pictures = _listed(folder, "rgb.txt")
    check_complete([f for _, f in pictures if not f.is_file()], len(pictures), "a picture", folder)
    times, depths, poses = [time for time, _ in pictures], {}, None
    if (folder / "depth.txt").is_file():
        maps = _listed(folder, "depth.txt")
        rows = [nearest_row(np.array([t for t, _ in maps]), time, _TUM_APART_S) for time in times]
        near = {n: maps[row][1] for n, row in enumerate(rows) if row is not None}
        depths = {n: partial(trusted_depth, path, None, _TUM_UNIT_M) for n, path in near.items()}
    if (folder / "groundtruth.txt").is_file():
        told = read_pose_table(folder / "groundtruth.txt")
        rows = [nearest_row(np.asarray(told.times_s or ()), time, _TUM_APART_S) for time in times]
        lost = np.full((4, 4), np.nan)
        poses = np.stack([lost if row is None else told.matrices[row] for row in rows]) if rows else np.zeros((0, 4, 4))
    return Capture("TUM RGB-D", [f.name for _, f in pictures], [f for _, f in pictures], poses, depths=depths,
                   times_s=times)  # fmt: skip


def _listed(folder: Path, name: str) -> list[tuple[float, Path]]:
    """Times and files of a list; the files must be in the folder."""
    found = []
    for line, text in data_lines(read_text(folder / name)):
        words, where = text.split(), f"{folder / name}: line {line}"
        if len(words) != 2:
            raise ValueError(f"{where}: expected a time and a file")
        path = _inside(folder, {"file": words[1]}, "file", line - 1, folder / name)
        assert path is not None
        found.append((number(words[0], where), path))
    return found
