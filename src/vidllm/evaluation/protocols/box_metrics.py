"""Boxes as the published evaluators compare them: IoU of axis-aligned hulls, their epsilons, and optimal matching.

The evaluators differ in number format and epsilon, and thresholds lie exactly where that shows: two boxes sharing half
of their union have IoU 0.49999999875 with 1e-8 in float64 and 0.5 in float32. These are numbers to be compared with
published ones; for geometry use ``vidllm.geometry.boxes``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

EPSILON = 1e-8
"""Added to the union by ScanRefer, Scan2Cap and everything derived from them."""
EPSILON_FLOAT32 = float(np.finfo(np.float32).eps)
"""Added to the union by M3DRef-CLIP, 1.19e-7."""


def hull(corners: np.ndarray) -> np.ndarray:
    """Lower and upper corner (..., 2, 3) of the axis-aligned hull of points (..., n, 3); NaN stays NaN."""
    return np.stack((corners.min(axis=-2), corners.max(axis=-2)), axis=-2)


def _product(sides: np.ndarray) -> np.ndarray:
    return np.asarray(sides[..., 0] * sides[..., 1] * sides[..., 2])  # in this order: float32 is not associative


def hull_iou(a: np.ndarray, b: np.ndarray, epsilon: float = EPSILON, dtype: Any = np.float64) -> np.ndarray:
    """IoU of the axis-aligned hulls of two sets of points (..., n, 3), broadcasting over the leading axes.

    ``epsilon`` is added to the union, and everything is computed in ``dtype``. Two boxes without volume have IoU 0;
    a NaN coordinate gives NaN, which passes no threshold.
    """
    first, second = hull(np.asarray(a).astype(dtype)), hull(np.asarray(b).astype(dtype))
    low = np.maximum(first[..., 0, :], second[..., 0, :])
    high = np.minimum(first[..., 1, :], second[..., 1, :])
    overlap = _product(np.maximum(high - low, np.zeros((), dtype)))
    volumes = _product(first[..., 1, :] - first[..., 0, :]) + _product(second[..., 1, :] - second[..., 0, :])
    with np.errstate(invalid="ignore", over="ignore"):
        return np.asarray(overlap / (volumes - overlap + np.asarray(epsilon, dtype)))


def centre_size_corners(corners: np.ndarray) -> np.ndarray:
    """The hull of points (..., n, 3) written as centre and size and turned into its 8 corners (..., 8, 3) again.

    What evaluators do that store boxes as (centre, size); it changes the last bits only.
    """
    low, high = np.moveaxis(hull(corners), -2, 0)
    centre, half = (low + high) / 2, (high - low) / 2
    signs = np.array([[x, y, z] for z in (1, -1) for x, y in ((1, 1), (1, -1), (-1, -1), (-1, 1))])
    return signs * half[..., None, :] + centre[..., None, :]


def benchmark_generalized_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The matching score of the Scan2Cap benchmark server: (n, 8, 3) and (m, 8, 3) corners to (n, m), in float64.

    Not the textbook generalised IoU: the footprint of the overlap is taken from the x and z coordinates of the upper
    corners, which have one height, so the overlap of upright boxes is always 0. NaN for two boxes whose enclosing
    volume is 0. (daveredrum/Scan2Cap, ``benchmark/box_util.py``.)
    """
    top_a, top_b = a[:, None, :, :][..., [0, 2, 4], :], b[None, :, :, :][..., [0, 2, 4], :]
    high = np.minimum(top_a[..., 0, :], top_b[..., 0, :])
    footprint = np.clip(high[..., [0, 2]] - np.maximum(top_a[..., 1, :], top_b[..., 1, :])[..., [0, 2]], 0, None)
    height = np.clip(high[..., 2] - np.maximum(top_a[..., 2, 2], top_b[..., 2, 2]), 0, None)
    overlap = footprint[..., 0] * footprint[..., 1] * height
    low = np.minimum(a.min(axis=1)[:, None], b.min(axis=1)[None])
    enclosing = _product(np.maximum(a.max(axis=1)[:, None], b.max(axis=1)[None]) - low)
    volumes = _edge_volume(a)[:, None] + _edge_volume(b)[None]
    union = np.clip(volumes - overlap, EPSILON, None)
    with np.errstate(invalid="ignore", divide="ignore"):
        score = overlap / union - (1 - union / enclosing)
        return score * ((enclosing > 2 * EPSILON) & (volumes > 4 * EPSILON))


def _edge_volume(corners: np.ndarray) -> np.ndarray:
    """Volume (n,) from the three edges at the first corners, each at least 1 mm."""
    steps = corners[:, [0, 1, 0]] - corners[:, [1, 2, 4]]
    return np.clip(_product(np.sqrt(np.clip(np.square(steps).sum(axis=-1), 1e-6, None))), EPSILON, None)


def matched_ious(ious: np.ndarray) -> np.ndarray:
    """IoU of each prediction's partner (n,) when an (n, m) matrix is matched for the largest SUM of IoU.

    The matrix is padded to a square with zeros, so a prediction without partner has IoU 0.
    """
    predictions, objects = ious.shape
    square = np.zeros((max(predictions, objects),) * 2, dtype=np.float32)
    square[:predictions, :objects] = ious
    rows, columns = linear_sum_assignment(-square)
    return square[rows, columns][:predictions]
