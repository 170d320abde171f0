"""Reading videos: the requested frames of a video file, without decoding all of it (PyAV).

A scan of the packets (`film_scan`) gives all presentation times and key frames. Each requested frame is then reached by
seeking to the last key frame before it and decoding forward to its time. If the scan or a seek is unreliable (no time
stamps, joined recordings, damage, a stream that starts within a group of pictures), the video is decoded from its
beginning; both ways give the same frames. Frames are numbered in presentation order, so a variable frame rate changes
their times but not the choice. Damaged frames keep their numbers; they are left out, with a warning that names them. PQ
and HLG are converted to SDR, interlaced frames are deinterlaced, and the container's rotation is applied.
"""

from __future__ import annotations

import bisect
import itertools
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import av
import av.error
import numpy as np
from av.container import InputContainer
from av.sidedata.sidedata import Type as SideDataType
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream
from jaxtyping import UInt8

from vidllm.io.files import InputError
from vidllm.io.film_frames import deinterlaced, is_hdr, sdr_picture
from vidllm.io.film_scan import Scan, open_film, reason
from vidllm.io.frames import sampled_indices

_MOST_RANGES = 8  # ranges of damaged frames named in a warning
Neighbour = Callable[[int], av.VideoFrame | None]
_ERRORS = (av.error.FFmpegError, MemoryError)


class SeekFailedError(Exception):
    """A frame was not found at its place in the scan; the caller decodes from the beginning instead."""


@dataclass(frozen=True)
class Picture:
    """One displayed frame, its number in presentation order and its time from the first, in seconds.

    `transposed`: the rotation exchanged rows and columns.
    """

    rgb: UInt8[np.ndarray, "H W 3"]
    transposed: bool
    index: int
    time_s: float


def read_film(path: Path, scan: Scan, num_frames: int | Sequence[int] | None) -> Iterator[Picture]:
    """The requested frames in order: `num_frames` evenly spaced ones, or all with None.

    If the video is damaged, they are spread over the frames that can be decoded, with a warning about the others.
    Raises `InputError` if no frame can be decoded.
    """
    given, last = 0, -1
    if scan.allows_seeking():
        with suppress(SeekFailedError):
            for picture in seek_pictures(path, scan, num_frames):
                yield picture
                given, last = given + 1, picture.index
            _warn_of_scan(path, scan)
            return
    for picture in decode_pictures(path, scan, num_frames, given):
        if picture.index > last:
            yield picture


def _warn_of_scan(path: Path, scan: Scan) -> None:
    if scan.cut or scan.damage:
        warnings.warn(f"{path}: damaged or cut video ({scan.cut or scan.damage}); using the frames that decode",
                      stacklevel=2)  # fmt: skip
    if scan.joins:
        often = "once" if scan.joins == 1 else f"{scan.joins} times"
        warnings.warn(f"{path}: its times start again {often} (joined recordings?); each part is taken to follow the "
                      "one before it by one frame", stacklevel=2)  # fmt: skip


# ---- by seeking ---------------------------------------------------------------------------------------------------


def seek_pictures(path: Path, scan: Scan, num_frames: int | Sequence[int] | None) -> Iterator[Picture]:
    """The requested frames, each reached from the last key frame before it. Raises `SeekFailedError` if in doubt."""
    container, stream = open_film(path)
    with container:
        cursor, to_rgb = _Cursor(container, stream, scan), VideoReformatter()
        for index in sampled_indices(len(scan.pts), num_frames).tolist():
            yield _picture(cursor.frame(index), stream, index, scan.time_s(index), cursor.near, to_rgb)


class _Cursor:
    """Frames by number; the last three decoded are kept."""

    def __init__(self, container: InputContainer, stream: VideoStream, scan: Scan) -> None:
        self.container, self.stream, self.scan = container, stream, scan
        self.numbers = {pts: number for number, pts in enumerate(scan.pts)}
        self.key_times = [pts for pts, _ in scan.keys]
        self.kept: dict[int, av.VideoFrame] = {}
        self.frames: Iterator[av.VideoFrame] = iter(())
        self.position: int | None = None

    def frame(self, number: int) -> av.VideoFrame:
        """Frame `number`. Raises `SeekFailedError` when it is not met, or when a frame on the way is damaged."""
        if number in self.kept:
            return self.kept[number]
        key = self.scan.keys[bisect.bisect_right(self.key_times, self.scan.pts[number]) - 1]
        first = self.numbers[key[0]]
        try:
            if self.position is None or self.position < first or self.position > number:
                self.seek(key[1])
            while self.position != number:
                self._next(first)
        except _ERRORS as error:
            raise SeekFailedError from error
        return self.kept[number]

    def near(self, number: int) -> av.VideoFrame | None:
        """Frame `number`, None outside the video."""
        return self.frame(number) if 0 <= number < len(self.scan.pts) else None

    def seek(self, target: int) -> None:
        """Go to the last key frame at or before `target`, in ticks."""
        self.container.seek(target, stream=self.stream, backward=True)
        self.frames, self.position, self.kept = self.container.decode(self.stream), None, {}

    def _next(self, first: int) -> None:
        """Decode one more frame; those before the key frame of the seek do not count."""
        frame = next(self.frames, None)
        found = None if frame is None or frame.pts is None else self.numbers.get(frame.pts)
        if frame is None or found is None:
            raise SeekFailedError
        if self.position is None and found < first:
            return
        if frame.is_corrupt or (self.position is not None and found != self.position + 1):
            raise SeekFailedError
        self.kept = {found: frame, **{k: v for k, v in self.kept.items() if k > found - 3}}
        self.position = found


# ---- by decoding everything ---------------------------------------------------------------------------------------


@dataclass
class _Pass:
    """Results of decoding everything.

    `whole` has the packet number of each intact frame by its number in presentation order, `lost` the numbers of the
    other frames, `said` the decoder's errors; `start` is the first frame that could be shown.
    """

    whole: dict[int, int]
    lost: list[int]
    start: int
    said: list[str]


def decode_pictures(path: Path, scan: Scan, num_frames: int | Sequence[int] | None, skip: int = 0) -> Iterator[Picture]:
    """The requested frames, without the first `skip`, by decoding everything twice: to find the intact frames, and to
    read them.

    Warns of damage; raises `InputError` if no frame can be decoded.
    """
    for careful in (True, False):
        found = _survey(path, scan, careful)
        if found.whole:
            break
    else:
        said = (found.said or [scan.cut or scan.damage or "no video data"])[-1]
        raise InputError(f"{path}: no frame could be decoded ({said}); "
                         "the file is cut or damaged, copy or convert it again")  # fmt: skip
    _warn_of_damage(path, scan, found, careful)
    numbers = sorted(found.whole)
    if isinstance(num_frames, Sequence):
        wanted = [number for number in numbers if number - found.start in set(num_frames)][skip:]
    else:
        wanted = [numbers[i] for i in sampled_indices(len(numbers), num_frames).tolist()][skip:]
    if wanted:
        yield from _kept_pictures(path, scan, found, wanted, careful)


def _kept_pictures(path: Path, scan: Scan, found: _Pass, wanted: Sequence[int], careful: bool) -> Iterator[Picture]:
    by_packet, chosen = {packet: number for number, packet in found.whole.items()}, set(wanted)
    container, stream = open_film(path, careful)
    with container:
        decoded = ((by_packet[packet], frame) for packet, frame in _decode_all(container, stream, [])
                   if not frame.is_corrupt and packet in by_packet)  # fmt: skip
        window, to_rgb = dict[int, av.VideoFrame](), VideoReformatter()
        ahead = next(decoded, None)
        while ahead is not None and chosen:
            number, frame = ahead
            ahead = next(decoded, None)
            window = {k: v for k, v in window.items() if k == number - 1} | {number: frame}
            if number in chosen:
                chosen.discard(number)
                around = {n - found.start: f for n, f in [*window.items(), *([ahead] if ahead else [])]}
                time_s = scan.time_s(number, found.start)
                yield _picture(frame, stream, number - found.start, time_s, around.get, to_rgb)


def _survey(path: Path, scan: Scan, careful: bool) -> _Pass:
    """Decode everything and keep only numbers."""
    said, packets, corrupt = list[str](), list[int](), set[int]()
    container, stream = open_film(path, careful)
    with container:
        for packet, frame in _decode_all(container, stream, said):
            packets.append(packet)
            if frame.is_corrupt:
                corrupt.add(packet)
    return _numbered(scan, packets, corrupt, said)


def _numbered(scan: Scan, packets: list[int], corrupt: set[int], said: list[str]) -> _Pass:
    """Match decoded frames (packet numbers in presentation order) with the frames of the scan.

    Without usable times, a lost packet is assumed to be at its place in the file.
    """
    if scan.timed:
        known = dict(zip(scan.order, scan.numbers, strict=True))
        numbers = [known.get(packet, -1) for packet in packets]
        sound = all(b > a for a, b in zip([-1, *numbers], numbers, strict=False))
    else:
        missing = sorted(set(scan.order) - set(packets))
        numbers = [place + bisect.bisect_left(missing, packet) for place, packet in enumerate(packets)]
        sound = len(set(packets)) == len(packets) and set(packets) <= set(scan.order)
        sound = sound and all(b > a for a, b in itertools.pairwise(numbers))
    if not sound:
        numbers = list(range(len(packets)))
    shown = dict(zip(numbers, packets, strict=True))
    whole = {number: packet for number, packet in shown.items() if packet not in corrupt}
    total = scan.total if sound else len(packets)
    start = _first_shown(scan, whole) if sound else 0
    return _Pass(whole, [number for number in range(start, total) if number not in whole], start, said)


def _first_shown(scan: Scan, whole: dict[int, int]) -> int:
    """The number of the first frame that could be shown: a cut stream may start within a group of pictures."""
    if not whole:
        return 0
    first_key = next((n for n, packet in zip(scan.numbers, scan.order, strict=True) if scan.entries[packet].key), 0)
    return min(first_key, min(whole))


def _decode_all(
    container: InputContainer, stream: VideoStream, said: list[str]
) -> Iterator[tuple[int, av.VideoFrame]]:
    """(packet number, frame) from the beginning in presentation order; errors are noted in `said` and passed over.

    A packet's number passes through the decoder instead of its presentation time, which may be missing or duplicate.
    """
    packets, number = container.demux(stream), 0
    while True:
        try:
            packet = next(packets, None)
            if packet is None:
                return
            if packet.size:
                packet.pts, number = number, number + 1
            frames = stream.decode(packet)
        except _ERRORS as error:
            said.append(reason(error))
            continue
        yield from ((-1 if frame.pts is None else frame.pts, frame) for frame in frames)


def _warn_of_damage(path: Path, scan: Scan, found: _Pass, careful: bool) -> None:
    if not careful:
        warnings.warn(f"{path}: damaged video: every frame has errors ({found.said[-1] if found.said else 'unknown'}), "
                      "which the decoder conceals", stacklevel=2)  # fmt: skip
    if found.lost:
        lost = [number - found.start for number in found.lost]
        total = len(found.whole) + len(lost)
        cause = f" ({scan.cut or scan.damage or found.said[-1]})" if scan.cut or scan.damage or found.said else ""
        traces = _traces(scan, found)
        after = f"; {_ranges(traces)}, up to the next key frame, may show traces" if traces else ""
        warnings.warn(f"{path}: damaged or cut video{cause}: {len(lost)} of {total} frames do not decode whole and are "
                      f"left out ({_ranges(lost)}){after}", stacklevel=2)  # fmt: skip
        scan = Scan(joins=scan.joins)
    elif found.said and not scan.damage:
        scan = replace(scan, damage=found.said[-1])
    _warn_of_scan(path, scan)


def _traces(scan: Scan, found: _Pass) -> list[int]:
    """Numbers of whole frames between a lost one and the next key frame, which may have been predicted from it."""
    traces, tainted, lost = list[int](), False, set(found.lost)
    for number in range(found.start, len(found.whole) + len(lost) + found.start):
        packet = found.whole.get(number)
        if number in lost:
            tainted = True
        elif packet is not None and scan.entries[packet].key:
            tainted = False
        elif tainted:
            traces.append(number - found.start)
    return traces


def _ranges(numbers: Sequence[int]) -> str:
    """Ascending numbers as `frame 3` or `frames 3, 7-9`, cut after a few ranges."""
    ranges: list[list[int]] = []
    for number in numbers:
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    shown = "frames " if len(numbers) > 1 else "frame "
    shown += ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in ranges[:_MOST_RANGES])
    return shown if len(ranges) <= _MOST_RANGES else f"{shown} and {len(ranges) - _MOST_RANGES} more ranges"


# ---- one frame to one picture -------------------------------------------------------------------------------------


def _picture(
    frame: av.VideoFrame, stream: VideoStream, index: int, time_s: float, near: Neighbour, to_rgb: VideoReformatter
) -> Picture:
    """Frame `index` as shown; `near` gives the frame of another number, or None.

    `to_rgb` converts all frames of a video: its tables are made for the first one.
    """
    whole = deinterlaced(frame, lambda: near(index - 1), lambda: near(index + 1))
    context = stream.codec_context
    if is_hdr(context.color_trc):
        rgb = sdr_picture(whole, context.color_trc, context.color_primaries)
    else:
        rgb = to_rgb.reformat(whole, format="rgb24").to_ndarray()
    return Picture(*upright(rgb, frame, stream), index, time_s)


def upright(
    rgb: UInt8[np.ndarray, "H W 3"], frame: av.VideoFrame, stream: VideoStream
) -> tuple[UInt8[np.ndarray, "H2 W2 3"], bool]:
    """Turn and mirror a frame's pixels as its display matrix asks; also whether rows became columns.

    The matrix holds (a, b; c, d) with x' = a x + c y and y' = b x + d y in 16.16 fixed point, y down. Without it the
    older `rotate` tag (degrees clockwise) counts.
    """
    side_data: Any = frame.side_data
    try:
        matrix = side_data[SideDataType.DISPLAYMATRIX]
    except KeyError:
        matrix = None
    if matrix is not None:
        a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32)[:5].tolist()
    else:
        a, b, c, d = [(1, 0, 0, 1), (0, 1, -1, 0), (-1, 0, 0, -1), (0, -1, 1, 0)][_quarter_turns(stream)]
    transposed = abs(b) > abs(a)
    if transposed:
        rgb, a, d = rgb.transpose(1, 0, 2), c, b
    return np.ascontiguousarray(rgb[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]), transposed


def _quarter_turns(stream: VideoStream) -> int:
    """The `rotate` tag in quarter turns clockwise; 0 if it is missing or no number."""
    tags = {key.lower(): value for key, value in stream.metadata.items()}
    try:
        return round(float(tags.get("rotate", 0)) / 90) % 4
    except (ValueError, OverflowError):
        return 0
