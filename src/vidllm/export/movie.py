"""A video of a scene: its frames with boxes, then a turn around the points, seen from above."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from vidllm.export.box_drawing import Boxes, boxes_array, draw_boxes, frame_with_boxes
from vidllm.export.geometry import SceneData
from vidllm.export.pictures import paint, points_below_ceiling, resized
from vidllm.io.video import write_video

FPS, HOLD = 6, 2  # pictures a second; how many of them show one frame
LONGER_SIDE, MAX_FRAMES, TURN = 640, 64, 60  # pixels; frames that are shown; views of the turn
DOWN = math.radians(35)  # how far the turn looks down
VIEW = (480, 640)  # rows and columns of a single view
BACKGROUND = (20, 24, 31)
MAX_POINTS = 250_000


def write_movie(path: str | Path, data: SceneData, *, boxes: Boxes = ()) -> None:
    """Write an MP4 of at most 32 seconds."""
    boxes_array(boxes)
    zoom = LONGER_SIDE / max(data.size)
    height, width = (max(2, 2 * round(side * zoom / 2)) for side in data.size)
    size = (height, width)
    turn = np.linspace(0, 2 * math.pi, TURN, endpoint=False) + math.pi
    pictures = [*_annotated(data, boxes, size), *_views(data, boxes, size, turn.tolist(), DOWN)]
    write_video(path, np.stack(pictures), FPS)


def _annotated(data: SceneData, boxes: Boxes, size: tuple[int, int]) -> Iterator[np.ndarray]:
    for index in data.evenly(MAX_FRAMES):
        drawn = frame_with_boxes(data, index, resized(data.rgb[index], size[::-1]), boxes)
        yield from [np.asarray(drawn)] * HOLD


def view_from(data: SceneData, boxes: Boxes, angle: float, down: float) -> UInt8[np.ndarray, "H W 3"]:
    """A picture of points and boxes from direction `angle` about z, looking down by `down` (both radians)."""
    return next(_views(data, boxes, VIEW, [angle], down))


def _views(
    data: SceneData, boxes: Boxes, size: tuple[int, int], angles: Sequence[float], down: float
) -> Iterator[np.ndarray]:
    """Points without ceilings, from outside."""
    xyz, rgb = points_below_ceiling(data, MAX_POINTS)
    path, xyz = data.scene_from_camera[:, :3, 3], xyz.astype(np.float64)
    spread = np.percentile(xyz, [3, 97], axis=0) if len(xyz) else np.stack([path.min(0), path.max(0)])
    centre, radius = spread.mean(0), max(float(np.linalg.norm(spread[1] - spread[0])) / 2, 0.1)
    focal = min(size) * 1.1
    intrinsics = np.array([[focal, 0, size[1] / 2], [0, focal, size[0] / 2], [0, 0, 1.0]])
    for angle in angles:
        pose = looking_at(centre, radius * 2.3, angle, down)
        yield np.asarray(draw_boxes(_drawn(xyz, rgb, intrinsics, pose, size), boxes, intrinsics, pose))


def looking_at(centre: np.ndarray, distance: float, angle: float, down: float) -> np.ndarray:
    """Camera-from-scene (4,4) of a camera `distance` away from `centre` in direction `angle` that looks down at it."""
    away = np.array([math.cos(angle) * math.cos(down), math.sin(angle) * math.cos(down), math.sin(down)])
    right = np.array([-math.sin(angle), math.cos(angle), 0.0])
    rotation = np.stack([right, np.cross(-away, right), -away])
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = rotation, -rotation @ (centre + distance * away)
    return pose


def _drawn(
    xyz: np.ndarray, rgb: np.ndarray, intrinsics: np.ndarray, pose: np.ndarray, size: tuple[int, int]
) -> Image.Image:
    """Points as squares of 3 pixels, the far ones first."""
    canvas = np.full((*size, 3), BACKGROUND, np.uint8)
    camera = xyz @ pose[:3, :3].T + pose[:3, 3]
    order = np.argsort(-camera[:, 2], kind="stable")
    order = order[camera[order, 2] > 0.05]
    pixels = camera[order] @ intrinsics.T
    paint(canvas, pixels[:, :2] / pixels[:, 2:], rgb[order], ((-1, 0), (1, 0), (0, -1), (0, 1), (0, 0)))
    return Image.fromarray(canvas)
