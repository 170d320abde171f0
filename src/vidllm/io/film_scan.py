"""Information in the packets of a video, without decoding: presentation times, key frames, joins, a missing end.

In recordings that were joined by appending files, times start again; each part is shifted to follow the one before it
by one frame. Packets are identified by their number in the file.
"""

from __future__ import annotations

import bisect
import itertools
import statistics
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import av.error
from av.container import InputContainer
from av.video.stream import VideoStream

from vidllm.io.files import InputError

_NOT_VIDEO = frozenset({"hls", "concat", "dash", "tty", "image2"})  # formats that point elsewhere or draw text
_EXPLODING = frozenset({"mjpeg", "hevc"})  # decoders that report broken pictures only when told to stop at them
_CORRUPT = "an incomplete packet"


def reason(error: BaseException) -> str:
    """Why libav could not read something. Its ENOMEM means an absurd size in the file, not a lack of memory."""
    if isinstance(error, MemoryError):
        return "absurd sizes in its header"
    return str(getattr(error, "strerror", None) or error)


def open_film(path: Path, careful: bool = True) -> tuple[InputContainer, VideoStream]:
    """Open a video and choose its video track. The container may read only this local file.

    careful: let the decoder report errors that it would otherwise hide.
    """
    try:
        container = av.open(f"file:{path}", container_options={"protocol_whitelist": "file"}, metadata_errors="replace")
    except (av.error.FFmpegError, OSError, MemoryError, ValueError) as error:
        raise InputError(f"{path}: not a readable video ({reason(error)}); is it complete, and a video?") from error
    stream = container.streams.best("video")
    refused = bool(_NOT_VIDEO & set(container.format.name.split(",")))
    if refused or not isinstance(stream, VideoStream) or stream.disposition & stream.disposition.attached_pic:
        container.close()
        raise InputError(f"{path}: contains no video track (format {container.format.name}); give a video file")
    if stream.codec_context is None:
        container.close()
        raise InputError(f"{path}: its video codec is not known here; is it damaged? convert it to H.264")
    stream.thread_type = "AUTO"
    if careful and stream.codec_context.name in _EXPLODING:
        stream.codec_context.options = {"err_detect": "explode"}
    return container, stream


@dataclass
class Entry:
    """One packet of a frame, in the order of the file; times in ticks, shifted after a join."""

    pts: int | None
    dts: int | None
    key: bool
    discard: bool


@dataclass
class Scan:
    """Results of the scan. `pts` are the sorted presentation times; `keys` (pts, seek target) of key frames.

    `order` are the packet numbers in presentation order, `numbers` the frame numbers: 0, 1, ... with gaps where a
    damaged video of constant frame rate lacks frames. `damage` describes what is wrong with the packets, `cut` the
    missing end; `joins` is the number of joins.
    """

    entries: list[Entry] = field(default_factory=list)
    pts: list[int] = field(default_factory=list)
    order: list[int] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    keys: list[tuple[int, int]] = field(default_factory=list)
    rate: float = 1.0
    aspect: float = 1.0
    tick_s: Fraction = Fraction(1)
    joins: int = 0
    damage: str | None = None
    cut: str | None = None

    @property
    def timed(self) -> bool:
        """Whether every frame has its own presentation time."""
        return len(self.pts) == len(self.order) > 0 and len(set(self.pts)) == len(self.pts)

    def allows_seeking(self) -> bool:
        """Whether all times are distinct, none precedes the first key frame, and nothing is damaged."""
        sound = self.damage is None and self.joins == 0 and self.total == len(self.order)
        return sound and self.timed and bool(self.keys) and self.keys[0][0] == self.pts[0]

    @property
    def total(self) -> int:
        """Number of frames, including missing ones."""
        return self.numbers[-1] + 1 if self.numbers else 0

    def time_s(self, number: int, first: int = 0) -> float:
        """Seconds from picture `first` to picture `number`."""
        if self.timed:
            end, start = (self.pts[bisect.bisect_left(self.numbers, n)] for n in (number, first))
            return float((end - start) * self.tick_s)
        return (number - first) / self.rate


def scan_film(path: Path) -> Scan:
    """Read all packets without decoding."""
    if path.stat().st_size == 0:
        raise InputError(f"{path}: the file is empty; copy or record it again")
    scan, corrupt, lasting = Scan(), list[int](), list[int]()
    container, stream = open_film(path)
    with container:
        scan.rate = float(stream.average_rate or 0) or 1.0
        scan.tick_s = stream.time_base or Fraction(1)
        aspect = float(stream.sample_aspect_ratio or 1)
        scan.aspect = aspect if 0 < aspect < float("inf") else 1.0
        missing = _read_packets(container, stream, scan, corrupt, lasting)
        missing = missing or _missing_frames(stream, scan)
        scan.cut = _cut_end(path, container.format.name) or missing
    joins = _join(scan, float(statistics.median(lasting)) if lasting else 0.0)
    scan.joins = len(joins)
    if any(all(not -4 <= number - join <= 1 for join in joins) for number in corrupt):  # a join looks like a loss
        scan.damage = scan.damage or _CORRUPT
    _index(scan)
    return scan


def _read_packets(
    container: InputContainer, stream: VideoStream, scan: Scan, corrupt: list[int], lasting: list[int]
) -> str | None:
    """Fill `scan.entries`, the numbers of corrupt packets and the durations; returns what is missing at the end."""
    end_s = 0.0
    try:
        for packet in container.demux(stream, *container.streams.audio):
            if packet.pts is not None and packet.duration is not None:
                end_s = max(end_s, float((packet.pts + packet.duration) * packet.time_base))
            if packet.stream.index != stream.index or packet.size == 0:
                continue
            if packet.is_corrupt:
                corrupt.append(len(scan.entries))
            if packet.duration:
                lasting.append(packet.duration)
            scan.entries.append(Entry(packet.pts, packet.dts, packet.is_keyframe, packet.is_discard))
    except (av.error.FFmpegError, MemoryError) as error:
        scan.damage = reason(error)
    declared_s = (container.duration or 0) / av.time_base
    present_s = end_s - (container.start_time or 0) / av.time_base
    if scan.entries and declared_s - present_s > max(0.5, 0.02 * declared_s):
        return f"{declared_s:.1f} s announced, {present_s:.1f} s present"
    return None


def _missing_frames(stream: VideoStream, scan: Scan) -> str | None:
    """The number of frames that the index announces and the file lacks (MP4, AVI)."""
    lacking = stream.frames - len(scan.entries)
    if lacking > max(1, 0.002 * stream.frames) and any(entry.pts is not None for entry in scan.entries):
        return f"{stream.frames} frames announced, {len(scan.entries)} present"
    return None


def _join(scan: Scan, lasting: float) -> list[int]:
    """Shift every part whose times start again to follow the one before it; returns the packets where parts begin."""
    ticks = lasting or float(1 / (scan.rate * scan.tick_s))
    joins, last = list[int](), None
    for number, entry in enumerate(scan.entries):
        if entry.dts is None:
            continue
        if last is not None and entry.dts < last - 3 * ticks:
            joins.append(number)
        last = entry.dts
    end: int | None = None
    for start, stop in zip([0, *joins], [*joins, len(scan.entries)], strict=True):
        times = [e.pts for e in scan.entries[start:stop] if e.pts is not None and not e.discard]
        if not times:
            continue
        shift = 0 if end is None else end + max(round(ticks), 1) - min(times)
        end = max(times) + shift
        if shift:
            for entry in scan.entries[start:stop]:
                entry.pts = None if entry.pts is None else entry.pts + shift
                entry.dts = None if entry.dts is None else entry.dts + shift
    return joins


def _index(scan: Scan) -> None:
    """Number the pictures in presentation order: by their times, or in the file's order if one has no time."""
    shown = [(entry.pts, number) for number, entry in enumerate(scan.entries) if not entry.discard]
    timed = [(pts, number) for pts, number in shown if pts is not None]
    if len(timed) == len(shown):
        timed.sort()
        scan.pts, scan.order = [pts for pts, _ in timed], [number for _, number in timed]
    else:
        scan.order = [number for _, number in shown]
    scan.numbers = list(range(len(scan.order)))
    if scan.timed and (scan.damage or scan.cut):
        scan.numbers = _numbers_by_time(scan.pts) or scan.numbers
    entries = (entry for entry in scan.entries if entry.key and not entry.discard)
    scan.keys = sorted((e.pts, e.pts if e.dts is None else e.dts) for e in entries if e.pts is not None)


def _numbers_by_time(pts: list[int]) -> list[int] | None:
    """Numbers of pictures at a constant frame rate, some of which are missing; None for a variable rate."""
    steps = [b - a for a, b in itertools.pairwise(pts)]
    usual = [step for step in steps if abs(step - statistics.median(steps)) <= 0.25 * statistics.median(steps)]
    if not usual:
        return None
    one = statistics.fmean(usual)
    taken = [max(round(step / one), 1) for step in steps]
    if any(abs(step - one * n) > 0.2 * one + 1 for step, n in zip(steps, taken, strict=True)):
        return None
    return list(itertools.accumulate(taken, initial=0))


def _cut_end(path: Path, formats: str) -> str | None:
    """Whether the end of a file is missing, by its last bytes: transport stream, GIF, Matroska and WebM."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(4096)
        file.seek(max(size - 64, 0))
        tail = file.read()
    names = set(formats.split(","))
    if "mpegts" in names:
        length = 188 if head[:1] == b"\x47" and head[188:189] in (b"\x47", b"") else 192 if head[4:5] == b"\x47" else 0
        return "it ends amid a packet" if length and size % length else None
    if "gif" in names:
        return None if tail.rstrip(b"\0").endswith(b";") else "it ends without the mark of its end"
    if "matroska" in names:
        end = _segment_end(head)
        return f"{end} bytes announced, {size} present" if end is not None and end > size else None
    return None


def _segment_end(head: bytes) -> int | None:
    """The end of a Matroska file's one segment according to its header; None if it is not given."""
    try:
        size, start = _vint(head, 4)
        at = start + (size or 0)
        if head[:4] != b"\x1a\x45\xdf\xa3" or head[at : at + 4] != b"\x18\x53\x80\x67":
            return None
        size, start = _vint(head, at + 4)
        return None if size is None else start + size
    except IndexError:
        return None


def _vint(data: bytes, at: int) -> tuple[int | None, int]:
    """A variable-length integer (None for the reserved value "unknown") and the position after it."""
    length = 9 - data[at].bit_length()
    if length > 8 or at + length > len(data):
        raise IndexError
    value = int.from_bytes(data[at : at + length], "big") & ((1 << 7 * length) - 1)
    return None if value == (1 << 7 * length) - 1 else value, at + length
