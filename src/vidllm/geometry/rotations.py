"""Rotations: unit quaternions in xyzw order (scalar last), matrices, angles.

Quaternions need not have unit length: ``quaternion_to_matrix`` divides by the squared length, as VGGT's pose encoding
expects of its camera head (docs/method.md, section 4).
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from vidllm.geometry.precision import full_precision


def quaternion_to_matrix(quaternion: Float[Tensor, "*batch 4"]) -> Float[Tensor, "*batch 3 3"]:
    """Rotation matrices of quaternions (x, y, z, w) of any non-zero length; the zero quaternion gives the identity."""
    x, y, z, w = quaternion.unbind(-1)
    two = 2.0 / quaternion.square().sum(-1).clamp_min(torch.finfo(quaternion.dtype).tiny)
    rows = (
        1 - two * (y * y + z * z), two * (x * y - z * w), two * (x * z + y * w),
        two * (x * y + z * w), 1 - two * (x * x + z * z), two * (y * z - x * w),
        two * (x * z - y * w), two * (y * z + x * w), 1 - two * (x * x + y * y),
    )  # fmt: skip
    return torch.stack(rows, dim=-1).unflatten(-1, (3, 3))


def matrix_to_quaternion(matrix: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 4"]:
    """Unit quaternions (x, y, z, w) with w >= 0 of rotation matrices.

    Each of the four components can be the pivot of an exact formula; the largest one is used, so that no division is
    by a number below one half.
    """
    m00, m11, m22 = torch.diagonal(matrix, dim1=-2, dim2=-1).unbind(-1)
    squares = torch.stack((1 + m00 - m11 - m22, 1 - m00 + m11 - m22, 1 - m00 - m11 + m22, 1 + m00 + m11 + m22), -1)
    (a, b, c, d), (yz, xz, xy), (xw, yw, zw) = squares.unbind(-1), *_pairs(matrix)
    rows = (a, xy, xz, xw, xy, b, yz, yw, xz, yz, c, zw, xw, yw, zw, d)
    candidates = torch.stack(rows, -1).unflatten(-1, (4, 4))
    pivot = squares.argmax(-1)[..., None, None].expand(*squares.shape[:-1], 1, 4)
    best = torch.gather(candidates, -2, pivot).squeeze(-2)
    unit = best / best.norm(dim=-1, keepdim=True)
    return torch.where(unit[..., 3:] < 0, -unit, unit)


def _pairs(r: Tensor) -> tuple[tuple[Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]:
    """Sums and differences of mirrored off-diagonal entries: (yz, xz, xy) and (x w, y w, z w), each times four."""
    sums = (r[..., 1, 2] + r[..., 2, 1], r[..., 0, 2] + r[..., 2, 0], r[..., 0, 1] + r[..., 1, 0])
    differences = (r[..., 2, 1] - r[..., 1, 2], r[..., 0, 2] - r[..., 2, 0], r[..., 1, 0] - r[..., 0, 1])
    return sums, differences


def nearest_rotation(matrix: Float[Tensor, "3 3"]) -> tuple[Float[Tensor, "3 3"], Float[Tensor, ""]]:
    """The rotation R with the largest trace of R^T matrix, and this trace (Kabsch)."""
    u, singular, vt = torch.linalg.svd(matrix)
    sign = torch.ones_like(singular)
    sign[2] = torch.sign(torch.linalg.det(u) * torch.linalg.det(vt))
    return (u * sign) @ vt, (singular * sign).sum()


def cross_matrices(vectors: Float[Tensor, "*any 3"]) -> Float[Tensor, "*any 3 3"]:
    """[v]_x, so that ``[v]_x w = v x w``."""
    x, y, z = vectors.unbind(-1)
    zero = torch.zeros_like(x)
    return torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).unflatten(-1, (3, 3))


@full_precision()
def rotation_angle_deg(a: Float[Tensor, "*#batch 3 3"], b: Float[Tensor, "*#batch 3 3"]) -> Float[Tensor, "*batch"]:
    """Angle in degrees (0..180) of the rotation from ``a`` to ``b``; accurate near 0 and near 180."""
    relative = a.transpose(-1, -2) @ b
    cosine2 = torch.diagonal(relative, dim1=-2, dim2=-1).sum(-1) - 1  # 2 cos
    sine2 = torch.stack(_pairs(relative)[1], -1).norm(dim=-1)  # 2 sin
    return torch.rad2deg(torch.atan2(sine2, cosine2))


def rotation_z(yaw: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch 3 3"]:
    """Rotation matrices about z by ``yaw`` radians, counter-clockwise seen from above."""
    cosine, sine = yaw.cos(), yaw.sin()
    zero, one = torch.zeros_like(yaw), torch.ones_like(yaw)
    rows = (cosine, -sine, zero, sine, cosine, zero, zero, zero, one)
    return torch.stack(rows, dim=-1).unflatten(-1, (3, 3))
