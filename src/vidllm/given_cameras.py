"""Cameras of a source's own frames as a user has them, brought to the frames that a model sees.

Intrinsics are in pixels of the original pictures, upright, pixel centres at +0.5 (the middle of a picture of width W is
W / 2). Poses are world-from-camera with OpenCV axes, found for each used frame by its name, its time or its number.
``vidllm.camera_files`` reads files of them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

from vidllm.frames import Frames
from vidllm.model.known_cameras import KnownCameras

TIME_TOLERANCE_S = 0.02  # between a frame and its pose (the TUM RGB-D tools' own default)
RIGID_TOLERANCE = 1e-2  # of any entry of R R^T - 1


@dataclass(frozen=True)
class PerFrame:
    """Matrices (N, ...) of a source's frames, each with its name (without suffix), its time in seconds or its number.

    Without any of them they are those of the used frames, in order. ``where``: for messages.
    """

    matrices: np.ndarray
    names: Sequence[str] = ()
    times_s: Sequence[float] | None = None
    numbers: Sequence[int] | None = None
    where: str = "given cameras"

    def of(self, frames: Frames) -> np.ndarray:
        """The matrices (F, ...) of the used frames; ValueError names the first frame that has none."""
        keyed = bool(self.names) or self.times_s is not None or self.numbers is not None
        if not keyed:
            if len(self.matrices) != len(frames):
                raise ValueError(f"{self.where}: {len(self.matrices)} cameras for {len(frames)} frames; give one each")
            return self.matrices
        rows = self._by_name(frames) or self._by_time(frames) or self._by_number(frames)
        if rows is None:
            name, time = self._first_without(frames)
            raise ValueError(
                f"{self.where}: none of its {len(self.matrices)} cameras is that of {name} (at {time:g} s); "
                "expected the frames' names, times within 0.02 s (from the first frame of the video) or numbers"
            )
        return self.matrices[rows]

    def _by_name(self, frames: Frames) -> list[int] | None:
        places = {name: row for row, name in enumerate(self.names)}
        return _all(places.get(_stem(name)) for name in frames.names)

    def _by_time(self, frames: Frames) -> list[int] | None:
        if self.times_s is None or not len(self.times_s):
            return None
        apart = np.abs(np.asarray(self.times_s)[None] - frames.timestamps_s.numpy()[:, None])
        return [int(row) for row in apart.argmin(1)] if bool((apart.min(1) <= TIME_TOLERANCE_S).all()) else None

    def _by_number(self, frames: Frames) -> list[int] | None:
        numbers = self.numbers
        if numbers is None and self.times_s is not None and all(float(t).is_integer() for t in self.times_s):
            numbers = [int(t) for t in self.times_s]
        places = {number: row for row, number in enumerate(numbers or ())}
        return _all(places.get(int(index)) for index in frames.indices)

    def _first_without(self, frames: Frames) -> tuple[str, float]:
        """Name and time of a frame that neither its name nor its time finds."""
        times = np.asarray([] if self.times_s is None else self.times_s, np.float64)
        for name, time in zip(frames.names, frames.timestamps_s.tolist(), strict=True):
            timed = bool(len(times)) and float(np.abs(times - time).min()) <= TIME_TOLERANCE_S
            if _stem(name) not in self.names and not timed:
                return name, time
        return frames.names[0], float(frames.timestamps_s[0])


def _all(rows: object) -> list[int] | None:
    found = list(rows)  # type: ignore[call-overload]
    return None if any(row is None for row in found) or not found else found


def _stem(name: str) -> str:
    return re.sub(r"\.[A-Za-z]+$", "", name.replace("\\", "/").rsplit("/", 1)[-1])


@dataclass(frozen=True)
class GivenCameras:
    """What is known of a source's cameras.

    intrinsics: K of all frames (3,3), or of each; size: (H, W) of the pictures they are of, where it is told;
    poses: world-from-camera (N,4,4), in metres with ``metric``; up: against gravity in the poses' world (3).
    ValueError with neither intrinsics nor poses, and for a matrix that is none of a pinhole camera or of a pose.
    """

    intrinsics: np.ndarray | PerFrame | None = None
    poses: np.ndarray | PerFrame | None = None
    metric: bool = True
    size: tuple[int, int] | None = None
    up: tuple[float, float, float] | None = None

    def __post_init__(self) -> None:
        if self.intrinsics is None and self.poses is None:
            raise ValueError("give intrinsics, poses or both")

    @property
    def gives_metres(self) -> bool:
        """Whether the scale follows from the poses."""
        return self.poses is not None and self.metric

    def for_frames(self, frames: Frames) -> KnownCameras:
        """What is known of the used frames, in their pixels, as a batch of one; ValueError where it does not fit."""
        poses = None if self.poses is None else _rigid(_per_frame(self.poses).of(frames), _where(self.poses), frames)
        extrinsics = None if poses is None else np.linalg.inv(poses) @ poses[0]
        up = None if self.up is None or poses is None else poses[0, :3, :3].T @ np.asarray(self.up, np.float64)
        known = KnownCameras(
            frames.images[None],
            None if self.intrinsics is None else _tensor(self._processed(frames)),
            None if extrinsics is None else _tensor(extrinsics),
            self.metric,
            None if up is None else _tensor(up),
        )
        return known

    def _processed(self, frames: Frames) -> Float[np.ndarray, "F 3 3"]:
        """K in pixels of the processed frames."""
        given, where = self.intrinsics, _where(self.intrinsics)
        if isinstance(given, np.ndarray) and given.ndim == 2:
            matrices = np.broadcast_to(given, (len(frames), *given.shape))
        else:
            assert given is not None
            matrices = _per_frame(given).of(frames)
        (height, width), size = frames.original_size, self.size
        if size is not None and tuple(size) != (height, width):
            raise ValueError(f"{where}: intrinsics of pictures of {size[1]}x{size[0]} pixels, but {frames.source} has "
                             f"{width}x{height}; give those of the original pictures")  # fmt: skip
        for matrix in matrices:
            _check_pinhole(matrix, (height, width), where)
        return np.asarray(frames.affine, np.float64) @ matrices


def _per_frame(given: np.ndarray | PerFrame) -> PerFrame:
    return given if isinstance(given, PerFrame) else PerFrame(np.asarray(given, np.float64))


def _where(given: object) -> str:
    return given.where if isinstance(given, PerFrame) else "given cameras"


def _tensor(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array)).float()[None]


def _check_pinhole(matrix: np.ndarray, size: tuple[int, int], where: str) -> None:
    """ValueError unless K is that of a camera without skew that looks through a picture of this (H, W)."""
    if matrix.shape != (3, 3) or not np.isfinite(matrix).all():
        raise ValueError(f"{where}: expected intrinsics of 3x3 finite numbers, received {np.asarray(matrix).tolist()}")
    fx, fy, cx, cy = matrix[0, 0], matrix[1, 1], matrix[0, 2], matrix[1, 2]
    if min(fx, fy) <= 0:
        raise ValueError(f"{where}: focal lengths must be positive pixels, received {fx:g} and {fy:g}")
    if abs(matrix[0, 1]) > 1e-3 * fx or not np.allclose(matrix[[1, 2, 2, 2], [0, 0, 1, 2]], [0, 0, 0, 1], atol=1e-6):
        raise ValueError(f"{where}: expected [fx 0 cx; 0 fy cy; 0 0 1] without skew, received {matrix.tolist()}")
    if not (0 < cx < size[1] and 0 < cy < size[0]):
        raise ValueError(f"{where}: principal point ({cx:g}, {cy:g}) lies outside the pictures of {size[1]}x{size[0]}; "
                         "give intrinsics in pixels of the original pictures")  # fmt: skip


def _rigid(poses: np.ndarray, where: str, frames: Frames) -> Float[np.ndarray, "F 4 4"]:
    """Poses with rotations made exact; ValueError names a frame whose pose is not finite or not rigid."""
    if poses.ndim != 3 or poses.shape[1:] not in ((3, 4), (4, 4)):
        raise ValueError(f"{where}: expected poses (F, 4, 4), received {poses.shape}")
    exact = np.tile(np.eye(4), (len(poses), 1, 1))
    for row, (pose, name) in enumerate(zip(np.asarray(poses, np.float64), frames.names, strict=True)):
        if not np.isfinite(pose).all():
            raise ValueError(f"{where}: the pose of {name} is not finite (tracking was lost there?); leave it out")
        rotation = pose[:3, :3]
        off = float(np.abs(rotation @ rotation.T - np.eye(3)).max())
        if off > RIGID_TOLERANCE or np.linalg.det(rotation) < 0:
            what = f"R R^T is off by {off:.2g}" if off > RIGID_TOLERANCE else "it mirrors"
            raise ValueError(f"{where}: the pose of {name} holds no rotation ({what}); give rigid poses, OpenCV axes")
        u, _, vt = np.linalg.svd(rotation)
        exact[row, :3, :3], exact[row, :3, 3] = u @ vt, pose[:3, 3]
    return exact
