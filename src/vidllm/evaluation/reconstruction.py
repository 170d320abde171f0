"""Reconstruction measured against RGB-D ground truth: depth, scale, cameras and points.

Each figure in metric scale, as predicted, and after the alignment that takes a wrong scale out: the median ratio for
depth, a similarity of the camera centres for the trajectory, one of the points themselves for the points.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.spatial import cKDTree

from vidllm.evaluation.trajectory import (
    AUC_DEGREES,
    absolute_error_m,
    aligned,
    centres,
    check_poses,
    fit,
    pairs_apart,
    path_m,
    pose_accuracy,
    relative_error,
)
from vidllm.geometry.cameras import unproject

POINT_THRESHOLD_M = 0.05
VOXEL_M = 0.02
DELTA1 = 1.25
_NAN = float("nan")

Depth = Float[np.ndarray, "... _ _"]
Poses = Float[np.ndarray, "_ 4 4"]
Cloud = Float[np.ndarray, "_ 3"]


@dataclass(frozen=True)
class PosedDepth:
    """A reconstruction of F frames, predicted or true.

    depth_m (F, H, W) along the optical axis, in the truth 0 or NaN where it is not known; extrinsics (F, 4, 4)
    camera-from-world; intrinsics (F, 3, 3) in pixels of the depth maps, pixel centres at +0.5; times_s (F,) if known.
    """

    depth_m: np.ndarray
    extrinsics: np.ndarray
    intrinsics: np.ndarray
    times_s: np.ndarray | None = None

    def __post_init__(self) -> None:
        if self.depth_m.ndim != 3:
            raise ValueError(
                f"expected depth of shape (F, H, W), received {self.depth_m.shape}; give each frame its own"
            )
        frames = len(self.depth_m)
        wanted = {"extrinsics": (frames, 4, 4), "intrinsics": (frames, 3, 3), "times_s": (frames,)}
        for name, shape in wanted.items():
            array = getattr(self, name)
            if array is not None and array.shape != shape:
                raise ValueError(f"expected {name} of shape {shape} for {frames} depth maps, received {array.shape}")


def reconstruction_figures(predicted: PosedDepth, truth: PosedDepth) -> dict[str, float]:
    """All figures of a clip by name: those of `depth_figures`, `trajectory_figures` and `point_figures`.

    Both have the same frames and sizes of depth maps; the worlds may differ. NaN stands for what the clip does not
    allow (see `trajectory_figures`).

    Raises:
        ValueError: shapes differ, a predicted depth is missing where there is a true one, a pose is not finite, or
            the ground truth is empty.
    """
    check_poses(predicted.extrinsics, truth.extrinsics, at_least=1)
    return {
        **depth_figures(predicted.depth_m, truth.depth_m),
        **trajectory_figures(predicted.extrinsics, truth.extrinsics, truth.times_s),
        **point_figures(predicted, truth),
    }


def depth_figures(predicted: Depth, truth: Depth) -> dict[str, float]:
    """Errors of metric depth over all pixels with ground truth, the clip taken as one.

    ``scale_ratio`` is the median of predicted / true, ``scale_error`` how far that is from 1; ``abs_rel`` and
    ``delta1`` (share within a factor of 1.25) are as predicted, ``..._aligned`` after division by the ratio.

    Raises:
        ValueError: as `reconstruction_figures`.
    """
    valid = known(predicted, truth)
    ratio = predicted[valid].astype(np.float64) / truth[valid].astype(np.float64)
    scale = float(np.median(ratio))
    figures = {"scale_ratio": scale, "scale_error": abs(scale - 1)}
    for ending, values in (("", ratio), ("_aligned", ratio / scale)):
        figures[f"abs_rel{ending}"] = float(np.abs(values - 1).mean())
        figures[f"delta1{ending}"] = float((np.maximum(values, 1 / values) < DELTA1).mean())
    return figures


def known(predicted: Depth, truth: Depth) -> Bool[np.ndarray, "... _ _"]:
    """The pixels that have a true depth: finite and at least 1 mm.

    Raises:
        ValueError: the shapes differ, no pixel has a true depth, or one that has is predicted as not finite or not
            positive; a model owes a depth everywhere.
    """
    if predicted.shape != truth.shape:
        raise ValueError(f"expected depth of shape {truth.shape}, received {predicted.shape}; resample it to the truth")
    valid = np.isfinite(truth) & (np.nan_to_num(truth) > 1e-3)
    if not valid.any():
        raise ValueError("expected a true depth somewhere, received none; leave the clip out")
    bad = valid & ~(np.isfinite(predicted) & (np.nan_to_num(predicted) > 0))
    if bad.any():
        first = tuple(int(v) for v in np.argwhere(bad)[0])
        raise ValueError(f"expected a positive predicted depth at {bad.sum()} more pixels, the first at {first}; "
                         "predict one at every pixel, or take these out of the truth")  # fmt: skip
    return valid


def trajectory_figures(
    predicted: Poses,
    truth: Poses,
    times_s: Float[np.ndarray, " F"] | None = None,
) -> dict[str, float]:
    """Errors of the cameras; what a clip is too short for is NaN.

    ``ate_m`` after SE(3) and ``ate_sim3_m`` after Sim(3) alignment (3 frames at least); RPE ``rpe_..._m`` and
    ``rpe_..._deg`` ``per_frame``, ``per_metre`` of the true path and ``per_second`` (with ``times_s``), where
    ``rpe_sim3_per_frame_m`` has the steps in the scale of the Sim(3) alignment; ``rra_T``, ``rta_T`` and ``auc_T`` of
    `pose_accuracy`. A camera that is predicted to stand still has no scale: its Sim(3) figures are those of SE(3).
    """
    frames = len(truth)
    figures = {"ate_m": _NAN, "ate_sim3_m": _NAN}
    if frames >= 3:
        figures["ate_m"] = absolute_error_m(predicted, truth)
        figures["ate_sim3_m"] = absolute_error_m(predicted, truth, with_scale=True)
    intervals = {"frame": None, "metre": path_m(truth)}
    if times_s is not None:
        intervals["second"] = times_s
    for name, positions in intervals.items():
        figures.update(_relative(predicted, truth, name, positions))
    scaled = _in_true_scale(predicted, truth) if frames >= 3 else predicted
    figures["rpe_sim3_per_frame_m"] = relative_error(scaled, truth).translation_m if frames >= 3 else _NAN
    if frames >= 2:
        return {**figures, **pose_accuracy(predicted, truth)}
    return {**figures, **{f"{name}_{most}": _NAN for most in AUC_DEGREES for name in ("rra", "rta", "auc")}}


def _relative(predicted: np.ndarray, truth: np.ndarray, name: str, positions: np.ndarray | None) -> dict[str, float]:
    pairs = None if positions is None else pairs_apart(positions, 1.0)
    if len(truth) < 2 or (pairs is not None and not len(pairs)):
        return {f"rpe_per_{name}_m": _NAN, f"rpe_per_{name}_deg": _NAN}
    error = relative_error(predicted, truth, pairs)
    return {f"rpe_per_{name}_m": error.translation_m, f"rpe_per_{name}_deg": error.rotation_deg}


def _in_true_scale(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """The predicted poses with their translations in the scale of the Sim(3) alignment."""
    source = centres(predicted)
    if np.ptp(source, axis=0).max() < 1e-9:
        return predicted
    scaled = predicted.astype(np.float64).copy()
    scaled[:, :3, 3] *= float(fit(source, centres(truth), with_scale=True).scale)
    return scaled


def point_figures(predicted: PosedDepth, truth: PosedDepth, threshold_m: float = POINT_THRESHOLD_M) -> dict[str, float]:
    """Precision, recall and F-score of the points at 5 cm: ``precision``, ``recall``, ``f_score``, and ``..._aligned``.

    Both clouds hold the pixels with ground truth, thinned to one point a voxel of 2 cm. In metric scale both are in
    the frame of the first camera, with no alignment; the aligned figures are after the similarity that brings each
    pixel's predicted point nearest to its true one (least squares).
    """
    valid = known(predicted.depth_m, truth.depth_m)
    ours, theirs = (_first_camera_points(item)[valid] for item in (predicted, truth))
    figures = cloud_figures(ours, theirs, threshold_m)
    after = cloud_figures(aligned(ours, theirs, with_scale=True), theirs, threshold_m)
    return {**figures, **{f"{name}_aligned": value for name, value in after.items()}}


def _first_camera_points(item: PosedDepth) -> np.ndarray:
    """Points (F, H, W, 3) of all pixels in the frame of the first camera, float64."""
    to_first = item.extrinsics.astype(np.float64) @ np.linalg.inv(item.extrinsics[0].astype(np.float64))
    arrays = (np.nan_to_num(item.depth_m), item.intrinsics, to_first)
    depth, intrinsics, extrinsics = (torch.from_numpy(np.ascontiguousarray(a, np.float64)) for a in arrays)
    return unproject(depth, intrinsics, extrinsics).numpy()


def cloud_figures(predicted: Cloud, truth: Cloud, threshold_m: float, voxel_m: float = VOXEL_M) -> dict[str, float]:
    """``precision`` (predicted points near the truth), ``recall`` (the reverse) and ``f_score`` of two clouds.

    Near is a nearest neighbour closer than ``threshold_m``, after both are thinned (`thinned`). The F-score is 0
    where precision and recall are.

    Raises:
        ValueError: a cloud is empty or not finite.
    """
    for name, cloud in (("predicted", predicted), ("true", truth)):
        if not len(cloud) or not np.isfinite(cloud).all():
            raise ValueError(f"expected finite points in the {name} cloud, received {len(cloud)} with NaN or none")
    ours, theirs = thinned(predicted, voxel_m), thinned(truth, voxel_m)
    precision, recall = _near(ours, theirs, threshold_m), _near(theirs, ours, threshold_m)
    total = precision + recall
    return {"precision": precision, "recall": recall, "f_score": 2 * precision * recall / total if total else 0.0}


def _near(points: Cloud, others: Cloud, threshold_m: float) -> float:
    """The share of the points with one of the others closer than the threshold."""
    distance, _ = cKDTree(others).query(points, distance_upper_bound=threshold_m)  # infinite where none is
    return float((distance < threshold_m).mean())


def thinned(points: Cloud, voxel_m: float) -> Cloud:
    """One point for each occupied cube of side ``voxel_m``: the mean of those in it, in the order of the cubes."""
    cells = np.floor(points / voxel_m).astype(np.int64)
    cells -= cells.min(0)
    _, which, count = np.unique(
        np.ravel_multi_index(cells.T, cells.max(0) + 1), return_inverse=True, return_counts=True
    )
    sums = np.stack([np.bincount(which, points[:, axis]) for axis in range(3)], -1)
    return np.asarray(sums / count[:, None])
