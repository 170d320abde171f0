"""Reconstruction figures with answers known beforehand: offsets, scales, turns and planes."""

from __future__ import annotations

import math

import numpy as np
import pytest

from vidllm.evaluation.reconstruction_metrics import (
    PosedDepth,
    absolute_error_m,
    auc,
    cloud_metrics,
    depth_metrics,
    pair_angles_deg,
    pairs_apart,
    path_m,
    point_metrics,
    pose_accuracy,
    reconstruction_metrics,
    relative_error,
    thinned,
    trajectory_metrics,
)
from vidllm_rooms import build_room, render_clip


def turn(axis: int, degrees: float) -> np.ndarray:
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    rotation = np.eye(3)
    i, j = (axis + 1) % 3, (axis + 2) % 3
    rotation[i, i] = rotation[j, j] = c
    rotation[i, j], rotation[j, i] = -s, s
    return rotation


def poses(places: np.ndarray, rotations: np.ndarray | None = None) -> np.ndarray:
    """Extrinsics (F, 4, 4) of cameras at these places; ``rotations`` are world-from-camera."""
    world_from_camera = np.tile(np.eye(4), (len(places), 1, 1))
    world_from_camera[:, :3, 3] = places
    if rotations is not None:
        world_from_camera[:, :3, :3] = rotations
    return np.linalg.inv(world_from_camera)


def wander(frames: int = 8, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    rotations = np.stack([turn(0, rng.normal() * 20) @ turn(1, rng.normal() * 40) for _ in range(frames)])
    return poses(rng.normal(size=(frames, 3)), rotations)


def moved_world(extrinsics: np.ndarray, scale: float = 1.0) -> np.ndarray:
    """The same cameras told in another world, whose unit is ``scale`` of theirs."""
    world = np.eye(4)
    world[:3, :3], world[:3, 3] = turn(2, 70) @ turn(0, 30), (3.0, -2.0, 1.0)
    told = extrinsics @ world
    told[:, :3, 3] *= scale
    return told


# ---- depth ---------------------------------------------------------------------------------------------------------


def test_depth_of_a_wrong_scale_is_wrong_in_metres_and_right_after_alignment() -> None:
    truth = np.random.default_rng(0).uniform(1, 5, (3, 8, 10))
    figures = depth_metrics(truth * 1.3, truth)
    assert figures["abs_rel"] == pytest.approx(0.3) and figures["scale_error"] == pytest.approx(0.3)
    assert figures["scale_ratio"] == pytest.approx(1.3) and figures["delta1"] == 0
    assert figures["abs_rel_aligned"] == pytest.approx(0, abs=1e-12) and figures["delta1_aligned"] == 1
    small = depth_metrics(truth * 0.9, truth)
    assert small["scale_error"] == pytest.approx(0.1) and small["delta1"] == 1


def test_delta1_counts_both_sides_and_excludes_the_limit() -> None:
    truth = np.ones((1, 1, 4))
    figures = depth_metrics(np.array([[[1.25, 0.79, 0.81, 1.24]]]), truth)
    assert figures["delta1"] == pytest.approx(0.5)
    assert figures["abs_rel"] == pytest.approx((0.25 + 0.21 + 0.19 + 0.24) / 4)


def test_pixels_without_true_depth_do_not_count() -> None:
    truth = np.full((2, 3, 4), 2.0)
    truth[0, 0], truth[1, 1] = 0.0, np.nan
    predicted = np.where(np.nan_to_num(truth) > 0, 2.2, np.nan)
    assert depth_metrics(predicted, truth)["abs_rel"] == pytest.approx(0.1)


def test_missing_depth_is_an_error_that_says_where() -> None:
    truth = np.ones((2, 3, 4))
    for bad in (np.nan, np.inf, 0.0, -1.0):
        predicted = truth.copy()
        predicted[1, 2, 3] = bad
        with pytest.raises(ValueError, match=r"at 1 more pixels, the first at \(1, 2, 3\)"):
            depth_metrics(predicted, truth)
    with pytest.raises(ValueError, match="expected a true depth somewhere"):
        depth_metrics(truth, np.zeros_like(truth))
    with pytest.raises(ValueError, match=r"shape \(2, 3, 4\), received \(2, 3, 5\)"):
        depth_metrics(np.ones((2, 3, 5)), truth)


# ---- trajectories --------------------------------------------------------------------------------------------------


def test_the_choice_of_the_world_changes_nothing() -> None:
    truth = wander()
    figures = trajectory_metrics(moved_world(truth), truth)
    errors = {name: value for name, value in figures.items() if name.startswith(("ate", "rpe"))}
    assert len(errors) == 7 and max(errors.values()) < 1e-5
    assert all(figures[f"{name}_{most}"] == 1 for name in ("rra", "rta", "auc") for most in (5, 10, 30))


def test_ate_of_a_square_walked_too_large() -> None:
    """A square of side 2 told with side 3: corners are sqrt(2) and 1.5 sqrt(2) from the middle."""
    square = np.array([[-1, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0.0]])
    predicted, truth = moved_world(poses(1.5 * square)), poses(square)
    assert absolute_error_m(predicted, truth) == pytest.approx(math.sqrt(2) / 2, abs=1e-9)
    assert absolute_error_m(predicted, truth, with_scale=True) == pytest.approx(0, abs=1e-9)


def test_ate_of_one_displaced_camera() -> None:
    """Symmetric displacements of two opposite corners along z cannot be aligned away."""
    square = np.array([[-1, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0.0]])
    bent = square + np.array([0.1, -0.1, 0.1, -0.1])[:, None] * np.array([0, 0, 1.0])
    assert absolute_error_m(poses(bent), poses(square)) == pytest.approx(0.1, abs=1e-12)


def test_ate_of_a_camera_that_is_told_to_stand_still() -> None:
    truth = wander()
    places = np.linalg.inv(truth)[:, :3, 3]
    spread = math.sqrt(((places - places.mean(0)) ** 2).sum(-1).mean())
    still = np.tile(wander(1), (8, 1, 1))
    figures = trajectory_metrics(still, truth)
    assert figures["ate_m"] == pytest.approx(spread) and figures["ate_sim3_m"] == pytest.approx(spread)
    steps = np.linalg.norm(np.diff(places, axis=0), axis=-1)
    assert figures["rpe_per_frame_m"] == pytest.approx(math.sqrt((steps**2).mean()))
    assert figures["rpe_sim3_per_frame_m"] == pytest.approx(figures["rpe_per_frame_m"])
    assert figures["rta_30"] == 0


def test_rpe_of_a_steady_drift() -> None:
    """Steps of 0.5 m told as 0.6 m, and 2 degrees a step too many: the same error at every frame."""
    count = 9
    truth = poses(np.arange(count)[:, None] * np.array([0.0, 0.0, 0.5]))
    angles = np.stack([turn(2, 2.0 * i) for i in range(count)])
    predicted = poses(np.arange(count)[:, None] * np.array([0.0, 0.0, 0.6]), angles)
    assert relative_error(predicted, truth) == pytest.approx((0.1, 2.0))
    figures = trajectory_metrics(predicted, truth)
    assert figures["rpe_per_metre_m"] == pytest.approx(0.2) and figures["rpe_per_metre_deg"] == pytest.approx(4.0)
    assert figures["rpe_sim3_per_frame_m"] == pytest.approx(0, abs=1e-9)


def test_pairs_a_metre_apart() -> None:
    positions = np.array([0.0, 0.4, 0.9, 1.5, 1.9, 2.5])
    assert pairs_apart(positions, 1.0).tolist() == [[0, 2], [1, 3], [2, 4], [3, 5]]
    assert pairs_apart(positions, 3.0).tolist() == []
    np.testing.assert_allclose(path_m(poses(np.array([[0, 0, 0], [0, 3, 0], [4, 3, 0.0]]))), [0, 3, 7])


def test_pose_angles_of_known_turns() -> None:
    """Camera 1 told 12 degrees too far round its own z, and in a direction 20.5 degrees off."""
    truth = poses(np.array([[0, 0, 0], [1.0, 0, 0]]))
    predicted = poses(np.array([[0, 0, 0], 5 * turn(2, 20.5) @ [1.0, 0, 0]]), np.stack([np.eye(3), turn(2, 12)]))
    rotation, direction = pair_angles_deg(predicted, truth)
    assert rotation == pytest.approx([12]) and direction == pytest.approx([20.5])
    figures = pose_accuracy(predicted, truth)
    assert [figures[f"rra_{most}"] for most in (5, 10, 30)] == [0, 0, 1]
    assert [figures[f"rta_{most}"] for most in (5, 10, 30)] == [0, 0, 1]
    assert figures["auc_10"] == 0 and figures["auc_30"] == pytest.approx(10 / 30)  # right at 21 .. 30 degrees


def test_directions_are_up_to_sign_and_need_a_length() -> None:
    truth = poses(np.array([[0, 0, 0], [1.0, 0, 0], [1.0, 0, 0]]))
    rotation, direction = pair_angles_deg(poses(np.array([[0, 0, 0], [-1.0, 0, 0], [-1.0, 0, 1]])), truth)
    assert rotation == pytest.approx([0, 0, 0], abs=1e-6)
    assert direction == pytest.approx([0, 45, 90])
    assert pair_angles_deg(poses(np.zeros((2, 3))), truth[:2])[1] == pytest.approx([90])


def test_auc_of_known_errors() -> None:
    assert auc(np.array([0.0, 0.0]), 5) == 1 and auc(np.array([40.0]), 30) == 0
    assert auc(np.array([0.5, 2.5, 4.5, 99.0]), 5) == pytest.approx(np.mean([1, 1, 2, 2, 3]) / 4)


def test_short_and_broken_trajectories() -> None:
    truth = wander(2)
    figures = trajectory_metrics(truth, truth)
    assert math.isnan(figures["ate_m"]) and math.isnan(figures["rpe_sim3_per_frame_m"])
    assert figures["rpe_per_frame_m"] == pytest.approx(0, abs=1e-9) and figures["auc_5"] == 1
    single = trajectory_metrics(truth[:1], truth[:1])
    assert all(math.isnan(value) for value in single.values()) and set(single) == set(figures)
    with pytest.raises(ValueError, match="at least 3 frames, received 2"):
        absolute_error_m(truth, truth)
    with pytest.raises(ValueError, match="received 2 for 5"):
        relative_error(truth, wander(5))
    lost = wander(4)
    lost[2] = np.inf
    with pytest.raises(ValueError, match=r"the true pose of frame 2 is not finite"):
        pose_accuracy(wander(4), lost)


# ---- points --------------------------------------------------------------------------------------------------------


def grid(spacing: float, side: int = 40) -> np.ndarray:
    u, v = np.meshgrid(np.arange(side), np.arange(side))
    return np.stack([u, v, 0 * u], -1).reshape(-1, 3) * spacing + 0.011


def test_planes_nearer_and_farther_than_the_threshold() -> None:
    plane = grid(0.03)
    for height, share in ((0.049, 1.0), (0.051, 0.0)):
        figures = cloud_metrics(plane + np.array([0, 0, height]), plane, 0.05)
        assert figures == {"precision": share, "recall": share, "f_score": share}


def test_half_a_plane_is_precise_and_incomplete() -> None:
    plane = grid(0.2)
    figures = cloud_metrics(plane[:800], plane, 0.05)
    assert figures["precision"] == 1 and figures["recall"] == 0.5
    assert figures["f_score"] == pytest.approx(2 * 0.5 / 1.5)


def test_thinning_takes_the_mean_of_each_cube() -> None:
    points = np.array([[0.001, 0.001, 0.001], [0.003, 0.005, 0.001], [-0.001, 0.001, 0.001], [0.5, 0.5, 0.5]])
    np.testing.assert_allclose(thinned(points, 0.02), [points[2], (points[0] + points[1]) / 2, points[3]])
    repeated = np.repeat(grid(0.05), 3, axis=0)
    assert len(thinned(repeated, 0.02)) == 1600


def test_empty_clouds_are_refused() -> None:
    for bad in (np.zeros((0, 3)), np.full((3, 3), np.nan)):
        with pytest.raises(ValueError, match="finite points in the predicted cloud"):
            cloud_metrics(bad, grid(0.1), 0.05)


# ---- everything ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def truth() -> PosedDepth:
    clip = render_clip(build_room(4), frames=5, height=42, width=56)
    return PosedDepth(clip.depth_m, clip.extrinsics, clip.intrinsics)


def test_a_perfect_reconstruction_in_another_world(truth: PosedDepth) -> None:
    figures = reconstruction_metrics(PosedDepth(truth.depth_m, moved_world(truth.extrinsics), truth.intrinsics), truth)
    ones = {name for name, value in figures.items() if value == pytest.approx(1, abs=1e-6)}
    assert {"f_score", "f_score_aligned", "precision", "recall", "delta1", "scale_ratio", "auc_5", "rra_5"} <= ones
    zeros = {name for name, value in figures.items() if value == pytest.approx(0, abs=1e-5)}
    assert {"abs_rel", "scale_error", "ate_m", "ate_sim3_m", "rpe_per_frame_m", "rpe_per_frame_deg"} <= zeros


def test_a_reconstruction_of_the_wrong_size(truth: PosedDepth) -> None:
    """All lengths times 1.5: nothing is right in metres, everything is after alignment."""
    predicted = PosedDepth(truth.depth_m * 1.5, moved_world(truth.extrinsics, 1.5), truth.intrinsics)
    figures = reconstruction_metrics(predicted, truth)
    assert figures["scale_ratio"] == pytest.approx(1.5, abs=1e-6) and figures["f_score"] < 0.3
    assert figures["ate_m"] > 0.05 and figures["rpe_per_frame_m"] > 0.01
    for name in ("abs_rel_aligned", "ate_sim3_m", "rpe_sim3_per_frame_m"):
        assert figures[name] == pytest.approx(0, abs=1e-5)
    assert figures["f_score_aligned"] == figures["delta1_aligned"] == figures["auc_5"] == 1
    steps, _ = relative_error(np.tile(np.eye(4), (5, 1, 1)), truth.extrinsics)
    assert figures["rpe_per_frame_m"] == pytest.approx(0.5 * steps, rel=1e-6)


def test_points_without_true_depth_do_not_count(truth: PosedDepth) -> None:
    depth = truth.depth_m.copy()
    depth[:, :10] = np.nan
    predicted = np.where(np.isnan(depth), 9.0, depth)
    holed = PosedDepth(depth, truth.extrinsics, truth.intrinsics)
    figures = point_metrics(PosedDepth(predicted, truth.extrinsics, truth.intrinsics), holed)
    assert figures["f_score"] == figures["f_score_aligned"] == 1


def test_shapes_that_do_not_belong_together(truth: PosedDepth) -> None:
    with pytest.raises(ValueError, match=r"extrinsics of shape \(5, 4, 4\) for 5 depth maps, received \(4, 4, 4\)"):
        PosedDepth(truth.depth_m, truth.extrinsics[:4], truth.intrinsics)
    with pytest.raises(ValueError, match=r"expected depth of shape \(F, H, W\)"):
        PosedDepth(truth.depth_m[0], truth.extrinsics, truth.intrinsics)
    fewer = PosedDepth(truth.depth_m[:3], truth.extrinsics[:3], truth.intrinsics[:3])
    with pytest.raises(ValueError, match="received 3 for 5"):
        reconstruction_metrics(fewer, truth)
