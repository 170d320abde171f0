"""The input of every exporter: a reconstructed scene as plain arrays, independent of the model.

Lengths are metres; pixels have their centres at +0.5; cameras are OpenCV (x right, y down, z forward); the world
is the first camera, the scene frame is gravity aligned with z up.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from vidllm.io.files import InputError

NEAR_M = 0.05
SLACK_M, SLACK = 0.05, 0.05  # tolerance between a point and the surface in a frame: metres, and share of the depth
CHUNK_PIXELS = 2**18  # pixels unprojected at a time
LONG_FRAMES = 64  # scenes with more frames are thinned by voxels
VOXEL_M = 0.01


def known(depth_m: Float[np.ndarray, "*batch"]) -> Bool[np.ndarray, "*batch"]:
    """Where there is depth."""
    return np.isfinite(depth_m) & (depth_m > 0)


@dataclass(frozen=True)
class PointSamples:
    """`N` back-projected pixels.

    Attributes:
        xyz: `(N, 3)` metres, scene frame.
        rgb: `(N, 3)` uint8.
        uv: `(N, 2)` pixels of the processed frame.
        frame: `(N,)` frame numbers.
    """

    xyz: Float[np.ndarray, "N 3"]
    rgb: UInt8[np.ndarray, "N 3"]
    uv: Float[np.ndarray, "N 2"]
    frame: Int[np.ndarray, " N"]


@dataclass(frozen=True)
class SceneData:
    """A reconstructed scene.

    Attributes:
        rgb: `(F, H, W, 3)` uint8 processed frames.
        depth_m: `(F, H, W)` metres along the optical axis; zero, negative or not finite means no depth.
        extrinsics: `(F, 4, 4)` camera-from-world.
        intrinsics: `(F, 3, 3)` in pixels of the processed frames.
        scene_from_world: `(4, 4)` rigid.
        timestamps_s: `(F,)` seconds on the source's own clock; frame numbers without one.
        processed_from_original: `(3, 3)` pixel map.
        original_size: `(H0, W0)` of the frames before processing.
        confidence: `(F, H, W)` or None; larger is surer.
        depth_std_m: `(F, H, W)` standard deviation of depth in metres, or None.
        names: `F` frame names, or empty for `frame_000000`, ...
        has_clock: whether the timestamps are times.
        originals: reads the pictures before processing, `(H0, W0, 3)` uint8 each; None if they are not available.

    Raises:
        ValueError: arrays whose shapes do not agree, or colours that are not uint8.
    """

    rgb: np.ndarray
    depth_m: np.ndarray
    extrinsics: np.ndarray
    intrinsics: np.ndarray
    scene_from_world: np.ndarray
    timestamps_s: np.ndarray
    processed_from_original: np.ndarray
    original_size: tuple[int, int]
    confidence: np.ndarray | None = None
    names: Sequence[str] = ()
    has_clock: bool = True
    depth_std_m: np.ndarray | None = None
    originals: Callable[[], Iterator[np.ndarray]] | None = None

    def __post_init__(self) -> None:
        if self.depth_m.ndim != 3 or self.rgb.dtype != np.uint8:
            raise ValueError(f"expected depth_m (F, H, W) and uint8 rgb, got {self.depth_m.shape} and {self.rgb.dtype}")
        frames, height, width = self.depth_m.shape
        expected = {
            "rgb": (frames, height, width, 3),
            "extrinsics": (frames, 4, 4),
            "intrinsics": (frames, 3, 3),
            "scene_from_world": (4, 4),
            "timestamps_s": (frames,),
            "processed_from_original": (3, 3),
        }
        maps = (name for name in ("confidence", "depth_std_m") if getattr(self, name) is not None)
        expected |= dict.fromkeys(maps, (frames, height, width))
        for name, shape in expected.items():
            if getattr(self, name).shape != shape:
                raise ValueError(f"{name}: expected shape {shape} beside depth_m {self.depth_m.shape}, "
                                 f"got {getattr(self, name).shape}")  # fmt: skip
        if len(self.names) not in (0, frames):
            raise ValueError(f"names: expected none or {frames}, got {len(self.names)}")

    def __len__(self) -> int:
        return self.depth_m.shape[0]

    @property
    def size(self) -> tuple[int, int]:
        """`(H, W)` of the processed frames."""
        return self.depth_m.shape[1], self.depth_m.shape[2]

    @cached_property
    def scene_from_camera(self) -> Float[np.ndarray, "F 4 4"]:
        """Camera poses in the scene frame, float64."""
        return self.scene_from_world.astype(np.float64) @ np.linalg.inv(self.extrinsics.astype(np.float64))

    @cached_property
    def camera_from_scene(self) -> Float[np.ndarray, "F 4 4"]:
        """Extrinsics with respect to the scene frame, float64."""
        return np.linalg.inv(self.scene_from_camera)

    @property
    def original_intrinsics(self) -> Float[np.ndarray, "F 3 3"]:
        """Intrinsics in pixels of the original frames, float64."""
        return np.linalg.inv(self.processed_from_original.astype(np.float64)) @ self.intrinsics.astype(np.float64)

    @property
    def valid(self) -> Bool[np.ndarray, "F H W"]:
        """Where there is depth."""
        return known(self.depth_m)

    def depth_of(self, frame: int) -> Float[np.ndarray, "H W"]:
        """Depth of one frame in metres, 0 = no depth."""
        depth = np.asarray(self.depth_m[frame])
        return np.where(known(depth), depth, 0)

    def file_stems(self) -> list[str]:
        """A name without folder or suffix for each frame's files.

        Frame numbers where the names are not unique, or one has white space, control characters or bytes that are no
        UTF-8: in COLMAP's text files a name ends at its first blank.
        """
        stems = [name.replace("\\", "/").rsplit("/", 1)[-1].rsplit(".", 1)[0] for name in self.names]
        usable = len(set(stems)) == len(self) and all(stem.isprintable() and stem.split() == [stem] for stem in stems)
        return stems if usable else [f"frame_{index:06d}" for index in range(len(self))]

    def pictures(self) -> Iterator[UInt8[np.ndarray, "H0 W0 3"]]:
        """The original pictures if they are available, else the processed frames.

        InputError if the video has changed since the reconstruction.
        """
        if self.originals is None:
            yield from self.rgb
            return
        count, changed = 0, "the video has changed since it was reconstructed"
        for rgb in self.originals():
            if rgb.shape[:2] != self.original_size:
                raise InputError(f"{changed}: frame {count} has another size")
            yield rgb
            count += 1
        if count != len(self):
            raise InputError(f"{changed}: {count} of {len(self)} frames are left")

    def samples(self, stride: int = 1) -> PointSamples:
        """Back-project every `stride`-th pixel that has depth into the scene frame.

        Equation 3: `X = R^-1 (K^-1 [u, v, 1]^T D) - R^-1 t`, then world to scene.
        """
        parts = list(self.chunks(stride))
        names = ("xyz", "rgb", "uv", "frame")
        return PointSamples(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))

    def chunks(self, stride: int = 1) -> Iterator[PointSamples]:
        """:meth:`samples` of some frames at a time; memory-mapped maps are released after use."""
        if stride < 1:
            raise ValueError(f"stride must be at least 1, got {stride}")
        inverse, pose = np.linalg.inv(self.intrinsics.astype(np.float64)), self.scene_from_camera
        start, many = (stride - 1) // 2, frames_at_once(self.size)
        for begin in range(0, max(len(self), 1), many):
            part = slice(begin, begin + many)
            depth = np.asarray(self.depth_m[part])
            keep = np.zeros(depth.shape, bool)
            keep[:, start::stride, start::stride] = True
            keep &= known(depth)
            frame, row, column = np.nonzero(keep)
            uv = np.stack([column, row], -1) + 0.5
            rays = _apply(inverse[part], frame, np.append(uv, np.ones((len(uv), 1)), 1))
            camera = rays * depth[keep][:, None].astype(np.float64)
            xyz = _apply(pose[part, :3, :3], frame, camera) + pose[part][frame, :3, 3]
            yield PointSamples(xyz.astype(np.float32), self.rgb[part][keep], uv.astype(np.float32), frame + begin)
            release(self.rgb, self.depth_m)

    def cloud(self, most: int = 2_000_000) -> tuple[Float[np.ndarray, "N 3"], UInt8[np.ndarray, "N 3"]]:
        """At most so many points and colours: every n-th pixel, or in a long scene one point per voxel, whose size
        grows from ``VOXEL_M``. Memory does not depend on the number of frames.
        """
        if len(self) <= LONG_FRAMES:
            return self.points(self.stride_for(most))
        return thinned(self.chunks(), most)

    def point_at(self, frame: int, u: float, v: float) -> tuple[float, float, float]:
        """The point at a pixel of an original picture, in metres, scene frame.

        ValueError if there is no such frame, or the pixel was cropped or has no depth.
        """
        if not 0 <= frame < len(self):
            raise ValueError(f"there is no frame {frame}; frames are 0 to {len(self) - 1}")
        x, y, _ = self.processed_from_original @ np.array([u, v, 1.0])
        height, width = self.size
        if not (0 <= x < width and 0 <= y < height):
            raise ValueError(f"pixel {u:g},{v:g} lies outside what is used of the {self.original_size[1]} x "
                             f"{self.original_size[0]} pictures; give another one")  # fmt: skip
        depth = float(self.depth_of(frame)[int(y), int(x)])
        if not depth:
            raise ValueError(f"pixel {u:g},{v:g} of frame {frame} has no depth; give another one")
        ray = np.linalg.inv(self.intrinsics[frame].astype(np.float64)) @ np.array([x, y, 1.0])
        pose = self.scene_from_camera[frame]
        a, b, c = (pose[:3, :3] @ (ray * depth) + pose[:3, 3]).tolist()
        return a, b, c

    def depth_at(
        self, frame: int, points: Float[np.ndarray, "N 3"]
    ) -> tuple[Float[np.ndarray, " N"], Float[np.ndarray, " N"], tuple[np.ndarray, np.ndarray]]:
        """The depth of a frame at the projections of points (0 outside the frame and without depth), the depth of the
        points, both in metres (N,), and their rows and columns.
        """
        pose = self.scene_from_camera[frame]
        camera = (points - pose[:3, 3]) @ pose[:3, :3]
        z = camera[:, 2]
        pixel = camera @ self.intrinsics[frame].astype(np.float64).T / z.clip(NEAR_M)[:, None]
        height, width = self.size
        inside = (z > NEAR_M) & ((pixel[:, :2] >= 0) & (pixel[:, :2] < [width, height])).all(1)
        at = (np.where(inside, pixel[:, 1], 0).astype(int), np.where(inside, pixel[:, 0], 0).astype(int))
        return np.where(inside, self.depth_of(frame)[at], 0), z, at

    def shows(
        self, frame: int, points: Float[np.ndarray, "N 3"]
    ) -> tuple[Bool[np.ndarray, " N"], tuple[np.ndarray, np.ndarray]]:
        """Whether a frame shows points of the scene, at about their own depth, and their rows and columns (N,)."""
        depth, z, at = self.depth_at(frame, points)
        return (depth > 0) & (np.abs(depth - z) <= SLACK_M + SLACK * z), at

    def points(self, stride: int = 1) -> tuple[Float[np.ndarray, "N 3"], UInt8[np.ndarray, "N 3"]]:
        """Point cloud: `(N, 3)` metres in the scene frame, and `(N, 3)` uint8 colours."""
        samples = self.samples(stride)
        return samples.xyz, samples.rgb

    def evenly(self, most: int) -> list[int]:
        """Numbers of at most so many frames, evenly spread, the first and the last among them."""
        return np.unique(np.linspace(0, len(self) - 1, min(most, len(self))).round().astype(int)).tolist()

    def stride_for(self, max_points: int) -> int:
        """The smallest stride that keeps the cloud at or below `max_points`, counting every pixel as valid."""
        strides = range(1, max(self.size) + 1)
        few = (n for n in strides if len(self) * -(-self.size[0] // n) * -(-self.size[1] // n) <= max_points)
        return next(few, strides.stop)


def thinned(
    parts: Iterable[PointSamples], most: int
) -> tuple[Float[np.ndarray, "N 3"], UInt8[np.ndarray, "N 3"]]:
    """The first point of each voxel, and its colour; voxels double in size while there are more than ``most``."""
    voxel_m, keys = VOXEL_M, np.empty(0, np.int64)  # the voxels so far, sorted
    kept = [(np.empty((0, 3), np.float32), np.empty((0, 3), np.uint8))]
    for part in parts:
        found, first = np.unique(_voxels(part.xyz, voxel_m), return_index=True)
        at = np.searchsorted(keys, found).clip(max=max(len(keys) - 1, 0))
        new = keys[at] != found if len(keys) else np.ones(len(found), bool)
        kept.append((part.xyz[first[new]], part.rgb[first[new]]))
        keys = np.sort(np.concatenate([keys, found[new]]), kind="stable")
        while len(keys) > most:
            voxel_m *= 2
            xyz, rgb = (np.concatenate(arrays) for arrays in zip(*kept, strict=True))
            keys, first = np.unique(_voxels(xyz, voxel_m), return_index=True)
            kept = [(xyz[first], rgb[first])]
    xyz, rgb = (np.concatenate(arrays) for arrays in zip(*kept, strict=True))
    return xyz, rgb


def _voxels(xyz: np.ndarray, voxel_m: float) -> Int[np.ndarray, " N"]:
    """The number of each point's voxel, 21 bits an axis."""
    x, y, z = (np.floor(xyz / voxel_m).astype(np.int64) + 2**20).clip(0, 2**21 - 1).T
    return (x << 42) | (y << 21) | z


def frames_at_once(size: tuple[int, int]) -> int:
    """The number of frames of (H, W) processed at a time."""
    return max(1, CHUNK_PIXELS // (size[0] * size[1]))


def release(*maps: np.ndarray | None) -> None:
    """Release the memory of memory-mapped arrays, which are read again when needed."""
    for array in maps:
        if isinstance(array, np.memmap) and hasattr(array._mmap, "madvise"):  # type: ignore[attr-defined]
            array._mmap.madvise(mmap.MADV_DONTNEED)  # type: ignore[attr-defined]


def _apply(matrices: np.ndarray, frame: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """`matrices[frame[n]] @ vectors[n]`, frame by frame (frames are sorted)."""
    out = np.empty((len(vectors), 3))
    bounds = np.searchsorted(frame, np.arange(len(matrices) + 1))
    for matrix, begin, end in zip(matrices, bounds, bounds[1:], strict=False):
        out[begin:end] = vectors[begin:end] @ matrix.T
    return out
