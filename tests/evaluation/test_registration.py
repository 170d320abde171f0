"""From the scene frame to the dataset's: rigid, exact at the first camera, and the truth falls onto the scan."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vidllm.datasets.layout import DataRoot
from vidllm.evaluation.recording import (
    EvaluationScene,
    Recording,
    aligned_corners,
    aligned_from_scene,
    in_scene,
    moved_points,
    object_corners,
    oriented_corners,
)
from vidllm.geometry.boxes import box_corners
from vidllm.geometry.cameras import unproject
from vidllm_rooms.official.corpora import corners


@pytest.fixture(scope="module")
def case(exported, small):
    return EvaluationScene(DataRoot(exported), "scene91000_00", small, 3)


def test_corners_are_ordered_as_scanrefer_has_them():
    box = [1.0, 2.0, 3.0, 0.4, 0.6, 0.8]
    low, high = np.array(box[:3]) - np.array(box[3:]) / 2, np.array(box[:3]) + np.array(box[3:]) / 2
    assert np.allclose(aligned_corners(box), corners(low, high))
    turned = np.array([*box, 0.7])
    known = box_corners(torch.tensor(turned[None]))[0].numpy()
    found = oriented_corners(turned)
    distance = np.linalg.norm(found[:, None] - known[None], axis=-1)
    assert np.allclose(distance.min(1), 0) and sorted(distance.argmin(1)) == list(range(8))


def test_the_motion_is_rigid_and_exact_at_the_first_camera(case):
    placed = case.placed("raw")
    turn = placed.to_aligned[:3, :3]
    assert np.allclose(turn @ turn.T, np.eye(3), atol=1e-5) and np.isclose(np.linalg.det(turn), 1, atol=1e-5)
    first = case.recording.aligned_from_camera[0]
    level = placed.scene.scene_from_world.double().numpy()
    ahead = np.array([[0.0, 0.0, 0.0], [0.1, 0.2, 2.0]])
    assert np.allclose(
        moved_points(placed.to_aligned, moved_points(level, ahead)), moved_points(first, ahead), atol=1e-5
    )
    scaled = aligned_from_scene(first, level)
    assert np.allclose(scaled, placed.to_aligned)


def test_true_geometry_falls_onto_the_mesh(case):
    recording = case.recording
    placed = case.placed("oracle-geometry")
    arrays = (recording.depth_m, recording.intrinsics, recording.extrinsics)
    depth, intrinsics, extrinsics = (torch.from_numpy(np.asarray(a, np.float64)) for a in arrays)
    world = unproject(depth, intrinsics, extrinsics)[depth > 0].numpy()
    scene_points = moved_points(placed.scene.scene_from_world.double().numpy(), world)
    points = moved_points(placed.to_aligned, scene_points)
    mesh = case.source.aligned_vertices()
    assert (points > mesh.min(0) - 0.05).all() and (points < mesh.max(0) + 0.05).all()
    inside = np.zeros(len(points), bool)  # most of what is seen of a room with things lies in or on some object's box
    for box in case.objects.values():
        inside |= (np.abs(points - box[:3]) <= box[3:] / 2 + 0.05).all(1)
    assert inside.mean() > 0.95
    level = case.recording.aligned_from_level()
    assert np.allclose(level[2, :3], [0, 0, 1], atol=1e-5)  # true gravity is the aligned frame's z axis
    assert np.allclose(level, placed.to_aligned, atol=1e-5)


def test_a_box_goes_to_the_scene_frame_and_back(case):
    to_aligned = case.recording.aligned_from_level()
    box = next(iter(case.objects.values()))
    assert np.allclose(oriented_corners(in_scene(box, to_aligned), to_aligned), aligned_corners(box), atol=1e-5)


def test_frames_are_those_with_a_pose_and_the_truth_belongs_to_them(case, small):
    recording = Recording(case.source, small.processor, 2)
    assert recording.numbers == [0, 3] and len(recording.frames) == 2
    assert recording.depth_m.shape == (2, *recording.frames.images.shape[-2:])
    assert np.allclose(recording.extrinsics[0], np.eye(4))
    poses = [case.source.axis_alignment @ case.source.pose(n) for n in (0, 3)]
    assert np.allclose(recording.aligned_from_camera, poses)


def test_a_scene_is_the_one_that_the_model_reconstructs(case, small):
    frames = [case.source.colour(n) for n in case.recording.numbers]
    alone, scene = small.reconstruct(frames), case.placed("raw").scene
    assert torch.equal(alone.depth, scene.depth) and torch.equal(alone.extrinsics, scene.extrinsics)
    assert alone.ask("How many chairs are there?", max_new_tokens=4) == scene.ask(
        "How many chairs are there?", max_new_tokens=4
    )


def test_2d_leaves_the_positions_out_and_the_model_as_it_was(case, small):
    with_positions, without = (case.placed("raw", on).scene._prefix for on in (True, False))
    assert torch.equal(with_positions.patch_positions, without.patch_positions)
    assert not torch.equal(with_positions.patches, without.patches)
    assert small.model.config.patches.positions is True
    assert torch.equal(case.placed("raw").scene.depth, case.placed("raw", False).scene.depth)


def test_an_unknown_object_is_named(case):
    with pytest.raises(ValueError, match=r"annotation 7: scene91000_00 has no object 999"):
        object_corners(case.objects, case.scene_id, 999, "annotation 7")
