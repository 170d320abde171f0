"""Ground truth of a room and a clip in arrays: oriented and axis-aligned boxes, and both in other frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vidllm_rooms.types import Room


@dataclass(frozen=True)
class ObjectBoxes:
    """Boxes of N objects in the room frame, metres and radians.

    ids (N,) int64; centres (N, 3); sizes (N, 3) full extents along the object's own axes; yaws (N,).
    """

    ids: np.ndarray
    centres: np.ndarray
    sizes: np.ndarray
    yaws: np.ndarray

    def corners(self) -> np.ndarray:
        """The eight corners (N, 8, 3), x slowest and z fastest, negative before positive."""
        signs = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)])
        local = signs * self.sizes[:, None] / 2
        return np.asarray(np.einsum("nij,nkj->nki", _turns(self.yaws), local) + self.centres[:, None])

    def axis_aligned(self) -> tuple[np.ndarray, np.ndarray]:
        """(low, high) corners (N, 3) of the smallest boxes along the room's axes that hold the oriented boxes."""
        corners = self.corners()
        return corners.min(1), corners.max(1)

    def contain(self, index: int, points: np.ndarray, margin_m: float = 0.0) -> np.ndarray:
        """Which points (..., 3) of the room frame lie in box ``index``, grown by ``margin_m`` on every side."""
        local = (points - self.centres[index]) @ _turns(self.yaws[index : index + 1])[0]
        return np.asarray((np.abs(local) <= self.sizes[index] / 2 + margin_m).all(-1))


def object_boxes(room: Room, ids: Sequence[int] | None = None) -> ObjectBoxes:
    """The boxes of these objects (all when None), in the order given. Raises KeyError for an unknown id."""
    items = room.objects if ids is None else [room.object(number) for number in ids]
    return ObjectBoxes(
        ids=np.array([item.id for item in items], dtype=np.int64),
        centres=np.array([item.centre for item in items], dtype=np.float64).reshape(-1, 3),
        sizes=np.array([item.size for item in items], dtype=np.float64).reshape(-1, 3),
        yaws=np.array([item.yaw for item in items], dtype=np.float64),
    )


def room_points(depth_m: np.ndarray, extrinsics: np.ndarray, intrinsics: np.ndarray) -> np.ndarray:
    """Points (F, H, W, 3) in the room frame of z-depth (F, H, W), with camera-from-room extrinsics (F, 4, 4)."""
    _, height, width = depth_m.shape
    v, u = np.meshgrid(np.arange(height) + 0.5, np.arange(width) + 0.5, indexing="ij")
    pixels = np.stack([u, v, np.ones_like(u)], -1)
    rays = np.einsum("fij,hwj->fhwi", np.linalg.inv(intrinsics), pixels)
    camera = rays * depth_m[..., None] - extrinsics[:, None, None, :3, 3]
    return np.asarray(np.einsum("fji,fhwj->fhwi", extrinsics[:, :3, :3], camera))


def _turns(yaws: np.ndarray) -> np.ndarray:
    """Rotations (N, 3, 3) about z, room from object."""
    c, s, zero, one = np.cos(yaws), np.sin(yaws), np.zeros_like(yaws), np.ones_like(yaws)
    return np.stack([c, -s, zero, s, c, zero, zero, zero, one], -1).reshape(-1, 3, 3)
