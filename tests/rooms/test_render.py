"""Clips: the same seed gives the same pixels, and depth, poses, ids and boxes agree with each other."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from room_boxes import object_boxes, room_points

from vidllm.geometry.boxes import points_in_boxes
from vidllm_rooms import Clip, build_room, render_clip

SEEDS = (0, 4, 12, 21)


@cache
def clip_of(seed: int) -> Clip:
    return render_clip(build_room(seed), frames=4, height=56, width=72)


def test_shapes_and_types() -> None:
    clip = clip_of(0)
    assert clip.rgb.shape == (4, 56, 72, 3) and clip.rgb.dtype == np.uint8
    assert clip.depth_m.shape == (4, 56, 72) and clip.depth_m.dtype == np.float32
    assert clip.instance.shape == (4, 56, 72) and clip.instance.dtype == np.uint8
    assert clip.extrinsics.shape == (4, 4, 4) and clip.extrinsics.dtype == np.float64
    assert clip.intrinsics.shape == (4, 3, 3) and clip.intrinsics.dtype == np.float64
    np.testing.assert_allclose(clip.intrinsics[:, :2, 2], np.tile([36.0, 28.0], (4, 1)))


def test_same_seed_gives_the_same_clip_and_another_seed_another() -> None:
    again = render_clip(build_room(4), frames=4, height=56, width=72)
    other = render_clip(build_room(4), frames=4, height=56, width=72, seed=5)
    for name in ("rgb", "depth_m", "instance", "extrinsics", "intrinsics"):
        assert np.array_equal(getattr(again, name), getattr(clip_of(4), name)), name
    assert not np.array_equal(other.extrinsics, again.extrinsics)


@pytest.mark.parametrize("seed", SEEDS)
def test_depth_is_complete_and_within_the_room(seed: int) -> None:
    clip = clip_of(seed)
    assert (clip.depth_m > 0.05).all() and (clip.depth_m < 12).all()
    low, high = np.array(clip.room.polygon).min(0), np.array(clip.room.polygon).max(0)
    points = room_points(clip.depth_m, clip.extrinsics, clip.intrinsics)
    assert (points[..., :2] > low - 1e-3).all() and (points[..., :2] < high + 1e-3).all()
    assert points[..., 2].min() > -1e-3 and points[..., 2].max() < clip.room.height + 1e-3


@pytest.mark.parametrize("seed", SEEDS)
def test_points_of_an_object_lie_in_its_box(seed: int) -> None:
    clip = clip_of(seed)
    points, boxes = room_points(clip.depth_m, clip.extrinsics, clip.intrinsics), object_boxes(clip.room)
    for item, box in zip(clip.room.objects, boxes, strict=True):
        grown = box + torch.tensor([0, 0, 0, 2e-3, 2e-3, 2e-3, 0])
        assert points_in_boxes(torch.from_numpy(points[clip.instance == item.id]), grown).all(), item.category


@pytest.mark.parametrize("seed", SEEDS)
def test_frames_agree_about_the_surfaces_they_share(seed: int) -> None:
    """Points of one frame, seen from another, lie on its depth or behind it; shared ones look alike."""
    clip = clip_of(seed)
    points = room_points(clip.depth_m, clip.extrinsics, clip.intrinsics)
    source, target = 1, 2
    camera = points[source] @ clip.extrinsics[target, :3, :3].T + clip.extrinsics[target, :3, 3]
    image = camera @ clip.intrinsics[target].T
    u, v = (image[..., axis] / np.maximum(image[..., 2], 1e-6) for axis in (0, 1))
    inside = (image[..., 2] > 0.1) & (u >= 0) & (u < 72) & (v >= 0) & (v < 56)
    assert inside.mean() > 0.2
    there = clip.depth_m[target][v[inside].astype(int), u[inside].astype(int)]
    z = camera[..., 2][inside]
    agree = np.abs(there - z) < 0.05 * z
    assert (agree | (there < z)).mean() > 0.95
    assert agree.mean() > 0.6
    colour = clip.rgb[target][v[inside].astype(int), u[inside].astype(int)].astype(float)
    mine = clip.rgb[source][inside].astype(float)
    matched = np.abs(colour - mine)[agree].mean()
    shuffled = np.abs(colour - np.random.default_rng(0).permutation(mine))[agree].mean()
    assert matched < 0.6 * shuffled


def test_visible_objects_show_their_colour() -> None:
    """The median pixel of a sofa, bed, wardrobe ... is nearest in hue to its named colour, mostly."""
    from vidllm_rooms import COLOURS

    names = list(COLOURS)
    table = np.array([COLOURS[name] for name in names])
    hues = table - table.mean(1, keepdims=True)
    vivid = {name for name, hue in zip(names, hues, strict=True) if np.abs(hue).max() > 0.2}
    right = total = 0
    for seed in SEEDS:
        clip = clip_of(seed)
        for number in clip.visible(0.02):
            item = clip.room.object(number)
            if item.colour not in vivid:
                continue
            pixel = np.median(clip.rgb[clip.instance == number] / 255.0, axis=0)
            hue = pixel - pixel.mean()
            cosine = hues @ hue / np.maximum(np.linalg.norm(hues, axis=1) * np.linalg.norm(hue), 1e-6)
            right += cosine[names.index(item.colour)] > 0.85
            total += 1
    assert total >= 10
    assert right / total > 0.85


def test_images_are_neither_black_nor_burnt() -> None:
    for seed in SEEDS:
        mean = clip_of(seed).rgb.mean()
        assert 60 < mean < 200
        assert (clip_of(seed).rgb == 255).mean() < 0.1


def test_bad_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="expected sizes of at least 1"):
        render_clip(build_room(0), frames=0)
