"""Files of known cameras: what ``vidllm reconstruct`` writes, TUM trajectories, ScanNet's poses, transforms.json.

    intrinsics  fx,fy,cx,cy · cameras.json · transforms.json · a 3x3 or 4x4 matrix of numbers (ScanNet, OpenCV)
    poses       cameras.json · TUM (timestamp or frame number tx ty tz qx qy qz qw) · a folder of 0.txt, 1.txt, ...
                (ScanNet) · transforms.json (nerfstudio)

Pixel centres lie at +0.5 in all but matrices, which have them at whole numbers (ScanNet's and OpenCV's convention).
"""

from __future__ import annotations

import json
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from vidllm.datasets.scannet_frames import half_centres, read_matrix
from vidllm.export.nerfstudio import OPENGL_FROM_OPENCV
from vidllm.export.tum import read_tum
from vidllm.given_cameras import GivenCameras, PerFrame

_DISTORTION = ("k1", "k2", "k3", "k4", "p1", "p2")
_Z_UP = (0.0, 0.0, 1.0)


def read_cameras(
    intrinsics: str | Path | None = None, poses: str | Path | None = None, metric: bool = True
) -> GivenCameras:
    """Known cameras from files, or intrinsics as ``"fx,fy,cx,cy"``; ``metric``: whether the poses are in metres.

    ValueError, naming the file, where it cannot be read or is none of the forms above.
    """
    found, size = (None, None) if intrinsics is None else _intrinsics(str(intrinsics))
    placed, up = (None, None) if poses is None else _poses(Path(poses).expanduser())
    return GivenCameras(found, placed, metric, size, up)


def _intrinsics(given: str) -> tuple[np.ndarray | PerFrame, tuple[int, int] | None]:
    if re.fullmatch(r"[\d.eE+\-\s]+(,[\d.eE+\-\s]+){3}", given):
        fx, fy, cx, cy = (float(number) for number in given.split(","))
        return _matrix(fx, fy, cx, cy), None
    path = Path(given).expanduser()
    if not path.is_file():
        raise ValueError(f"{given}: no such file; give intrinsics as fx,fy,cx,cy or a file of them")
    if path.suffix.lower() != ".json":
        return half_centres(read_matrix(path)), None
    content = _json(path)
    frames = _frames(content, path)
    if "intrinsics_original" in frames[0]:
        size = content.get("original_size") or {}
        matrices = np.stack([_array(f, "intrinsics_original", (3, 3), path) for f in frames])
        return _keyed(matrices, frames, path), (size["height"], size["width"]) if size else None
    return _lens(content, frames, path)


def _matrix(fx: float, fy: float, cx: float, cy: float) -> np.ndarray:
    return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]], np.float64)


def _lens(
    content: dict[str, Any], frames: list[dict[str, Any]], path: Path
) -> tuple[np.ndarray | PerFrame, tuple[int, int] | None]:
    """Intrinsics of a transforms.json, one for all or one a frame."""
    entries = [{**content, **frame} for frame in frames]
    try:
        numbers = [[float(e[name]) for name in ("fl_x", "fl_y", "cx", "cy")] for e in entries]
        sizes = {(int(e["h"]), int(e["w"])) for e in entries if "h" in e and "w" in e}
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: no intrinsics here (expected fl_x, fl_y, cx, cy); missing {error}") from error
    if any(abs(float(e.get(name) or 0)) > 1e-3 for e in entries for name in _DISTORTION):
        warnings.warn(f"{path}: its lens distortion is not modelled; undistort the pictures", stacklevel=3)
    if len(sizes) > 1:
        raise ValueError(f"{path}: pictures of {len(sizes)} sizes; the frames of a video have one")
    size = sizes.pop() if sizes else None
    if "fl_x" in content:
        return _matrix(*numbers[0]), size
    return _keyed(np.stack([_matrix(*row) for row in numbers]), frames, path), size


def _poses(path: Path) -> tuple[PerFrame, tuple[float, float, float] | None]:
    """World-from-camera poses, and up in their world where the file tells it."""
    if path.is_dir():
        return _pose_folder(path), None
    if not path.is_file():
        raise ValueError(f"{path}: no such file or folder; give cameras.json, TUM, transforms.json or a folder")
    if path.suffix.lower() != ".json":
        try:
            times, poses = read_tum(path)
        except (ValueError, OSError, IndexError) as error:
            raise ValueError(f"{path}: expected a TUM trajectory, 8 numbers a line ({_line(error)})") from error
        if not len(times):
            raise ValueError(f"{path}: holds no pose")
        return PerFrame(poses, times_s=times.tolist(), where=str(path)), None
    frames = _frames(_json(path), path)
    if "scene_from_camera" in frames[0]:
        return _keyed(np.stack([_array(f, "scene_from_camera", (4, 4), path) for f in frames]), frames, path), _Z_UP
    matrices = np.stack([_array(f, "transform_matrix", (4, 4), path) for f in frames])
    return _keyed(matrices @ OPENGL_FROM_OPENCV, frames, path), None


def _pose_folder(folder: Path) -> PerFrame:
    """ScanNet's poses: one matrix a file, named by the frame's number, world-from-camera in metres."""
    inner = folder / "pose" if (folder / "pose").is_dir() else folder
    files = sorted((f for f in inner.glob("*.txt") if f.stem.isdecimal()), key=lambda f: int(f.stem))
    if not files:
        raise ValueError(f"{folder}: no pose such as 0.txt in this folder")
    return PerFrame(np.stack([read_matrix(file) for file in files]), [file.stem for file in files],
                    numbers=[int(file.stem) for file in files], where=str(folder))  # fmt: skip


def _keyed(matrices: np.ndarray, frames: list[dict[str, Any]], path: Path) -> PerFrame:
    """Matrices with the names and times that a JSON file gives its frames."""
    names = [re.sub(r"\.[A-Za-z]+$", "", Path(str(f.get("name") or f.get("file_path") or "")).name) for f in frames]
    times = [f.get("timestamp_s") for f in frames]
    timed = all(isinstance(t, int | float) for t in times)
    unique = all(names) and len(set(names)) == len(names)
    return PerFrame(matrices, names if unique else (), [float(t) for t in times] if timed else None, where=str(path))  # type: ignore[arg-type]


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: cannot be read as JSON ({_line(error)})") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected a JSON object with frames, received {type(content).__name__}")
    return content


def _frames(content: dict[str, Any], path: Path) -> list[dict[str, Any]]:
    frames = content.get("frames")
    if not isinstance(frames, list) or not frames or not all(isinstance(f, dict) for f in frames):
        raise ValueError(f"{path}: no list of frames here; expected a cameras.json or a transforms.json")
    return frames


def _array(frame: dict[str, Any], name: str, shape: tuple[int, int], path: Path) -> np.ndarray:
    try:
        found = np.array(frame[name], np.float64)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: a frame lacks {name} ({_line(error)})") from error
    if found.shape != shape:
        raise ValueError(f"{path}: {name} of shape {found.shape}, expected {shape}")
    return found


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
