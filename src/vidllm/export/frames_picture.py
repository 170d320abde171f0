"""One picture of the frames with the found boxes drawn into them."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from PIL import Image

from vidllm.export.box_drawing import Boxes, draw_boxes
from vidllm.export.geometry import SceneData
from vidllm.io.atomic import atomic_path

COLUMNS, LONGER_SIDE, GAP = 4, 320, 6
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


def check_picture_name(path: str | Path) -> Path:
    """The path; ValueError when its ending names no picture format."""
    if Path(path).suffix.lower() not in PICTURE_SUFFIXES:
        raise ValueError(f"{path}: not a picture's name; let it end in one of {', '.join(PICTURE_SUFFIXES)}")
    return Path(path)


def write_frames_picture(path: str | Path, data: SceneData, boxes: Boxes = (), max_frames: int = 8) -> None:
    """Write up to ``max_frames`` frames, evenly spread, four a row, with boxes (scene frame, metres) and their labels.

    Raises ValueError for an unknown picture format, OutputError when the file cannot be written.
    """
    picture = frames_picture(data, boxes, max_frames)
    with atomic_path(check_picture_name(path)) as temporary:
        picture.save(temporary)


def frames_picture(data: SceneData, boxes: Boxes = (), max_frames: int = 8) -> Image.Image:
    """The picture that ``write_frames_picture`` writes."""
    chosen = np.unique(np.linspace(0, len(data) - 1, min(max_frames, len(data))).round().astype(int)).tolist()
    zoom = LONGER_SIDE / max(data.size)
    cell = (round(data.size[1] * zoom), round(data.size[0] * zoom))
    columns = min(COLUMNS, len(chosen))
    rows = math.ceil(len(chosen) / columns)
    size = (columns * (cell[0] + GAP) - GAP, rows * (cell[1] + GAP) - GAP)
    picture = Image.new("RGB", size, (255, 255, 255))
    for place, index in enumerate(chosen):
        at = (place % columns * (cell[0] + GAP), place // columns * (cell[1] + GAP))
        picture.paste(_frame(data, index, boxes, cell), at)
    return picture


def _frame(data: SceneData, index: int, boxes: Boxes, cell: tuple[int, int]) -> Image.Image:
    scale = np.diag([cell[0] / data.size[1], cell[1] / data.size[0], 1.0])
    image = Image.fromarray(data.rgb[index]).resize(cell, Image.Resampling.LANCZOS)
    return draw_boxes(image, boxes, scale @ data.intrinsics[index], data.camera_from_scene[index])
