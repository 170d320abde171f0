"""From a room to a clip: camera path, ray casting, shading and sensor, with exact ground truth, on CPU and GPU."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from vidllm_rooms.camera_paths import CameraPath, draw_life_path, draw_path
from vidllm_rooms.raycast import PrimitiveTable, nearest, surface
from vidllm_rooms.sensors import (
    Lens,
    draw_lens,
    draw_sensor,
    looks_at,
    photograph,
    photograph_life,
    through_lens,
)  # fmt: skip
from vidllm_rooms.shading import Lighting, prepare, shade
from vidllm_rooms.world import Clip, Room

#: Rays cast at once: bounds the memory of the candidate lists (about 300 bytes a ray).
_PIXELS = 400_000
LENS = 31  # keeps the draws of a phone's lens apart from those of the clip
#: Light from everywhere, at least and at most.
AMBIENT: dict[str, tuple[float, float]] = {"plain": (0.24, 0.48), "life": (0.08, 0.55)}


def primitives_of(room: Room, device: str | torch.device = "cpu") -> PrimitiveTable:
    """All primitives of a room, shell and objects."""
    return PrimitiveTable.build([*room.shell, *(part for item in room.objects for part in item.parts)], device)


def render_clip(
    room: Room, *, frames: int = 8, height: int = 112, width: int = 140, seed: int | None = None, device: str = "cpu"
) -> Clip:
    """Render a hand-held clip of ``frames`` images of height x width.

    Path, field of view and sensor are drawn from ``seed`` (default: the room's). Depth and ids are those of the pixel
    centres. Rooms of the look "life" are filmed by close, shaking and turning cameras, with the distortion and rolling
    shutter of a phone; depth, ids and cameras are those of a pinhole camera at the time of the middle row. ValueError
    for sizes below 1.
    """
    if min(frames, height, width) < 1:
        raise ValueError(f"expected sizes of at least 1, received {(frames, height, width)}; enlarge them")
    seed = room.seed if seed is None else seed
    rng = np.random.default_rng([seed, 1])
    draw = draw_life_path if room.look == "life" else draw_path
    path = draw(room, rng, frames, height, width)
    sensor = draw_sensor(rng, frames)
    table = primitives_of(room, device)
    lighting = prepare(room, table, ambient=float(rng.uniform(*AMBIENT[room.look])))
    if room.look == "life":
        lens = draw_lens(np.random.default_rng([seed, LENS]))
        linear, depth, instance = _filmed(table, lighting, path, lens, (height, width))
        rgb = photograph_life(linear, rng)
    else:
        linear, depth, instance = render_linear(table, lighting, path, height, width)
        rgb = photograph(linear, sensor, rng)
    pixels, ids = (x.to(torch.uint8).cpu().numpy() for x in (rgb * 255 + 0.5, instance))
    return Clip(room, pixels, depth.cpu().numpy(), ids, path.extrinsics, path.intrinsics)


def _filmed(
    table: PrimitiveTable, lighting: Lighting, path: CameraPath, lens: Lens, size: tuple[int, int]
) -> tuple[Float[Tensor, "F H W 3"], Float[Tensor, "F H W"], Int[Tensor, "F H W"]]:
    """As :func:`render_linear`, the colours as a phone's lens and rolling shutter see them."""
    (height, width), focal = size, float(path.intrinsics[0, 0, 0])
    margin = lens.margin(path.extrinsics, focal, height, width)
    shifted = path.intrinsics.copy()
    shifted[:, :2, 2] += margin
    wide = CameraPath(path.extrinsics, shifted, path.fov_deg)
    linear, depth, instance = render_linear(table, lighting, wide, height + 2 * margin, width + 2 * margin)
    looks = looks_at(lens, depth, path.extrinsics, focal, margin)
    inner = slice(None), slice(margin, margin + height), slice(margin, margin + width)
    return through_lens(linear, looks), depth[inner], instance[inner]


def render_linear(
    table: PrimitiveTable, lighting: Lighting, path: CameraPath, height: int, width: int
) -> tuple[Float[Tensor, "F H W 3"], Float[Tensor, "F H W"], Int[Tensor, "F H W"]]:
    """(linear colour, z-depth in metres, object id) of every frame of a path."""
    cameras = [torch.as_tensor(x, device=table.centre.device) for x in (path.extrinsics, path.intrinsics)]
    chunk = max(1, _PIXELS // (height * width))
    colours, depths, owners = [], [], []
    for poses, k in zip(*(x.split(chunk) for x in cameras), strict=True):
        depth, winner = nearest(table, poses, k, height, width)
        group = len(depth) if depth.is_cuda else 1  # a frame at a time: the caches of a CPU are small
        for some in zip(*(x.split(group) for x in (poses, k, depth, winner)), strict=True):
            colours.append(shade(table, lighting, surface(table, *some), 1 / float(some[1][0, 0, 0])))
        depths.append(depth)
        owners.append(torch.where(winner >= 0, table.owner[winner.clamp_min(0)], 0))
    return torch.cat(colours), torch.cat(depths), torch.cat(owners)
