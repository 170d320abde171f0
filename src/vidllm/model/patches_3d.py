"""3D patches: image patches lifted to 3D, with a position embedding, pooled over voxels (Eqs 3 and 4).

Eq 3 maps the patch centre (u, v) and its depth to a world point. Eq 4 adds an embedding of this point to the patch's
token. Tokens in one voxel are averaged, so a surface seen by many frames has each token once; above the maximum number
of tokens the voxel size grows until the scene fits.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from vidllm.geometry.cameras import unproject_pixels
from vidllm.model.outputs import PooledPatches

#: Root mean square of a visual token behind the norm: that of a small language model's stream behind its first layer.
#: Tokens of the size of words (0.1) are overwritten there: what they show is hardly left in the layers that read it.
TOKEN_SIZE = 10.0
VOXEL_GROWTH = 1.1  # factor a step when a scene has more voxels than the cap


class PositionEmbedding(nn.Module):
    """A point in space as a token: Linear-LayerNorm-ReLU-Linear (module names and order as LLaVA-3D's)."""

    def __init__(self, out_dim: int) -> None:
        super().__init__()
        first, last = nn.Linear(3, out_dim), nn.Linear(out_dim, out_dim)
        self.position_embedding_head = nn.Sequential(first, nn.LayerNorm(out_dim), nn.ReLU(), last)
        for layer in (first, last):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, positions: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch C"]:
        """Embed positions given in metres."""
        return self.position_embedding_head(positions)


class Projector(nn.Sequential):
    """From the encoder's width to the language model's: Linear-GELU-Linear ("mlp2x_gelu").

    With ``norm``, a LayerNorm follows that brings all tokens to one size.
    """

    def __init__(self, in_dim: int, out_dim: int, *, norm: bool = False) -> None:
        layers: list[nn.Module] = [nn.Linear(in_dim, out_dim), nn.GELU(), nn.Linear(out_dim, out_dim)]
        super().__init__(*layers, *([nn.LayerNorm(out_dim)] if norm else []))
        if norm:
            nn.init.constant_(self[3].weight, TOKEN_SIZE)  # type: ignore[arg-type]


def patch_centres(grid: tuple[int, int], patch_size: int, device: torch.device | None = None) -> Float[Tensor, "P 2"]:
    """Pixel coordinates (u, v) of the patch centres, row by row; pixel centres lie at +0.5."""
    rows, columns = (torch.arange(n, device=device, dtype=torch.float32) for n in grid)
    v, u = torch.meshgrid(rows, columns, indexing="ij")
    return (torch.stack([u, v], dim=-1).flatten(0, 1) + 0.5) * patch_size


def depth_at_centres(
    depth: Float[Tensor, "B F H W"], grid: tuple[int, int], patch_size: int
) -> tuple[Float[Tensor, "B F P"], Bool[Tensor, "B F P"]]:
    """Depth at each patch centre, and whether it is known (float32).

    The centre of an even patch is a pixel corner: the four pixels around it are averaged in inverse depth, which is
    exact on planes, over those that are finite and positive. An odd patch has a central pixel.
    """
    size = (grid[0] * patch_size, grid[1] * patch_size)
    if tuple(depth.shape[-2:]) != size:
        raise ValueError(
            f"depth is {tuple(depth.shape[-2:])} but grid {grid} x patch {patch_size} is {size}: pass both"
        )
    tiles = depth.float().unflatten(3, (grid[1], patch_size)).unflatten(2, (grid[0], patch_size))
    low, high = (patch_size - 1) // 2, patch_size // 2
    corners = torch.stack([tiles[:, :, :, r, :, c] for r in (low, high) for c in (low, high)], dim=-1)
    known = corners.isfinite() & (corners > 0)
    inverse = torch.where(known, corners, 1.0).reciprocal() * known
    count = known.sum(-1)
    centre = count / torch.where(count > 0, inverse.sum(-1), 1.0)
    return centre.flatten(2), (count > 0).flatten(2)


def back_project(
    depth: Float[Tensor, "B F H W"],
    intrinsics: Float[Tensor, "B F 3 3"],
    extrinsics: Float[Tensor, "B F _ 4"],
    grid: tuple[int, int],
    patch_size: int,
) -> tuple[Float[Tensor, "B F P 3"], Bool[Tensor, "B F P"]]:
    """Eq 3: world points of the patch centres, ``R^T (K^-1 [u v 1]^T D - t)``, in float32.

    Args:
        depth: depth along the optical axis; its unit is the unit of the points. Zero, negative or not finite: unknown.
        intrinsics: pixels of the processed image.
        extrinsics: camera-from-world [R|t], 3x4 or 4x4, in the depth's unit.
        grid: patch rows and columns.
        patch_size: pixels.

    Returns:
        The points (zero where unknown) and which are known.
    """
    centre_depth, valid = depth_at_centres(depth, grid, patch_size)
    pixels = patch_centres(grid, patch_size, depth.device)
    world = unproject_pixels(pixels, centre_depth, intrinsics.float(), extrinsics.float())
    valid = valid & world.isfinite().all(-1)
    return torch.where(valid[..., None], world, 0.0), valid


def voxel_pool(
    features: Float[Tensor, "B N C"],
    positions: Float[Tensor, "B N 3"],
    valid: Bool[Tensor, "B N"],
    voxel_size: float,
    max_patches: int,
) -> PooledPatches:
    """Mean feature and position of every occupied voxel, in the order of the voxel's integer (x, y, z).

    Args:
        features: one row a patch; differentiable. The mean is taken in float32.
        positions: metres.
        valid: patches to pool; the others are left out.
        voxel_size: metres; a voxel is ``round(position / voxel_size)``.
        max_patches: cap a scene; over it the scene's voxel grows by steps of 10% until under it.
    """
    if voxel_size <= 0 or max_patches < 1:
        raise ValueError(f"expected voxel_size > 0 and max_patches >= 1, received {voxel_size} and {max_patches}")
    scenes = [_pool_scene(f, p, v, voxel_size, max_patches) for f, p, v in zip(features, positions, valid, strict=True)]
    counts = torch.tensor([len(scene[0]) for scene in scenes], device=features.device)
    longest = max(1, int(counts.max()))

    def padded(rows: list[Tensor]) -> Tensor:
        return torch.stack([F.pad(row, (0, 0, 0, longest - len(row))) for row in rows])

    return PooledPatches(
        padded([scene[0] for scene in scenes]),
        padded([scene[1] for scene in scenes]),
        torch.arange(longest, device=features.device) < counts[:, None],
        torch.stack([scene[2] for scene in scenes]),
        positions.new_tensor([scene[3] for scene in scenes], dtype=torch.float32),
    )


def _pool_scene(
    features: Tensor, positions: Tensor, valid: Tensor, voxel_size: float, max_patches: int
) -> tuple[Tensor, Tensor, Tensor, float]:
    kept = positions[valid].detach().float()
    index, count = _voxel_index(kept, voxel_size)
    while count > max_patches:
        voxel_size *= VOXEL_GROWTH
        index, count = _voxel_index(kept, voxel_size)
    inverse = torch.full(valid.shape, -1, dtype=torch.long, device=valid.device)
    inverse[valid] = index
    mean = _segment_mean(features[valid], index, count)
    return mean, _segment_mean(positions[valid], index, count), inverse, voxel_size


def _voxel_index(positions: Float[Tensor, "n 3"], voxel_size: float) -> tuple[Int[Tensor, " n"], int]:
    """Index of each position's voxel among the occupied ones (sorted by x, then y, then z), and their number.

    Axes are first replaced by ranks, so that the combined key cannot overflow however far a point lies.
    """
    if len(positions) == 0:
        return torch.zeros(0, dtype=torch.long, device=positions.device), 0
    keys = (positions / voxel_size).round()
    ranks = [torch.unique(axis, return_inverse=True)[1] for axis in keys.unbind(-1)]
    combined = ranks[0]
    for rank in ranks[1:]:
        combined = combined * (rank.max() + 1) + rank
    occupied, index = torch.unique(combined, return_inverse=True)
    return index, len(occupied)


def _segment_mean(values: Float[Tensor, "n C"], index: Int[Tensor, " n"], count: int) -> Float[Tensor, "m C"]:
    total = values.new_zeros(count, values.shape[1], dtype=torch.float32).index_add(0, index, values.float())
    members = torch.bincount(index, minlength=count).clamp(min=1)
    return (total / members[:, None]).to(values.dtype)
