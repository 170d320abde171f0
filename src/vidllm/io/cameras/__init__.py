"""Readers of known cameras, one module per format (docs/known_cameras.md).

    intrinsics  fx,fy,cx,cy · a 3x3 or 4x4 matrix (.txt, .npy) · .csv · .yaml (OpenCV) · cameras.json ·
                transforms.json · a COLMAP model
    poses       TUM, KITTI or one matrix per line (.txt, .csv, .npy) · a folder of matrices (ScanNet, 7-Scenes) ·
                cameras.json · transforms.json · a COLMAP model

Results have pixel centres at +0.5, and poses are world-from-camera with OpenCV axes. Every reader raises only
ValueError, of one line that names the file and, if possible, the line.
"""

from __future__ import annotations

import re
from pathlib import Path

from vidllm.io.cameras.colmap import find_model, read_colmap_intrinsics, read_colmap_poses
from vidllm.io.cameras.json_frames import read_json_intrinsics, read_json_poses
from vidllm.io.cameras.matrices import (
    intrinsics_of_array,
    poses_of_array,
    read_intrinsics_csv,
    read_intrinsics_text,
    read_pose_folder,
    read_pose_table,
)
from vidllm.io.cameras.opencv_yaml import read_yaml_intrinsics
from vidllm.io.cameras.records import Intrinsics, Lens, PerFrame, Poses, pinhole
from vidllm.io.files import has_file

__all__ = ["Intrinsics", "Lens", "PerFrame", "Poses", "read_intrinsics", "read_poses"]


def read_intrinsics(given: str | Path) -> Intrinsics:
    """Intrinsics from ``"fx,fy,cx,cy"`` or a file; ValueError, naming it, for another format."""
    text = str(given)
    if re.fullmatch(r"[0-9.eE+\-\s]+(,[0-9.eE+\-\s]+){3}", text):
        try:
            return Intrinsics(pinhole(*(float(word) for word in text.split(","))), where=f"intrinsics {text}")
        except ValueError:
            raise ValueError(f"{text}: expected four numbers fx,fy,cx,cy") from None
    path, is_model = _found(given, "give intrinsics as fx,fy,cx,cy or a file of them")
    if is_model:
        return read_colmap_intrinsics(path)
    readers = {".json": read_json_intrinsics, ".npy": intrinsics_of_array, ".csv": read_intrinsics_csv,
               ".yaml": read_yaml_intrinsics, ".yml": read_yaml_intrinsics}  # fmt: skip
    if path.is_dir():
        raise ValueError(f"{path}: no cameras.json, transforms.json or COLMAP model in this folder; give a file")
    return readers.get(path.suffix.lower(), read_intrinsics_text)(path)


def read_poses(given: str | Path) -> Poses:
    """Poses from a file or folder; ValueError, naming it, if it cannot be read or has another format."""
    path, is_model = _found(given, "give poses as a file, or a folder of matrices or of COLMAP")
    if is_model:
        return read_colmap_poses(path)
    if path.is_dir():
        return Poses(read_pose_folder(path))
    suffix = path.suffix.lower()
    if suffix == ".json":
        return read_json_poses(path)
    return Poses(poses_of_array(path) if suffix == ".npy" else read_pose_table(path))


def _found(given: str | Path, remedy: str) -> tuple[Path, bool]:
    """The path, or the file of cameras in it; whether it is a COLMAP model. ValueError if nothing is there."""
    path = Path(given).expanduser()
    try:
        there = path.exists()
    except (OSError, ValueError):
        there = False
    if not there:
        raise ValueError(f"{str(path)[:300]}: no such file or folder; {remedy}")
    model = find_model(path)
    if model is not None:
        return model, True
    files = [path / name for name in ("cameras.json", "transforms.json")] if path.is_dir() else []
    return next((file for file in files if has_file(file)), path), False
