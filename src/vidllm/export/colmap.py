"""A COLMAP text model with its pictures: what Gaussian splatting and multi-view stereo programs open.

COLMAP's world is the scene frame (z up, metres); its poses are camera-from-world and its pixel centres lie at +0.5,
as ours. Every point is one back-projected pixel, so its track is that one observation.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from vidllm.export.cameras import quaternions
from vidllm.export.geometry import PointSamples, SceneData
from vidllm.io.atomic import atomic_folder
from vidllm.io.cameras.colmap import IN_METRES


def write_colmap(
    path: str | Path, data: SceneData, *, max_points: int = 100_000, min_confidence: float | None = None
) -> None:
    """Write the folder: `images/NAME.png` (processed frames) and `sparse/0/{cameras,images,points3D}.txt`."""
    samples = data.samples(data.stride_for(max_points), min_confidence)
    with atomic_folder(path) as folder:
        (folder / "images").mkdir()
        for stem, rgb in zip(data.file_stems(), data.rgb, strict=True):
            Image.fromarray(rgb).save(folder / "images" / f"{stem}.png")
        model = folder / "sparse" / "0"
        model.mkdir(parents=True)
        for name, lines in (
            ("cameras", _cameras(data)),
            ("images", _images(data, samples)),
            ("points3D", _points(samples)),
        ):
            (model / f"{name}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _cameras(data: SceneData) -> list[str]:
    """One PINHOLE camera a frame: `CAMERA_ID MODEL WIDTH HEIGHT fx fy cx cy`."""
    lines = ["# CAMERA_ID, MODEL, WIDTH, HEIGHT, PARAMS[]"]
    for number, k in enumerate(data.intrinsics.astype(np.float64), 1):
        parameters = " ".join(f"{value:.9g}" for value in (k[0, 0], k[1, 1], k[0, 2], k[1, 2]))
        lines.append(f"{number} PINHOLE {data.size[1]} {data.size[0]} {parameters}")
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
