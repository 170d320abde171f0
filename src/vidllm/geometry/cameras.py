"""Pinhole cameras: intrinsics, pose encoding, projection and its inverse (Eq 3).

Extrinsics are camera-from-world ``[R|t]`` with OpenCV axes; intrinsics are in pixels of the processed image, pixel
centres at +0.5, so that ``cx = W/2`` is the middle of the image. The pose encoding is VGGT's ``absT_quaR_FoV``:
translation (3), quaternion xyzw (4), vertical and horizontal field of view in radians (2).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vidllm.geometry.precision import full_precision
from vidllm.geometry.rotations import matrix_to_quaternion, quaternion_to_matrix

#: Fields of view outside these limits (radians) are clamped when a pose is decoded, so that focal lengths stay finite.
FOV_LIMITS = (0.01, math.pi - 0.01)


def pixel_centres(
    height: int,
    width: int,
    *,
    device: torch.device | None = None,
    dtype: torch.dtype = torch.float32,
    offset: float = 0.5,
) -> Float[Tensor, "H W 2"]:
    """(u, v) of every pixel centre. ``offset=0`` gives integer indices, as VGGT's own unprojection uses."""
    v = torch.arange(height, device=device, dtype=dtype) + offset
    u = torch.arange(width, device=device, dtype=dtype) + offset
    return torch.stack(torch.broadcast_tensors(u[None, :], v[:, None]), dim=-1)


def intrinsics_from_fov(
    fov_h: Float[Tensor, "*batch"], fov_w: Float[Tensor, "*batch"], height: int, width: int
) -> Float[Tensor, "*batch 3 3"]:
    """K of a camera with vertical and horizontal fields of view (radians), principal point in the middle."""
    fx = (width / 2.0) / torch.tan(fov_w / 2.0)
    fy = (height / 2.0) / torch.tan(fov_h / 2.0)
    zero, one = torch.zeros_like(fx), torch.ones_like(fx)
    rows = (fx, zero, one * (width / 2.0), zero, fy, one * (height / 2.0), zero, zero, one)
    return torch.stack(rows, dim=-1).unflatten(-1, (3, 3))


def one_lens(intrinsics: Float[Tensor, "*batch F 3 3"], pixel_aspect: float = 1.0) -> Float[Tensor, "*batch F 3 3"]:
    """One K for all frames: medians over the frames, with the focal length of square pixels.

    ``pixel_aspect``: fx over fy of a camera whose pixels were square before the images were resized.
    """
    focal = intrinsics[..., (0, 1), (0, 1)].log().mean(-1).median(-1).values.exp()
    shared = intrinsics.median(-3, keepdim=True).values.expand_as(intrinsics).clone()
    shared[..., 0, 0], shared[..., 1, 1] = (focal[..., None] * pixel_aspect**power for power in (0.5, -0.5))
    return shared


def fov_from_intrinsics(
    intrinsics: Float[Tensor, "*batch 3 3"], height: int, width: int
) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
    """Vertical and horizontal fields of view in radians, for a principal point in the middle."""
    fov_h = 2.0 * torch.atan((height / 2.0) / intrinsics[..., 1, 1])
    fov_w = 2.0 * torch.atan((width / 2.0) / intrinsics[..., 0, 0])
    return fov_h, fov_w


def encode_pose(
    extrinsics: Float[Tensor, "*batch r 4"], intrinsics: Float[Tensor, "*batch 3 3"], image_size: tuple[int, int]
) -> Float[Tensor, "*batch 9"]:
    """Pose encoding of cameras-from-world (3x4 or 4x4) and intrinsics of images of ``image_size = (H, W)``."""
    quaternion = matrix_to_quaternion(extrinsics[..., :3, :3])
    fov = torch.stack(fov_from_intrinsics(intrinsics, *image_size), dim=-1)
    return torch.cat((extrinsics[..., :3, 3], quaternion, fov), dim=-1)


def decode_pose(
    pose_encoding: Float[Tensor, "*batch 9"],
    image_size: tuple[int, int],
    fov_limits: tuple[float, float] | None = FOV_LIMITS,
) -> tuple[Float[Tensor, "*batch 3 4"], Float[Tensor, "*batch 3 3"]]:
    """Extrinsics (camera-from-world) and intrinsics of a pose encoding.

    ``fov_limits=None`` does not clamp the fields of view (as VGGT: a field of view of 0 gives an infinite focal
    length).
    """
    translation, quaternion, fov = pose_encoding.split((3, 4, 2), dim=-1)
    if fov_limits is not None:
        fov = fov.clamp(*fov_limits)
    extrinsics = torch.cat((quaternion_to_matrix(quaternion), translation[..., None]), dim=-1)
    return extrinsics, intrinsics_from_fov(fov[..., 0], fov[..., 1], *image_size)


def to_homogeneous(extrinsics: Float[Tensor, "*batch r 4"]) -> Float[Tensor, "*batch 4 4"]:
    """3x4 or 4x4 rigid transforms as 4x4."""
    if extrinsics.shape[-2] == 4:
        return extrinsics
    if extrinsics.shape[-2] != 3:
        raise ValueError(f"expected rigid transforms (..., 3, 4) or (..., 4, 4), got shape {tuple(extrinsics.shape)}")
    last = extrinsics.new_tensor([0.0, 0.0, 0.0, 1.0]).expand(*extrinsics.shape[:-2], 1, 4)
    return torch.cat((extrinsics, last), dim=-2)


@full_precision()
def invert_extrinsics(extrinsics: Float[Tensor, "*batch r 4"]) -> Float[Tensor, "*batch 4 4"]:
    """Inverse of rigid transforms (3x4 or 4x4): world-from-camera of camera-from-world, exact up to rounding."""
    rotation = extrinsics[..., :3, :3].transpose(-1, -2)
    translation = -(rotation @ extrinsics[..., :3, 3:])
    return to_homogeneous(torch.cat((rotation, translation), dim=-1))


def camera_centres(extrinsics: Float[Tensor, "*batch r 4"]) -> Float[Tensor, "*batch 3"]:
    """Camera centres in the world, ``-R^T t``, of cameras-from-world (3x4 or 4x4)."""
    return invert_extrinsics(extrinsics)[..., :3, 3]


@full_precision()
def relative_to_first(extrinsics: Float[Tensor, "B F r 4"]) -> Float[Tensor, "B F 4 4"]:
    """Extrinsics with the first camera's frame as world: ``E_f E_1^-1``."""
    return to_homogeneous(extrinsics) @ invert_extrinsics(extrinsics[:, :1])


@full_precision()
def unproject(
    depth: Float[Tensor, "*batch H W"],
    intrinsics: Float[Tensor, "*batch 3 3"],
    extrinsics: Float[Tensor, "*batch r 4"] | None = None,
    offset: float = 0.5,
) -> Float[Tensor, "*batch H W 3"]:
    """Points of a depth map (z depth): ``R^-1 K^-1 [u,v,1]^T D - R^-1 t`` (Eq 3), in the unit of the depth.

    Without extrinsics the points are in the camera frame. ``offset`` places the pixel centres (0.5 is ours, 0 VGGT's).
    """
    uv = pixel_centres(*depth.shape[-2:], device=depth.device, dtype=depth.dtype, offset=offset).flatten(0, 1)
    return unproject_pixels(uv, depth.flatten(-2), intrinsics, extrinsics).unflatten(-2, depth.shape[-2:])


@full_precision()
def unproject_pixels(
    uv: Float[Tensor, "... 2"],
    depth: Float[Tensor, "*batch N"],
    intrinsics: Float[Tensor, "*batch 3 3"],
    extrinsics: Float[Tensor, "*batch r 4"] | None = None,
) -> Float[Tensor, "*batch N 3"]:
    """Points of pixels (N, 2) or (*batch, N, 2) at a z depth: Eq 3, including the skew of the intrinsics."""
    k = intrinsics[..., None, :, :]
    y = (uv[..., 1] - k[..., 1, 2]) / k[..., 1, 1]
    x = (uv[..., 0] - k[..., 0, 2] - k[..., 0, 1] * y) / k[..., 0, 0]
    points = torch.stack((x * depth, y * depth, depth), dim=-1)
    if extrinsics is None:
        return points
    # row vectors: (R^T c)^T = c^T R
    return (points - extrinsics[..., None, :3, 3]) @ extrinsics[..., :3, :3]


def inside_image(uv: Float[Tensor, "*batch 2"], size: Sequence[int]) -> Bool[Tensor, "*batch"]:
    """Mask of the pixels (u, v) inside an image of (H, W)."""
    return (uv > 0).all(-1) & (uv[..., 0] < size[1]) & (uv[..., 1] < size[0])


@full_precision()
def project(
    points: Float[Tensor, "... 3"],
    intrinsics: Float[Tensor, "*batch 3 3"],
    extrinsics: Float[Tensor, "*batch r 4"] | None = None,
    nearest: float | None = None,
) -> tuple[Float[Tensor, "... 2"], Float[Tensor, " ..."]]:
    """(u, v) in pixels and z depth of points of shape (*batch, any, 3): the inverse of :func:`unproject`.

    Points are in the world frame, or in the camera frame without extrinsics. For points with depth <= 0, (u, v) is
    meaningless; with ``nearest``, points nearer than this depth are projected as if at this depth.
    """
    lead = intrinsics.ndim - 2
    flat = points.reshape(*points.shape[:lead], -1, 3)
    if extrinsics is not None:
        flat = flat @ extrinsics[..., :3, :3].transpose(-1, -2) + extrinsics[..., None, :3, 3]
    depth = flat[..., 2]
    tiny = torch.finfo(depth.dtype).eps
    safe = torch.where(depth.abs() < tiny, tiny, depth) if nearest is None else depth.clamp_min(nearest)
    k = intrinsics[..., None, :, :]
    uv = flat[..., :2] / safe[..., None] * k[..., (0, 1), (0, 1)] + k[..., (0, 1), 2]
    return uv.reshape(*points.shape[:-1], 2), depth.reshape(points.shape[:-1])
