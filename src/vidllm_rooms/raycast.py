"""A ray-caster for CPU and GPU: analytic depth of boxes, upright cylinders and ellipsoids.

Every primitive is a unit solid after an affine map, and the map from a pixel to the ray direction in that unit space is
affine in (u, v). Each primitive is projected to a screen rectangle, the ragged list of (pixel, primitive) pairs is
intersected in one-dimensional vectors, and the nearest hit of a pixel is kept. Rays have unit length along the optical
axis, so the ray parameter is the z-depth in metres.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from vidllm.geometry.cameras import camera_centres, pixel_centres
from vidllm_rooms.textures import TEXTURES
from vidllm_rooms.world import Primitive

Poses = Float[Tensor, "F 4 4"]
Cameras = Float[Tensor, "F 3 3"]
KINDS = ("box", "cylinder", "ellipsoid")
NEAR_M = 1e-2
_EDGES = ((0, 1), (2, 3), (4, 5), (6, 7), (0, 2), (1, 3), (4, 6), (5, 7), (0, 4), (1, 5), (2, 6), (3, 7))


@dataclass(frozen=True)
class PrimitiveTable:
    """N primitives as tensors, sorted by kind (boxes, cylinders, ellipsoids).

    ``rotation`` is room-from-local, ``half`` the half extents in metres, ``counts`` how many of each kind.
    """

    counts: tuple[int, ...]
    kind: Int[Tensor, " N"]
    centre: Float[Tensor, "N 3"]
    half: Float[Tensor, "N 3"]
    rotation: Float[Tensor, "N 3 3"]
    texture: Int[Tensor, " N"]
    owner: Int[Tensor, " N"]
    packed: Float[Tensor, "N 12"]  # centre, half, cos, sin, rgb, owner: what shading gathers per pixel

    def __len__(self) -> int:
        return len(self.kind)

    def where(self, keep: Bool[Tensor, " N"]) -> PrimitiveTable:
        """The selected primitives."""
        kept = {name: value[keep] for name, value in vars(self).items() if name != "counts"}
        return PrimitiveTable(tuple(torch.bincount(kept["kind"], minlength=3).tolist()), **kept)

    @staticmethod
    def build(primitives: Sequence[Primitive], device: str | torch.device = "cpu") -> PrimitiveTable:
        """The table of these primitives on ``device`` (float64 geometry; rays are cast in float32)."""
        items = sorted(primitives, key=lambda item: KINDS.index(item.kind))
        kinds = [KINDS.index(item.kind) for item in items]
        yaw = np.array([item.yaw for item in items])
        rotation = np.zeros((len(items), 3, 3))
        rotation[:, 0, 0] = rotation[:, 1, 1] = np.cos(yaw)
        rotation[:, 1, 0], rotation[:, 0, 1] = np.sin(yaw), -np.sin(yaw)
        rotation[:, 2, 2] = 1.0
        centre = np.array([item.centre for item in items]).reshape(-1, 3)
        half = np.array([item.size for item in items]).reshape(-1, 3) / 2
        rgb = np.array([item.rgb for item in items]).reshape(-1, 3)
        owner = np.array([item.owner for item in items])
        packed = np.column_stack([centre, half, np.cos(yaw), np.sin(yaw), rgb, owner])

        def put(data: object, dtype: torch.dtype) -> Tensor:
            return torch.as_tensor(np.asarray(data), dtype=dtype, device=device)

        return PrimitiveTable(
            counts=tuple(kinds.count(number) for number in range(3)),
            kind=put(kinds, torch.long),
            centre=put(centre, torch.float64),
            half=put(half, torch.float64),
            rotation=put(rotation, torch.float64),
            texture=put([TEXTURES.index(item.texture) for item in items], torch.long),
            owner=put(owner, torch.long),
            packed=put(packed, torch.float32),
        )


@dataclass(frozen=True)
class Hits:
    """Results of ray casting. Misses have primitive -1, depth 0, and zero normals and points.

    depth_m is z-depth; normals and points are in the room frame, ``local`` in the primitive's own frame (metres from
    its centre), ``local_normal`` likewise.
    """

    depth_m: Float[Tensor, "F H W"]
    primitive: Int[Tensor, "F H W"]
    normals: Float[Tensor, "F H W 3"]
    points: Float[Tensor, "F H W 3"]
    local: Float[Tensor, "F H W 3"]
    local_normal: Float[Tensor, "F H W 3"]


def nearest(
    primitives: PrimitiveTable, extrinsics: Poses, intrinsics: Cameras, height: int, width: int
) -> tuple[Float[Tensor, "F H W"], Int[Tensor, "F H W"]]:
    """(depth in metres, index of the primitive) of the ray through each pixel centre; (0, -1) without a hit.

    ``extrinsics`` are camera-from-room, ``intrinsics`` in pixels (pixel centres at +0.5).
    """
    extrinsics, intrinsics = extrinsics.double(), intrinsics.double()
    frames, device = len(extrinsics), extrinsics.device
    linear, origin = _unit_rays(primitives, extrinsics, intrinsics)
    rectangles = _screen_rectangles(primitives, extrinsics, intrinsics, height, width)
    empty = torch.iinfo(torch.int64).max
    best = torch.full((frames * height * width,), empty, dtype=torch.int64, device=device)
    start = 0
    for kind, count in enumerate(primitives.counts):
        span = slice(start * frames, (start + count) * frames)
        start += count
        if count:
            _reduce_kind(kind, span, linear, origin, rectangles, (frames, height, width), best)
    missed = best == empty
    depth = torch.where(missed, 0, best >> 32).to(torch.int32).view(torch.float32)
    winner = torch.where(missed, -1, best & 0xFFFFFFFF)
    return depth.view(frames, height, width), winner.view(frames, height, width)


def _unit_rays(
    table: PrimitiveTable, extrinsics: Poses, intrinsics: Cameras
) -> tuple[Float[Tensor, "R 3 3"], Float[Tensor, "R 3"]]:
    """Maps (u, v, 1) -> ray direction, and the ray origins, in each primitive's unit space; R = N x F."""
    directions = extrinsics[:, :3, :3].transpose(1, 2) @ torch.linalg.inv(intrinsics)
    centres = camera_centres(extrinsics)
    unit = table.rotation.transpose(1, 2) / table.half[:, :, None]
    linear = unit[:, None] @ directions[None]
    origin = (unit[:, None] @ (centres[None] - table.centre[:, None])[..., None])[..., 0]
    return linear.flatten(0, 1).float(), origin.flatten(0, 1).float()


def _screen_rectangles(
    table: PrimitiveTable, extrinsics: Poses, intrinsics: Cameras, height: int, width: int
) -> Int[Tensor, "R 4"]:
    """(first column, first row, columns, rows) that can see each primitive; its box is clipped at the near plane."""
    device = table.half.device
    signs = torch.tensor([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], device=device)
    corners = table.centre[:, None] + (signs * table.half[:, None]) @ table.rotation.transpose(1, 2)
    turn = (intrinsics @ extrinsics[:, :3, :3]).transpose(1, 2)
    shift = (intrinsics @ extrinsics[:, :3, 3:])[..., 0]
    image = (torch.einsum("nck,fkj->jnfc", corners, turn) + shift.T[:, None, :, None]).float()  # (3, N, F, 8)
    low, high = (image[:2] / image[2].clamp_min(0.99 * NEAR_M)).aminmax(dim=-1)
    near = image[2].amin(-1) < NEAR_M
    cut = near & (image[2].amax(-1) >= NEAR_M)
    low[:, near], high[:, near] = torch.inf, -torch.inf
    if bool(cut.any()):
        low[:, cut], high[:, cut] = _cut_bounds(image[:, cut])
    limit = torch.tensor([width, height], device=device)[:, None, None]
    first = low.sub(0.51).ceil().clamp_min(0).minimum(limit)
    last = high.sub(0.49).floor().minimum(limit - 1)
    extent = (last - first + 1).clamp_min(0)
    return torch.cat([first, extent]).long().flatten(1).T


def _cut_bounds(image: Float[Tensor, "3 A 8"]) -> tuple[Float[Tensor, "2 A"], Float[Tensor, "2 A"]]:
    """Least and greatest (u, v) of the parts before the near plane of the edges of boxes that cross it."""
    edges = torch.tensor(_EDGES, device=image.device)
    a, b = image[..., edges[:, 0]], image[..., edges[:, 1]]
    swap = a[2] > b[2]
    a, b = torch.where(swap, b, a), torch.where(swap, a, b)
    share = ((NEAR_M - a[2]) / (b[2] - a[2]).clamp_min(1e-12)).clamp(0, 1)
    points = torch.cat([a + (b - a) * share, b], -1)
    pixel = points[:2] / points[2].clamp_min(0.99 * NEAR_M)
    before = (b[2] >= NEAR_M).repeat(1, 2)
    return torch.where(before, pixel, torch.inf).amin(-1), torch.where(before, pixel, -torch.inf).amax(-1)


def _ramp(counts: Int[Tensor, " A"]) -> tuple[Int[Tensor, " T"], Int[Tensor, " T"]]:
    """(owner, position within the owner) of every element of a ragged list with these row lengths."""
    owner = torch.repeat_interleave(counts)
    starts = torch.cumsum(counts, 0) - counts
    return owner, torch.arange(len(owner), device=counts.device) - starts.index_select(0, owner)


def _reduce_kind(
    kind: int, span: slice, linear: Float[Tensor, "R 3 3"], origin: Float[Tensor, "R 3"],
    rectangles: Int[Tensor, "R 4"], shape: tuple[int, int, int], best: Int[Tensor, " pixels"],
) -> None:  # fmt: skip
    """Intersect all candidate pairs of one kind and lower ``best``, whose keys are (depth bits, primitive)."""
    frames, height, width = shape
    first_u, first_v, columns, rows = rectangles[span].unbind(1)
    ray, row = _ramp(torch.where(columns > 0, rows, 0))  # one entry per (primitive, frame, image row)
    v, index = first_v[ray] + row, ray + span.start
    first_pixel = (index % frames * height + v) * width + first_u[ray]
    row_direction = linear[index, :, 1] * (v[:, None] + 0.5) + linear[index, :, 2]
    start_direction = row_direction + linear[index, :, 0] * (first_u[ray, None] + 0.5)
    owner, column = _ramp(columns[ray])
    u = column.to(linear.dtype)
    per_row = (linear[index, :, 0], start_direction, origin[index])
    step, start, local = ([x.index_select(0, owner) for x in rows3.T.contiguous()] for rows3 in per_row)
    direction = [torch.addcmul(a, b, u) for a, b in zip(start, step, strict=True)]
    t, leave = _INTERSECT[kind](local, direction)
    keep = ((t <= leave) & (t > NEAR_M)).nonzero()[:, 0]
    t, owner, column = (x.index_select(0, keep) for x in (t, owner, column))
    key = (t.view(torch.int32).long() << 32) | torch.div(index, frames, rounding_mode="floor").index_select(0, owner)
    best.scatter_reduce_(0, first_pixel.index_select(0, owner) + column, key, "amin", include_self=True)


def _slab(origin: Tensor, direction: Tensor) -> tuple[Tensor, Tensor]:
    """Entry and exit of rays through -1 <= x <= 1."""
    inverse = torch.where(direction.abs() < 1e-12, 1e-12, direction).reciprocal_()
    middle = origin.mul(inverse).neg_()
    reach = inverse.abs_()
    return middle - reach, middle + reach


def _round(origin: list[Tensor], direction: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Entry and exit of rays through the unit ball of these axes (NaN where they pass by)."""
    square = sum((d * d for d in direction[1:]), direction[0] * direction[0]).clamp_min_(1e-20)
    along = sum((o * d for o, d in zip(origin[1:], direction[1:], strict=True)), origin[0] * direction[0])
    middle = -along / square
    offset = [torch.addcmul(o, d, middle) for o, d in zip(origin, direction, strict=True)]
    inside = 1 - sum((q * q for q in offset[1:]), offset[0] * offset[0])
    reach = (inside / square).sqrt()
    return middle - reach, middle + reach


def _box(origin: list[Tensor], direction: list[Tensor]) -> tuple[Tensor, Tensor]:
    spans = [_slab(o, d) for o, d in zip(origin, direction, strict=True)]
    entry, leave = zip(*spans, strict=True)
    return reduce(torch.maximum, entry), reduce(torch.minimum, leave)


def _cylinder(origin: list[Tensor], direction: list[Tensor]) -> tuple[Tensor, Tensor]:
    side, caps = _round(origin[:2], direction[:2]), _slab(origin[2], direction[2])
    return torch.maximum(side[0], caps[0]), torch.minimum(side[1], caps[1])


_INTERSECT = (_box, _cylinder, _round)  # in the order of KINDS: entry and exit of rays


def surface(
    table: PrimitiveTable, extrinsics: Poses, intrinsics: Cameras, depth: Float[Tensor, "F H W"],
    winner: Int[Tensor, "F H W"],
) -> Hits:  # fmt: skip
    """Points and outward normals of the results of ``nearest``."""
    frames, height, width = depth.shape
    rotation = extrinsics[:, :3, :3].transpose(1, 2)
    eye = -(rotation @ extrinsics[:, :3, 3:])[..., 0]
    back = (rotation @ torch.linalg.inv(intrinsics)).float()
    pixel = F.pad(pixel_centres(height, width, device=depth.device), (0, 1), value=1.0).view(1, -1, 3)
    rays = (pixel @ back.transpose(1, 2)).view(frames, height, width, 3)
    points = (eye.float()[:, None, None] + rays * depth[..., None]).view(-1, 3)
    index = winner.clamp_min(0).flatten()
    row = table.packed.index_select(0, index)
    local = _rotate(row[:, 6], -row[:, 7], points - row[:, :3])
    local_normal = _box_normal(local / row[:, 3:6])
    if sum(table.counts[1:]):
        curved = (index >= table.counts[0]).nonzero()[:, 0]
        half = row[curved, 3:6]
        local_normal[curved] = _curved_normal(index[curved] < sum(table.counts[:2]), local[curved] / half, half)
    hit = (winner.flatten() >= 0)[:, None]
    shape = (frames, height, width, 3)
    return Hits(
        depth_m=depth,
        primitive=winner,
        normals=(_rotate(row[:, 6], row[:, 7], local_normal) * hit).view(shape),
        points=(points * hit).view(shape),
        local=local.view(shape),
        local_normal=local_normal.view(shape),
    )


def _rotate(cos: Float[Tensor, " n"], sin: Float[Tensor, " n"], vector: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
    x, y, z = vector.unbind(1)
    return torch.stack([cos * x - sin * y, sin * x + cos * y, z], 1)


def _box_normal(unit: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
    """Outward normal of the face of the cube that is nearest."""
    x, y, z = unit.abs().unbind(1)
    flat_x, flat_z = (x >= y) & (x >= z), (z > x) & (z > y)
    return torch.stack([flat_x, ~(flat_x | flat_z), flat_z], 1) * unit.sign()


def _curved_normal(
    tube: Bool[Tensor, " n"], unit: Float[Tensor, "n 3"], half: Float[Tensor, "n 3"]
) -> Float[Tensor, "n 3"]:
    """Outward normal of cylinders (where ``tube``) and ellipsoids, in metres' space."""
    cap = tube & (unit[:, 2].abs() >= (unit[:, 0].square() + unit[:, 1].square()).sqrt())
    normal = unit / half
    normal[:, 2] = torch.where(tube & ~cap, 0.0, normal[:, 2])
    normal[:, :2] *= (~cap)[:, None]
    return F.normalize(normal, dim=1)
