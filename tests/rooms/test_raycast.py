"""The ray-caster against closed forms and against a plain float64 reference."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vidllm_rooms import Primitive, build_room
from vidllm_rooms.camera_paths import draw_path
from vidllm_rooms.raycast import Hits, PrimitiveTable, nearest, surface
from vidllm_rooms.render import primitives_of

GREY = (0.5, 0.5, 0.5)
HEIGHT, WIDTH, FOCAL = 33, 41, 30.0


def looking_along_x(eye: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> tuple[torch.Tensor, torch.Tensor]:
    """A level camera at ``eye`` whose optical axis is the room's x."""
    extrinsics = torch.eye(4, dtype=torch.float64)
    extrinsics[:3, :3] = torch.tensor([[0.0, -1, 0], [0, 0, -1], [1, 0, 0]])
    extrinsics[:3, 3] = -extrinsics[:3, :3] @ torch.tensor(eye, dtype=torch.float64)
    intrinsics = torch.tensor([[FOCAL, 0, WIDTH / 2], [0, FOCAL, HEIGHT / 2], [0, 0, 1]], dtype=torch.float64)
    return extrinsics[None], intrinsics[None]


def rays() -> np.ndarray:
    """Directions (H, W, 3) in the room of that camera, one unit along its axis."""
    v, u = np.meshgrid(np.arange(HEIGHT) + 0.5, np.arange(WIDTH) + 0.5, indexing="ij")
    return np.stack([np.ones_like(u), -(u - WIDTH / 2) / FOCAL, -(v - HEIGHT / 2) / FOCAL], -1)


def cast(table: PrimitiveTable, extrinsics: torch.Tensor, intrinsics: torch.Tensor, height: int, width: int) -> Hits:
    depth, winner = nearest(table, extrinsics, intrinsics, height, width)
    return surface(table, extrinsics, intrinsics, depth, winner)


def depth_of(*primitives: Primitive) -> np.ndarray:
    extrinsics, intrinsics = looking_along_x()
    return cast(PrimitiveTable.build(primitives), extrinsics, intrinsics, HEIGHT, WIDTH).depth_m[0].double().numpy()


def test_front_face_of_a_box_has_one_depth() -> None:
    depth = depth_of(Primitive("box", (4.0, 0.0, 0.0), (2.0, 1.46, 0.98), 0.0, GREY))
    inside = (np.abs(rays()[..., 1]) * 3 < 0.73) & (np.abs(rays()[..., 2]) * 3 < 0.49)
    np.testing.assert_allclose(depth[inside], 3.0, rtol=1e-6)
    assert (depth[~inside] == 0).all()


def test_turned_box_shows_its_edge() -> None:
    depth = depth_of(Primitive("box", (5.0, 0.0, 0.0), (2.0, 2.0, 4.0), np.pi / 4, GREY))
    assert depth[HEIGHT // 2, WIDTH // 2] == pytest.approx(5 - np.sqrt(2), rel=1e-5)


def test_sphere_and_cylinder_match_their_closed_forms() -> None:
    d = rays()
    for kind, axes in (("ellipsoid", (0, 1, 2)), ("cylinder", (0, 1))):
        centre, radius = np.array([4.0, 0.3, 0.0]), 0.8
        depth = depth_of(Primitive(kind, (4.0, 0.3, 0.0), (1.6, 1.6, 1.6 if kind == "ellipsoid" else 50.0), 0.0, GREY))
        flat, middle = d[..., list(axes)], centre[list(axes)]
        a, b, c = (flat**2).sum(-1), flat @ middle, (middle**2).sum() - radius**2
        inside = b**2 - a * c
        expected = np.where(inside > 0, (b - np.sqrt(np.maximum(inside, 0))) / a, 0.0)
        clear = np.abs(inside) > 1e-3
        np.testing.assert_allclose(depth[clear], expected[clear], rtol=1e-4)


def test_top_of_a_cylinder_is_flat() -> None:
    extrinsics, intrinsics = looking_along_x((0.0, 0.0, 1.0))
    table = PrimitiveTable.build([Primitive("cylinder", (3.0, 0.0, -0.25), (4.0, 4.0, 0.5), 0.0, GREY)])
    hits = cast(table, extrinsics, intrinsics, HEIGHT, WIDTH)
    top = hits.normals[0, ..., 2] > 0.99
    assert top.sum() > 50
    np.testing.assert_allclose(hits.points[0][top][:, 2].numpy(), 0.0, atol=1e-5)


def test_normals_are_unit_and_face_the_camera() -> None:
    room = build_room(3)
    path = draw_path(room, np.random.default_rng(3), 2, 48, 60)
    hits = cast(primitives_of(room), torch.tensor(path.extrinsics), torch.tensor(path.intrinsics), 48, 60)
    eye = -np.einsum("fji,fj->fi", path.extrinsics[:, :3, :3], path.extrinsics[:, :3, 3])
    towards = torch.tensor(eye)[:, None, None].float() - hits.points
    torch.testing.assert_close(hits.normals.norm(dim=-1), torch.ones(2, 48, 60), atol=1e-4, rtol=0)
    assert ((hits.normals * towards).sum(-1) > -1e-4).all()


def reference_depth(primitives: list[Primitive], directions: np.ndarray, eye: np.ndarray) -> np.ndarray:
    """Every ray against every primitive in float64, by textbook quadratics and slabs."""
    best = np.full(directions.shape[:-1], np.inf)
    for item in primitives:
        c, s = np.cos(item.yaw), np.sin(item.yaw)
        to_unit = np.diag(2 / np.array(item.size)) @ np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]])
        o, d = to_unit @ (eye - np.array(item.centre)), directions @ to_unit.T
        d = np.where(np.abs(d) < 1e-15, 1e-15, d)
        round_axes = {"box": [], "cylinder": [0, 1], "ellipsoid": [0, 1, 2]}[item.kind]
        entry, leave = np.full(best.shape, -np.inf), np.full(best.shape, np.inf)
        for axis in set(range(3)) - set(round_axes):
            near, far = (-1 - o[axis]) / d[..., axis], (1 - o[axis]) / d[..., axis]
            entry, leave = np.maximum(entry, np.minimum(near, far)), np.minimum(leave, np.maximum(near, far))
        if round_axes:
            q, p = d[..., round_axes], o[round_axes]
            a, b, k = (q**2).sum(-1), q @ p, (p**2).sum() - 1
            root = np.sqrt(np.where(b * b - a * k >= 0, b * b - a * k, np.nan))
            entry, leave = np.maximum(entry, (-b - root) / a), np.minimum(leave, (-b + root) / a)
        best = np.where((entry <= leave) & (entry > 1e-2) & (entry < best), entry, best)
    return best


@pytest.mark.parametrize(("seed", "height", "width"), [(0, 40, 56), (5, 56, 40), (11, 40, 56)])
def test_whole_rooms_match_the_reference(seed: int, height: int, width: int) -> None:
    room = build_room(seed)
    path = draw_path(room, np.random.default_rng(seed), 2, height, width)
    depth, winner = nearest(
        primitives_of(room), torch.tensor(path.extrinsics), torch.tensor(path.intrinsics), height, width
    )
    assert (winner >= 0).all(), "a closed room has no holes"
    primitives = [*room.shell, *(part for item in room.objects for part in item.parts)]
    v, u = np.meshgrid(np.arange(height) + 0.5, np.arange(width) + 0.5, indexing="ij")
    pixels = np.stack([u, v, np.ones_like(u)], -1)
    for frame in range(2):
        turn, shift = path.extrinsics[frame, :3, :3], path.extrinsics[frame, :3, 3]
        directions = pixels @ np.linalg.inv(path.intrinsics[frame]).T @ turn
        expected = reference_depth(primitives, directions, -turn.T @ shift)
        error = np.abs(depth[frame].numpy() - expected) / expected
        assert (error < 1e-4).mean() > 0.998  # grazing rays may fall to either side of an edge
        assert np.median(error) < 1e-6


def test_batching_frames_changes_nothing() -> None:
    room = build_room(2)
    table = primitives_of(room)
    path = draw_path(room, np.random.default_rng(2), 3, 32, 40)
    extrinsics, intrinsics = torch.tensor(path.extrinsics), torch.tensor(path.intrinsics)
    together = cast(table, extrinsics, intrinsics, 32, 40)
    for frame in range(3):
        alone = cast(table, extrinsics[frame : frame + 1], intrinsics[frame : frame + 1], 32, 40)
        assert torch.equal(alone.primitive[0], together.primitive[frame])
        torch.testing.assert_close(alone.depth_m[0], together.depth_m[frame], rtol=1e-6, atol=1e-6)


def test_nothing_in_sight_is_a_miss() -> None:
    depth = depth_of(Primitive("ellipsoid", (-4.0, 0.0, 0.0), (1.0, 1.0, 1.0), 0.0, GREY))
    assert (depth == 0).all()
