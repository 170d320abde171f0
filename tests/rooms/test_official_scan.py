"""Exported scans: the mesh, segments and instances give the things' own boxes, the recording gives their points."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from room_boxes import object_boxes, room_points

from vidllm.datasets.scannet import ScanNetScene
from vidllm.datasets.scannet_mesh import read_mesh
from vidllm.geometry.boxes import box_corners
from vidllm_rooms import build_room, render_clip
from vidllm_rooms.official.export import COLUMNS, NYU40, export_rooms, nyu40_class
from vidllm_rooms.official.mesh import tessellate
from vidllm_rooms.official.scan import moved, scan_frames, scan_room, scene_name, seen_objects
from vidllm_rooms.world import Clip, Primitive

SEEDS = (3, 1004)
FRAMES, HEIGHT, WIDTH = 3, 56, 72


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("official")
    export_rooms(folder, SEEDS, frames=FRAMES, height=HEIGHT, width=WIDTH)
    return folder


@cache
def clip_of(seed: int) -> Clip:
    return render_clip(build_room(seed), frames=FRAMES, height=HEIGHT, width=WIDTH)


def to_aligned(seed: int) -> np.ndarray:
    frames = scan_frames(build_room(seed))
    return frames.aligned_from_scan @ frames.scan_from_room


def true_hull(part: Primitive, transform: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The axis-aligned hull of a solid after a rigid motion, by its support function along the axes."""
    c, s = np.cos(part.yaw), np.sin(part.yaw)
    turn = transform[:3, :3] @ np.array([[c, -s, 0], [s, c, 0], [0, 0, 1.0]]) * (np.array(part.size) / 2)
    if part.kind == "box":
        reach = np.abs(turn).sum(1)
    elif part.kind == "ellipsoid":
        reach = np.linalg.norm(turn, axis=1)
    else:
        reach = np.linalg.norm(turn[:, :2], axis=1) + np.abs(turn[:, 2])
    centre = moved(transform, np.array(part.centre))
    return centre - reach, centre + reach


@pytest.mark.parametrize("seed", [0, 7, 999, 1000, 123456, 9999999])
def test_scene_names_are_one_to_one(seed: int) -> None:
    name = scene_name(seed)
    assert int(name.removeprefix("scene9").removesuffix("_00")) == seed and len(name) >= len("scene9007_00")


def test_scene_names_are_padded_and_no_seed_is_negative() -> None:
    assert (scene_name(7), scene_name(1000)) == ("scene9007_00", "scene91000_00")
    with pytest.raises(ValueError, match="at least 0"):
        scene_name(-1)


@pytest.mark.parametrize("seed", range(6))
def test_alignment_is_a_turn_and_a_shift_that_undoes_the_scan(seed: int) -> None:
    room = build_room(seed)
    matrix, outline = to_aligned(seed), np.array(room.polygon)
    np.testing.assert_allclose(matrix[:3, :3], np.eye(3), atol=2e-6)
    middle = matrix[:2, 3] + (outline.min(0) + outline.max(0)) / 2
    np.testing.assert_allclose([*middle, matrix[2, 3]], 0, atol=2e-5)
    turn = scan_frames(room).aligned_from_scan[:2, :2]
    assert np.abs(turn).min() > np.sin(np.radians(14.9)), "the alignment is next to nothing"


@pytest.mark.parametrize(("kind", "part_of_box"), [("box", 1.0), ("cylinder", np.pi / 4), ("ellipsoid", np.pi / 6)])
def test_surfaces_are_closed_and_point_outward(kind: str, part_of_box: float) -> None:
    part = Primitive(kind, (1.0, -2.0, 0.5), (0.8, 0.6, 0.7), 0.4, (0.1, 0.2, 0.3), owner=1)  # type: ignore[arg-type]
    points, faces = tessellate(part, 0.05)
    a, b, c = (points[faces[:, i]] for i in range(3))
    volume = np.einsum("ij,ij->i", a, np.cross(b, c)).sum() / 6
    assert volume == pytest.approx(part_of_box * 0.8 * 0.6 * 0.7, rel=1e-9 if kind == "box" else 0.01)
    edges = np.linalg.norm(np.concatenate([a - b, b - c, c - a]), axis=1)
    assert edges.max() < 0.05 * np.sqrt(2) * 1.2


@pytest.mark.parametrize("seed", SEEDS)
def test_boxes_of_the_files_are_the_hulls_of_the_things(root: Path, seed: int) -> None:
    scene = ScanNetScene(root / "scans" / scene_name(seed))
    things, transform = seen_objects(clip_of(seed)), to_aligned(seed)
    named = [item for item in scene.instances if item.label not in ("floor", "wall", "ceiling")]
    assert [item.label for item in named] == [thing.category for thing in things]
    for item, thing in zip(named, things, strict=True):
        hulls = [true_hull(part, transform) for part in thing.parts]
        low, high = np.min([h[0] for h in hulls], 0), np.max([h[1] for h in hulls], 0)
        points = scene.aligned_vertices()[np.isin(segments_of(root, seed), groups_of(root, seed)[item.object_id])]
        np.testing.assert_allclose(points.min(0), low, atol=2e-3)
        np.testing.assert_allclose(points.max(0), high, atol=2e-3)
        np.testing.assert_allclose(item.box, [*(low + high) / 2, *(high - low)], atol=3e-3)


@pytest.mark.parametrize("seed", SEEDS)
def test_boxes_of_straight_things_are_the_rooms_own(root: Path, seed: int) -> None:
    clip, scan = clip_of(seed), scan_room(clip_of(seed))
    ids, checked, shift = scan.object_id_of(), 0, to_aligned(seed)[:3, 3]
    for item, corners in zip(clip.room.objects, box_corners(object_boxes(clip.room)).numpy(), strict=True):
        if item.id in ids and min(item.yaw % (np.pi / 2), -item.yaw % (np.pi / 2)) < 1e-6:
            hull = corners.min(0) + shift, corners.max(0) + shift
            np.testing.assert_allclose(scan.box(ids[item.id]), hull, atol=2e-3)
            checked += 1
    assert checked >= 4


def segments_of(root: Path, seed: int) -> np.ndarray:
    name = scene_name(seed)
    path = root / "scans" / name / f"{name}_vh_clean_2.0.010000.segs.json"
    return np.array(json.loads(path.read_text())["segIndices"])


def groups_of(root: Path, seed: int) -> dict[int, list[int]]:
    name = scene_name(seed)
    whole = json.loads((root / "scans" / name / f"{name}.aggregation.json").read_text())
    assert whole["sceneId"] == f"scannet.{name}" and whole["segmentsFile"].endswith(".segs.json")
    return {group["objectId"]: group["segments"] for group in whole["segGroups"]}


@pytest.mark.parametrize("seed", SEEDS)
def test_instances_are_counted_from_zero_and_share_no_segment(root: Path, seed: int) -> None:
    groups = groups_of(root, seed)
    assert list(groups) == list(range(len(groups)))
    used = [segment for group in groups.values() for segment in group]
    assert len(used) == len(set(used)) and set(used) < set(segments_of(root, seed).tolist())


@pytest.mark.parametrize("seed", SEEDS)
def test_recorded_depth_lies_on_the_mesh_of_the_instances(root: Path, seed: int) -> None:
    clip, scene = clip_of(seed), ScanNetScene(root / "scans" / scene_name(seed))
    assert len(scene) == FRAMES
    truth = moved(to_aligned(seed), room_points(clip.depth_m, clip.extrinsics, clip.intrinsics))
    align = scene.axis_alignment
    np.testing.assert_allclose(scene.colour_intrinsics, clip.intrinsics[0], atol=1e-4)
    for frame in range(FRAMES):
        depth = scene.depth_m(frame).astype(np.float64)
        extrinsics = np.linalg.inv(align @ scene.pose(frame))
        points = room_points(depth[None], extrinsics[None], scene.depth_intrinsics[None])[0]
        np.testing.assert_allclose(points, truth[frame, ::2, ::2], atol=2e-3)
        error = np.abs(scene.colour(frame).astype(int) - clip.rgb[frame].astype(int))
        assert np.median(error) <= 4


def test_mesh_is_binary_with_colours_in_the_positive_octant(root: Path) -> None:
    name = scene_name(SEEDS[0])
    vertices = read_mesh(root / "scans" / name / f"{name}_vh_clean_2.ply")
    head = (root / "scans" / name / f"{name}_vh_clean_2.ply").read_bytes()[:60]
    assert head.startswith(b"ply\nformat binary_little_endian 1.0\n")
    assert 10_000 < len(vertices) < 300_000
    assert vertices[:, :2].min() > -0.2 and vertices[:, 2].min() > -0.15


def test_label_map_knows_every_label(root: Path) -> None:
    lines = (root / "scannetv2-labels.combined.tsv").read_text().splitlines()
    rows = [dict(zip(COLUMNS, line.split("\t"), strict=True)) for line in lines[1:]]
    assert lines[0].split("\t") == list(COLUMNS)
    ids = {row["raw_category"]: int(row["nyu40id"]) for row in rows}
    assert (ids["wall"], ids["floor"], ids["ceiling"], ids["chair"], ids["armchair"]) == (1, 2, 22, 5, 5)
    assert (ids["tv"], ids["nightstand"], ids["trash can"], ids["rug"], ids["book"]) == (25, 32, 39, 40, 23)
    assert all(row["nyu40class"] == NYU40[int(row["nyu40id"]) - 1] for row in rows)
    assert {nyu40_class(thing.category) for thing in build_room(0).objects} <= set(NYU40)
    labels = {item.label for seed in SEEDS for item in ScanNetScene(root / "scans" / scene_name(seed)).instances}
    assert labels <= set(ids)
