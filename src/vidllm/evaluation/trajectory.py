"""Errors of camera trajectories: ATE and RPE by TUM's definitions (Sturm et al., IROS 2012), and pose accuracy AUC.

All functions take extrinsics (F, 4, 4), camera-from-world in metres, each trajectory in a world of its own. ATE and AUC
do not depend on the choice of the worlds, RPE compares motions and needs no alignment.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from vidllm.geometry.alignment import umeyama
from vidllm.geometry.cameras import camera_centres
from vidllm.geometry.sim3 import Sim3

AUC_DEGREES = (5, 10, 30)
_STILL_M = 1e-9  # cameras closer than this stand at one place

Poses = Float[np.ndarray, "_ 4 4"]
Points = Float[np.ndarray, "_ 3"]


def fit(source: Points, target: Points, with_scale: bool) -> Sim3:
    """The least-squares similarity (or rigid motion) from source to target points, pair by pair.

    Raises ValueError for fewer than three pairs, or when all source points coincide.
    """
    x, y = (torch.from_numpy(np.ascontiguousarray(points, np.float64)) for points in (source, target))
    return Sim3(*umeyama(x, y, with_scale=with_scale))


def aligned(source: Points, target: Points, with_scale: bool) -> Points:
    """The source points after :func:`fit`, float64."""
    return fit(source, target, with_scale).apply(torch.from_numpy(source)).numpy()


def centres(extrinsics: Poses) -> Points:
    """Camera centres (F, 3) in the world, metres, float64."""
    return camera_centres(torch.from_numpy(extrinsics).double()).numpy()


def absolute_error_m(predicted: Poses, truth: Poses, with_scale: bool = False) -> float:
    """ATE: root mean square distance in metres between camera centres after alignment by SE(3), or by Sim(3).

    A predicted camera that stays at one place has no rotation or scale to find; whatever these are, its error is the
    root mean square distance of the true centres from their mean, and so it is defined here.

    Raises:
        ValueError: shapes differ or are no trajectories, values are not finite, or there are fewer than 3 frames.
    """
    check_poses(predicted, truth, at_least=3)
    source, target = centres(predicted), centres(truth)
    if np.abs(source - source[0]).max() < _STILL_M:
        moved = np.broadcast_to(target.mean(0), target.shape)
    else:
        moved = aligned(source, target, with_scale)
    return _rms(np.linalg.norm(moved - target, axis=-1))


@dataclass(frozen=True)
class RelativeError:
    """RPE over some interval: root mean squares of the translational (metres) and rotational (degrees) error."""

    translation_m: float
    rotation_deg: float
    pairs: int


def relative_error(predicted: Poses, truth: Poses, pairs: Int[np.ndarray, "n 2"] | None = None) -> RelativeError:
    """RPE: the error ``(Q_i^-1 Q_j)^-1 (P_i^-1 P_j)`` of the motion between frames i and j, Q true and P predicted.

    Args:
        predicted: (F, 4, 4), camera-from-world, metres.
        truth: the same.
        pairs: frames (i, j) (default: consecutive ones; see `pairs_apart` for those of a second or a metre).

    Raises:
        ValueError: as `absolute_error_m`, for fewer than 2 frames; or no pair is given.
    """
    check_poses(predicted, truth, at_least=2)
    i, j = (np.stack([np.arange(len(truth) - 1), np.arange(1, len(truth))]) if pairs is None else pairs.T)[:2]
    if not len(i):
        raise ValueError("expected at least one pair of frames, received none; choose a shorter interval")
    error = np.linalg.inv(_motions(truth, i, j)) @ _motions(predicted, i, j)
    return RelativeError(_rms(np.linalg.norm(error[:, :3, 3], axis=-1)), _rms(angles_deg(error[:, :3, :3])), len(i))


def pairs_apart(positions: Float[np.ndarray, " F"], interval: float) -> Int[np.ndarray, "n 2"]:
    """Frames (i, j), j the one closest to ``interval`` after i; none for frames whose interval ends beyond the last.

    ``positions`` rises: time stamps in seconds, or the way along the true path in metres (`path_m`), of which TUM's
    script takes the predicted one; the true one gives every prediction the same pairs. Frames with nothing but
    themselves as close are left out.
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
    There, as here, the error is 90 where either translation has no length.

    Raises:
        ValueError: as `absolute_error_m`, for fewer than 2 frames.
    """
    check_poses(predicted, truth, at_least=2)
    i, j = np.triu_indices(len(truth), 1)
    ours, theirs = (_motions(poses, i, j) for poses in (predicted, truth))
    rotation = angles_deg(theirs[:, :3, :3].transpose(0, 2, 1) @ ours[:, :3, :3])
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
    figures = {}
    for most in AUC_DEGREES:
        figures[f"rra_{most}"] = float((rotation < most).mean())
        figures[f"rta_{most}"] = float((direction < most).mean())
        figures[f"auc_{most}"] = auc(np.maximum(rotation, direction), most)
    return figures


def angles_deg(rotations: Float[np.ndarray, "n 3 3"]) -> Float[np.ndarray, " n"]:
    """The angle of each rotation, 0..180 degrees, accurate near both ends."""
    cosine2 = np.trace(rotations, axis1=1, axis2=2) - 1
    odd = rotations - rotations.transpose(0, 2, 1)
    sine2 = np.linalg.norm(np.stack([odd[:, 2, 1], odd[:, 0, 2], odd[:, 1, 0]], -1), axis=-1)
    return np.asarray(np.degrees(np.arctan2(sine2, cosine2)))


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
