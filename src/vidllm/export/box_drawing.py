"""Boxes drawn into frames: their twelve edges, clipped at a near plane in front of the camera, then projected."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFont

from vidllm.export.geometry import NEAR_M, SceneData
from vidllm.geometry.boxes import box_corners

Boxes = Sequence[Any] | np.ndarray  # mappings, or rows of 7 numbers
Point = tuple[float | int, float | int]
EDGES = ((0, 1), (1, 2), (2, 3), (3, 0), (4, 5), (5, 6), (6, 7), (7, 4), (0, 4), (1, 5), (2, 6), (3, 7))
PALETTE = ((255, 99, 71), (64, 200, 255), (255, 214, 10), (120, 230, 120), (255, 130, 240), (255, 160, 60))


def boxes_array(boxes: Boxes) -> Float[np.ndarray, "Q 7"]:
    """Boxes `(Q, 7)` = centre, size (metres), yaw (radians about z), scene frame, from mappings or an array."""
    rows = [[*b["center"], *b["size"], b["yaw"]] if isinstance(b, Mapping) else list(b) for b in boxes]
    array = np.array(rows, np.float64).reshape(len(rows), -1 if rows else 7)
    if array.shape[1] != 7 or not np.isfinite(array).all():
        raise ValueError(f"boxes: expected 7 finite numbers each (centre, size, yaw), got shape {array.shape}")
    return array


def box_names(boxes: Boxes) -> list[str]:
    """The `label` of each box, or an empty text."""
    return [str(b.get("label") or "") if isinstance(b, Mapping) else "" for b in boxes]


def box_labels(boxes: Boxes) -> list[str]:
    """The number of each box from 1, followed by its label."""
    return [f"{number} {name}".strip() for number, name in enumerate(box_names(boxes), 1)]


def box_scores(boxes: Boxes) -> list[float | None]:
    """The `score` of each box, or None."""
    return [b.get("score") if isinstance(b, Mapping) else None for b in boxes]


def corners_of(boxes: Boxes) -> Float[np.ndarray, "Q 8 3"]:
    """Corners of boxes in the scene frame, in the order of `vidllm.geometry.boxes.box_corners`."""
    return box_corners(torch.from_numpy(boxes_array(boxes))).numpy()


def project_edges(
    corners: Float[np.ndarray, "8 3"], intrinsics: Float[np.ndarray, "3 3"], camera_from_scene: Float[np.ndarray, "4 4"]
) -> list[tuple[tuple[float, float], tuple[float, float]]]:
    """The visible edges of one box as pixel segments; parts nearer than `NEAR_M` or behind are clipped."""
    camera = corners @ camera_from_scene[:3, :3].T + camera_from_scene[:3, 3]
    segments = []
    for first, second in EDGES:
        a, b = camera[first], camera[second]
        if max(a[2], b[2]) <= NEAR_M:
            continue
        if a[2] < NEAR_M:
            a = a + (b - a) * (NEAR_M - a[2]) / (b[2] - a[2])
        elif b[2] < NEAR_M:
            b = b + (a - b) * (NEAR_M - b[2]) / (a[2] - b[2])
        segments.append((_pixel(intrinsics, a), _pixel(intrinsics, b)))
    return segments


def draw_boxes(
    image: Image.Image,
    boxes: Boxes,
    intrinsics: Float[np.ndarray, "3 3"],
    camera_from_scene: Float[np.ndarray, "4 4"],
) -> Image.Image:
    """A copy of the frame with the edges of `boxes` and their numbers.

    `intrinsics` are in pixels of `image`.
    """
    drawn = image.convert("RGB").copy()
    pen = ImageDraw.Draw(drawn)
    width = max(2, round(max(image.size) / 250))
    font = ImageFont.load_default(size=max(12, round(max(image.size) / 36)))
    tags = []
    for number, (corners, label) in enumerate(zip(corners_of(boxes), box_labels(boxes), strict=True)):
        segments = project_edges(corners, np.asarray(intrinsics, np.float64), np.asarray(camera_from_scene, np.float64))
        shown = [clipped for segment in segments if (clipped := _clip(segment, image.size))]
        for line_colour, line in (((0, 0, 0), width + 2), (box_colour(number), width)):
            for segment in shown:
                pen.line(segment, fill=line_colour, width=line)
        if shown:
            highest = min((end for segment in shown for end in segment), key=lambda p: p[1])
            tags.append((highest, label, box_colour(number)))
    draw_tags(pen, tags, font, image.size)
    return drawn


def frame_with_boxes(data: SceneData, index: int, picture: Image.Image, boxes: Boxes) -> Image.Image:
    """:func:`draw_boxes` in frame `index`, which was resized to `picture`: lines and labels keep their size."""
    scale = np.diag([picture.width / data.size[1], picture.height / data.size[0], 1.0])
    return draw_boxes(picture, boxes, scale @ data.intrinsics[index], data.camera_from_scene[index])


def draw_tags(
    pen: ImageDraw.ImageDraw,
    tags: Sequence[tuple[Point, str, tuple[int, int, int]]],
    font: Any,
    bounds: tuple[int, int],
) -> None:
    """Write labels on plates of their colours, each centred above its point and above the plates it would cover.

    All are kept inside the picture of size `bounds` = (W, H).
    """
    taken: list[tuple[float, float, float, float]] = []
    for (across, down), label, colour in tags:
        left, top, right, bottom = pen.textbbox((0, 0), label, font=font)
        width, height = right - left + 8, bottom - top + 6
        x = min(max(across - width / 2, 0), max(bounds[0] - width, 0))
        y = min(down - height - 2, bounds[1] - height)
        for x0, y0, x1, y1 in sorted(taken, key=lambda plate: -plate[1]):
            if x <= x1 and x0 <= x + width and y <= y1 and y0 <= y + height:
                y = y0 - height - 1
        y = max(y, 0)
        taken.append((x, y, x + width, y + height))
        pen.rounded_rectangle(taken[-1], radius=3, fill=colour)
        pen.text((x + 4 - left, y + 3 - top), label, fill=(20, 20, 20), font=font)


def box_colour(number: int) -> tuple[int, int, int]:
    """The colour of box `number`; the palette repeats."""
    return PALETTE[number % len(PALETTE)]


def _pixel(intrinsics: np.ndarray, point: np.ndarray) -> tuple[float, float]:
    u, v, w = intrinsics @ point
    return float(u / w), float(v / w)


def _clip(
    segment: tuple[tuple[float, float], tuple[float, float]], size: tuple[int, int]
) -> tuple[tuple[float, float], tuple[float, float]] | None:
    """The part of a segment inside the picture (Liang-Barsky), or None: edges near the camera run very far out."""
    (x, y), (x1, y1) = segment
    dx, dy = x1 - x, y1 - y
    begin, end = 0.0, 1.0
    for step, room in ((-dx, x), (dx, size[0] - x), (-dy, y), (dy, size[1] - y)):
        if step == 0:
            if room < 0:
                return None
        elif step < 0:
            begin = max(begin, room / step)
        else:
            end = min(end, room / step)
    if begin > end:
        return None
    return (x + begin * dx, y + begin * dy), (x + end * dx, y + end * dy)
