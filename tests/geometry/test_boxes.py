"""Boxes: corners, IoU at its edges, DIoU, rigid moves."""

from __future__ import annotations

import math

import pytest
import torch

from vidllm.geometry.boxes import (
    axis_aligned_bounds,
    box_corners,
    diou_loss,
    distinct,
    iou_axis_aligned,
    iou_oriented,
    nearest_points,
    points_in_boxes,
    transform_boxes,
)
from vidllm.geometry.rotations import rotation_z

UNIT = torch.tensor([[0.0, 0, 0, 1, 1, 1, 0]])


def random_boxes(n: int) -> torch.Tensor:
    centre, size = torch.rand(n, 3) * 2, 0.2 + torch.rand(n, 3) * 2
    return torch.cat((centre, size, 6.28 * torch.rand(n, 1)), -1)


def moved(x: float, *, size: float = 1.0, yaw: float = 0.0) -> torch.Tensor:
    return torch.tensor([[x, 0, 0, size, size, size, yaw]])


def test_corners_span_the_bounds():
    boxes = random_boxes(20)
    corners = box_corners(boxes)
    low, high = axis_aligned_bounds(boxes)
    torch.testing.assert_close(corners.amin(-2), low)
    torch.testing.assert_close(corners.amax(-2), high)
    torch.testing.assert_close(corners.mean(-2), boxes[:, :3])
    torch.testing.assert_close((corners[:, 1] - corners[:, 0]).norm(dim=-1), boxes[:, 3])


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        (UNIT, UNIT, 1.0),
        (UNIT, moved(1.0), 0.0),
        (UNIT, moved(3.0), 0.0),
        (UNIT, moved(0.5), 1 / 3),
        (UNIT, moved(0.0, size=0.5), 1 / 8),
        (UNIT, moved(0.0, size=0.0), 0.0),
        (moved(0.0, size=0.0), moved(0.0, size=0.0), 0.0),
        (UNIT, moved(0.0, yaw=math.pi / 2), 1.0),
    ],
)
def test_iou_edges(a: torch.Tensor, b: torch.Tensor, expected: float):
    assert iou_oriented(a, b).item() == pytest.approx(expected, abs=1e-6)
    assert iou_axis_aligned(a, b).item() == pytest.approx(expected, abs=1e-6)


def test_iou_of_a_square_turned_by_45_degrees():
    octagon = 2 * (math.sqrt(2) - 1)
    expected = octagon / (2 - octagon)
    assert iou_oriented(UNIT, moved(0.0, yaw=math.pi / 4)).item() == pytest.approx(expected, abs=1e-6)


def test_oriented_identity_at_any_yaw_and_place():
    boxes = random_boxes(50)
    boxes[:, :3] += 100
    torch.testing.assert_close(iou_oriented(boxes, boxes).diagonal(), torch.ones(50))


def test_oriented_agrees_with_axis_aligned_and_is_symmetric():
    a, b = random_boxes(10), random_boxes(12)
    assert iou_oriented(a, b).shape == (10, 12)
    torch.testing.assert_close(iou_oriented(a, b), iou_oriented(b, a).T)
    a[:, 6], b[:, 6] = 0, 0
    torch.testing.assert_close(iou_oriented(a, b), iou_axis_aligned(a[:, None], b[None]), atol=1e-6, rtol=1e-5)


def test_oriented_agrees_with_counting_points():
    a, b = random_boxes(1)[0], random_boxes(1)[0]
    a[:3], b[:3] = torch.tensor([0.0, 0, 0]), torch.tensor([0.2, 0.1, 0.1])
    points = (torch.rand(200_000, 3) - 0.5) * 5
    in_a, in_b = points_in_boxes(points, a), points_in_boxes(points, b)
    counted = (in_a & in_b).sum() / (in_a | in_b).sum()
    assert iou_oriented(a[None], b[None]).item() == pytest.approx(counted.item(), abs=0.02)


def test_rigid_moves_keep_iou_and_membership():
    a, b = random_boxes(6), random_boxes(6)
    yaw, shift = torch.tensor(0.7), torch.tensor([1.0, -2.0, 0.5])
    a2, b2 = transform_boxes(a, yaw, shift), transform_boxes(b, yaw, shift)
    torch.testing.assert_close(iou_oriented(a, b), iou_oriented(a2, b2), atol=1e-5, rtol=1e-4)
    back = transform_boxes(transform_boxes(a, yaw, torch.zeros(3)), -yaw, torch.zeros(3))
    torch.testing.assert_close(back, a)
    assert points_in_boxes(box_corners(a[:1])[0] * 0.999 + a[0, :3] * 0.001, a[0]).all()


def test_points_in_boxes_agrees_with_rotation_matrices():
    points, boxes = torch.rand(200, 3) * 2 - 1, random_boxes(4)
    boxes[:, :3] = 0
    found = points_in_boxes(points[None], boxes[:, None])
    for row, box in zip(found, boxes, strict=True):
        assert torch.equal(row, ((points @ rotation_z(box[6])).abs() <= box[3:6] / 2).all(-1))


def test_diou_loss_range_and_gradient_when_apart():
    box = torch.tensor([0.0, 0, 0, 1, 1, 1])
    assert diou_loss(box, box).item() == pytest.approx(0.0, abs=1e-6)
    far = torch.tensor([5.0, 0, 0, 1, 1, 1], requires_grad=True)
    loss = diou_loss(far, box)
    assert loss.item() == pytest.approx(1 + 25 / (36 + 1 + 1))
    loss.backward()
    assert far.grad is not None and far.grad[0] > 0
    degenerate = torch.zeros(6, requires_grad=True)
    diou_loss(degenerate, torch.zeros(6)).backward()
    assert degenerate.grad is not None and torch.isfinite(degenerate.grad).all()


def test_nothing_is_nan_for_degenerate_boxes():
    boxes = torch.zeros(3, 7)
    boxes[1, 3] = 1.0
    boxes[2, 3:6] = -1.0
    assert torch.isfinite(iou_oriented(boxes, torch.cat((boxes, UNIT)))).all()
    with pytest.raises(ValueError, match="expected boxes of 6"):
        axis_aligned_bounds(torch.zeros(2, 5))


def test_nearest_points_are_those_of_a_dense_search():
    torch.manual_seed(1)
    grid = torch.stack(torch.meshgrid(*[torch.linspace(-0.5, 0.5, 9)] * 3, indexing="ij"), -1).reshape(-1, 3)
    for a, b in zip(random_boxes(30), random_boxes(30), strict=True):
        b[:2] += 2.5 * (torch.rand(2) - 0.5)
        here, there = nearest_points(a, b)
        inside = points_in_boxes(torch.stack((here, there)), torch.stack((grown(a), grown(b))))
        assert bool(inside.all())
        clouds = [(grid * box[3:6]) @ rotation_z(box[6]).T + box[:3] for box in (a, b)]
        searched = float(torch.cdist(*clouds).min())
        assert float((here - there).norm()) <= searched + 1e-5  # exact: never above the best of sampled points,
        assert float((here - there).norm()) >= searched - 0.5  # and near it
        assert (float((here - there).norm()) < 1e-9) == (float(iou_oriented(a[None], b[None])) > 0)


def grown(box: torch.Tensor) -> torch.Tensor:
    return torch.cat((box[:3], box[3:6] + 1e-5, box[6:])).double()


def test_nearest_points_of_crossed_and_stacked_boxes():
    across, along = torch.tensor([0, 0, 0, 4.0, 0.5, 1, 0]), torch.tensor([0, 0, 3.0, 0.5, 4, 1, 0])
    here, there = nearest_points(across, along)  # a cross seen from above: no corner of one lies in the other
    torch.testing.assert_close(here[:2], there[:2])
    assert (here[2], there[2]) == (0.5, 2.5)


def test_of_boxes_of_one_thing_the_best_is_kept():
    boxes = torch.cat((UNIT, moved(0.1), moved(0.2, size=0.5), moved(3.0)))
    scores = torch.tensor([0.5, 0.9, 0.4, 0.2])
    assert distinct(boxes, scores, ["chair", "sofa", "chair", "chair"]) == [1, 2, 3]
    assert distinct(boxes, scores, ["sofa", "sofa", "sofa", "sofa"]) == [1, 3]  # the small one lies in the first
