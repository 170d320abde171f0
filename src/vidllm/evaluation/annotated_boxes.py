"""The boxes of a scan's annotated objects by their ids, as the benchmarks' references name them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Float

from vidllm.datasets.layout import DataRoot
from vidllm.datasets.scannet import ScanNetScene
from vidllm.evaluation.registration import aligned_corners

__all__ = ["box_reader", "object_boxes", "object_corners"]


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
