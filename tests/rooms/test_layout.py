"""Laws of the furnished rooms: nothing overlaps, everything is inside, names are spread evenly."""

from __future__ import annotations

from collections import Counter
from functools import cache
from itertools import combinations

import numpy as np
import pytest
from room_boxes import object_boxes

from vidllm.geometry.boxes import box_corners
from vidllm_rooms import COLOURS, Primitive, Room, RoomObject, build_room
from vidllm_rooms.camera_paths import draw_path, free_distance
from vidllm_rooms.world.catalogue import CATALOGUE, build_model
from vidllm_rooms.world.outline import Footprint, Outline, overlap

SEEDS = range(40)


@cache
def room_of(seed: int) -> Room:
    return build_room(seed)


def footprint(thing: RoomObject | Primitive) -> Footprint:
    (x, y, z), (w, d, h) = thing.centre, thing.size
    return Footprint(x, y, w / 2, d / 2, thing.yaw, z - h / 2, z + h / 2)


def test_same_seed_gives_the_same_room() -> None:
    assert build_room(7) == room_of(7)
    assert build_room(8) != room_of(7)


@pytest.mark.parametrize("category", sorted(CATALOGUE))
def test_models_stand_on_the_ground_and_fill_their_size(category: str) -> None:
    for seed in range(4):
        model = build_model(category, np.random.default_rng(seed)).model
        centres = np.array([part.centre for part in model.parts])
        halves = np.array([part.size for part in model.parts]) / 2
        size = np.array(model.size)
        np.testing.assert_allclose((centres - halves).min(0), [-size[0] / 2, -size[1] / 2, 0], atol=1e-9)
        np.testing.assert_allclose((centres + halves).max(0), [size[0] / 2, size[1] / 2, size[2]], atol=1e-9)
        assert (halves > 0).all()


@pytest.mark.parametrize(
    ("category", "low", "high"),
    [
        ("chair", (0.35, 0.35, 0.7), (0.6, 0.6, 1.1)),
        ("bed", (0.85, 1.9, 0.8), (1.9, 2.2, 1.2)),
        ("door", (0.85, 0.05, 2.0), (1.2, 0.12, 2.2)),
        ("cup", (0.07, 0.07, 0.07), (0.16, 0.13, 0.13)),
        ("sofa", (1.4, 0.7, 0.7), (2.4, 1.0, 0.95)),
    ],
)
def test_sizes_are_those_of_the_real_world(
    category: str, low: tuple[float, float, float], high: tuple[float, float, float]
) -> None:
    for seed in range(12):
        size = np.array(build_model(category, np.random.default_rng(seed)).model.size)
        assert (size >= low).all() and (size <= high).all(), size


def test_boxes_overlap_only_where_one_carries_the_other() -> None:
    for seed in SEEDS:
        for a, b in combinations(room_of(seed).objects, 2):
            if overlap(footprint(a), footprint(b), 1e-4):
                assert a.on == b.id or b.on == a.id, (seed, a.category, b.category)


def test_parts_of_carried_things_do_not_enter_the_carrier() -> None:
    for seed in SEEDS:
        room = room_of(seed)
        for item in (o for o in room.objects if o.on is not None):
            for mine in item.parts:
                for other in room.object(item.on).parts:
                    assert not overlap(footprint(mine), footprint(other), 2e-3), (seed, item.category)


def test_carried_things_rest_on_something_of_the_carrier() -> None:
    for seed in SEEDS:
        room = room_of(seed)
        for item in (o for o in room.objects if o.on is not None):
            tops = [part.centre[2] + part.size[2] / 2 for part in room.object(item.on).parts]
            assert min(abs(top - (item.centre[2] - item.size[2] / 2)) for top in tops) < 5e-3, (seed, item.category)


def test_everything_is_inside_the_room() -> None:
    for seed in SEEDS:
        room = room_of(seed)
        outline, corners = Outline(room.polygon), box_corners(object_boxes(room)).numpy()
        assert (outline.clearance(corners[..., :2]) > -1e-6).all(), seed
        assert corners[..., 2].min() > -1e-9 and corners[..., 2].max() <= room.height, seed


def test_rooms_have_plausible_measures() -> None:
    for seed in SEEDS:
        room = room_of(seed)
        extent = np.ptp(np.array(room.polygon), axis=0)
        assert 2.3 <= room.height <= 3.2 and (extent > 3).all() and (extent < 7.2).all()
        assert 8 <= len(room.objects) <= 20
        assert [item.id for item in room.objects] == list(range(1, len(room.objects) + 1))
        assert all(part.owner == item.id for item in room.objects for part in item.parts)
        assert 1 <= len(room.lights) <= 3


def test_categories_shapes_and_colours_all_occur_evenly() -> None:
    rooms = [room_of(seed) for seed in range(90)]
    items = [item for room in rooms for item in room.objects]
    assert len({item.category for item in items}) >= 40
    assert {room.shape for room in rooms} == {"rectangle", "L", "T", "chamfered", "bay"}
    counts = Counter(item.colour for item in items)
    assert set(counts) == set(COLOURS)
    assert max(counts.values()) < 1.7 * min(counts.values())


def test_most_rooms_repeat_a_category_in_other_colours() -> None:
    repeated = 0
    for seed in SEEDS:
        colours: dict[str, set[str]] = {}
        for item in room_of(seed).objects:
            colours.setdefault(item.category, set()).add(item.colour)
        repeated += any(len(names) > 1 for names in colours.values())
    assert repeated >= 0.6 * len(SEEDS)


def test_cameras_stay_in_free_space_at_eye_height_and_move() -> None:
    moved = []
    for seed in SEEDS:
        room = room_of(seed)
        path = draw_path(room, np.random.default_rng(seed), 8, 112, 140)
        turn, shift = path.extrinsics[:, :3, :3], path.extrinsics[:, :3, 3]
        eyes = -np.einsum("fji,fj->fi", turn, shift)
        np.testing.assert_allclose(turn @ turn.transpose(0, 2, 1), np.tile(np.eye(3), (8, 1, 1)), atol=1e-9)
        assert np.linalg.det(turn).min() > 0.999
        assert (turn[:, 1, 2] < -0.7).all(), "the image's down axis points to the floor"
        assert (Outline(room.polygon).clearance(eyes[:, :2]) >= 0.4).all(), seed
        assert (free_distance(room, eyes[:, :2]) >= 0).all(), seed
        assert eyes[:, 2].min() >= 1.2 and eyes[:, 2].max() <= 1.8
        assert 40 <= path.fov_deg <= 100
        moved.append(np.linalg.norm(eyes[-1] - eyes[0]))
    assert np.median(moved) > 0.5
    assert max(moved) < 3.3
