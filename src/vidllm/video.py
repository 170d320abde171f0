"""Video in and out: any source to `Frames`, decoding no more of the film than the wanted frames need (PyAV).

The paper takes 32 frames uniformly sampled (section 4.1). Reading a film has two steps. A scan of its packets,
without decoding, gives every presentation time and the key frames. Then each wanted frame is reached by seeking to
the last key frame before it and decoding forward to exactly its time. Where the scan or a seek cannot be trusted
(no time stamps, a damaged or cut file, a stream that starts amid a group) the film is decoded from its beginning
instead; both ways choose the same frames. Frames are numbered in presentation order, so a variable frame rate
changes their times and never their choice; the rotation and the pixel aspect that the container asks for are
applied.
"""

from __future__ import annotations

import bisect
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any, cast

import av
import av.error
import numpy as np
from av.container import InputContainer
from av.sidedata.sidedata import Type as SideDataType
from av.video.stream import VideoStream
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from vidllm.frames import (
    IMAGE_SUFFIXES,
    FrameCollector,
    Frames,
    InputError,
    Resize,
    add_item,
    collect_items,
    frame_spec,
    item_times,
    list_images,
    uniform_indices,
)
from vidllm.io.atomic import atomic_path

__all__ = ["Frames", "InputError", "iter_frames", "load_frames", "write_video"]

_NOT_VIDEO = frozenset({"hls", "concat", "dash", "tty", "image2"})  # formats that point elsewhere or draw text


class _SeekFailedError(Exception):
    """A wanted frame was not met where the scan said; the caller decodes from the beginning instead."""


@dataclass
class _Scan:
    """What the packets say. `pts` are sorted presentation times in ticks; `keys` (pts, seek target) of key frames."""

    pts: list[int] = field(default_factory=list)
    keys: list[tuple[int, int]] = field(default_factory=list)
    timed: bool = True
    damage: str | None = None

    def allows_seeking(self) -> bool:
        """Whether every frame has its own time, none comes before the first key frame, and nothing is damaged."""
        unique = len(set(self.pts)) == len(self.pts)
        return self.timed and unique and self.damage is None and bool(self.keys) and self.keys[0][0] == self.pts[0]


@dataclass(frozen=True)
class _Picture:
    """One decoded frame with its number in presentation order and its time from the first."""

    stream: VideoStream
    frame: av.VideoFrame
    index: int
    time_s: float


def load_frames(
    source: str | Path | Sequence[Any] | np.ndarray | Tensor,
    num_frames: int | None = 32,
    *,
    shorter_side: int = 518,
    resize: Resize = "shorter_side",
    patch_size: int = 14,
) -> Frames:
    """Load, sample and preprocess frames.

    Args:
        source: a video file; a folder of pictures (natural order); one picture; a list of paths, PIL pictures or
            arrays; or an array or tensor `(F, H, W, 3)` or `(F, 3, H, W)`, uint8 or float in [0, 1].
        num_frames: how many, at `round(linspace(0, n - 1, num_frames))` of the source's n frames; all when there
            are fewer, or when None.
        shorter_side: pixels of the shorter side after resizing (of the longer one with `resize="longer_side"`).
        resize: `"shorter_side"` (the paper; crops the centre to whole patches) or `"longer_side"` (VGGT's loader).
        patch_size: H and W of the result are multiples of it.

    Raises:
        InputError: the source is missing, not a video or picture, empty, or holds frames that differ in size, NaN,
            or values outside [0, 1]. A cut or damaged video that still decodes in part gives those frames and warns.
    """
    uniform_indices(1, num_frames)
    plan = partial(frame_spec, shorter_side=shorter_side, resize=resize, patch_size=patch_size)
    plan((patch_size, patch_size))  # wrong options are reported before any file is read
    if isinstance(source, str | Path):
        path = Path(source).expanduser()
        if path.is_file() and path.suffix.lower() not in IMAGE_SUFFIXES:
            return _load_video(path, num_frames, plan)
        return collect_items(_items(source), str(path), num_frames, plan)
    name = "array" if isinstance(source, np.ndarray | Tensor) else "list of frames"
    return collect_items(_items(source), name, num_frames, plan)


def _items(source: Any) -> Any:
    """What is not a film as a sequence of paths, pictures or arrays."""
    if isinstance(source, np.ndarray | Tensor):
        if source.ndim != 4:
            raise InputError(f"array: expected shape (F, H, W, 3) or (F, 3, H, W), got {tuple(source.shape)}; "
                             "add the frame axis to a single picture")  # fmt: skip
        return source
    if not isinstance(source, str | Path):
        return list(source)
    path = Path(source).expanduser()
    if path.is_dir():
        return list_images(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file or folder; check the path")
    return [path]


def _load_video(path: Path, num_frames: int | None, plan: Any) -> Frames:
    scan, aspect = _scan(_not_empty(path))
    if scan.allows_seeking():
        collector = FrameCollector(str(path), plan, aspect)
        try:
            for picture in _seek_pictures(path, scan, num_frames):
                _add(collector, picture)
            return collector.frames()
        except _SeekFailedError:
            pass
    collector, damage = FrameCollector(str(path), plan, aspect), list[str]()
    for picture in _decode_pictures(path, num_frames, damage):
        _add(collector, picture)
    _tell_damage(path, scan, damage, decoded=bool(collector.images))
    return collector.frames()


def _tell_damage(path: Path, scan: _Scan, damage: list[str], decoded: bool) -> None:
    """Warn of a film that decodes in part; `InputError` for one of which nothing does."""
    if not decoded:
        reason = (damage or [scan.damage or "no video data"])[-1]
        raise InputError(f"{path}: no frame could be decoded ({reason}); "
                         "the file is cut or damaged, copy or convert it again")  # fmt: skip
    if damage or scan.damage:
        warnings.warn(f"{path}: damaged or cut video ({scan.damage or damage[-1]}); using the frames that decode",
                      stacklevel=4)  # fmt: skip


def iter_frames(
    source: Any,
    num_frames: int | None = None,
    *,
    shorter_side: int = 518,
    resize: Resize = "shorter_side",
    patch_size: int = 14,
) -> Iterator[Frames]:
    """The frames of :func:`load_frames` one at a time, each a `Frames` of one, decoded when it is asked for.

    Every frame by default. The source may also be an iterator of paths, pictures or arrays (a live camera), whose
    number of frames nobody knows: `InputError` when `num_frames` of them are wanted. Of a film that turns out damaged
    on the way, frames already given are not given again.
    """
    uniform_indices(1, num_frames)
    plan = partial(frame_spec, shorter_side=shorter_side, resize=resize, patch_size=patch_size)
    plan((patch_size, patch_size))
    path = Path(source).expanduser() if isinstance(source, str | Path) else None
    if path is not None and path.is_file() and path.suffix.lower() not in IMAGE_SUFFIXES:
        return _iter_film(path, num_frames, plan)
    if isinstance(source, Iterator):
        if num_frames is not None:
            raise InputError(f"an iterator has no known length, so {num_frames} frames cannot be spread over it; "
                             "take every frame, or thin it yourself (itertools.islice)")  # fmt: skip
        return _iter_items(enumerate(source), "iterator of frames", plan)
    items = _items(source)
    name = str(path) if path is not None else "array" if isinstance(source, np.ndarray | Tensor) else "list of frames"
    chosen = uniform_indices(len(items), num_frames).tolist()
    return _iter_items(((index, items[index]) for index in chosen), name, plan, item_times(items))


def _iter_items(
    items: Iterator[tuple[int, Any]], name: str, plan: Any, times: list[float] | None = None
) -> Iterator[Frames]:
    collector = FrameCollector(name, plan)
    for index, item in items:
        add_item(collector, item, index, times)
        yield collector.take()


def _iter_film(path: Path, num_frames: int | None, plan: Any) -> Iterator[Frames]:
    scan, aspect = _scan(_not_empty(path))
    collector, last, damage = FrameCollector(str(path), plan, aspect), -1, list[str]()
    if scan.allows_seeking():
        try:
            for picture in _seek_pictures(path, scan, num_frames):
                _add(collector, picture)
                last = picture.index
                yield collector.take()
            return
        except _SeekFailedError:
            pass
    for picture in _decode_pictures(path, num_frames, damage):
        if picture.index > last:
            _add(collector, picture)
            last = picture.index
            yield collector.take()
    _tell_damage(path, scan, damage, decoded=last >= 0)


def _not_empty(path: Path) -> Path:
    if path.stat().st_size == 0:
        raise InputError(f"{path}: the file is empty; copy or record it again")
    return path


def _open(path: Path) -> tuple[InputContainer, VideoStream]:
    """Open a film and choose its video track. The container reads this one local file and nothing else."""
    try:
        container = av.open(f"file:{path}", container_options={"protocol_whitelist": "file"})
    except (av.error.FFmpegError, OSError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path}: not a readable video ({reason}); is it complete, and a video?") from error
    stream = container.streams.best("video")
    refused = bool(_NOT_VIDEO & set(container.format.name.split(",")))
    if refused or not isinstance(stream, VideoStream) or stream.disposition & stream.disposition.attached_pic:
        container.close()
        raise InputError(f"{path}: holds no video track (format {container.format.name}); give a video file")
    stream.thread_type = "AUTO"
    return container, stream


def _scan(path: Path) -> tuple[_Scan, float]:
    """Read all packets without decoding. Also returns the pixel aspect as displayed."""
    scan, end_s = _Scan(), 0.0
    container, stream = _open(path)
    with container:
        try:
            for packet in container.demux(stream, *container.streams.audio):
                if packet.pts is not None and packet.duration is not None:
                    end_s = max(end_s, float((packet.pts + packet.duration) * packet.time_base))
                if packet.stream.index != stream.index or packet.size == 0 or packet.is_discard:
                    continue
                _record(scan, packet)
        except av.error.FFmpegError as error:
            scan.damage = error.strerror or str(error)
        declared_s = (container.duration or 0) / av.time_base
        start_s = (container.start_time or 0) / av.time_base
        if declared_s - (end_s - start_s) > max(1.0, 0.02 * declared_s) and scan.pts:
            scan.damage = scan.damage or f"{declared_s:.1f} s announced, {end_s - start_s:.1f} s present"
        aspect = stream.sample_aspect_ratio or Fraction(1)
    scan.pts.sort()
    scan.keys.sort()
    return scan, float(aspect) if aspect > 0 else 1.0


def _record(scan: _Scan, packet: Any) -> None:
    if packet.is_corrupt:
        scan.damage = "incomplete packet"
    if packet.pts is None:
        scan.timed = False
        return
    scan.pts.append(packet.pts)
    if packet.is_keyframe:
        scan.keys.append((packet.pts, packet.pts if packet.dts is None else packet.dts))


def _seek_pictures(path: Path, scan: _Scan, num_frames: int | None) -> Iterator[_Picture]:
    """The wanted frames, each reached from the last key frame before it."""
    container, stream = _open(path)
    key_times = [pts for pts, _ in scan.keys]
    with container:
        frames: Iterator[av.VideoFrame] = iter(())
        position: int | None = None
        for index in uniform_indices(len(scan.pts), num_frames).tolist():
            wanted = scan.pts[index]
            key = scan.keys[bisect.bisect_right(key_times, wanted) - 1]
            if position is None or position < key[0]:
                frames = _seek(container, stream, key[1])
            frame = _forward(frames, wanted)
            position = wanted
            yield _Picture(stream, frame, index, float((wanted - scan.pts[0]) * (stream.time_base or Fraction(1))))


def _seek(container: InputContainer, stream: VideoStream, target: int) -> Iterator[av.VideoFrame]:
    try:
        container.seek(target, stream=stream, backward=True)
    except av.error.FFmpegError as error:
        raise _SeekFailedError from error
    return container.decode(stream)


def _forward(frames: Iterator[av.VideoFrame], wanted: int) -> av.VideoFrame:
    """Decode on until the frame of time `wanted`. Raises `_SeekFailedError` when it is passed over or damaged."""
    try:
        for frame in frames:
            if frame.pts == wanted and not frame.is_corrupt:
                return frame
            if frame.pts is None or frame.pts >= wanted:
                break
    except av.error.FFmpegError as error:
        raise _SeekFailedError from error
    raise _SeekFailedError


def _decode_pictures(path: Path, num_frames: int | None, damage: list[str]) -> Iterator[_Picture]:
    """The wanted frames by decoding everything twice, once to count and once to keep; damage is noted and skipped."""
    container, stream = _open(path)
    with container:
        count = sum(1 for _ in _decode_all(container, stream, damage))
    wanted = set(uniform_indices(count, num_frames).tolist())
    container, stream = _open(path)
    with container:
        first: float | None = None
        for index, frame in enumerate(_decode_all(container, stream, [])):
            time_s = frame.time if frame.time is not None else index / float(stream.average_rate or 1)
            first = time_s if first is None else first
            if index in wanted:
                yield _Picture(stream, frame, index, time_s - first)


def _decode_all(container: InputContainer, stream: VideoStream, damage: list[str]) -> Iterator[av.VideoFrame]:
    """Every whole frame from the beginning; what cannot be read is noted in `damage` and skipped."""
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
            if packet is None:
                return
            frames = stream.decode(packet)
        except av.error.FFmpegError as error:
            damage.append(error.strerror or str(error))
            continue
        yield from (frame for frame in frames if not frame.is_corrupt)


def _add(collector: FrameCollector, picture: _Picture) -> None:
    array, transposed = _upright(picture.frame, picture.stream)
    if transposed and collector.spec is None:
        collector.pixel_aspect = 1 / collector.pixel_aspect
    collector.clock_start_s = 0.0
    collector.add(Image.fromarray(array), picture.index, picture.time_s, f"frame_{picture.index:06d}")


def _upright(frame: av.VideoFrame, stream: VideoStream) -> tuple[UInt8[np.ndarray, "H W 3"], bool]:
    """Turn and mirror a decoded frame as its display matrix asks; also whether rows became columns.

    The matrix holds (a, b; c, d) with x' = a x + c y and y' = b x + d y in 16.16 fixed point, y down. Without it the
    older `rotate` tag (degrees clockwise) counts.
    """
    array = frame.to_ndarray(format="rgb24")
    side_data: Any = frame.side_data
    try:
        matrix = side_data[SideDataType.DISPLAYMATRIX]
    except KeyError:
        matrix = None
    if matrix is not None:
        a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32)[:5].tolist()
    else:
        tags = {key.lower(): value for key, value in stream.metadata.items()}
        turns = round(float(tags.get("rotate", 0)) / 90) % 4
        a, b, c, d = [(1, 0, 0, 1), (0, 1, -1, 0), (-1, 0, 0, -1), (0, -1, 1, 0)][turns]
    transposed = abs(b) > abs(a)
    if transposed:
        array, a, d = array.transpose(1, 0, 2), c, b
    return np.ascontiguousarray(array[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]), transposed


def write_video(path: str | Path, rgb: np.ndarray, fps: float | int = 10) -> None:
    """Write frames `(F, H, W, 3)` uint8 as an H.264 film (MPEG-4 where the encoder is absent), whole or not at all.

    Raises:
        ValueError: no frame, not uint8 RGB, odd sides (the format halves the colour planes), or `fps` not positive.
        OutputError: the file cannot be written.
    """
    if rgb.ndim != 4 or rgb.shape[-1] != 3 or rgb.dtype != np.uint8 or len(rgb) == 0:
        raise ValueError(f"expected uint8 frames (F, H, W, 3) with F >= 1, got {rgb.dtype} {rgb.shape}")
    if rgb.shape[1] % 2 or rgb.shape[2] % 2 or fps <= 0:
        raise ValueError(f"expected even sides and fps > 0, got {rgb.shape[2]}x{rgb.shape[1]} at {fps}; crop one pixel")
    codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
    with atomic_path(path) as temporary, av.open(str(temporary), "w", format="mp4") as container:
        stream = cast(VideoStream, container.add_stream(codec, rate=Fraction(fps).limit_denominator(1000)))
        stream.width, stream.height, stream.pix_fmt = rgb.shape[2], rgb.shape[1], "yuv420p"
        for array in rgb:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(array), format="rgb24")))
        container.mux(stream.encode(None))
