"""Inputs of Gaussian splatting and multi-view stereo programs: a COLMAP text model, a nerfstudio data set.

Both contain the original pictures and cameras in their pixels if the video is available (`SceneData.originals`), else
the processed frames. COLMAP's world is the scene frame (z up, metres); its poses are camera-from-world and its pixel
centres lie at +0.5, as ours. Every point is one back-projected pixel, its only observation.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vidllm.export.cameras import quaternions
from vidllm.export.depth_png import write_depth_png
from vidllm.export.geometry import PointSamples, SceneData
from vidllm.export.points import write_points
from vidllm.io.atomic import atomic_folder
from vidllm.io.cameras.colmap import IN_METRES
from vidllm.io.cameras.json_frames import OPENGL_FROM_OPENCV


def write_colmap(path: str | Path, data: SceneData, *, max_points: int = 100_000) -> None:
    """Write the folder: `images/NAME.png` and `sparse/0/{cameras,images,points3D}.txt`.

    Raises InputError if the video has changed since the reconstruction.
    """
    samples = data.samples(data.stride_for(max_points))
    if data.originals is not None:
        inverse = np.linalg.inv(data.processed_from_original)
        samples = replace(samples, uv=samples.uv @ inverse[:2, :2].T + inverse[:2, 2])
    with atomic_folder(path) as folder:
        _write_pictures(folder / "images", data)
        model = folder / "sparse" / "0"
        model.mkdir(parents=True)
        for name, lines in (
            ("cameras", _cameras(data)),
            ("images", _images(data, samples)),
            ("points3D", _points(samples)),
        ):
            (model / f"{name}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _write_pictures(folder: Path, data: SceneData) -> None:
    """The original pictures, or the processed frames."""
    folder.mkdir()
    for stem, rgb in zip(data.file_stems(), data.pictures(), strict=True):
        Image.fromarray(rgb).save(folder / f"{stem}.png")


def _view(data: SceneData) -> tuple[tuple[int, int], np.ndarray]:
    """(H, W) of the pictures that are written, and the intrinsics (F,3,3) in their pixels."""
    if data.originals is None:
        return data.size, data.intrinsics.astype(np.float64)
    return data.original_size, data.original_intrinsics


def _cameras(data: SceneData) -> list[str]:
    """One PINHOLE camera a frame: `CAMERA_ID MODEL WIDTH HEIGHT fx fy cx cy`."""
    lines = ["# CAMERA_ID, MODEL, WIDTH, HEIGHT, PARAMS[]"]
    (height, width), intrinsics = _view(data)
    for number, k in enumerate(intrinsics, 1):
        parameters = " ".join(f"{value:.9g}" for value in (k[0, 0], k[1, 1], k[0, 2], k[1, 2]))
        lines.append(f"{number} PINHOLE {width} {height} {parameters}")
    return lines


def _images(data: SceneData, samples: PointSamples) -> list[str]:
    """Two lines a frame: `IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME`, then `X Y POINT3D_ID` triples."""
    lines = [f"# IMAGE_ID, QW, QX, QY, QZ, TX, TY, TZ ({IN_METRES}), CAMERA_ID, NAME",
             "# POINTS2D[] as (X, Y, POINT3D_ID)"]  # fmt: skip
    poses = data.camera_from_scene
    turns = quaternions(poses[:, :3, :3])[:, [3, 0, 1, 2]]
    for index, (stem, turn, pose) in enumerate(zip(data.file_stems(), turns, poses, strict=True)):
        numbers = " ".join(f"{value:.9f}" for value in (*turn, *pose[:3, 3]))
        lines.append(f"{index + 1} {numbers} {index + 1} {stem}.png")
        mine = np.flatnonzero(samples.frame == index)
        lines.append(" ".join(f"{samples.uv[n, 0]:g} {samples.uv[n, 1]:g} {n + 1}" for n in mine))
    return lines


def _points(samples: PointSamples) -> list[str]:
    """One line a point: `POINT3D_ID X Y Z R G B ERROR IMAGE_ID POINT2D_IDX`."""
    starts = np.searchsorted(samples.frame, samples.frame)  # each point's number within its own frame
    lines = ["# POINT3D_ID, X, Y, Z, R, G, B, ERROR, TRACK[] as (IMAGE_ID, POINT2D_IDX)"]
    rows = zip(samples.xyz.tolist(), samples.rgb.tolist(), samples.frame.tolist(), starts.tolist(), strict=True)
    for n, ((x, y, z), (r, g, b), frame, start) in enumerate(rows):
        lines.append(f"{n + 1} {x:.6f} {y:.6f} {z:.6f} {r} {g} {b} 0 {frame + 1} {n - start}")
    return lines


# ---- nerfstudio ----------------------------------------------------------------------------------------------------
#
# nerfstudio's cameras are OpenGL (x right, y up, looking along -z), so the y and z columns of each pose change sign;
# its world is z up, as the scene frame; its pixel centres lie at +0.5.


def write_nerfstudio(path: str | Path, data: SceneData) -> None:
    """Write the folder: `transforms.json`, `images/`, `depths/`, `points.ply`."""
    with atomic_folder(path) as folder:
        _write_pictures(folder / "images", data)
        (folder / "depths").mkdir()
        for stem, depth_m in zip(data.file_stems(), data.depth_m, strict=True):
            write_depth_png(folder / "depths" / f"{stem}.png", _depth(data, depth_m))
        write_points(folder / "points.ply", *data.points(data.stride_for(500_000)))
        (folder / "transforms.json").write_text(json.dumps(transforms(data), indent=1) + "\n", encoding="utf-8")


def _depth(data: SceneData, depth_m: np.ndarray) -> np.ndarray:
    """Depth of the written pictures: that of the nearest pixel, 0 in cropped parts."""
    if data.originals is None:
        return depth_m
    height, width = data.original_size
    steps = data.processed_from_original[:2].ravel().tolist()
    picture = Image.fromarray(np.ascontiguousarray(depth_m, dtype=np.float32))
    return np.asarray(picture.transform((width, height), Image.Transform.AFFINE, steps, Image.Resampling.NEAREST))


def transforms(data: SceneData) -> dict[str, Any]:
    """The content of `transforms.json`."""
    (height, width), intrinsics = _view(data)
    frames = []
    times = [{"timestamp_s": t} if data.has_clock else {} for t in data.timestamps_s.tolist()]
    poses = data.scene_from_camera @ OPENGL_FROM_OPENCV
    rows = zip(data.file_stems(), intrinsics.tolist(), poses, times, strict=True)
    for stem, k, pose, time in rows:
        frames.append({
            "file_path": f"images/{stem}.png",
            "depth_file_path": f"depths/{stem}.png",
            "fl_x": k[0][0], "fl_y": k[1][1], "cx": k[0][2], "cy": k[1][2], "w": width, "h": height,
            "transform_matrix": pose.tolist(),
            **time,
        })  # fmt: skip
    return {"camera_model": "OPENCV", "ply_file_path": "points.ply", "frames": frames}
