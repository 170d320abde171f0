"""Depth as pictures: 16-bit PNG in millimetres (0 = no depth), and coloured PNG."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from vidllm.export.geometry import SceneData, known, release
from vidllm.io.atomic import atomic_folder, atomic_path

MILLIMETRES = 1000.0
DEPTH_FRAMES = 256  # maximum number of frames for the range of colours
_STOPS = np.array([
    (35, 18, 59), (62, 56, 168), (68, 108, 238), (41, 162, 243), (24, 209, 198), (63, 238, 138), (143, 252, 76),
    (205, 233, 52), (245, 187, 52), (250, 126, 30), (226, 66, 12), (178, 22, 4), (122, 4, 3),
])  # fmt: skip


def write_depth(path: str | Path, data: SceneData) -> None:
    """Write a folder with `NAME.png` (millimetres) and `NAME_colour.png` (one colour range for all) a frame.

    Where the standard deviation of depth is known, it is in `NAME_std.png`, in millimetres too.
    """
    near, far = depth_range(data.depth_m[data.evenly(DEPTH_FRAMES)])
    with atomic_folder(path) as folder:
        stds = [None] * len(data) if data.depth_std_m is None else data.depth_std_m
        for stem, depth_m, std_m in zip(data.file_stems(), data.depth_m, stds, strict=True):
            _millimetres(depth_m).save(folder / f"{stem}.png")
            Image.fromarray(colour_depth(depth_m, near, far)).save(folder / f"{stem}_colour.png")
            if std_m is not None:
                _millimetres(std_m).save(folder / f"{stem}_std.png")
            release(data.depth_m, data.depth_std_m)


def write_depth_png(path: str | Path, depth_m: Float[np.ndarray, "H W"]) -> None:
    """Write one depth map. Depth beyond 65.535 m is written as 65.535 m, no depth as 0."""
    with atomic_path(path) as temporary:
        _millimetres(depth_m).save(temporary, format="PNG")


def read_depth_png(path: str | Path) -> Float[np.ndarray, "H W"]:
    """Read a 16-bit depth PNG as float32 metres, 0 = no depth. Raises `ValueError` for other pictures."""
    with Image.open(path) as image:
        if not image.mode.startswith("I"):
            raise ValueError(f"{path}: expected a 16-bit grey PNG, got mode {image.mode}")
        return (np.asarray(image).astype(np.float64) / MILLIMETRES).astype(np.float32)


def _millimetres(depth_m: np.ndarray) -> Image.Image:
    millimetres = np.where(known(depth_m), depth_m, 0).astype(np.float64) * MILLIMETRES
    return Image.fromarray(np.clip(millimetres.round(), 0, 65535).astype(np.uint16))


def colour_map(values: Float[np.ndarray, "*batch"]) -> UInt8[np.ndarray, "*batch 3"]:
    """Rainbow from dark blue (0) over green to dark red (1), even in lightness steps; values are clipped to [0, 1]."""
    position = np.clip(values, 0, 1) * (len(_STOPS) - 1)
    channels = [np.interp(position, np.arange(len(_STOPS)), _STOPS[:, c]) for c in range(3)]
    return np.stack(channels, -1).round().astype(np.uint8)


def depth_range(depth_m: Float[np.ndarray, "*batch"]) -> tuple[float, float]:
    """Metres of the 2nd and 98th per cent of the valid depths, for colouring; (0, 1) when there are none."""
    valid = depth_m[known(depth_m)]
    if valid.size == 0:
        return 0.0, 1.0
    near, far = (float(x) for x in np.percentile(valid, [2, 98]))
    return near, max(far, near * 1.001 + 1e-6)


def colour_depth(depth_m: Float[np.ndarray, "H W"], near_m: float, far_m: float) -> UInt8[np.ndarray, "H W 3"]:
    """Colour a depth map: near is red, far is blue, no depth is grey."""
    valid = known(depth_m)
    nearness = 1 - (np.where(valid, depth_m, far_m) - near_m) / (far_m - near_m)
    return np.where(valid[..., None], colour_map(nearness), np.uint8(70))
