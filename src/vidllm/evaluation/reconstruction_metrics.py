"""Reconstruction measured against RGB-D ground truth: depth, scale, cameras (TUM's ATE and RPE, pose AUC) and points.

Each metric in metric scale, as predicted, and after the alignment that removes the scale error: the median ratio for
depth, a similarity of the camera centres for the trajectory, one of the points themselves for the points. Trajectories
are extrinsics (F, 4, 4), camera-from-world in metres, each in a world of its own: ATE and AUC do not depend on the
choice of the worlds, RPE compares motions and needs no alignment (definitions: Sturm et al., IROS 2012).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.spatial import cKDTree
from torch import Tensor

from vidllm.geometry.alignment import umeyama
from vidllm.geometry.cameras import relative_to_first, unproject
from vidllm.geometry.rotations import rotation_angle_deg
from vidllm.geometry.sim3 import Sim3
from vidllm.io.frames import Frames

AUC_DEGREES = (5, 10, 30)
POINT_THRESHOLD_M = 0.05
VOXEL_M = 0.02
DELTA1 = 1.25
TRAJECTORY = (
    "ate_m", "ate_sim3_m", "rpe_per_frame_m", "rpe_per_frame_deg", "rpe_per_metre_m", "rpe_per_metre_deg",
    "rpe_sim3_per_frame_m", *(f"{name}_{most}" for most in AUC_DEGREES for name in ("rra", "rta", "auc")),
)  # fmt: skip
_STILL_M = 1e-9  # cameras closer than this stand at one place

Depth = Float[np.ndarray, "... _ _"]
Poses = Float[np.ndarray, "_ 4 4"]
Points = Float[np.ndarray, "_ 3"]


def depth_metrics(predicted: Depth, truth: Depth) -> dict[str, float]:
    """Errors of metric depth over all pixels with ground truth, the clip taken as one.

    ``scale_ratio`` is the median of predicted / true, ``scale_error`` how far that is from 1; ``abs_rel`` and
    ``delta1`` (share within a factor of 1.25) are as predicted, ``..._aligned`` after division by the ratio. ValueError
    as `known`.
    """
    valid = known(predicted, truth)
    ratio = predicted[valid].astype(np.float64) / truth[valid].astype(np.float64)
    scale = float(np.median(ratio))
    metrics = {"scale_ratio": scale, "scale_error": abs(scale - 1)}
    for ending, values in (("", ratio), ("_aligned", ratio / scale)):
        metrics[f"abs_rel{ending}"] = float(np.abs(values - 1).mean())
        metrics[f"delta1{ending}"] = float((np.maximum(values, 1 / values) < DELTA1).mean())
    return metrics


def known(predicted: Depth, truth: Depth) -> Bool[np.ndarray, "... _ _"]:
    """The pixels that have a true depth: finite and at least 1 mm.

    ValueError where the shapes differ, no pixel has a true depth, or one that has is predicted as not finite or not
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


def depth_on_frames(depth_m: np.ndarray, frames: Frames) -> np.ndarray:
    """True depth at each pixel centre of the processed frames (F,H,W), the nearest value of ``depth_m`` (F,H0,W0).

    ``depth_m`` covers the whole original frames, at any resolution.
    """
    back = torch.linalg.inv(frames.affine).numpy()
    index = []
    for axis, (row, size) in enumerate(((1, frames.images.shape[-2]), (0, frames.images.shape[-1]))):
        original = (np.arange(size) + 0.5) * back[row, row] + back[row, 2]
        place = np.floor(original * depth_m.shape[1 + axis] / frames.original_size[axis]).astype(int)
        index.append(place.clip(0, depth_m.shape[1 + axis] - 1))
    return depth_m[:, index[0]][:, :, index[1]]


def fit(source: Points, target: Points, with_scale: bool) -> Sim3:
    """The least-squares similarity (or rigid motion) from source to target points, pair by pair.

    Raises ValueError for fewer than three pairs, or when all source points coincide.
    """
    x, y = (torch.from_numpy(np.ascontiguousarray(points, np.float64)) for points in (source, target))
    return Sim3(*umeyama(x, y, with_scale=with_scale))


def _fitted(source: Points, target: Points, with_scale: bool) -> Points:
    return fit(source, target, with_scale).apply(torch.from_numpy(source)).numpy()


def centres(extrinsics: Poses) -> Points:
    """Camera centres (F, 3) in the world, metres."""
    e = extrinsics.astype(np.float64)
    return np.asarray(-np.einsum("fji,fj->fi", e[:, :3, :3], e[:, :3, 3]))


def absolute_error_m(predicted: Poses, truth: Poses, with_scale: bool = False) -> float:
    """ATE: root mean square distance in metres between camera centres after alignment by SE(3), or by Sim(3).

    A predicted camera that stays at one place has no rotation or scale to find; whatever these are, its error is the
    root mean square distance of the true centres from their mean, and so it is defined here. ValueError as
    `check_poses`, for fewer than 3 frames.
    """
    check_poses(predicted, truth, at_least=3)
    source, target = centres(predicted), centres(truth)
    if np.abs(source - source[0]).max() < _STILL_M:
        moved = np.broadcast_to(target.mean(0), target.shape)
    else:
        moved = _fitted(source, target, with_scale)
    return _rms(np.linalg.norm(moved - target, axis=-1))


def relative_error(predicted: Poses, truth: Poses, pairs: Int[np.ndarray, "n 2"] | None = None) -> tuple[float, float]:
    """RPE: the error ``(Q_i^-1 Q_j)^-1 (P_i^-1 P_j)`` of the motion between frames i and j, Q true and P predicted.

    Root mean squares of its translation (metres) and of its rotation (degrees). ``pairs`` are frames (i, j) (default:
    consecutive ones; see `pairs_apart` for those of a metre). ValueError as `check_poses`, for fewer than 2 frames,
    and for no pair.
    """
    check_poses(predicted, truth, at_least=2)
    i, j = (np.stack([np.arange(len(truth) - 1), np.arange(1, len(truth))]) if pairs is None else pairs.T)[:2]
    if not len(i):
        raise ValueError("expected at least one pair of frames, received none; choose a shorter interval")
    error = np.linalg.inv(_motions(truth, i, j)) @ _motions(predicted, i, j)
    return _rms(np.linalg.norm(error[:, :3, 3], axis=-1)), _rms(_angles_deg(error[:, :3, :3]))


def pairs_apart(positions: Float[np.ndarray, " F"], interval: float) -> Int[np.ndarray, "n 2"]:
    """Frames (i, j), j the one closest to ``interval`` after i; none for frames whose interval ends beyond the last.

    ``positions`` rises: the way along the true path in metres (`path_m`), of which TUM's script takes the predicted
    one; the true one gives every prediction the same pairs. Frames with nothing but themselves as close are left out.
    """
    ends = positions + interval
    j = np.abs(positions[None] - ends[:, None]).argmin(1)
    i = np.arange(len(positions))
    keep: Bool[np.ndarray, " F"] = (ends <= positions[-1] + 1e-9) & (j != i)
    return np.stack([i[keep], j[keep]], -1)


def path_m(extrinsics: Poses) -> Float[np.ndarray, " F"]:
    """The way along the camera's path to each frame, metres, 0 for the first."""
    steps = np.linalg.norm(np.diff(centres(extrinsics), axis=0), axis=-1)
    return np.concatenate([[0.0], np.cumsum(steps)])


def pair_angles_deg(predicted: Poses, truth: Poses) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Errors in degrees of relative rotation (0..180) and of translation direction (0..90) for all pairs i < j.

    Directions are those of the relative pose's translation up to sign, as in VGGT's and PoseDiffusion's evaluation.
    There, as here, the error is 90 where either translation has no length. ValueError as `check_poses`, for fewer than
    2 frames.
    """
    check_poses(predicted, truth, at_least=2)
    i, j = np.triu_indices(len(truth), 1)
    ours, theirs = (_motions(poses, i, j) for poses in (predicted, truth))
    rotation = _angles_deg(theirs[:, :3, :3].transpose(0, 2, 1) @ ours[:, :3, :3])
    a, b = ours[:, :3, 3], theirs[:, :3, 3]
    sine, cosine = np.linalg.norm(np.cross(a, b), axis=-1), np.abs((a * b).sum(-1))
    direction = np.degrees(np.arctan2(sine, cosine))
    still = np.minimum(np.linalg.norm(a, axis=-1), np.linalg.norm(b, axis=-1)) < _STILL_M
    return rotation, np.where(still, 90.0, direction)


def auc(errors_deg: Float[np.ndarray, " n"], most_deg: int) -> float:
    """Area under the accuracy curve up to ``most_deg``, 0..1: the mean of the accuracies at 1, 2, ... degrees."""
    accuracies = [(errors_deg < threshold).mean() for threshold in range(1, most_deg + 1)]
    return float(np.mean(accuracies))


def pose_accuracy(predicted: Poses, truth: Poses) -> dict[str, float]:
    """``rra_T``, ``rta_T`` and ``auc_T`` for T of 5, 10 and 30 degrees, all 0..1, over all pairs of frames.

    RRA and RTA are the shares of pairs whose rotation and direction are wrong by less than T; AUC is the area under
    the lesser of both, pair by pair (the larger error counts). None of them depends on the scale.
    """
    rotation, direction = pair_angles_deg(predicted, truth)
    metrics = {}
    for most in AUC_DEGREES:
        metrics[f"rra_{most}"] = float((rotation < most).mean())
        metrics[f"rta_{most}"] = float((direction < most).mean())
        metrics[f"auc_{most}"] = auc(np.maximum(rotation, direction), most)
    return metrics


def _angles_deg(rotations: Float[np.ndarray, "n 3 3"]) -> Float[np.ndarray, " n"]:
    """The angle of each rotation, 0..180 degrees, accurate near both ends."""
    return rotation_angle_deg(torch.eye(3, dtype=torch.float64), torch.from_numpy(rotations)).numpy()


def _motions(extrinsics: Poses, i: np.ndarray, j: np.ndarray) -> np.ndarray:
    """Camera-i-from-camera-j: ``P_i^-1 P_j`` for poses P that are world-from-camera."""
    e = extrinsics.astype(np.float64)
    return np.asarray(e[i] @ np.linalg.inv(e[j]))


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


def check_poses(predicted: Poses, truth: Poses, at_least: int) -> None:
    """ValueError unless both trajectories are finite and have the same number of frames, ``at_least`` so many."""
    if predicted.shape != truth.shape:
        raise ValueError(f"expected a predicted pose for each true one, received {len(predicted)} for {len(truth)}")
    if len(truth) < at_least:
        raise ValueError(f"expected at least {at_least} frames, received {len(truth)}; take more frames of the clip")
    for name, poses in (("predicted", predicted), ("true", truth)):
        lost = np.flatnonzero(~np.isfinite(poses).all((1, 2)))
        if len(lost):
            raise ValueError(f"the {name} pose of frame {lost[0]} is not finite; leave frames without a pose out")


def pose_errors(predicted: Tensor, true: Tensor) -> tuple[Tensor, Tensor]:
    """Rotation (degrees) and translation (metres) errors of each frame but the first; (F,4,4) camera-from-world."""
    ours, theirs = relative_to_first(predicted[None])[0].double(), relative_to_first(true[None])[0].double()
    angle = rotation_angle_deg(ours[1:, :3, :3], theirs[1:, :3, :3])
    return angle, (ours[1:, :3, 3] - theirs[1:, :3, 3]).norm(dim=-1)


def trajectory_metrics(predicted: Poses, truth: Poses) -> dict[str, float]:
    """Errors of the cameras; what a clip is too short for is NaN.

    ``ate_m`` after SE(3) and ``ate_sim3_m`` after Sim(3) alignment (3 frames at least); RPE ``rpe_..._m`` and
    ``rpe_..._deg`` ``per_frame`` and ``per_metre`` of the true path, where ``rpe_sim3_per_frame_m`` has the steps in
    the scale of the Sim(3) alignment; ``rra_T``, ``rta_T`` and ``auc_T`` of `pose_accuracy`. A camera that is predicted
    to stand still has no scale: its Sim(3) metrics are those of SE(3).
    """
    metrics = dict.fromkeys(TRAJECTORY, math.nan)
    if len(truth) < 2:
        return metrics
    metrics["rpe_per_frame_m"], metrics["rpe_per_frame_deg"] = relative_error(predicted, truth)
    pairs = pairs_apart(path_m(truth), 1.0)
    if len(pairs):
        metrics["rpe_per_metre_m"], metrics["rpe_per_metre_deg"] = relative_error(predicted, truth, pairs)
    if len(truth) >= 3:
        metrics["ate_m"] = absolute_error_m(predicted, truth)
        metrics["ate_sim3_m"] = absolute_error_m(predicted, truth, with_scale=True)
        metrics["rpe_sim3_per_frame_m"], _ = relative_error(_in_true_scale(predicted, truth), truth)
    return metrics | pose_accuracy(predicted, truth)


def _in_true_scale(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """The predicted poses with their translations in the scale of the Sim(3) alignment."""
    source = centres(predicted)
    if np.ptp(source, axis=0).max() < _STILL_M:
        return predicted
    scaled = predicted.astype(np.float64).copy()
    scaled[:, :3, 3] *= float(fit(source, centres(truth), with_scale=True).scale)
    return scaled


def point_metrics(predicted: PosedDepth, truth: PosedDepth) -> dict[str, float]:
    """Precision, recall and F-score of the points at 5 cm: ``precision``, ``recall``, ``f_score``, and ``..._aligned``.

    Both clouds hold the pixels with ground truth, thinned to one point a voxel of 2 cm. In metric scale both are in
    the frame of the first camera, with no alignment; the aligned metrics are after the similarity that brings each
    pixel's predicted point nearest to its true one (least squares).
    """
    valid = known(predicted.depth_m, truth.depth_m)
    ours, theirs = (_first_camera_points(item)[valid] for item in (predicted, truth))
    metrics = cloud_metrics(ours, theirs, POINT_THRESHOLD_M)
    aligned = cloud_metrics(_fitted(ours, theirs, with_scale=True), theirs, POINT_THRESHOLD_M)
    return {**metrics, **{f"{name}_aligned": value for name, value in aligned.items()}}


def _first_camera_points(item: PosedDepth) -> np.ndarray:
    """Points (F, H, W, 3) of all pixels in the frame of the first camera, float64."""
    to_first = item.extrinsics.astype(np.float64) @ np.linalg.inv(item.extrinsics[0].astype(np.float64))
    arrays = (np.nan_to_num(item.depth_m), item.intrinsics, to_first)
    depth, intrinsics, extrinsics = (torch.from_numpy(np.ascontiguousarray(a, np.float64)) for a in arrays)
    return unproject(depth, intrinsics, extrinsics).numpy()


def cloud_metrics(predicted: Points, truth: Points, threshold_m: float) -> dict[str, float]:
    """``precision`` (predicted points near the truth), ``recall`` (the reverse) and ``f_score`` of two clouds.

    Near is a nearest neighbour closer than ``threshold_m``, after both are thinned (`thinned`). The F-score is 0
    where precision and recall are. ValueError for a cloud that is empty or not finite.
    """
    for name, cloud in (("predicted", predicted), ("true", truth)):
        if not len(cloud) or not np.isfinite(cloud).all():
            raise ValueError(f"expected finite points in the {name} cloud, received {len(cloud)} with NaN or none")
    ours, theirs = thinned(predicted, VOXEL_M), thinned(truth, VOXEL_M)
    precision, recall = _near(ours, theirs, threshold_m), _near(theirs, ours, threshold_m)
    total = precision + recall
    return {"precision": precision, "recall": recall, "f_score": 2 * precision * recall / total if total else 0.0}


def _near(points: Points, others: Points, threshold_m: float) -> float:
    """The share of the points with one of the others closer than the threshold."""
    distance, _ = cKDTree(others).query(points, distance_upper_bound=threshold_m)  # infinite where none is
    return float((distance < threshold_m).mean())


def thinned(points: Points, voxel_m: float) -> Points:
    """One point for each occupied cube of side ``voxel_m``: the mean of those in it, in the order of the cubes."""
    cells = np.floor(points / voxel_m).astype(np.int64)
    cells -= cells.min(0)
    _, which, count = np.unique(
        np.ravel_multi_index(cells.T, cells.max(0) + 1), return_inverse=True, return_counts=True
    )
    sums = np.stack([np.bincount(which, points[:, axis]) for axis in range(3)], -1)
    return np.asarray(sums / count[:, None])


@dataclass(frozen=True)
class PosedDepth:
    """A reconstruction of F frames, predicted or true.

    depth_m (F, H, W) along the optical axis, in the truth 0 or NaN where it is not known; extrinsics (F, 4, 4)
    camera-from-world; intrinsics (F, 3, 3) in pixels of the depth maps, pixel centres at +0.5.
    """

    depth_m: np.ndarray
    extrinsics: np.ndarray
    intrinsics: np.ndarray

    def __post_init__(self) -> None:
        if self.depth_m.ndim != 3:
            raise ValueError(
                f"expected depth of shape (F, H, W), received {self.depth_m.shape}; give each frame its own"
            )
        frames = len(self.depth_m)
        for name, shape in (("extrinsics", (frames, 4, 4)), ("intrinsics", (frames, 3, 3))):
            if (found := getattr(self, name).shape) != shape:
                raise ValueError(f"expected {name} of shape {shape} for {frames} depth maps, received {found}")

    def every_nth(self, step: int) -> PosedDepth:
        """Every ``step``-th pixel of every ``step``-th row, from the middle of the first block on."""
        first = step // 2
        shift = 0.5 - (first + 0.5) / step
        to_coarse = np.array([[1 / step, 0, shift], [0, 1 / step, shift], [0, 0, 1]])
        return PosedDepth(self.depth_m[:, first::step, first::step], self.extrinsics, to_coarse @ self.intrinsics)


def reconstruction_metrics(predicted: PosedDepth, truth: PosedDepth, step: int = 1) -> dict[str, float]:
    """All metrics of a clip by name: those of `depth_metrics`, `trajectory_metrics` and `point_metrics`.

    Both have the same frames and sizes of depth maps; the worlds may differ. Points are those of every ``step``-th
    pixel. NaN stands for what the clip does not allow (see `trajectory_metrics`). ValueError as `known` and
    `check_poses`.
    """
    check_poses(predicted.extrinsics, truth.extrinsics, at_least=1)
    return {
        **depth_metrics(predicted.depth_m, truth.depth_m),
        **trajectory_metrics(predicted.extrinsics, truth.extrinsics),
        **point_metrics(predicted.every_nth(step), truth.every_nth(step)),
    }
