"""Reading any source as `Frames`, and writing videos.

The paper samples 32 frames uniformly (section 4.1). `vidllm.io.film` reads video files, `vidllm.io.pictures` pictures
and folders of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
from av.video.stream import VideoStream
from PIL import Image
from torch import Tensor

from vidllm.io import film, pictures
from vidllm.io.atomic import atomic_path
from vidllm.io.captures import Capture, open_capture
from vidllm.io.files import InputError, check_source
from vidllm.io.film_scan import scan_film
from vidllm.io.frames import FrameProcessor, Frames, FrameSpec, Resize, frame_spec, joined, sampled_indices
from vidllm.io.pictures import times_of

__all__ = ["Frames", "InputError", "iter_frames", "load_frames", "original_pictures", "write_video"]


def load_frames(
    source: Any,
    num_frames: int | Sequence[int] | None = 32,
    *,
    shorter_side: int = 518,
    resize: Resize = "shorter_side",
    patch_size: int = 14,
) -> Frames:
    """Load, sample and preprocess frames.

    Args:
        source: a video file; a recording (`vidllm.io.captures`); a folder of pictures (in the order of their names); a
            file of one picture or of several (animated WebP and PNG, TIFF pages, MPO); a PIL picture; a list of paths,
            PIL pictures or arrays; or an array or tensor `(F, H, W, 3)` or `(F, 3, H, W)`, uint8 or float in [0, 1].
        num_frames: how many, at `round(linspace(0, n - 1, num_frames))` of the source's n frames; all when there
            are fewer, or when None. A sequence of numbers names the frames itself.
        shorter_side: pixels of the shorter side after resizing (of the longer one with `resize="longer_side"`).
        resize: `"shorter_side"` (the paper; crops the centre to whole patches) or `"longer_side"` (VGGT's loader).
        patch_size: H and W of the result are multiples of it.

    Raises:
        InputError: the source is missing, a URL or a file object, not a video or picture, empty, or holds frames that
            differ in size, NaN, or values outside [0, 1]. A cut or damaged video that still decodes in part gives
            those frames, under their own numbers, and warns.
    """
    processor = _processor(source, shorter_side=shorter_side, resize=resize, patch_size=patch_size)
    frames = list(_read(source, num_frames, processor))
    if not frames:
        raise InputError(f"{processor.source}: contains no frame; give a source with at least one")
    return joined(frames)


def iter_frames(
    source: Any,
    num_frames: int | Sequence[int] | None = None,
    *,
    shorter_side: int = 518,
    resize: Resize = "shorter_side",
    patch_size: int = 14,
    per_second: float | None = None,
) -> Iterator[Frames]:
    """The frames of :func:`load_frames` one at a time, each a `Frames` of one, decoded on demand.

    Every frame by default; with ``per_second``, at most so many per second of a video file. The source may also be an
    iterator of paths, pictures or arrays (a live camera) of unknown length: `InputError` if `num_frames` is given. If a
    video turns out to be damaged, frames already returned are not repeated.
    """
    processor = _processor(source, shorter_side=shorter_side, resize=resize, patch_size=patch_size)
    if isinstance(source, Iterator) and not hasattr(source, "read"):
        if num_frames is not None:
            raise InputError(f"an iterator has no known length, so {num_frames} frames cannot be spread over it; "
                             "take every frame, or thin it yourself (itertools.islice)")  # fmt: skip
        return _of_items(processor, enumerate(source))
    return _read(source, num_frames, processor, per_second)


def original_pictures(source: str | Path, numbers: Sequence[int]) -> Iterator[np.ndarray]:
    """The frames with these numbers at their original size, RGB uint8 `(H0, W0, 3)`, in order.

    Raises:
        InputError: as :func:`load_frames`.
    """
    processor = FrameProcessor(str(source), lambda size, **_: FrameSpec(size, size, size, (0, 0)))
    for frame in _read(source, numbers, processor):
        yield (frame.images[0].permute(1, 2, 0) * 255).round().byte().numpy()


def _processor(source: Any, **options: Any) -> FrameProcessor:
    """The processor for a source; wrong options are reported before any file is read."""
    plan: Callable[..., FrameSpec] = partial(frame_spec, **options)
    plan((options["patch_size"], options["patch_size"]))
    if isinstance(source, str | Path):
        return FrameProcessor(str(source), plan)
    kind = "array" if isinstance(source, np.ndarray | Tensor) else "list of frames"
    return FrameProcessor("iterator of frames" if isinstance(source, Iterator) else kind, plan)


def _read(
    source: Any, num_frames: int | Sequence[int] | None, processor: FrameProcessor, per_second: float | None = None
) -> Iterator[Frames]:
    """The wanted frames of a source, one at a time."""
    sampled_indices(1, num_frames)
    if not isinstance(source, str | Path):
        items = _listed(source)
        return _of_items(processor, _sampled(items, num_frames), _times(items))
    path = check_source(source)
    processor.source = str(path)
    capture = open_capture(path)
    if capture is not None:
        return _of_capture(processor, capture, num_frames, per_second)
    if path.is_dir():
        files = pictures.list_images(path)
        return _of_items(processor, _sampled(files, num_frames), _times(files))
    if path.suffix.lower() in pictures.IMAGE_SUFFIXES | pictures.UNREAD_HEIF:
        count, is_film = pictures.pictures_in(path)
        if not is_film:
            return _of_pictures(processor, path, count, num_frames)
    return _of_film(processor, path, num_frames, per_second)


def _listed(source: Any) -> Any:
    """A source that is no path as a sequence of paths, pictures or arrays."""
    if isinstance(source, np.ndarray | Tensor):
        if source.ndim != 4:
            raise InputError(f"array: expected shape (F, H, W, 3) or (F, 3, H, W), got {tuple(source.shape)}; "
                             "add the frame axis to a single picture")  # fmt: skip
        return source
    if isinstance(source, Image.Image):
        return [source]
    if hasattr(source, "read") or isinstance(source, bytes | dict) or not isinstance(source, Iterable):
        raise InputError(f"expected a path, a list of pictures or an array, got {type(source).__name__}; "
                         "save a file object or bytes to disk and give the path")  # fmt: skip
    return list(source)


def _sampled(items: Any, num_frames: int | Sequence[int] | None) -> Iterator[tuple[int, Any]]:
    return ((index, items[index]) for index in sampled_indices(len(items), num_frames).tolist())


def _times(items: Any) -> list[float] | None:
    """Times in seconds from the names of files; None if not all items are files with such names."""
    if isinstance(items, np.ndarray | Tensor) or not all(isinstance(item, str | Path) for item in items):
        return None
    return times_of([Path(item).name for item in items])


def _of_items(
    processor: FrameProcessor, items: Iterable[tuple[int, Any]], times: list[float] | None = None
) -> Iterator[Frames]:
    """Paths, pictures and arrays with their numbers; ``times``: the clock of a source whose names are times."""
    if times is not None:
        processor.clock_start_s = times[0]
    for index, item in items:
        is_file = isinstance(item, str | Path)
        name = Path(item).name if is_file else f"frame_{index:06d}"
        where = name if is_file else f"{processor.source}, frame {index}"
        time_s = float(index) if times is None else times[index] - times[0]
        picture, size = (pictures.open_for(Path(item), processor.resized) if is_file
                         else (pictures.item_to_image(item, where), None))  # fmt: skip
        yield processor.frame(picture, index, time_s, name, size)


def _of_pictures(
    processor: FrameProcessor, path: Path, count: int, num_frames: int | Sequence[int] | None
) -> Iterator[Frames]:
    wanted = sampled_indices(count, num_frames).tolist()
    for index, picture, time_s in pictures.read_pictures(path, wanted):
        yield processor.frame(picture, index, time_s, path.name if count == 1 else f"frame_{index:06d}")


def _of_capture(
    processor: FrameProcessor, capture: Capture, num_frames: int | Sequence[int] | None, per_second: float | None
) -> Iterator[Frames]:
    numbers, times = capture.chosen(num_frames, per_second), capture.times_s
    if isinstance(capture.pictures, Path):
        yield from _of_film(processor, capture.pictures, numbers, None)
        return
    if times is not None:
        processor.clock_start_s = float(times[0])
    for number in numbers:
        time_s = float(number) if times is None else float(times[number] - times[0])
        picture, size = capture.picture_for(number, processor.resized)
        yield processor.frame(picture, number, time_s, capture.names[number], size)


def _of_film(
    processor: FrameProcessor, path: Path, num_frames: int | Sequence[int] | None, per_second: float | None
) -> Iterator[Frames]:
    scan = scan_film(path)
    if per_second is not None and scan.total > 1:
        seconds = scan.time_s(scan.numbers[-1], scan.numbers[0])
        num_frames = min(len(scan.numbers), math.ceil(seconds * per_second) + 1)
    processor.pixel_aspect, processor.clock_start_s = scan.aspect, 0.0
    for picture in film.read_film(path, scan, num_frames):
        if picture.transposed and processor.spec is None:
            processor.pixel_aspect = 1 / processor.pixel_aspect
        name = f"frame_{picture.index:06d}"
        yield processor.frame(Image.fromarray(picture.rgb), picture.index, picture.time_s, name)


def write_video(path: str | Path, rgb: np.ndarray, fps: float | int = 10, lossless: bool = False) -> None:
    """Write frames `(F, H, W, 3)` uint8 atomically as an H.264 video (MPEG-4 if there is no such encoder).

    `lossless`: readers get the same pixels (H.264 in RGB, which browsers do not play).

    Raises:
        ValueError: no frame, not uint8 RGB, odd sides (the format halves the colour planes), `fps` not positive, or
            no lossless encoder.
        OutputError: the file cannot be written.
    """
    if rgb.ndim != 4 or rgb.shape[-1] != 3 or rgb.dtype != np.uint8 or len(rgb) == 0:
        raise ValueError(f"expected uint8 frames (F, H, W, 3) with F >= 1, got {rgb.dtype} {rgb.shape}")
    if rgb.shape[1] % 2 or rgb.shape[2] % 2 or fps <= 0:
        raise ValueError(f"expected even sides and fps > 0, got {rgb.shape[2]}x{rgb.shape[1]} at {fps}; crop one pixel")
    codec, layout = ("libx264rgb", "rgb24") if lossless else ("libx264", "yuv420p")
    if codec not in av.codecs_available:
        if lossless:
            raise ValueError("this PyAV has no libx264rgb, which lossless video needs; install the wheel of PyAV")
        codec = "mpeg4"
    with atomic_path(path) as temporary, av.open(str(temporary), "w", format="mp4") as container:
        stream = cast(VideoStream, container.add_stream(codec, rate=Fraction(fps).limit_denominator(1000)))
        stream.width, stream.height, stream.pix_fmt = rgb.shape[2], rgb.shape[1], layout
        stream.options = {"qp": "0"} if lossless else {}
        for array in rgb:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(array), format="rgb24")))
        container.mux(stream.encode(None))
