"""JSON files of cameras: our ``cameras.json``, nerfstudio's and instant-ngp's ``transforms.json``, or four numbers."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from vidllm.io.cameras.matrices import whole_poses
from vidllm.io.cameras.records import Intrinsics, Lens, PerFrame, Poses, a_number, refuse_lens, tell_distortion
from vidllm.io.files import read_json_object
from vidllm.io.pictures import number_of, stem, times_of

OPENGL_FROM_OPENCV = np.diag([1.0, -1.0, -1.0, 1.0])
NO_CLOCK = "frame numbers"  # of ``timestamp_s`` where the source has no clock
_TERMS = ("k1", "k2", "k3", "k4", "p1", "p2")
_PINHOLES = ("OPENCV", "PINHOLE", "SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL", "PERSPECTIVE")
_Z_UP = (0.0, 0.0, 1.0)
_AGREE = 0.01  # of a field of view with the focal length beside it


def read_json_intrinsics(path: Path) -> Intrinsics:
    """Intrinsics of a cameras.json or a transforms.json, or of an object with fx, fy, cx, cy (width, height)."""
    content = read_json_object(path)
    if "frames" not in content and "fx" in content:
        names = {"fx": "fl_x", "fy": "fl_y", "width": "w", "height": "h"}
        return _lens({names.get(name, name): value for name, value in content.items()}, [{}], path)
    if "frames" not in content and ("fl_x" in content or "camera_angle_x" in content):
        return _lens(content, [{}], path)
    frames = _frames(content, path)
    if "intrinsics_original" not in frames[0]:
        return _lens(content, frames, path)
    told = content.get("original_size")
    size = _size({"w": told.get("width"), "h": told.get("height")}, path) if isinstance(told, dict) else None
    matrices = np.stack([_array(f, "intrinsics_original", (3, 3), _place(n, path)) for n, f in enumerate(frames)])
    return Intrinsics(_keyed(matrices, content, frames, path), size, str(path))


def read_json_poses(path: Path) -> Poses:
    """World-from-camera of every frame."""
    content = read_json_object(path)
    frames = _frames(content, path)
    own = "scene_from_camera" in frames[0]
    name = "scene_from_camera" if own else "transform_matrix"
    places = [_place(n, path) for n in range(len(frames))]
    rows = 4 if own or len(frames[0].get(name) or ()) != 3 else 3
    matrices = np.stack([_array(f, name, (rows, 4), place) for f, place in zip(frames, places, strict=True)])
    matrices = whole_poses(matrices, [f"frame {n + 1}" for n in range(len(frames))], path)
    if own:
        return Poses(_keyed(matrices, content, frames, path), _Z_UP)
    with np.errstate(all="ignore"):
        matrices = matrices @ OPENGL_FROM_OPENCV
    rescaled = "aabb_scale" in content or content.get("applied_scale") not in (None, 1)
    return Poses(_keyed(matrices, content, frames, path), metric=None if rescaled else True)


def _place(index: int, path: Path) -> str:
    return f"{path}: frame {index + 1}"


def _lens(content: dict[str, Any], frames: list[dict[str, Any]], path: Path) -> Intrinsics:
    """One lens for all frames if the file has one, else one per frame."""
    kind = content.get("camera_model") or "OPENCV"
    if content.get("is_fisheye") or str(kind).upper() not in _PINHOLES:
        raise refuse_lens("fisheye" if content.get("is_fisheye") else str(kind)[:40], str(path))
    entries = [{**content, **frame} for frame in frames]
    sizes = {_size(entry, path) for entry in entries}
    if len(sizes) > 1:
        raise ValueError(f"{path}: pictures of {len(sizes)} sizes; the frames of a video have one")
    size = sizes.pop()
    once = not any(name in frame for frame in frames for name in ("fl_x", "fl_y", "camera_angle_x", "cx", "cy"))
    if once:
        lens = _one(content, size, str(path))
        return Intrinsics(lens.matrix(size or (0, 0)) if size or lens.whole else lens, size, str(path))
    lenses = [_one(entry, size, _place(n, path)) for n, entry in enumerate(entries)]
    if size is None and not all(lens.whole for lens in lenses):
        raise ValueError(f"{path}: frames without w and h need fl_x, fl_y, cx and cy each")
    matrices = np.stack([lens.matrix(size or (0, 0)) for lens in lenses])
    return Intrinsics(_keyed(matrices, content, frames, path), size, str(path))


def _one(entry: dict[str, Any], size: tuple[int, int] | None, where: str) -> Lens:
    """The lens of one entry; ValueError without a focal length, or if a field of view contradicts it."""
    names = ("fl_x", "fl_y", "cx", "cy", "camera_angle_x", "camera_angle_y")
    fx, fy, cx, cy, ax, ay = (a_number(entry[n], f"{where}: {n}") if entry.get(n) is not None else None for n in names)
    if fx is None and fy is None and ax is None and ay is None:
        raise ValueError(f"{where}: no intrinsics here (expected fl_x, fl_y, cx, cy, or camera_angle_x)")
    for angle in (ax, ay):
        if angle is not None and not 0 < angle < math.pi:
            raise ValueError(f"{where}: a field of view of {angle:g} radians, expected 0 to pi")
    if (cx is None) != (cy is None):
        raise ValueError(f"{where}: no {'cx' if cx is None else 'cy'} beside the other one")
    if size is not None:
        for focal, angle, side in ((fx, ax, size[1]), (fy, ay, size[0])):
            seen = None if angle is None else side / 2 / math.tan(angle / 2)
            if focal and seen is not None and not abs(seen / focal - 1) <= _AGREE:
                raise ValueError(f"{where}: a focal length of {focal:g} pixels, but its field of view means {seen:g}; "
                                 "keep one of them")  # fmt: skip
    lens = Lens(fx, fy, cx, cy, ax, ay)
    terms = {name: a_number(entry[name], f"{where}: {name}") for name in _TERMS if entry.get(name) is not None}
    if size is not None or lens.whole:
        tell_distortion(lens.matrix(size or (0, 0)), size, terms, where)
    elif any(abs(value) > 1e-3 for value in terms.values()):
        tell_distortion(lens.matrix((2, 2)), (2, 2), {"k1": math.inf}, where)
    return lens


def _size(entry: dict[str, Any], path: Path) -> tuple[int, int] | None:
    if entry.get("w") is None or entry.get("h") is None:
        return None
    height, width = (a_number(entry[name], f"{path}: {name}") for name in ("h", "w"))
    if not all(side.is_integer() and 0 < side < 10**6 for side in (height, width)):
        raise ValueError(f"{path}: pictures of {width:g}x{height:g} pixels")
    return int(height), int(width)


def _keyed(matrices: np.ndarray, content: dict[str, Any], frames: list[dict[str, Any]], path: Path) -> PerFrame:
    """Matrices with the names and times that a JSON file gives its frames."""
    written = [str(f.get("name") or f.get("file_path") or "") for f in frames]
    names = [stem(name) for name in written]
    times = [f.get("timestamp_s") for f in frames]
    for place, given in enumerate(times):
        if given is not None:
            a_number(given, f"{_place(place, path)}: timestamp_s")
    timed = all(t is not None for t in times) and content.get("timestamps") != NO_CLOCK
    seconds = [float(t) for t in times if t is not None] if timed else times_of(written)
    if not all(names):
        names = []
    if seconds is not None and len(set(names)) < len(names):
        names = []  # pictures of several folders, which differ by their times
    if not names and seconds is None:
        raise ValueError(f"{path}: frames without file_path, name or timestamp_s cannot be matched to pictures")
    numbers = [number_of(name) for name in names]
    whole = [n for n in numbers if n is not None]
    distinct = bool(names) and len(whole) == len(names) == len(set(whole))
    return PerFrame(matrices, names, seconds, whole if distinct else None, str(path),
                    [f"frame {n + 1}" for n in range(len(frames))])  # fmt: skip


def _frames(content: dict[str, Any], path: Path) -> list[dict[str, Any]]:
    frames = content.get("frames")
    if not isinstance(frames, list) or not frames or not all(isinstance(f, dict) for f in frames):
        raise ValueError(f"{path}: no list of frames here; expected a cameras.json or a transforms.json")
    return frames


def _array(frame: dict[str, Any], name: str, shape: tuple[int, int], where: str) -> np.ndarray:
    rows = frame.get(name)
    if not isinstance(rows, list):
        raise ValueError(f"{where}: a frame lacks {name}")
    if len(rows) != shape[0] or any(not isinstance(row, list) or len(row) != shape[1] for row in rows):
        raise ValueError(f"{where}: {name} is not a matrix of {shape[0]}x{shape[1]} numbers")
    return np.array([[a_number(cell, f"{where}: {name}") for cell in row] for row in rows], np.float64)
