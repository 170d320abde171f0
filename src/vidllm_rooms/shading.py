"""Shading of hit points: point lights with shadow maps, ambient light with occlusion from a blurred occupancy grid.

Both are computed once for a room: each light has a cube of depth maps from the same ray-caster.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from vidllm_rooms.raycast import Hits, PrimitiveTable, nearest
from vidllm_rooms.textures import EMISSION, TEXTURES, Surface, albedo, face_coordinates
from vidllm_rooms.world import Light, Primitive, Room
from vidllm_rooms.world.outline import Outline

_CELL_M = 0.16
_BIAS_M = 0.05
_SLIVER_M3 = 2e-3  # parts below this volume do not dim their surroundings
#: Columns: the camera axes (x, y, z) of the six cube faces in room axes; the face looks along z.
_FACES = (
    ((0, 1, 0), (0, 0, 1), (1, 0, 0)),
    ((0, 1, 0), (0, 0, 1), (-1, 0, 0)),
    ((1, 0, 0), (0, 0, 1), (0, 1, 0)),
    ((1, 0, 0), (0, 0, 1), (0, -1, 0)),
    ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    ((1, 0, 0), (0, 1, 0), (0, 0, -1)),
)


@dataclass(frozen=True)
class Lighting:
    """Data for shading a room: lights (L), their depth cubes and the occlusion volume.

    ``cubes`` are z-depths in metres; ``occlusion`` is the blurred occupancy (1, 1, Z, Y, X) with its lower corner
    ``low`` and ``extent`` in metres.
    """

    position: Float[Tensor, "L 3"]
    rgb: Float[Tensor, "L 3"]
    cubes: Float[Tensor, "L 6 S S"]
    occlusion: Float[Tensor, "1 1 Z Y X"]
    low: Float[Tensor, " 3"]
    extent: Float[Tensor, " 3"]
    ambient: float


def prepare(room: Room, table: PrimitiveTable, *, ambient: float = 0.45, resolution: int = 48) -> Lighting:
    """Compute the shadow cubes of the room's lights and its occlusion volume."""
    device = table.centre.device
    occlusion, low, extent = _occupancy(room)
    shades = table.texture == TEXTURES.index("lampshade")  # let light through

    def as_float(data: object) -> Tensor:
        return torch.as_tensor(np.asarray(data), dtype=torch.float32, device=device)

    return Lighting(
        position=as_float([light.position for light in room.lights]),
        rgb=as_float([light.rgb for light in room.lights]),
        cubes=_depth_cubes(table.where(~shades), room.lights, resolution),
        occlusion=as_float(occlusion)[None, None],
        low=as_float(low),
        extent=as_float(extent),
        ambient=ambient,
    )


def _depth_cubes(table: PrimitiveTable, lights: Sequence[Light], resolution: int) -> Float[Tensor, "L 6 S S"]:
    """z-depth maps of 90 degree faces around each light."""
    device = table.centre.device
    rotation = torch.tensor(_FACES, dtype=torch.float64, device=device)
    position = torch.tensor([light.position for light in lights], dtype=torch.float64, device=device)
    extrinsics = torch.eye(4, dtype=torch.float64, device=device).repeat(len(lights), 6, 1, 1)
    extrinsics[:, :, :3, :3] = rotation
    extrinsics[:, :, :3, 3] = -(rotation[None] @ position[:, None, :, None])[..., 0]
    half = resolution / 2
    camera = torch.tensor([[half, 0, half], [0, half, half], [0, 0, 1]], dtype=torch.float64, device=device)
    depth, _ = nearest(table, extrinsics.flatten(0, 1), camera.expand(6 * len(lights), 3, 3), resolution, resolution)
    return torch.where(depth > 0, depth, 1e3).view(len(lights), 6, resolution, resolution)


def _occupancy(room: Room) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(volume (Z, Y, X) of 0..1, lower corner, extent): cells inside parts or beyond the walls, blurred."""
    outline = Outline(room.polygon)
    low = np.array([*outline.array.min(0), 0.0]) - 2 * _CELL_M
    high = np.array([*outline.array.max(0), room.height]) + 2 * _CELL_M
    cells = np.ceil((high - low) / _CELL_M).astype(int)
    axes = [low[i] + (np.arange(cells[i]) + 0.5) * _CELL_M for i in range(3)]
    plane = np.stack(np.meshgrid(axes[0], axes[1]), -1)
    solid = np.zeros((cells[2], cells[1], cells[0]), dtype=np.float32)
    solid[:, outline.clearance(plane) < 0] = 1.0
    solid[(axes[2] < 0) | (axes[2] > room.height)] = 1.0
    for item in room.objects:
        for part in item.parts:
            if np.prod(part.size) > _SLIVER_M3:
                _fill(solid, axes, part)
    for axis in (0, 0, 1, 1, 2, 2):
        solid = 0.25 * np.roll(solid, 1, axis) + 0.5 * solid + 0.25 * np.roll(solid, -1, axis)
    return solid, low, cells * _CELL_M


def _fill(solid: np.ndarray, axes: list[np.ndarray], part: Primitive) -> None:
    """Marks the cells a part covers, by the share of the cell's height and a soft edge in plan."""
    centre, size = part.centre, part.size
    reach = 0.5 * float(np.hypot(size[0], size[1])) + _CELL_M
    spans = [np.flatnonzero(np.abs(axes[i] - centre[i]) < reach) for i in range(2)]
    if not len(spans[0]) or not len(spans[1]):
        return
    x, y = np.meshgrid(axes[0][spans[0]] - centre[0], axes[1][spans[1]] - centre[1])
    c, s = np.cos(part.yaw), np.sin(part.yaw)
    along, across, tall = (
        np.clip((side / 2 - np.abs(offset)) / _CELL_M + 0.5, 0, min(1, side / _CELL_M))
        for side, offset in zip(size, (c * x + s * y, c * y - s * x, axes[2] - centre[2]), strict=True)
    )
    block = solid[:, spans[1][0] : spans[1][-1] + 1, spans[0][0] : spans[0][-1] + 1]
    np.maximum(block, tall[:, None, None] * (along * across), out=block)


def shade(table: PrimitiveTable, lighting: Lighting, hits: Hits, pixel_rad: float) -> Float[Tensor, "F H W 3"]:
    """Linear colour at every hit: texture times (ambient + lights), or emission.

    ``pixel_rad`` is the angle of one pixel, which limits the detail of textures.
    """
    shape = hits.points.shape
    index = hits.primitive.clamp_min(0).flatten()
    points, normals = hits.points.view(-1, 3), hits.normals.view(-1, 3)
    texture = table.texture[index]
    row = table.packed.index_select(0, index)
    uv, unit = face_coordinates(hits.local.view(-1, 3), hits.local_normal.view(-1, 3), row[:, 3:6])
    seed, footprint = (row[:, 11] * 0.61803 + 0.137).frac(), hits.depth_m.flatten() * pixel_rad
    surface = Surface(row[:, 8:11], uv, unit, seed, footprint)
    colour = albedo(texture, surface).square()  # roughly sRGB -> linear
    light = _ambient(lighting, points, normals)
    for number in range(len(lighting.position)):
        _add_direct(lighting, number, points, normals, light)
    glow = torch.tensor([EMISSION.get(name, 0.0) for name in TEXTURES], device=points.device)
    light = torch.maximum(light, glow[texture][:, None])
    return (colour * light * (hits.primitive.flatten() >= 0)[:, None]).view(shape)


def _ambient(lighting: Lighting, points: Tensor, normals: Tensor) -> Tensor:
    """Light from everywhere, less where the surroundings are filled."""
    probe = (points + normals * 0.16 - lighting.low) / lighting.extent * 2 - 1
    filled = F.grid_sample(lighting.occlusion, probe.view(1, 1, 1, -1, 3), align_corners=False).flatten()
    openness = (1 - 1.15 * filled).clamp(0.15, 1)
    sky = 0.86 + 0.14 * normals[:, 2]
    return (lighting.ambient * openness * sky)[:, None].repeat(1, 3)


def _add_direct(lighting: Lighting, number: int, points: Tensor, normals: Tensor, light: Tensor) -> None:
    """Adds the diffuse light of one lamp, 1 / (1 + d^2 / 3), in its soft shadow, where a surface faces it."""
    ray = points - lighting.position[number]
    facing = -_dot(ray, normals)
    lit = (facing > 0).nonzero()[:, 0]
    ray, facing = ray.index_select(0, lit), facing.index_select(0, lit)
    square = _dot(ray, ray).clamp_min(1e-6)
    seen = _unshadowed(lighting.cubes[number], torch.add(ray, normals.index_select(0, lit), alpha=_BIAS_M))
    power = facing * square.rsqrt() * seen * 1.6 / (1 + square / 3)
    light.index_add_(0, lit, power[:, None] * lighting.rgb[number])


def _dot(a: Float[Tensor, "n 3"], b: Float[Tensor, "n 3"]) -> Float[Tensor, " n"]:
    return a[:, 0] * b[:, 0] + a[:, 1] * b[:, 1] + a[:, 2] * b[:, 2]


def _unshadowed(cube: Float[Tensor, "6 S S"], ray: Float[Tensor, "n 3"]) -> Float[Tensor, " n"]:
    """Share of light that passes, four soft comparisons in the cube's depth map; ``ray`` runs from the lamp."""
    size = cube.shape[-1]
    x, y, z = ray.unbind(1)
    ax, ay, az = ray.abs().unbind(1)
    along_x, along_y = (ax >= ay) & (ax >= az), (ay > ax) & (ay >= az)
    depth = torch.maximum(torch.maximum(ax, ay), az)
    face = torch.where(along_x, (x < 0).long(), torch.where(along_y, 2 + (y < 0).long(), 4 + (z < 0).long()))
    u = torch.where(along_x, y, x) / depth
    v = torch.where(along_x | along_y, z, y) / depth
    u, v = (u + 1) * (size / 2) - 0.5, (v + 1) * (size / 2) - 0.5
    u0, v0 = u.floor(), v.floor()
    fu, fv = u - u0, v - v0
    i, j = u0.long(), v0.long()
    i0, i1, j0, j1 = i.clamp(0, size - 1), (i + 1).clamp(0, size - 1), j.clamp(0, size - 1), (j + 1).clamp(0, size - 1)
    flat, base = cube.flatten(), face * (size * size)
    soft = 1 / (0.03 + depth * (2.0 / size))
    limit = depth - _BIAS_M

    def pass_of(row: Tensor, column: Tensor) -> Tensor:
        return ((flat.index_select(0, base + row * size + column) - limit) * soft + 1).clamp(0, 1)

    top = torch.lerp(pass_of(j0, i0), pass_of(j0, i1), fu)
    low = torch.lerp(pass_of(j1, i0), pass_of(j1, i1), fu)
    return torch.lerp(top, low, fv)
