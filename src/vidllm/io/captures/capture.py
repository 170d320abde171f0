"""A recording: its frames, cameras and depth."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image

from vidllm.io import film
from vidllm.io.cameras.depth import DepthMaps, read_depth_file
from vidllm.io.cameras.given import GivenCameras
from vidllm.io.cameras.records import Lens, PerFrame
from vidllm.io.captures.archives import Unpacked
from vidllm.io.files import InputError
from vidllm.io.film_scan import scan_film
from vidllm.io.frames import sampled_indices
from vidllm.io.pictures import Size, open_for

Y_UP, Z_UP = (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)
Pictures = Sequence[Path] | Path | Callable[[int], Image.Image]


@dataclass(frozen=True)
class Capture:
    """N frames of a recording.

    Attributes:
        form: kind of recording.
        names: N names.
        pictures: their files, a video of which they are the first N frames, or a function that reads one.
        poses: `(N, 4, 4)` world-from-camera, OpenCV axes, NaN where tracking was lost; None if unknown.
        intrinsics: K (3,3) of all frames, (N,3,3), or a lens, in pixels of pictures of ``size`` (None: of these).
        depths: functions that read `(h, w)` metres, 0 = unknown, by the number of the frame.
        up: direction against gravity in the world of the poses, None if unknown.
        metric: whether poses are in metres; None: unknown.
        times_s: N times in seconds, or None.
        where: the path as given by the user.
        held: keeps the unpacked files.
    """

    form: str
    names: Sequence[str]
    pictures: Pictures
    poses: np.ndarray | None = None
    intrinsics: np.ndarray | Lens | None = None
    size: tuple[int, int] | None = None
    depths: Mapping[int, Callable[[], np.ndarray]] = field(default_factory=dict)
    up: tuple[float, float, float] | None = None
    metric: bool | None = True
    times_s: Sequence[float] | None = None
    where: str = ""
    held: Unpacked | None = None

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def usable(self) -> list[int]:
        """Numbers of the frames with a pose, or of all if no poses are known."""
        if self.poses is None:
            return list(range(len(self)))
        return np.flatnonzero(np.isfinite(self.poses).all((1, 2))).tolist()

    def chosen(self, num_frames: int | Sequence[int] | None, per_second: float | None = None) -> list[int]:
        """Numbers of usable frames: so many evenly spaced ones, the given ones, or at most so many per second."""
        if isinstance(num_frames, Sequence):
            return sorted(set(num_frames) & set(self.usable))
        if per_second is not None and self.times_s is not None and len(self.usable) > 1:
            seconds = self.times_s[self.usable[-1]] - self.times_s[self.usable[0]]
            num_frames = min(len(self.usable), math.ceil(max(seconds, 0) * per_second) + 1)
        return [self.usable[i] for i in sampled_indices(len(self.usable), num_frames)]

    def picture(self, number: int) -> Image.Image:
        """One picture, RGB and upright."""
        return self.picture_for(number, lambda size: size)[0]

    def picture_for(self, number: int, least: Callable[[Size], Size]) -> tuple[Image.Image, Size]:
        """As :func:`vidllm.io.pictures.open_for`."""
        with nullcontext() if self.held is None else self.held.named(self.where):
            if isinstance(self.pictures, Sequence):
                return open_for(self.pictures[number], least)
            image = self.pictures(number) if callable(self.pictures) else self._of_film(self.pictures, number)
            return image, (image.height, image.width)

    def _of_film(self, film_file: Path, number: int) -> Image.Image:
        found = next(film.read_film(film_file, scan_film(film_file), [number]), None)
        if found is None:
            raise InputError(f"{self.where}: the video has no frame {number}; is it complete? Export it again")
        return Image.fromarray(found.rgb)

    def depth(self, number: int, _: str = "") -> np.ndarray | None:
        """Depth of a frame in metres (h,w), 0 = unknown, with the picture's field of view; None without a map."""
        with nullcontext() if self.held is None else self.held.named(self.where):
            return self.depths[number]() if number in self.depths else None

    def intrinsics_of(self, number: int, size: tuple[int, int]) -> np.ndarray | None:
        """K (3,3) of a frame in pixels of pictures of (H, W), pixel centres at +0.5."""
        if self.intrinsics is None:
            return None
        of = self.size or size
        given = self.intrinsics.matrix(of) if isinstance(self.intrinsics, Lens) else self.intrinsics
        return np.diag([size[1] / of[1], size[0] / of[0], 1.0]) @ (given if given.ndim == 2 else given[number])

    @property
    def cameras(self) -> GivenCameras | None:
        """The known cameras of the frames; warns of frames without a pose. None if nothing is known."""
        lost = len(self) - len(self.usable)
        if lost:
            warnings.warn(f"{self.where}: {lost} of {len(self)} frames have no pose (tracking was lost) and are left "
                          "out", stacklevel=2)  # fmt: skip
        if self.poses is not None and self.metric is None:
            warnings.warn(f"{self.where}: nothing here tells the unit of the poses; taken as metres", stacklevel=2)
        if self.poses is None and self.intrinsics is None and not self.depths:
            return None
        lens = self.intrinsics
        return GivenCameras(
            self._by_number(lens) if isinstance(lens, np.ndarray) and lens.ndim == 3 else lens,
            None if self.poses is None else self._by_number(self.poses),
            self.metric is not False, self.size, self.up, None, self.where,
            DepthMaps(self.depth, self.where) if self.depths else None,
        )  # fmt: skip

    def _by_number(self, matrices: np.ndarray) -> PerFrame:
        numbers = list(range(len(matrices)))
        return PerFrame(matrices, numbers=numbers, where=self.where, places=[f"frame {n}" for n in numbers],
                        counted=True)  # fmt: skip


def lone_capture(found: Capture, where: str, held: Unpacked | None) -> Capture:
    """A capture under the user's name; InputError without frames, or without poses of any frame."""
    capture = replace(found, where=where, held=held)
    if not len(capture):
        raise InputError(f"{where}: a recording of {capture.form} without a frame; record it again")
    if not capture.usable:
        raise InputError(f"{where}: tracking was lost in all {len(capture)} frames; record it again, or give the "
                         "pictures alone")  # fmt: skip
    return capture


def check_complete(missing: Sequence[object], total: int, what: str, where: Path) -> None:
    """InputError if files of frames are missing."""
    if missing:
        raise InputError(f"{where}: {len(missing)} of {total} frames lack {what} ({missing[0]}); export it again")


def trusted_depth(file: Path, confidence: Path | None = None, unit_m: float = 0.001) -> np.ndarray:
    """A depth map without pixels of the lowest confidence (0 in ARKit's confidence maps)."""
    metres = read_depth_file(file, unit_m)
    if confidence is not None and confidence.is_file():
        return without_doubt(metres, np.asarray(Image.open(confidence)), confidence)
    return metres


def without_doubt(metres: np.ndarray, confidence: np.ndarray, where: Path | str) -> np.ndarray:
    """Depth, set to 0 where the confidence is 0; ValueError if their sizes differ."""
    if confidence.shape != metres.shape:
        raise ValueError(f"{where}: confidence of {confidence.shape} beside depth of {metres.shape}; export it again")
    return np.where(confidence > 0, metres, np.float32(0))
