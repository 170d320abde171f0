"""Known cameras of a source's frames, converted to the frames that a model uses.

Intrinsics are in pixels of the original pictures, upright, pixel centres at +0.5 (the middle of a picture of width W is
W / 2). Poses are world-from-camera with OpenCV axes, matched to the used frames by name, time or number.
``vidllm.io.cameras`` reads files of them.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float

from vidllm.io.cameras import Lens, PerFrame, read_intrinsics, read_poses
from vidllm.io.cameras.depth import DepthMaps, check_shape, nearest_depth, read_depth_folder
from vidllm.io.cameras.matrices import check_bottom_row
from vidllm.io.cameras.records import rows_of
from vidllm.io.frames import Frames

__all__ = ["DepthMaps", "FrameCameras", "GivenCameras", "PerFrame", "pixel_aspect", "read_cameras"]

RIGID_TOLERANCE = 1e-2  # of any entry of R R^T - 1
CENTRAL = (0.25, 0.75)  # allowed principal points, as shares of a picture's side
USUAL = 0.1  # share of a side: a principal point farther from the middle gives a warning
FOCAL = (0.2, 20.0)  # allowed focal lengths, as shares of the longer side: 136 to 3 degrees
SQUARE, OBLONG = 1.25, 2.0  # ratios of the focal lengths (with square pixels) above which we warn and refuse
SAME_SHAPE = 0.01  # relative difference of two aspect ratios that rounding explains


def read_cameras(
    intrinsics: str | Path | None = None,
    poses: str | Path | None = None,
    metric: bool | None = None,
    one_lens: bool | None = None,
    depth: str | Path | None = None,
) -> GivenCameras:
    """Known cameras and a folder of depth maps (docs/known_cameras.md); intrinsics also as ``"fx,fy,cx,cy"``.

    ``metric``: whether the poses are in metres; None: as the file says, else yes, with a warning. ``one_lens``: see
    :class:`GivenCameras`. ValueError, naming the file, if it cannot be read or has an unknown format.
    """
    lens = None if intrinsics is None else read_intrinsics(intrinsics)
    placed = None if poses is None else read_poses(poses)
    if placed is not None and metric is None and placed.metric is None:
        warnings.warn(f"{placed.given.where}: nothing here tells the unit of the poses; taken as metres "
                      "(--poses-scale metric or unknown says it)", stacklevel=2)  # fmt: skip
    return GivenCameras(
        None if lens is None else lens.given,
        None if placed is None else placed.given,
        metric is not False,
        None if lens is None else lens.size,
        None if placed is None else placed.up,
        one_lens,
        "given cameras" if lens is None else lens.where,
        None if depth is None else read_depth_folder(depth),
    )


def pixel_aspect(frames: Frames) -> float:
    """Fx over fy of a camera with square pixels, in processed pixels."""
    return float(frames.affine[0, 0] / frames.affine[1, 1])


@dataclass(frozen=True)
class FrameCameras:
    """Known cameras of F used frames: intrinsics (1,F,3,3) in their pixels; extrinsics (1,F,4,4) relative to the first
    camera, in metres if ``metric``; up (1,3) against gravity in the first camera's frame; one_lens as given; depth
    (1,F,H,W) metres, 0 = unknown.
    """

    intrinsics: torch.Tensor | None
    extrinsics: torch.Tensor | None
    metric: bool
    up: torch.Tensor | None
    one_lens: bool | None
    depth: torch.Tensor | None


@dataclass(frozen=True)
class GivenCameras:
    """Known cameras of a source.

    intrinsics: K of all frames (3,3), or of each, or a lens; size: (H, W) of their pictures, if known (K is then scaled
    to the frames); poses: world-from-camera (N,4,4), in metres with ``metric``; up: direction against gravity in the
    poses' world (3); one_lens: whether all frames have one lens with square pixels, if intrinsics are unknown (None:
    only refinement assumes it); where: for messages; depth: maps (F,h,w) of any size in metres along the optical axis,
    0 = unknown, with the pictures' field of view; or a tensor (F,H,W) at the frames' pixels. Arrays of poses, K or
    depth are those of the used frames, in order. ValueError if nothing is given, and for a matrix that is no pinhole
    camera or pose.
    """

    intrinsics: np.ndarray | PerFrame | Lens | None = None
    poses: np.ndarray | PerFrame | None = None
    metric: bool = True
    size: tuple[int, int] | None = None
    up: tuple[float, float, float] | None = None
    one_lens: bool | None = None
    where: str = "given cameras"
    depth: np.ndarray | DepthMaps | torch.Tensor | None = None

    def __post_init__(self) -> None:
        if self.intrinsics is None and self.poses is None and self.one_lens is None and self.depth is None:
            raise ValueError("give intrinsics, poses, depth or several of them")
        if self.intrinsics is not None and self.one_lens is not None:
            raise ValueError("intrinsics are given: whether one lens took all frames has no effect; leave it out")

    @property
    def gives_metres(self) -> bool:
        """Whether the scale follows from the poses or from depth."""
        return self.depth is not None or (self.poses is not None and self.metric)

    def check_count(self, count: int) -> None:
        """ValueError if arrays for the used frames do not have ``count`` entries."""
        for given in (self.intrinsics, self.poses, self.depth):
            if isinstance(given, np.ndarray) and given.ndim == 3 and len(given) != count:
                raise ValueError(f"{_where(given)}: {len(given)} cameras for {count} frames; give one each")

    def for_frames(self, frames: Frames, begin: int | None = None) -> FrameCameras:
        """The known cameras of the used frames, in their pixels, as a batch of one; ValueError if they do not match.

        ``begin``: number of used frames before these, if these are a part of them.
        """
        lens, poses, depth = self._found(frames, begin)
        extrinsics = None if poses is None else np.linalg.inv(poses) @ poses[0]
        up = None if self.up is None or poses is None else poses[0, :3, :3].T @ np.asarray(self.up, np.float64)
        return FrameCameras(
            None if lens is None else _tensor(np.asarray(frames.affine, np.float64) @ lens),
            None if extrinsics is None else _tensor(extrinsics),
            self.metric,
            None if up is None else _tensor(up),
            self.one_lens,
            None if depth is None or not depth.any() else depth[None],
        )

    def of(self, frames: Frames) -> GivenCameras:
        """The same for these used frames, as arrays, without files and names of the source."""
        lens, poses, depth = self._found(frames, None)
        return GivenCameras(lens, poses, self.metric, None, self.up, self.one_lens, self.where, depth)

    def _found(
        self, frames: Frames, begin: int | None
    ) -> tuple[np.ndarray | None, np.ndarray | None, torch.Tensor | None]:
        """K (F,3,3) in original pixels, poses (F,4,4) and depth (F,H,W) of the used frames."""
        return (
            None if self.intrinsics is None else self._lenses(frames, begin),
            None if self.poses is None else self._placed(_per_frame(self.poses), frames, begin),
            None if self.depth is None else self._sampled(self.depth, frames, begin or 0),
        )

    def _sampled(self, given: np.ndarray | DepthMaps | torch.Tensor, frames: Frames, begin: int) -> torch.Tensor:
        """Depth at the pixels of the used frames (F,H,W)."""
        if isinstance(given, torch.Tensor):
            return given[begin : begin + len(frames)]
        if isinstance(given, np.ndarray) and (given.ndim != 3 or len(given) < begin + len(frames)):
            raise ValueError(f"given depth: expected ({begin + len(frames)}, h, w), received {given.shape}")
        size, maps = (frames.images.shape[-2], frames.images.shape[-1]), []
        for place, (number, name) in enumerate(zip(frames.indices.tolist(), frames.names, strict=True), begin):
            metres = given[place] if isinstance(given, np.ndarray) else given.read(number, name)
            if metres is None:
                maps.append(np.zeros(size, np.float32))
                continue
            check_shape(metres, frames.original_size, f"{_where(given)}: {name}")
            across, down = metres.shape[1] / frames.original_size[1], metres.shape[0] / frames.original_size[0]
            to_depth = np.diag([across, down, 1.0]) @ np.linalg.inv(np.asarray(frames.affine, np.float64))
            maps.append(nearest_depth(metres, to_depth, size))
        return _tensor(np.nan_to_num(np.stack(maps), nan=0.0, posinf=0.0, neginf=0.0).clip(min=0))[0]

    def _placed(self, given: PerFrame, frames: Frames, begin: int | None) -> Float[np.ndarray, "F 4 4"]:
        rows = rows_of(given, frames, begin)
        if given.matrices.ndim != 3 or given.matrices.shape[1:] not in ((3, 4), (4, 4)):
            raise ValueError(f"{given.where}: expected poses (F, 4, 4), received {given.matrices.shape}")
        places = [given.place(row) for row in rows]
        return np.stack([
            _rigid(np.asarray(given.matrices[row], np.float64), f"{place}: the pose of {name}")
            for row, place, name in zip(rows, places, frames.names, strict=True)
        ])  # fmt: skip

    def _lenses(self, frames: Frames, begin: int | None) -> Float[np.ndarray, "F 3 3"]:
        """K in pixels of the original frames."""
        given, size = self.intrinsics, frames.original_size
        scale = _scale(self.size, size, self.where, frames.source)
        if isinstance(given, PerFrame) or (isinstance(given, np.ndarray) and given.ndim == 3):
            each = _per_frame(given)
            rows = rows_of(each, frames, begin)
            found = [(_scaled(scale, each.matrices[row]), each.place(row)) for row in rows]
        else:
            assert given is not None
            one = given.matrix(self.size or size) if isinstance(given, Lens) else np.asarray(given, np.float64)
            found = [(_scaled(scale, one), self.where)] * len(frames)
        checked: set[bytes] = set()
        for matrix, where in found:
            if matrix.tobytes() not in checked:
                check_pinhole(matrix, size, where, pixel_aspect(frames))
                checked.add(matrix.tobytes())
        return np.stack([matrix for matrix, _ in found])


def _scaled(scale: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    return scale @ matrix if matrix.shape == (3, 3) and np.isfinite(matrix).all() else matrix


def _per_frame(given: np.ndarray | PerFrame) -> PerFrame:
    return given if isinstance(given, PerFrame) else PerFrame(np.asarray(given, np.float64))


def _where(given: object) -> str:
    return given.where if isinstance(given, PerFrame | DepthMaps) else "given cameras"


def _tensor(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array)).float()[None]


def _scale(
    told: tuple[int, int] | None, size: tuple[int, int], where: str, source: str
) -> Float[np.ndarray, "3 3"]:
    """The map from pixels of the pictures of the intrinsics to pixels of the source; both sizes are (H, W)."""
    if told is None or tuple(told) == tuple(size):
        return np.eye(3)
    across, down = size[1] / told[1], size[0] / told[0]
    if abs(across / down - 1) > SAME_SHAPE + 0.5 / min(*told, *size):
        turned = "; are they turned by 90 degrees?" if (told[1] - told[0]) * (size[1] - size[0]) < 0 else ""
        raise ValueError(f"{where}: intrinsics of pictures of {told[1]}x{told[0]} pixels, but {source} has "
                         f"{size[1]}x{size[0]}; give those of the original pictures{turned}")  # fmt: skip
    warnings.warn(f"{where}: intrinsics of pictures of {told[1]}x{told[0]} pixels, scaled to {size[1]}x{size[0]}, the "
                  f"size of {source}", stacklevel=2)  # fmt: skip
    return np.diag([across, down, 1.0])


def check_pinhole(matrix: np.ndarray, size: tuple[int, int], where: str, pixel_aspect: float = 1.0) -> None:
    """ValueError unless K is that of a camera without skew and plausible for pictures of this (H, W).

    ``pixel_aspect``: factor that makes fx and fy comparable if pixels are not square. Warns of an unusual principal
    point or unusual pixels.
    """
    if matrix.shape != (3, 3) or not np.isfinite(matrix).all():
        raise ValueError(f"{where}: expected intrinsics of 3x3 finite numbers, received {np.asarray(matrix).tolist()}")
    fx, fy, cx, cy = (float(matrix[at]) for at in ((0, 0), (1, 1), (0, 2), (1, 2)))
    if min(fx, fy) <= 0:
        raise ValueError(f"{where}: focal lengths must be positive pixels, received {fx:g} and {fy:g}")
    if abs(matrix[0, 1]) > 1e-3 * fx or not np.allclose(matrix[[1, 2, 2, 2], [0, 0, 1, 2]], [0, 0, 0, 1], atol=1e-6):
        raise ValueError(f"{where}: expected [fx 0 cx; 0 fy cy; 0 0 1] without skew, received {matrix.tolist()}")
    _check_centre(cx, cy, size, where)
    _check_focal(fx, fy, size, where, pixel_aspect)


def _check_centre(cx: float, cy: float, size: tuple[int, int], where: str) -> None:
    height, width = size
    point = f"{where}: the principal point ({cx:g}, {cy:g})"
    if not (0 < cx < width and 0 < cy < height):
        raise ValueError(f"{point} lies outside the pictures of {width}x{height}; "
                         "give intrinsics in pixels of the original pictures")  # fmt: skip
    off, turned = (abs(x / width - 0.5) + abs(y / height - 0.5) for x, y in ((cx, cy), (cy, cx)))
    if (cx - cy) * (width - height) < 0 and turned < off and off > USUAL:
        raise ValueError(f"{point} is that of pictures of {height}x{width}, but these are {width}x{height}; turn the "
                         "intrinsics as the pictures are turned")  # fmt: skip
    low, high = CENTRAL
    if not (low < cx / width < high and low < cy / height < high):
        raise ValueError(f"{point} is far from the middle of the pictures of {width}x{height}: were they resized? "
                         "Give intrinsics in pixels of the original pictures")  # fmt: skip
    if max(abs(cx / width - 0.5), abs(cy / height - 0.5)) > USUAL:
        warnings.warn(f"{point} is {100 * cx / width:.0f}% across and {100 * cy / height:.0f}% down the pictures of "
                      f"{width}x{height}; are the intrinsics of pictures of another size?", stacklevel=2)  # fmt: skip


def _check_focal(fx: float, fy: float, size: tuple[int, int], where: str, pixel_aspect: float) -> None:
    longer = max(size)
    for focal in (fx, fy):
        if not FOCAL[0] <= focal / longer <= FOCAL[1]:
            degrees = math.degrees(2 * math.atan(longer / 2 / focal))
            raise ValueError(f"{where}: a focal length of {focal:g} pixels, a view of {degrees:.3g} degrees over "
                             f"{longer} pixels; expected {FOCAL[0] * longer:g} to {FOCAL[1] * longer:g}")  # fmt: skip
    ratio = fx / fy * pixel_aspect
    if max(ratio, 1 / ratio) > OBLONG:
        raise ValueError(f"{where}: focal lengths of {fx:g} and {fy:g} pixels differ too much for one lens")
    if max(ratio, 1 / ratio) > SQUARE:
        warnings.warn(f"{where}: focal lengths of {fx:g} and {fy:g} pixels: are these pixels not square?", stacklevel=2)


def _rigid(pose: np.ndarray, where: str) -> Float[np.ndarray, "4 4"]:
    """A pose with its rotation made exact; ValueError if it is not finite or not rigid."""
    if not np.isfinite(pose).all():
        raise ValueError(f"{where} is not finite (tracking was lost there?); leave it out")
    check_bottom_row(pose, where)
    rotation = pose[:3, :3]
    with np.errstate(over="ignore", invalid="ignore"):
        off = float(np.abs(rotation @ rotation.T - np.eye(3)).max())
    if not off <= RIGID_TOLERANCE or np.linalg.det(rotation) < 0:
        what = f"R R^T is off by {off:.2g}" if not off <= RIGID_TOLERANCE else "it mirrors"
        raise ValueError(f"{where} contains no rotation ({what}); give rigid poses, OpenCV axes")
    u, _, vt = np.linalg.svd(rotation)
    exact = np.eye(4)
    exact[:3, :3], exact[:3, 3] = u @ vt, pose[:3, 3]
    return exact
