"""One picture of a whole reconstruction: frames, their depth with a legend in metres, and the room from above.

The plan is the scene frame seen along -z: x (where the first camera looks) points up, y points left, so that left
in the plan is left for the first camera. Points above the cameras' heads are left out: ceilings hide rooms.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont

from vidllm.export.box_drawing import (
    Boxes,
    Point,
    box_colour,
    box_labels,
    corners_of,
    draw_tags,
    frame_with_boxes,
)
from vidllm.export.depth_png import DEPTH_FRAMES, colour_depth, colour_map, depth_range
from vidllm.export.geometry import SceneData
from vidllm.io.atomic import atomic_path

WIDTH, MARGIN, GAP, CAPTION, LEGEND = 1280, 20, 8, 24, 78
PAPER, INK, GRID = (255, 255, 255), (35, 40, 48), (222, 226, 231)
PATH = (214, 40, 57)
PLAN_HEIGHTS = (360, 760)  # pixels, lowest and highest
HEADROOM_M = 0.3  # points up to this far above the highest camera are drawn in the plan


def write_overview(path: str | Path, data: SceneData, *, boxes: Boxes = ()) -> None:
    """Write `overview(...)` as PNG."""
    picture = overview(data, boxes)
    with atomic_path(path) as temporary:
        picture.save(temporary, format="PNG")


def overview(data: SceneData, boxes: Boxes = ()) -> Image.Image:
    """Compose the picture, 1280 pixels wide, of up to six frames; boxes have the same numbers in frames and plan."""
    chosen = data.evenly(6)
    near, far = depth_range(data.depth_m[data.evenly(DEPTH_FRAMES)])
    cell = _cell_size(data.size, len(chosen))
    frames = [frame_with_boxes(data, index, resized(data.rgb[index], cell), boxes) for index in chosen]
    depths = [resized(colour_depth(data.depth_m[index], near, far), cell) for index in chosen]
    plan = _draw_plan(data, boxes, WIDTH - 2 * MARGIN)
    row = CAPTION + cell[1] + GAP
    height = MARGIN + 2 * row + CAPTION + plan.height + MARGIN
    picture = Image.new("RGB", (WIDTH, height), PAPER)
    y = MARGIN
    captions = [f"frame {index}   {data.timestamps_s[index] - data.timestamps_s[0]:.1f} s" for index in chosen]
    _paste_row(picture, frames, y, captions)
    _paste_row(picture, depths, y + row, ["depth"] + [""] * (len(chosen) - 1))
    _draw_legend(picture, (near, far), (MARGIN + len(chosen) * (cell[0] + GAP) + 6, y + row + CAPTION), cell[1])
    y += 2 * row
    found = f", {len(boxes)} box{'es' if len(boxes) != 1 else ''}" if len(boxes) else ""
    caption = f"from above: {len(data)} camera{'s' if len(data) != 1 else ''} (red){found}"
    _text(ImageDraw.Draw(picture), (MARGIN, y + 3), caption, 14)
    picture.paste(plan, (MARGIN, y + CAPTION))
    return picture


def resized(pixels: np.ndarray, cell: tuple[int, int]) -> Image.Image:
    """Pixels (H, W, 3) as a picture of this width and height."""
    return Image.fromarray(pixels).resize(cell, Image.Resampling.LANCZOS)


def _cell_size(size: tuple[int, int], count: int) -> tuple[int, int]:
    """Width and height of one frame in a row of at least three, none higher than 300 pixels."""
    columns = max(count, 3)
    width = (WIDTH - 2 * MARGIN - LEGEND - (columns - 1) * GAP) / columns
    scale = min(width / size[1], 300 / size[0])
    return max(round(size[1] * scale), 1), max(round(size[0] * scale), 1)


def _paste_row(picture: Image.Image, images: list[Image.Image], y: int, captions: list[str]) -> None:
    pen = ImageDraw.Draw(picture)
    for number, (image, caption) in enumerate(zip(images, captions, strict=True)):
        x = MARGIN + number * (image.width + GAP)
        _text(pen, (x, y + 3), caption, 14)
        picture.paste(image, (x, y + CAPTION))


def _draw_legend(picture: Image.Image, limits: tuple[float, float], at: tuple[int, int], height: int) -> None:
    """A bar beside the depth row, near at the top, with up to five values in metres."""
    x, y = at
    bar = colour_map(np.repeat(np.linspace(1, 0, height)[:, None], 14, axis=1))
    picture.paste(Image.fromarray(bar), (x, y))
    pen = ImageDraw.Draw(picture)
    steps = min(5, max(2, height // 24))
    for part in np.linspace(0, 1, steps):
        tick = y + part * (height - 1)
        pen.line((x + 14, tick, x + 18, tick), fill=INK)
        anchor = "lt" if part == 0 else "ls" if part == 1 else "lm"
        _text(pen, (x + 22, tick), f"{limits[0] + part * (limits[1] - limits[0]):.1f} m", 13, anchor=anchor)


@dataclass(frozen=True)
class _Plan:
    """The map from scene x, y to plan pixels: x points up, y points left."""

    centre: tuple[float, float]
    pixels_per_metre: float
    size: tuple[int, int]

    def pixels(self, xyz: np.ndarray) -> np.ndarray:
        across = self.size[0] / 2 - (xyz[..., 1] - self.centre[1]) * self.pixels_per_metre
        down = self.size[1] / 2 - (xyz[..., 0] - self.centre[0]) * self.pixels_per_metre
        return np.stack([across, down], -1)


def points_below_ceiling(
    data: SceneData, most: int
) -> tuple[Float[np.ndarray, "N 3"], UInt8[np.ndarray, "N 3"]]:
    """At most so many points that are no higher than `HEADROOM_M` above the highest camera, and their colours."""
    xyz, rgb = data.points(data.stride_for(most))
    below = xyz[:, 2] <= data.scene_from_camera[:, 2, 3].max() + HEADROOM_M
    return xyz[below], rgb[below]


def paint(
    canvas: UInt8[np.ndarray, "H W 3"], pixels: Float[np.ndarray, "N 2"], rgb: UInt8[np.ndarray, "N 3"],
    shifts: Sequence[tuple[int, int]],
) -> None:  # fmt: skip
    """Paint each pixel (x, y) at each shift; later pixels and later shifts cover earlier ones."""
    column, row = np.floor(pixels).astype(int).T
    for dx, dy in shifts:
        x, y = column + dx, row + dy
        inside = (x >= 0) & (x < canvas.shape[1]) & (y >= 0) & (y < canvas.shape[0])
        canvas[y[inside], x[inside]] = rgb[inside]


def _draw_plan(data: SceneData, boxes: Boxes, width: int) -> Image.Image:
    xyz, rgb = points_below_ceiling(data, 400_000)
    path, corners = data.scene_from_camera[:, :3, 3], corners_of(boxes)
    plan = _fit(xyz, np.concatenate([path, corners.reshape(-1, 3)]), width)
    picture = Image.new("RGB", plan.size, (248, 249, 250))
    # metres between grid lines: the smallest round number at least 40 pixels wide
    steps = (0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 50.0)
    step = next((metres for metres in steps if metres * plan.pixels_per_metre >= 40), 100.0)
    _draw_grid(picture, plan, step)
    # from the lowest point up, so that table tops cover floors; centres of points cover rims
    order, canvas = np.argsort(xyz[:, 2], kind="stable"), np.array(picture)
    paint(canvas, plan.pixels(xyz[order]), rgb[order],
          ((1, 1), (-1, 1), (1, -1), (-1, -1), (0, 1), (0, -1), (1, 0), (-1, 0), (0, 0)))  # fmt: skip
    picture.paste(Image.fromarray(canvas))
    _draw_plan_boxes(picture, plan, corners, box_labels(boxes))
    _draw_cameras(picture, plan, data)
    _draw_scale_bar(picture, plan, step)
    ImageDraw.Draw(picture).rectangle((0, 0, plan.size[0] - 1, plan.size[1] - 1), outline=GRID)
    return picture


def _fit(xyz: np.ndarray, must_show: np.ndarray, width: int) -> _Plan:
    """Show every camera and box, and the points but for the outermost 1 %, at a height that suits their shape."""
    marks = must_show[:, :2]
    if len(xyz):
        marks = np.concatenate([marks, np.percentile(xyz[:, :2], [1, 99], axis=0)])
    low, high = marks.min(0) - 0.3, marks.max(0) + 0.3
    along, across = high - low
    height = int(np.clip(width * along / across, *PLAN_HEIGHTS))
    scale = min(width / across, height / along)
    return _Plan((float(low[0] + high[0]) / 2, float(low[1] + high[1]) / 2), float(scale), (width, height))


def _draw_grid(picture: Image.Image, plan: _Plan, step: float) -> None:
    pen = ImageDraw.Draw(picture)
    reach = np.array(plan.size[::-1]) / plan.pixels_per_metre / 2
    for axis in range(2):
        first = np.ceil((plan.centre[axis] - reach[axis]) / step)
        last = np.floor((plan.centre[axis] + reach[axis]) / step)
        for value in np.arange(first, last + 1) * step:
            at = plan.pixels(np.array([value, value, 0.0]))[1 - axis]
            ends = (0, at, plan.size[0], at) if axis == 0 else (at, 0, at, plan.size[1])
            pen.line(ends, fill=GRID)


def _draw_plan_boxes(picture: Image.Image, plan: _Plan, corners: Float[np.ndarray, "Q 8 3"], labels: list[str]) -> None:
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(size=14)
    outlines = [[tuple(p) for p in plan.pixels(c[[0, 1, 2, 3, 0]]).tolist()] for c in corners]
    for number, outline in enumerate(outlines):
        pen.line(outline, fill=(0, 0, 0), width=5, joint="curve")
        pen.line(outline, fill=box_colour(number), width=3, joint="curve")
    tops = (min(outline[:4], key=lambda p: p[1]) for outline in outlines)
    tags = [(top, label, box_colour(number)) for number, (top, label) in enumerate(zip(tops, labels, strict=True))]
    draw_tags(pen, tags, font, plan.size)


def _draw_cameras(picture: Image.Image, plan: _Plan, data: SceneData) -> None:
    """The path, and for up to 24 cameras a wedge that opens as wide as the camera sees."""
    pen = ImageDraw.Draw(picture, "RGBA")
    pose = data.scene_from_camera
    path = plan.pixels(pose[:, :3, 3])
    if len(path) > 1:
        pen.line([tuple(p) for p in path.tolist()], fill=(255, 255, 255, 230), width=5, joint="curve")
        pen.line([tuple(p) for p in path.tolist()], fill=PATH, width=3, joint="curve")
    for index in data.evenly(24):
        rays = _view_edges(data, index) @ pose[index, :3, :3].T
        tips = path[index] + 30 * np.stack([-rays[:, 1], -rays[:, 0]], -1)
        wedge = [tuple(path[index].tolist()), *(tuple(tip) for tip in tips.tolist())]
        pen.polygon(wedge, fill=(*PATH, 70), outline=(*PATH, 255))
    _dot(pen, path[-1], 5, (255, 255, 255), PATH)
    _dot(pen, path[0], 6, PATH, (255, 255, 255))
    font = ImageFont.load_default(size=13)
    pen.text((path[0][0] + 9, path[0][1] + 2), "start", fill=INK, font=font, stroke_width=2, stroke_fill=PAPER)


def _view_edges(data: SceneData, index: int) -> np.ndarray:
    """Unit directions of the left and right edge of a camera's view, camera frame `(2, 3)`."""
    k, width = data.intrinsics[index], data.size[1]
    rays = np.array([[(u - k[0, 2]) / k[0, 0], 0.0, 1.0] for u in (0, width)])
    return rays / np.linalg.norm(rays, axis=1, keepdims=True)


def _draw_scale_bar(picture: Image.Image, plan: _Plan, step: float) -> None:
    pen = ImageDraw.Draw(picture)
    length, x, y = step * plan.pixels_per_metre, 14, plan.size[1] - 14
    label = f"{step:g} m"
    pen.rectangle((x - 6, y - 26, x + max(length, 30) + 6, y + 7), fill=PAPER, outline=GRID)
    pen.line((x, y, x + length, y), fill=INK, width=3)
    _text(pen, (x, y - 22), label, 13)


def _dot(pen: ImageDraw.ImageDraw, at: np.ndarray, radius: int, fill: Any, outline: Any) -> None:
    x, y = at.tolist()
    pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=fill, outline=outline, width=2)


def _text(pen: ImageDraw.ImageDraw, at: Point, text: str, size: int, anchor: str = "la") -> None:
    pen.text(at, text, fill=INK, font=ImageFont.load_default(size=size), anchor=anchor)


# ---- frames with boxes ---------------------------------------------------------------------------------------------

COLUMNS, LONGER_SIDE, GAP = 4, 320, 6
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


def check_picture_name(path: str | Path) -> None:
    """ValueError when the ending of a path names no picture format."""
    if Path(path).suffix.lower() not in PICTURE_SUFFIXES:
        raise ValueError(f"{path}: not a picture's name; let it end in one of {', '.join(PICTURE_SUFFIXES)}")


def write_frames_picture(path: str | Path, data: SceneData, boxes: Boxes = ()) -> None:
    """Write :func:`frames_picture`; ValueError for an unknown picture format."""
    check_picture_name(path)
    picture = frames_picture(data, boxes)
    with atomic_path(path) as temporary:
        picture.save(temporary)


def frames_picture(data: SceneData, boxes: Boxes = ()) -> Image.Image:
    """Up to eight frames, evenly spread, four per row, with boxes and their labels."""
    chosen = data.evenly(8)
    zoom = LONGER_SIDE / max(data.size)
    cell = (round(data.size[1] * zoom), round(data.size[0] * zoom))
    columns = min(COLUMNS, len(chosen))
    rows = math.ceil(len(chosen) / columns)
    size = (columns * (cell[0] + GAP) - GAP, rows * (cell[1] + GAP) - GAP)
    picture = Image.new("RGB", size, (255, 255, 255))
    for place, index in enumerate(chosen):
        at = (place % columns * (cell[0] + GAP), place // columns * (cell[1] + GAP))
        picture.paste(frame_with_boxes(data, index, resized(data.rgb[index], cell), boxes), at)
    return picture
