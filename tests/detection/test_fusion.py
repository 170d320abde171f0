"""Detections in frames become things: boxes of what perfect masks show of rooms, and of made-up solids."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from vidllm.detection.fusion import Detected, find, fit_box, without_duplicates
from vidllm.export.geometry import SceneData
from vidllm.geometry.boxes import distinct, iou_oriented
from vidllm.geometry.gravity import scene_from_world
from vidllm.inventory import row_of
from vidllm.training.texts import scene_boxes, scene_from_room
from vidllm_rooms.render import render_clip
from vidllm_rooms.world import Clip
from vidllm_rooms.world.layout import build_room


def with_true_geometry(clip: Clip) -> SceneData:
    first, frames = clip.extrinsics[0], len(clip.rgb)
    return SceneData(
        rgb=clip.rgb, depth_m=clip.depth_m, extrinsics=clip.extrinsics @ np.linalg.inv(first),
        intrinsics=clip.intrinsics, scene_from_world=scene_from_world(torch.from_numpy(first[:3, 2])).numpy(),
        timestamps_s=np.arange(frames, dtype=float), processed_from_original=np.eye(3),
        original_size=clip.rgb.shape[1:3], depth_std_m=0.1 * clip.depth_m,
    )  # fmt: skip


def true_boxes(clip: Clip) -> dict[int, list[float]]:
    record = {"objects": [{"id": o.id, "box": [*o.centre, *o.size, o.yaw]} for o in clip.room.objects]}
    return scene_boxes(record, scene_from_room(torch.from_numpy(clip.extrinsics).float()))


def detected(mask: np.ndarray, name: int, score: float, with_mask: bool = True) -> Detected:
    rows, columns = np.nonzero(mask)
    box = float(columns.min()), float(rows.min()), columns.max() + 1.0, rows.max() + 1.0
    return Detected(name, score, tuple(map(float, box)), mask if with_mask else None)


def perfect(clip: Clip, names: list[str], masks: bool = True):
    """A detector that sees every pixel's object, or the boxes around them."""
    category, frames = {o.id: o.category for o in clip.room.objects}, iter(clip.instance)

    def detect(picture, asked):
        instance, found = next(frames), []
        for number in np.unique(instance[instance > 0]).tolist():
            found.append(detected(instance == number, asked.index(category[number]), 0.8, masks))
        return found

    return detect


def accuracy(seeds: range, masks: bool = True) -> tuple[float, int]:
    """Acc@0.5 of the things that fill 0.3% of a frame, with true geometry; and how many things there are."""
    right = []
    for seed in seeds:
        clip = render_clip(build_room(seed), frames=16)
        names, true = sorted({o.category for o in clip.room.objects}), true_boxes(clip)
        found = find(with_true_geometry(clip), perfect(clip, names, masks), names)
        rows = torch.tensor([row_of(box) for _, box in found])
        assert len(distinct(rows, torch.ones(len(rows)), [name for name, _ in found])) == len(found)
        for number in clip.visible():
            same = [row_of(box) for name, box in found if name == clip.room.object(number).category]
            iou = iou_oriented(torch.tensor(same).reshape(-1, 7), torch.tensor([true[number]]))
            right.append(bool((iou >= 0.5).any()))
    return float(np.mean(right)), len(right)


@pytest.mark.slow
def test_perfect_masks_of_rooms_with_true_geometry():
    share, things = accuracy(range(600, 604))
    assert share >= 0.9 and things > 30


def wall_and_box(offset: float = 0.0):
    """Two cameras look along x at a box (1.0 x 0.6 x 0.8 m, 3 m ahead) before a wall 5 m ahead."""
    from vidllm_rooms.raycast import PrimitiveTable, nearest
    from vidllm_rooms.world import Primitive

    white = (1.0, 1.0, 1.0)
    solids = [Primitive("box", (5.05, 0.0, 0.0), (0.1, 9.0, 9.0), 0.0, white),
              Primitive("box", (3.0, 0.0, 0.0), (0.6, 1.0, 0.8), 0.3, white, owner=1)]  # fmt: skip
    level = np.array([[0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0], [0, 0, 0, 1.0]])  # camera from scene
    poses = np.stack([level, level])
    poses[1, 0, 3], poses[0, 1, 3], poses[1, 1, 3] = 1.0, 1.0, 1.0  # 1 m above the middle, the second to the left
    k = np.tile(np.array([[100.0, 0, 70], [0, 100, 56], [0, 0, 1]]), (2, 1, 1))
    depth, winner = nearest(PrimitiveTable.build(solids), torch.from_numpy(poses), torch.from_numpy(k), 112, 140)
    data = SceneData(
        rgb=np.zeros((2, 112, 140, 3), np.uint8), depth_m=depth.numpy() + offset,
        extrinsics=poses @ np.linalg.inv(poses[0]), intrinsics=k, scene_from_world=np.linalg.inv(poses[0]),
        timestamps_s=np.arange(2.0), processed_from_original=np.eye(3), original_size=(112, 140),
        depth_std_m=np.full((2, 112, 140), 0.1, np.float32),
    )  # fmt: skip
    return data, winner.numpy() == 1


@pytest.mark.parametrize("masks", [True, False])
def test_a_thing_before_a_wall_is_boxed_without_the_wall(masks):
    data, instance = wall_and_box()
    instances, score = iter(instance), iter((0.9, 0.5))

    def detect(picture, names):
        return [detected(next(instances), 0, next(score), masks)]

    ((name, box),) = find(data, detect, ["crate"])
    true = torch.tensor([[3.0, 0.0, 0.0, 0.6, 1.0, 0.8, 0.3]])
    assert name == "crate" and box.score == pytest.approx(0.7)  # the mean over both frames
    assert float(iou_oriented(torch.tensor([row_of(box)]), true)) > 0.6
    # 0.1 m of standard deviation at 3 m: 90% within 1.645 x 3.3% of what lies 3 m away
    assert box.size_error == pytest.approx(1.645 * 0.1 / 3.0, rel=0.15)
    assert 1.645 * 0.1 < box.center_error < 1.645 * 0.1 * 1.25  # the cameras are 3.2 and 3.3 m from its centre


def test_what_one_frame_of_many_claims_is_no_thing():
    data, instance = wall_and_box()
    many = {name: np.repeat(getattr(data, name)[:1], 8, 0) for name in
            ("rgb", "depth_m", "extrinsics", "intrinsics", "timestamps_s", "depth_std_m")}  # fmt: skip
    data = SceneData(**{**vars(data), **many})
    frames = iter([True, *[False] * 7])

    def detect(picture, names):
        return [detected(instance[0], 0, 0.9)] if next(frames) else []

    assert find(data, detect, ["ghost"]) == []


def test_one_thing_found_twice_in_a_picture_counts_once():
    mask = np.zeros((50, 50), bool)
    mask[10:20, 10:20] = True
    small = (10.0, 10.0, 20.0, 20.0)
    twice = [Detected(0, 0.5, small), Detected(0, 0.9, (10.0, 10.0, 20.0, 22.0)), Detected(1, 0.4, small)]
    assert [(d.name, d.score) for d in without_duplicates(twice, (50, 50))] == [(0, 0.9), (1, 0.4)]
    big, part = without_duplicates([Detected(0, 0.9, (0.0, 0.0, 40.0, 40.0)), Detected(1, 0.5, small)], (50, 50))
    assert big.mask.sum() == 1600 - 100 and not (big.mask & mask).any() and part.mask is None


@pytest.mark.parametrize("yaw", [0.0, 0.4, 1.2])
def test_a_box_is_turned_as_the_two_sides_that_are_seen(yaw):
    long, short = np.linspace(-1, 1, 80), np.linspace(-0.3, 0.3, 24)
    sides = np.concatenate([np.stack([long, np.full(80, -0.3)], 1), np.stack([np.full(24, -1.0), short], 1)])
    c, s = math.cos(yaw), math.sin(yaw)
    points = np.concatenate([np.column_stack([sides @ np.array([[c, s], [-s, c]]), np.full(104, z)])
                             for z in np.linspace(0, 1, 40)])  # fmt: skip
    center, size, found = fit_box(points)
    box = torch.tensor([[*center, *size, found]])
    assert float(iou_oriented(box, torch.tensor([[0, 0, 0.5, 2.0, 0.6, 1.0, yaw]], dtype=box.dtype))) > 0.9
