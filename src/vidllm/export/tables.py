"""Boxes for other programs - JSON, CSV, and PLY with edges - and the depth of all frames in one NPZ."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np

from vidllm.export.box_drawing import EDGES, Boxes, box_colour, box_names, box_scores, boxes_array, corners_of
from vidllm.export.geometry import SceneData
from vidllm.export.points import PROPERTIES
from vidllm.io.atomic import atomic_folder, atomic_path

COLUMNS = ("label", "x", "y", "z", "size_x", "size_y", "size_z", "yaw", "score")
CONVENTIONS = {"units": "m", "angles": "rad", "frame": "scene", "up": "z"}


def write_boxes(path: str | Path, data: SceneData, *, boxes: Boxes = ()) -> None:
    """Write a folder with `boxes.json`, `boxes.csv` (one row per box) and `boxes.ply` (corners and edges)."""
    rows = boxes_array(boxes).tolist()
    labels, scores = box_names(boxes), box_scores(boxes)
    told = [{"label": label, "center": row[:3], "size": row[3:6], "yaw": row[6], "score": score}
            for label, row, score in zip(labels, rows, scores, strict=True)]  # fmt: skip
    with atomic_folder(path) as folder:
        text = json.dumps({**CONVENTIONS, "boxes": told}, indent=1, ensure_ascii=False, allow_nan=False)
        (folder / "boxes.json").write_text(text + "\n", encoding="utf-8")
        with (folder / "boxes.csv").open("w", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            table.writerow(COLUMNS)
            table.writerows([label, *row, score] for label, row, score in zip(labels, rows, scores, strict=True))
        (folder / "boxes.ply").write_text("\n".join(_ply(boxes)) + "\n", encoding="ascii")


def _ply(boxes: Boxes) -> list[str]:
    corners = corners_of(boxes)
    lines = ["ply", "format ascii 1.0", "comment metres, z up, origin at the first camera",
             f"element vertex {8 * len(corners)}", *PROPERTIES, f"element edge {len(EDGES) * len(corners)}",
             "property int vertex1", "property int vertex2", "end_header"]  # fmt: skip
    for number, box in enumerate(corners.tolist()):
        colour = " ".join(map(str, box_colour(number)))
        lines += [f"{x:.6f} {y:.6f} {z:.6f} {colour}" for x, y, z in box]
    return lines + [f"{8 * n + a} {8 * n + b}" for n in range(len(corners)) for a, b in EDGES]


def write_npz(path: str | Path, data: SceneData) -> None:
    """Write depth (F,H,W) in metres with its cameras, float32 and float64, under the names of `SceneData`.

    `confidence` (F,H,W) is included if the model has one: larger is surer, no standard deviation.
    """
    names = ("depth_m", "confidence", "intrinsics", "extrinsics", "scene_from_world", "processed_from_original",
             "timestamps_s")  # fmt: skip
    arrays = {name: value for name in names if (value := getattr(data, name)) is not None}
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, original_size=np.array(data.original_size), **arrays)
