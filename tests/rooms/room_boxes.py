"""Ground truth of a room and a clip, in the room's frame: boxes (N,7) of objects and the points that pixels show."""

from __future__ import annotations

import numpy as np
import torch

from vidllm.geometry.cameras import unproject
from vidllm_rooms.world import Room


def object_boxes(room: Room) -> torch.Tensor:
    return torch.tensor([[*o.centre, *o.size, o.yaw] for o in room.objects], dtype=torch.float64)


def room_points(depth_m: np.ndarray, extrinsics: np.ndarray, intrinsics: np.ndarray) -> np.ndarray:
    depth, poses, k = (torch.from_numpy(np.asarray(x, np.float64)) for x in (depth_m, extrinsics, intrinsics))
    return unproject(depth, k, poses).numpy()
