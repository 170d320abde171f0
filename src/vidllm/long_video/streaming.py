"""A long or live video in windows, and its scene, which can be asked after each of them (docs/long_video.md).

    for scene in model.stream("walk.mp4"):
        scene.ask("How many chairs are there?")

Memory holds the frames of one window, all cameras, and a limited number of patches. Depth maps, confidences and
pictures are written to unnamed temporary files (in the folder TMPDIR) and read when they are needed.
"""

from __future__ import annotations

import math
import tempfile
import weakref
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from vidllm.export.geometry import SceneData, frames_at_once, release
from vidllm.geometry.picture_motion import PictureMotion, contrasts
from vidllm.io.cameras.given import GivenCameras
from vidllm.io.files import InputError
from vidllm.io.frames import Frames, joined
from vidllm.long_video.loops import Maps
from vidllm.long_video.reconstruction import NewFrames, Snapshot, WindowedReconstruction
from vidllm.long_video.windows import windows_of
from vidllm.model.modeling import Network
from vidllm.model.outputs import Geometry
from vidllm.model.priors import KnownScale, known_of
from vidllm.model.processing import Processor
from vidllm.reconstruction import Scene
from vidllm.scene_file import as_bytes, flat, texts

WARN_RESIDUAL = 0.15  # median distance of two windows' points over their depth above which their joint is doubted
SOME = 256  # frames in which the median deviation of depth is found, at most
_MAX_HALF = 65504.0


class FrameMaps:
    """Arrays on disk to which frames are appended. The files are removed with the object."""

    def __init__(self) -> None:
        self._files: dict[str, tuple[IO[bytes], np.dtype[Any], tuple[int, ...]]] = {}
        weakref.finalize(self, _close, self._files)

    def add(self, **arrays: np.ndarray) -> None:
        """Append frames (n, ...) to each array."""
        for name, array in arrays.items():
            if name not in self._files:
                self._files[name] = (tempfile.TemporaryFile(), array.dtype, array.shape[1:])  # noqa: SIM115
            file = self._files[name][0]
            file.write(np.ascontiguousarray(array).tobytes())
            file.flush()

    def multiply(self, name: str, factors: np.ndarray) -> None:
        """Multiply each frame of an array by its factor."""
        file, dtype, shape = self._files[name]
        map = np.memmap(file, dtype, "r+", shape=(len(factors), *shape))
        map *= factors.reshape(-1, *[1] * len(shape)).astype(dtype)
        map.flush()

    def has(self, name: str) -> bool:
        """Whether the array exists."""
        return name in self._files

    def read(self, name: str, frames: int) -> np.ndarray:
        """The first ``frames`` frames, memory-mapped."""
        file, dtype, shape = self._files[name]
        return np.memmap(file, dtype, "c", shape=(frames, *shape))


def _on_disk(maps: np.ndarray, made: Callable[[slice], np.ndarray]) -> np.ndarray:
    """Maps of the shape of ``maps`` (F,H,W), made of some frames at a time, in an unnamed file."""
    frames, *size = maps.shape
    many = frames_at_once((size[0], size[1]))
    with tempfile.TemporaryFile() as file:
        for begin in range(0, frames, many):
            file.write(np.ascontiguousarray(made(slice(begin, begin + many)), np.float32).tobytes())
            release(maps)
        file.flush()
        return np.memmap(file, np.float32, "c", shape=maps.shape)


def _close(files: dict[str, tuple[IO[bytes], Any, Any]]) -> None:
    for file, _, _ in files.values():
        file.close()


@dataclass
class Record:
    """Data kept of every frame besides its camera: time, number, name, median depth, view, contrast; maps, if any.

    ``tokens``: whether the language stream is kept too.
    """

    maps: Maps | None
    first: Frames | None = None
    times: list[float] = field(default_factory=list)
    indices: list[int] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    depths: list[Tensor] = field(default_factory=list)
    motion: PictureMotion = field(default_factory=PictureMotion)
    contrasts: list[float] = field(default_factory=list)
    tokens: bool = False

    def add(self, frames: list[Frames], new: NewFrames) -> None:
        """Add the new frames of a window; depth is in the first window's metres."""
        self.first = frames[0] if self.first is None else self.first
        for frame in frames:
            self.times += frame.timestamps_s.tolist()
            self.indices += frame.indices.tolist()
            self.names += frame.names
            self.motion.add(frame.images)
            self.contrasts += contrasts(frame.images).tolist()
        self.depths.append(new.depth.flatten(1).median(-1).values)
        if isinstance(self.maps, FrameMaps):
            pictures = torch.cat([frame.images for frame in frames])
            told = {} if new.log_std is None else {"log_std": new.log_std.half().numpy()}
            self.maps.add(
                **told,
                rgb=(pictures.permute(0, 2, 3, 1) * 255).round().to(torch.uint8).numpy(),
                depth=new.depth.numpy(),
                confidence=new.confidence.clamp(max=_MAX_HALF).half().numpy(),
                **({"tokens": new.tokens.numpy()} if self.tokens else {}),
            )

    def has(self, name: str) -> bool:
        """Whether there is a map of this name."""
        return self.maps is not None and self.maps.has(name)

    def map(self, name: str, frames: int) -> np.ndarray:
        """A map of the first frames; ValueError if maps are not kept."""
        if self.maps is None:
            raise ValueError(f"this stream kept no {name} maps; stream with keep_maps=True")
        return self.maps.read(name, frames)


class LongScene(Scene):
    """The scene of a video reconstructed in windows, at the time when this object was made.

    As any :class:`Scene`. ``depth``, ``frames``, ``geometry`` and ``data`` read the maps of all frames from disk;
    cameras, questions and boxes do not.
    """

    def __init__(self, model: Network, processor: Processor, snapshot: Snapshot, record: Record) -> None:
        assert record.first is not None
        super().__init__(model, processor, record.first, snapshot.cameras(), snapshot.prefix)
        self._snapshot, self._record = snapshot, record
        count = len(snapshot)
        self._times, self._indices, self._names = record.times[:count], record.indices[:count], record.names[:count]
        self._depths, self._views = torch.cat(record.depths)[:count], record.motion.views[:count]
        self._contrasts = torch.tensor(record.contrasts[:count])

    @property
    def residuals(self) -> tuple[float, ...]:
        """Median distance of the points of neighbouring windows, relative to their depth."""
        return self._snapshot.residuals

    @property
    def depth(self) -> Tensor:
        """Depth (F,H,W) in metres, read from disk."""
        return torch.from_numpy(self._record.map("depth", len(self)) * np.float32(self._snapshot.factor))

    @property
    def _log_std(self) -> Tensor | None:
        return self._read("log_std").float() if self._record.has("log_std") else None

    def _read(self, name: str) -> Tensor:
        return torch.from_numpy(np.array(self._record.map(name, len(self))))

    @property
    def frames(self) -> Frames:
        """All frames, read from disk."""
        return replace(
            self._frames, images=self._read("rgb").permute(0, 3, 1, 2).float() / 255, names=tuple(self._names),
            timestamps_s=torch.tensor(self._times, dtype=torch.float64), indices=torch.tensor(self._indices),
        )

    @property
    def geometry(self) -> Geometry:
        """The reconstruction as the model returns it, on the CPU; depth is read from disk."""
        confidence, log_std = self._read("confidence").float()[None], self._log_std
        return replace(self._geometry, depth_m=self.depth[None], confidence=confidence,
                       log_std=None if log_std is None else log_std[None])  # fmt: skip

    @cached_property
    def data(self) -> SceneData:
        """The reconstruction as plain arrays; pictures and maps stay on disk."""
        read = partial(self._record.map, frames=len(self))
        depth, factor = read("depth"), np.float32(self._snapshot.factor)
        std, wide = None, np.float32(1.0 if self.calibration is None else self.calibration.depth)
        if self._record.has("log_std"):
            log_std = read("log_std")
            std = _on_disk(depth, lambda part: depth[part] * (factor * wide) * log_std[part].astype(np.float32))
            release(log_std)
        maps = {"depth_m": _on_disk(depth, lambda part: depth[part] * factor), "depth_std_m": std,
                "confidence": read("confidence")}  # fmt: skip
        return self._as_data(read("rgb"), self._times, self._names, maps)

    @property
    def points(self) -> Tensor:
        """Points (N,3) in the scene frame, metres, one per voxel (colours: ``scene.data.cloud()[1]``)."""
        return torch.from_numpy(self.data.cloud()[0])

    def _numbers(self) -> list[int]:
        return [int(index) for index in self._indices]

    def _votes(self) -> Tensor:
        return (self._snapshot.scale.per_image[0] / self._snapshot.factor).float().cpu()

    @property
    def loops(self) -> int:
        """Number of closed loops."""
        return self._snapshot.loops

    def _doubts(self) -> list[str]:
        worst = max(self.residuals, default=0.0)
        if worst <= WARN_RESIDUAL:
            return []
        number = self.residuals.index(worst) + 1
        return [f"windows {number} and {number + 1} differ by {100 * worst:.0f}% of depth in the frames they share"]

    def _median_depth(self) -> float:
        """Median over the frames of their median depths, metres."""
        return float(self._depths.median()) * self._snapshot.factor

    def _median_std(self) -> float:
        """Median of ``depth_std`` over some frames; nan if unknown."""
        std = self.data.depth_std_m if self._record.has("log_std") else None
        return math.nan if std is None else float(np.median(std[self.data.evenly(SOME)]))

    def saved(self) -> tuple[str, dict[str, Any], dict[str, Any]]:
        """The content of a saved scene: its kind, values for JSON and tensors."""
        values, own = flat(snapshot=self._snapshot, first=self._frames)
        tensors: dict[str, Any] = own | {
            "first.images": as_bytes(self._frames.images),
            "times": torch.tensor(self._times, dtype=torch.float64),
            "indices": torch.tensor(self._indices, dtype=torch.int64),
            "views": torch.tensor(self._views),
            "contrasts": self._contrasts,
            "depths": self._depths,
        }
        for name in ("rgb", "depth", "confidence", "log_std"):
            if self._record.has(name):
                tensors[f"maps.{name}"] = self._record.map(name, len(self))
        return "long scene", {**values, "names": texts(self._names)}, tensors


@dataclass
class StreamingReconstructor:
    """``run`` processes a video with a model and its processor; ``scene`` gives the scene after each window.

    ``loops``: keep the data for :meth:`close_loops`.
    """

    model: tuple[Network, Processor]
    size: int
    overlap: int
    known: KnownScale | None = None
    keep_maps: bool = True
    cameras: GivenCameras | None = None
    refine: bool | None = None
    loops: bool = False

    def __post_init__(self) -> None:
        self._record = Record(FrameMaps() if self.keep_maps else None, tokens=self.loops)
        self._windows = WindowedReconstruction(self.model[0], self.known, self.refine)

    def run(self, frames: Iterable[Frames]) -> Iterator[int]:
        """Process frames (each a `Frames` of one); yields the number of frames so far after each window.

        InputError without frames, ValueError if the known scale refers to a frame beyond the last.
        """
        parameter = next(self.model[0].parameters())
        for window, shared in windows_of(frames, self.size, self.overlap):
            if self.known is not None and self.known.length is not None and not self._windows.frames:
                self._windows.known = KnownScale(length=self.known.length.mapped(window[0].affine))
            images = torch.cat([frame.images for frame in window])[None]
            given = known_of(self.cameras, joined(window), self._windows.frames - shared)
            new = self._windows.add(images.to(parameter.device, parameter.dtype), shared, given)
            self._record.add(window[shared:], new)
            yield self._windows.frames
        count, length = self._windows.frames, None if self.known is None else self.known.length
        if self.cameras is not None:
            self.cameras.check_count(count)
        if not count:
            raise InputError("the source contains no frame; give a source with at least one")
        if length is not None and not 0 <= length.frame < count:
            raise ValueError(f"the known length is in frame {length.frame}, but frames are 0 to {count - 1}")

    def close_loops(self) -> None:
        """Close loops after the last window, if ``loops`` is set."""
        record = self._record
        if not self.loops or not isinstance(record.maps, FrameMaps):
            return
        factors = self._windows.close_loops(record.maps, torch.cat(record.depths), self.size)
        if factors is not None:
            record.maps.multiply("depth", factors.numpy())
            record.depths = [torch.cat(record.depths) * factors]

    @property
    def scene(self) -> LongScene:
        """The scene of all windows so far; ValueError before the first."""
        return LongScene(*self.model, self._windows.snapshot(), self._record)
