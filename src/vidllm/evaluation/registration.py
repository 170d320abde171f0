"""From our scene frame to the frame of a dataset's boxes, by ONE known camera pose; used for evaluation only.

A prediction lives in the level frame of the first camera (docs/method.md, section 0), a benchmark's boxes in the
dataset's aligned frame. The two are joined at the first camera that the model saw: its true pose says where the world
of the reconstruction stands, and nothing is fitted, neither a scale nor a rotation. A least-squares alignment of all
camera centres (Umeyama) would be the alternative; it would take a part of the model's own error in scale, drift and
gravity out of the boxes, and it is not determined for a camera that only turns. Whatever the model gets wrong stays.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float

from vidllm.datasets.layout import DataRoot
from vidllm.datasets.scannet import ScanNetScene
from vidllm.geometry.boxes import box_corners

#: Our corners in the order of ScanRefer's evaluators: the upper face, then the lower one, clockwise seen from above.
_ORDER = [6, 5, 4, 7, 2, 1, 0, 3]

Transform = Float[np.ndarray, "4 4"]


def aligned_from_scene(aligned_from_first: Transform, scene_from_world: Transform) -> Transform:
    """The rigid motion from the scene frame of a reconstruction to the aligned frame of its dataset.

    ``aligned_from_first`` is the true pose of the first camera seen (aligned-from-camera), ``scene_from_world`` the
    reconstruction's own levelling of that camera's frame.
    """
    moved: np.ndarray = aligned_from_first.astype(np.float64) @ np.linalg.inv(scene_from_world.astype(np.float64))
    return moved


def moved_points(transform: Transform, points: Float[np.ndarray, "*batch 3"]) -> Float[np.ndarray, "*batch 3"]:
    """Points (..., 3) after a 4x4 transform, float64."""
    return np.asarray(points.astype(np.float64) @ transform[:3, :3].T + transform[:3, 3])


def oriented_corners(box: Sequence[float] | np.ndarray, transform: Transform | None = None) -> Float[np.ndarray, "8 3"]:
    """Corners of a box (centre, size, yaw), moved by ``transform`` where one is given, upper face first."""
    corners = box_corners(torch.tensor([float(number) for number in box], dtype=torch.float64))[_ORDER].numpy()
    return corners if transform is None else moved_points(transform, corners)


def aligned_corners(box: Sequence[float] | np.ndarray) -> Float[np.ndarray, "8 3"]:
    """Corners of an axis-aligned box (centre, size), upper face first."""
    return oriented_corners([*box[:6], 0.0])


def in_scene(box: Sequence[float] | np.ndarray, to_aligned: Transform) -> list[float]:
    """An axis-aligned box (centre, size) of the aligned frame as (centre, size, yaw) in the scene frame.

    Its yaw is the heading of the aligned x axis there; should the two disagree about gravity, the tilt is left out.
    """
    back = np.linalg.inv(to_aligned)
    centre = moved_points(back, np.asarray(box[:3], np.float64))
    return [*centre.tolist(), *(float(side) for side in box[3:6]), math.atan2(back[1, 0], back[0, 0])]


# ---- the boxes of a scan's annotated objects, by their ids ----


def object_boxes(scene: ScanNetScene) -> dict[int, np.ndarray]:
    """Centre and size (6,) of every annotated object in the aligned frame, by its id."""
    return {i.object_id: np.array(i.box, np.float64) for i in scene.instances if i.box is not None}


def object_corners(boxes: Mapping[int, np.ndarray], scene: str, object_id: int, what: str) -> Float[np.ndarray, "8 3"]:
    """The corners of an annotated object's box; ValueError naming the entry ``what`` when there is none."""
    if object_id not in boxes:
        raise ValueError(
            f"{what}: {scene} has no object {object_id} with a box; are annotations and scans one release?"
        )
    return aligned_corners(boxes[object_id])


def box_reader(data: DataRoot) -> Callable[[str, int, str], np.ndarray]:
    """Corners of annotated objects by (scene, object id, entry's name), each scan read once."""
    held: dict[str, dict[int, np.ndarray]] = {}

    def box_of(scene: str, object_id: int, what: str) -> np.ndarray:
        if scene not in held:
            held[scene] = object_boxes(data.scene(scene))
        return object_corners(held[scene], scene, object_id, what)

    return box_of
