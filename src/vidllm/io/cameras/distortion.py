"""Lens distortion, which is not modelled: a warning states how far it moves pixels; fisheye lenses are refused."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import numpy as np

NEGLIGIBLE_PIXELS = 0.5


def tell_distortion(matrix: np.ndarray, size: tuple[int, int] | None, terms: Mapping[str, float], where: str) -> None:
    """Warn of distortion that moves some pixel of the border by over half a pixel.

    ``terms``: k1 to k6, p1, p2 of OpenCV's model; ``size``: (H, W), twice the principal point where it is not told.
    """
    told = {name: value for name, value in terms.items() if value}
    if not told:
        return
    shift = _largest_shift(matrix, size, told)
    if not shift <= NEGLIGIBLE_PIXELS:
        warnings.warn(f"{where}: the lens distortion, up to {shift:.1f} pixels, is not modelled; undistort the "
                      "pictures", stacklevel=3)  # fmt: skip


def refuse_lens(kind: str, where: str) -> ValueError:
    """The error of a lens that no pinhole camera stands for."""
    return ValueError(f"{where}: a lens of kind {kind}, expected a pinhole camera; undistort the pictures (COLMAP: "
                      "colmap image_undistorter)")  # fmt: skip


def _largest_shift(matrix: np.ndarray, size: tuple[int, int] | None, terms: Mapping[str, float]) -> float:
    """Pixels by which the model moves the border of the picture, at most."""
    fx, fy, cx, cy = matrix[0, 0], matrix[1, 1], matrix[0, 2], matrix[1, 2]
    height, width = (2 * cy, 2 * cx) if size is None else size
    along = np.linspace(0, 1, 9)
    u = np.concatenate([along * width, along * width, 0 * along, 0 * along + width])
    v = np.concatenate([0 * along, 0 * along + height, along * height, along * height])
    with np.errstate(all="ignore"):
        x, y = (u - cx) / fx, (v - cy) / fy
        r2 = x * x + y * y
        k1, k2, k3, k4, k5, k6, p1, p2 = (terms.get(n, 0.0) for n in ("k1", "k2", "k3", "k4", "k5", "k6", "p1", "p2"))
        radial = (1 + r2 * (k1 + r2 * (k2 + r2 * k3))) / (1 + r2 * (k4 + r2 * (k5 + r2 * k6)))
        dx = x * (radial - 1) + 2 * p1 * x * y + p2 * (r2 + 2 * x * x)
        dy = y * (radial - 1) + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y
        return float(np.hypot(dx * fx, dy * fy).max())
