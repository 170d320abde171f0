"""A coloured triangle mesh of the visible surfaces, as GLB: depth is averaged in a grid of distances (TSDF).

Each voxel near a surface holds the mean over the frames of how far the depth lies behind it along the optical axis,
cut off at a few voxels (Curless and Levoy, 1996); the surface is where that is zero (marching cubes of scikit-image,
the extra ``mesh``). Voxels that no frame saw have no surface. Colours are means of the frames that show a vertex.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import Float, Int, UInt8

from vidllm.export.geometry import SceneData
from vidllm.export.points import TRIANGLES, GlbBuilder

INSTALL = "a mesh needs scikit-image: pip install 'vidllm[mesh]'"
VOXEL_M, MAX_VOXELS = 0.02, 8_000_000  # voxels are larger where a scene would have more of them
REACH = 4  # voxels on either side of a surface
MAX_FRAMES = 64
SLAB = 500_000  # voxels at once


def write_mesh(path: str | Path, data: SceneData, *, max_voxels: int = MAX_VOXELS) -> None:
    """Write the mesh. ValueError without scikit-image or depth."""
    vertices, faces = surface(data, max_voxels)
    builder = GlbBuilder()
    builder.add("mesh", vertices, colours_of(data, vertices), TRIANGLES, faces)
    builder.write(path)


def surface(data: SceneData, max_voxels: int) -> tuple[Float[np.ndarray, "V 3"], Int[np.ndarray, "T 3"]]:
    """Vertices in the scene frame and triangles, whose right-hand normals look at the cameras."""
    try:
        from skimage.measure import marching_cubes
    except ImportError:
        raise ValueError(INSTALL) from None
    xyz = data.samples(data.stride_for(500_000)).xyz
    if not len(xyz):
        raise ValueError("the reconstruction has no point with depth; there is no mesh of it")
    low, high = np.percentile(xyz, [0.5, 99.5], axis=0)
    voxel = max(VOXEL_M, float(np.cbrt((high - low + 0.2).prod() / max_voxels)))
    low, high = low - REACH * voxel, high + REACH * voxel
    axes = [np.arange(a, b, voxel) for a, b in zip(low, high, strict=True)]
    shape = tuple(len(axis) for axis in axes)
    total, seen = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    step = max(1, SLAB // (shape[1] * shape[2]))
    for start in range(0, shape[0], step):
        part = slice(start, start + step)
        grid = np.stack(np.meshgrid(axes[0][part], *axes[1:], indexing="ij"), -1).reshape(-1, 3)
        for frame in data.evenly(MAX_FRAMES):
            behind, known = _behind(data, frame, grid, REACH * voxel)
            total[part] += behind.reshape(total[part].shape)
            seen[part] += known.reshape(total[part].shape)
    there = seen > 0
    distance = np.where(there, total / np.maximum(seen, 1), 1)
    if not (distance < 0).any():
        raise ValueError("the frames' depth gives no surface; there is no mesh of it")
    vertices, faces, _, _ = marching_cubes(distance, 0.0, mask=there, gradient_direction="descent")
    return (vertices * voxel + low).astype(np.float32), faces


def _behind(
    data: SceneData, frame: int, points: Float[np.ndarray, "N 3"], reach: float
) -> tuple[Float[np.ndarray, " N"], Float[np.ndarray, " N"]]:
    """Distance of the surface in a frame behind each point, in reaches, at most 1; and 1 where it is known, else 0."""
    depth, z, _ = data.depth_at(frame, points)
    away = (depth - z) / reach
    known = (depth > 0) & (away > -1)
    return np.where(known, away.clip(max=1), 0), known.astype(np.float32)


def colours_of(data: SceneData, points: Float[np.ndarray, "N 3"]) -> UInt8[np.ndarray, "N 3"]:
    """The mean colour of points in the frames that show them; gray if none does."""
    total, seen = np.zeros((len(points), 3)), np.zeros((len(points), 1))
    for frame in data.evenly(MAX_FRAMES):
        shown, (row, column) = data.shows(frame, points)
        total[shown] += data.rgb[frame][row[shown], column[shown]]
        seen[shown] += 1
    return np.where(seen > 0, total / np.maximum(seen, 1), 128).round().astype(np.uint8)
