"""Boxes: centre (3), size (3), yaw about z, in metres of a z-up frame.

Intersections over union are exact: from intervals for axis-aligned boxes, from the overlap polygon seen from above
times the overlap in height for boxes with yaw. ``diou_loss`` is differentiable.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from vidllm.geometry.precision import full_precision
from vidllm.geometry.rotations import rotation_z

_CORNER_SIGNS = [(x, y, z) for z in (-1, 1) for x, y in ((-1, -1), (1, -1), (1, 1), (-1, 1))]

#: From which overlap two boxes are one thing: IoU, and of one name the share of the smaller one.
SAME_IOU, SAME_SHARE = 0.25, 0.5


@full_precision()
def box_corners(boxes: Float[Tensor, "*batch 7"]) -> Float[Tensor, "*batch 8 3"]:
    """Corners: the bottom face counter-clockwise seen from above, then the top face in the same order."""
    signs = boxes.new_tensor(_CORNER_SIGNS)
    local = signs * (boxes[..., None, 3:6] / 2)
    return local @ rotation_z(boxes[..., 6]).transpose(-1, -2) + boxes[..., None, :3]


@full_precision()
def axis_aligned_bounds(
    boxes: Float[Tensor, "*batch d"],
) -> tuple[Float[Tensor, "*batch 3"], Float[Tensor, "*batch 3"]]:
    """Lower and upper corner of the smallest axis-aligned box around each box (d = 6: no yaw, d = 7: yaw)."""
    if boxes.shape[-1] not in (6, 7):
        raise ValueError(f"expected boxes of 6 (centre, size) or 7 (and yaw) numbers, got shape {tuple(boxes.shape)}")
    half = boxes[..., 3:6].clamp_min(0) / 2
    if boxes.shape[-1] == 7:
        half = (rotation_z(boxes[..., 6]).abs() @ half[..., None]).squeeze(-1)
    return boxes[..., :3] - half, boxes[..., :3] + half


def iou_axis_aligned(a: Float[Tensor, "*#batch da"], b: Float[Tensor, "*#batch db"]) -> Float[Tensor, "*batch"]:
    """IoU of axis-aligned bounds, element by element with broadcasting; 0 when both boxes have no volume."""
    (a_low, a_high), (b_low, b_high) = axis_aligned_bounds(a), axis_aligned_bounds(b)
    overlap = (torch.minimum(a_high, b_high) - torch.maximum(a_low, b_low)).clamp_min(0).prod(-1)
    return _ratio(overlap, (a_high - a_low).prod(-1), (b_high - b_low).prod(-1))


def _ratio(overlap: Tensor, volume_a: Tensor, volume_b: Tensor) -> Tensor:
    union = volume_a + volume_b - overlap
    return overlap / union.clamp_min(torch.finfo(union.dtype).tiny)


def iou_oriented(a: Float[Tensor, "N 7"], b: Float[Tensor, "M 7"]) -> Float[Tensor, "N M"]:
    """Exact IoU of every pair of yaw-rotated boxes; 0 when both have no volume. Computed in float64."""
    first, second = torch.broadcast_tensors(a.double()[:, None], b.double()[None])
    low = torch.maximum(first[..., 2] - first[..., 5] / 2, second[..., 2] - second[..., 5] / 2)
    high = torch.minimum(first[..., 2] + first[..., 5] / 2, second[..., 2] + second[..., 5] / 2)
    overlap = _footprint_overlap(first, second)[0] * (high - low).clamp_min(0)
    volume_a, volume_b = first[..., 3:6].clamp_min(0).prod(-1), second[..., 3:6].clamp_min(0).prod(-1)
    return _ratio(torch.minimum(overlap, torch.minimum(volume_a, volume_b)), volume_a, volume_b).to(a.dtype)


def _footprint_overlap(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Area common to two rotated rectangles seen from above, and a point (..., 2) of it: (..., 7), (..., 7) -> (...).

    The overlap is convex; its corners are the corners of one inside the other and the crossings of the outlines. All 24
    candidates are sorted around their mean, those that are no corner collapsed onto one that is.
    """
    start = a[..., :2]
    origin = F.pad(start, (0, 5))  # near the origin nothing is lost to rounding
    a, b = a - origin, b - origin
    corners_a, corners_b = box_corners(a)[..., :4, :2], box_corners(b)[..., :4, :2]
    crossings, crossed = _crossings(corners_a, corners_b)
    points = torch.cat((corners_a, corners_b, crossings), dim=-2)
    valid = torch.cat((_inside_footprint(corners_a, b), _inside_footprint(corners_b, a), crossed), dim=-1)
    first = valid.to(torch.uint8).argmax(-1)[..., None, None].expand(*valid.shape[:-1], 1, 2)
    points = torch.where(valid[..., None], points, points.gather(-2, first))
    middle = (points * valid[..., None]).sum(-2) / valid.sum(-1, keepdim=True).clamp_min(1)
    around = points - middle[..., None, :]
    order = torch.atan2(around[..., 1], around[..., 0]).argsort(-1)
    around = around.gather(-2, order[..., None].expand_as(around))
    following = around.roll(-1, dims=-2)
    area = (around[..., 0] * following[..., 1] - around[..., 1] * following[..., 0]).sum(-1) / 2
    return torch.where(valid.sum(-1) > 2, area, 0.0).clamp_min(0), start + middle


@full_precision()
def _inside_footprint(points: Tensor, box: Tensor) -> Tensor:
    """Whether (..., k, 2) points lie in the box seen from above, with a tolerance far below any size of interest."""
    local = (points - box[..., None, :2]) @ rotation_z(box[..., 6])[..., :2, :2]
    return (local.abs() <= box[..., None, 3:5] / 2 + 1e-9).all(-1)


def _crossings(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Crossing points (..., 16, 2) of the outlines of two quadrilaterals (..., 4, 2), and which of them exist."""
    along_a, along_b = a.roll(-1, -2) - a, b.roll(-1, -2) - b
    start, p, q = torch.broadcast_tensors(
        b[..., None, :, :] - a[..., :, None, :], along_a[..., :, None, :], along_b[..., None, :, :]
    )
    parallel = p[..., 0] * q[..., 1] - p[..., 1] * q[..., 0]
    crosses = parallel.abs() > 1e-12 * (p.norm(dim=-1) * q.norm(dim=-1)).clamp_min(1e-12)
    safe = torch.where(crosses, parallel, torch.ones_like(parallel))
    t = (start[..., 0] * q[..., 1] - start[..., 1] * q[..., 0]) / safe
    s = (start[..., 0] * p[..., 1] - start[..., 1] * p[..., 0]) / safe
    crosses = crosses & (t >= 0) & (t <= 1) & (s >= 0) & (s <= 1)
    points = a[..., :, None, :] + t[..., None] * p
    return points.flatten(-3, -2), crosses.flatten(-2)


def diou_loss(prediction: Float[Tensor, "*batch 6"], target: Float[Tensor, "*batch 6"]) -> Float[Tensor, "*batch"]:
    """Distance-IoU loss of axis-aligned boxes (centre, size): ``1 - IoU + |c - c*|^2 / diagonal^2``, 0 at a match.

    The diagonal is that of the smallest box around both, so that boxes apart still get a gradient. Range 0..2.
    """
    (p_low, p_high), (t_low, t_high) = axis_aligned_bounds(prediction), axis_aligned_bounds(target)
    diagonal = (torch.maximum(p_high, t_high) - torch.minimum(p_low, t_low)).square().sum(-1)
    distance = (prediction[..., :3] - target[..., :3]).square().sum(-1)
    return 1 - iou_axis_aligned(prediction, target) + distance / diagonal.clamp_min(1e-7)


@full_precision()
def transform_boxes(
    boxes: Float[Tensor, "*batch 7"], yaw: Float[Tensor, "*#batch"], translation: Float[Tensor, "*#batch 3"]
) -> Float[Tensor, "*batch 7"]:
    """Boxes turned by ``yaw`` radians about the frame's z axis, then moved by ``translation`` metres."""
    centre = (rotation_z(yaw) @ boxes[..., :3, None]).squeeze(-1) + translation
    return torch.cat((centre, boxes[..., 3:6], (boxes[..., 6] + yaw)[..., None]), dim=-1)


def points_in_boxes(points: Float[Tensor, "*#batch 3"], boxes: Float[Tensor, "*#batch 7"]) -> Bool[Tensor, "*batch"]:
    """Whether each point lies in its box (faces included), broadcasting."""
    offset = points - boxes[..., :3]
    cos, sin = boxes[..., 6].cos(), boxes[..., 6].sin()
    x = cos * offset[..., 0] + sin * offset[..., 1]
    y = cos * offset[..., 1] - sin * offset[..., 0]
    half = boxes[..., 3:6] / 2
    return (x.abs() <= half[..., 0]) & (y.abs() <= half[..., 1]) & (offset[..., 2].abs() <= half[..., 2])


def nearest_points(a: Float[Tensor, " 7"], b: Float[Tensor, " 7"]) -> tuple[Float[Tensor, " 3"], Float[Tensor, " 3"]]:
    """The nearest points of two boxes; the same point twice if the boxes touch or overlap.

    Exact: if the boxes do not overlap seen from above, a corner of one of them is among the nearest points. A box
    without size is a point.
    """
    a, b = a.double(), b.double()
    area, common = _footprint_overlap(a, b)
    if float(area) > 0:
        first = second = common
    else:
        ways = []
        for corners_of, other in ((a, b), (b, a)):
            corners = box_corners(corners_of)[:4]
            offset, turn = corners[:, :2] - other[:2], rotation_z(other[6])[:2, :2]
            half = other[3:5] / 2
            ways.append((corners[:, :2], other[:2] + (offset @ turn).clamp(-half, half) @ turn.T))
        ours, theirs = torch.cat((ways[0][0], ways[1][1])), torch.cat((ways[0][1], ways[1][0]))
        best = (ours - theirs).norm(dim=-1).argmin()
        first, second = ours[best], theirs[best]
    (low_a, high_a), (low_b, high_b) = ((box[2] - box[5] / 2, box[2] + box[5] / 2) for box in (a, b))
    low, high = torch.maximum(low_a, low_b), torch.minimum(high_a, high_b)  # crossed where one is above the other
    middle = (low + high) / 2
    heights = middle.clamp(low_a, high_a)[None], middle.clamp(low_b, high_b)[None]
    return torch.cat((first, heights[0])), torch.cat((second, heights[1]))


def distinct(boxes: Float[Tensor, "N 7"], scores: Float[Tensor, " N"], names: Sequence[str]) -> list[int]:
    """Non-maximum suppression in 3D: indices of the boxes to keep, best first.

    A box is dropped if its IoU with a better one is at least `SAME_IOU`, or if it shares at least `SAME_SHARE` of the
    smaller one's volume with a better one of the same name.
    """
    iou, volume = iou_oriented(boxes, boxes), boxes[:, 3:6].prod(-1)
    shared = iou * (volume[:, None] + volume) / (1 + iou)
    inside = shared / torch.minimum(volume[:, None], volume).clamp_min(torch.finfo(volume.dtype).tiny)
    kept: list[int] = []
    for one in scores.argsort(descending=True, stable=True).tolist():
        if all(iou[one, k] < SAME_IOU and (names[one] != names[k] or inside[one, k] < SAME_SHARE) for k in kept):
            kept.append(one)
    return kept
