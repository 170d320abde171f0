"""ScanNet's ``.sens`` recordings (version 4): read in place, any frame at random, and written one frame at a time.

Layout, little endian: u32 version; u64 length and the sensor's name; 4x4 float32 of intrinsic_color, extrinsic_color,
intrinsic_depth, extrinsic_depth; i32 colour codec, i32 depth codec; u32 colour width and height, depth width and
height; f32 depth_shift (depth units a metre); u64 number of frames. Then for every frame world-from-camera as 4x4
float32, u64 time stamps of colour and depth in microseconds, u64 bytes of colour and of depth, and those bytes. At the
end u64 number of inertial records (0).

The index of a recording is built by walking over the heads of its records, seeking past the pictures between them, so
the poses of a whole scan are known after reading 96 bytes a frame.
"""

from __future__ import annotations

import io
import math
import os
import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from vidllm.io.atomic import atomic_path
from vidllm.io.cameras.matrices import half_centres
from vidllm.io.files import check_regular_file
from vidllm.io.pictures import Size, decode_small

VERSION = 4
COLOUR_CODECS = {-1: "unknown", 0: "raw", 1: "png", 2: "jpeg"}
DEPTH_CODECS = {-1: "unknown", 0: "raw_ushort", 1: "zlib_ushort", 2: "occi_ushort"}
_HEADER = np.dtype([
    *((name, "<f4", (4, 4)) for name in ("intrinsic_color", "extrinsic_color", "intrinsic_depth", "extrinsic_depth")),
    ("codecs", "<i4", 2), ("sizes", "<u4", 4), ("depth_shift", "<f4"), ("num_frames", "<u8"),
])  # fmt: skip
_FRAME_HEAD = np.dtype([("pose", "<f4", (4, 4)), ("times_us", "<u8", 2), ("bytes", "<u8", 2)])
_JPEG, _ZLIB = 2, 1
_MAX_NAME = 4096
_MAX_SIDE = 65_535
_SPARE = 65_536  # bytes a picture may take beyond twice those of its pixels
_MICROSECONDS_A_FRAME = 33_333
_REMEDY = "the file is cut or damaged: fetch it again"

Frame = tuple[np.ndarray, np.ndarray, np.ndarray]


@dataclass(frozen=True)
class SensHeader:
    """What stands before the frames; matrices are 4x4 float64 as the file has them, pixel centres at whole numbers."""

    intrinsic_color: np.ndarray
    intrinsic_depth: np.ndarray
    colour_codec: str  # such as ``jpeg``
    depth_codec: str  # such as ``zlib_ushort``
    colour_size: tuple[int, int]  # (height, width) in pixels
    depth_size: tuple[int, int]
    depth_shift: float  # depth units a metre
    num_frames: int  # as stated; the index shows whether they are there


@dataclass(frozen=True)
class SensIndex:
    """Where each frame lies: (F,) byte of its colour, (F,2) bytes of colour and of depth, which follows it.

    poses (F,4,4) float32 as stored, world-from-camera, infinite where tracking was lost; times_us (F,) of the colour.
    """

    offsets: np.ndarray
    sizes: np.ndarray
    poses: np.ndarray
    times_us: np.ndarray


class SensFile:
    """One recording. Opening reads the header alone; nothing stays open between calls.

    ValueError for what is no ``.sens`` of version 4, or cut: the message names file, frame and byte.
    """

    def __init__(self, path: str | Path) -> None:
        self.where = Path(path)
        with self._open() as file:
            self.header, self._first = _read_header(file, self.where)
        self.names = [str(number) for number in range(len(self))]

    def __len__(self) -> int:
        return self.header.num_frames

    @cached_property
    def index(self) -> SensIndex:
        """Offsets, sizes and poses of every frame; ValueError where the file ends too early."""
        with self._open() as file:
            return _read_index(file, self.where, self._first, self.header)

    def intrinsics(self, kind: str) -> Float[np.ndarray, "3 3"]:
        """K of ``color`` or ``depth``, pixel centres at +0.5."""
        matrix = self.header.intrinsic_color if kind == "color" else self.header.intrinsic_depth
        return half_centres(matrix, self.where)

    def pose(self, frame: int) -> Float[np.ndarray, "4 4"]:
        """World-from-camera of a frame, metres, OpenCV axes; may be infinite."""
        self._check(frame)
        return self.index.poses[frame].astype(np.float64)

    def colour(self, frame: int, least: Size | None = None) -> UInt8[np.ndarray, "H W 3"]:
        """The colour picture of a frame, perhaps smaller where it will be resized to ``least`` (H, W); read-only.

        ValueError when it cannot be decoded.
        """
        header, where = self.header, f"{self.where}: frame {frame}"
        data = self._bytes(frame, depth=False)
        if header.colour_codec == "raw":
            return _raw_picture(data, np.dtype(np.uint8), (*header.colour_size, 3), f"{where}: raw colour")
        if header.colour_codec not in ("jpeg", "png"):
            raise ValueError(f"{where}: colour codec {header.colour_codec} is not one of raw, png, jpeg; re-export it")
        try:
            with Image.open(io.BytesIO(data)) as image:
                found = image.size[::-1]
                if found == header.colour_size:  # before it is decoded: it may be huge
                    decode_small(image, least or found)
                    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
        except Exception as error:  # Pillow raises many kinds for damaged bytes
            place = int(self.index.offsets[frame])
            raise ValueError(f"{where}, byte {place}: unreadable {header.colour_codec} ({error}); {_REMEDY}") from error
        raise ValueError(f"{where}: colour is {found} (H, W), the header says {header.colour_size}; {_REMEDY}")

    def depth_m(self, frame: int) -> Float[np.ndarray, "h w"]:
        """Depth of a frame in metres along the optical axis, float32, 0 = none; ValueError when it cannot be read."""
        header, where = self.header, f"{self.where}: frame {frame}"
        data = self._bytes(frame, depth=True)
        if header.depth_codec == "zlib_ushort":
            try:
                data = zlib.decompressobj().decompress(data, 2 * math.prod(header.depth_size) + 1)
            except zlib.error as error:
                place = int(self.index.offsets[frame] + self.index.sizes[frame, 0])
                raise ValueError(f"{where}, byte {place}: unreadable zlib depth ({error}); {_REMEDY}") from error
        elif header.depth_codec != "raw_ushort":
            raise ValueError(
                f"{where}: depth codec {header.depth_codec} is not one of raw_ushort, zlib_ushort; re-export it"
            )
        values = _raw_picture(data, np.dtype("<u2"), header.depth_size, f"{where}: depth")
        return values.astype(np.float32) / np.float32(header.depth_shift)

    def _open(self) -> BinaryIO:
        check_regular_file(self.where)
        try:
            return self.where.open("rb", buffering=0)
        except OSError as error:
            raise ValueError(f"{self.where}: cannot be opened ({error.strerror}); check the path") from error

    def _check(self, frame: int) -> None:
        if not 0 <= frame < len(self):
            raise ValueError(f"{self.where}: no frame {frame}; expected 0 to {len(self) - 1}")

    def _bytes(self, frame: int, depth: bool) -> bytes:
        self._check(frame)
        colour_bytes, depth_bytes = (int(n) for n in self.index.sizes[frame])
        with self._open() as file:
            file.seek(int(self.index.offsets[frame]) + (colour_bytes if depth else 0))
            return _read(file, depth_bytes if depth else colour_bytes, self.where, f"frame {frame}")


def _read(file: BinaryIO, count: int, path: Path, what: str) -> bytes:
    """Exactly `count` bytes; ValueError naming the byte where the file ends."""
    start = file.tell()
    parts, missing = [], count
    while missing and (part := file.read(missing)):
        parts.append(part)
        missing -= len(part)
    if missing:
        raise ValueError(f"{path}: {what}: needs {count} bytes at byte {start}, the file ends at byte "
                         f"{start + count - missing}; {_REMEDY}")  # fmt: skip
    return b"".join(parts)


def _read_header(file: BinaryIO, path: Path) -> tuple[SensHeader, int]:
    version, name_length = struct.unpack("<IQ", _read(file, 12, path, "header"))
    if version != VERSION:
        raise ValueError(f"{path}: expected a .sens file of version {VERSION}, got version {version}")
    if name_length > _MAX_NAME:
        raise ValueError(f"{path}: header: a sensor name of {name_length} bytes at byte 4; {_REMEDY}")
    _read(file, name_length, path, "header")
    head = np.frombuffer(_read(file, _HEADER.itemsize, path, "header"), _HEADER)[0]
    cw, ch, dw, dh = head["sizes"].tolist()
    shift, count = float(head["depth_shift"]), int(head["num_frames"])
    if min(cw, ch, dw, dh) < 1 or max(cw, ch, dw, dh) > _MAX_SIDE or not (math.isfinite(shift) and shift > 0):
        raise ValueError(f"{path}: header: sizes {cw}x{ch}, {dw}x{dh} and depth shift {shift}; {_REMEDY}")
    size = os.fstat(file.fileno()).st_size
    if count * _FRAME_HEAD.itemsize > size:
        raise ValueError(f"{path}: header: {count} frames in a file of {size} bytes; {_REMEDY}")
    colour, depth = head["codecs"].tolist()
    codecs = COLOUR_CODECS.get(colour, str(colour)), DEPTH_CODECS.get(depth, str(depth))
    of_colour, of_depth = (head[f"intrinsic_{kind}"].astype(np.float64) for kind in ("color", "depth"))
    return SensHeader(of_colour, of_depth, *codecs, (ch, cw), (dh, dw), shift, count), file.tell()


def _read_index(file: BinaryIO, path: Path, first: int, header: SensHeader) -> SensIndex:
    count = header.num_frames
    most = 6 * math.prod(header.colour_size) + _SPARE, 4 * math.prod(header.depth_size) + _SPARE
    end = os.fstat(file.fileno()).st_size
    heads, offsets, place = np.empty(count, _FRAME_HEAD), np.empty(count, np.int64), first
    for frame in range(count):
        file.seek(place)
        what = f"frame {frame} of {count}"
        heads[frame] = np.frombuffer(_read(file, _FRAME_HEAD.itemsize, path, what), _FRAME_HEAD)[0]
        place += _FRAME_HEAD.itemsize
        colour, depth = heads["bytes"][frame].tolist()
        if colour > most[0] or depth > most[1]:
            raise ValueError(f"{path}: {what}: {colour} and {depth} bytes of colour and depth at byte {place}, more "
                             f"than {most[0]} and {most[1]}; {_REMEDY}")  # fmt: skip
        if place + colour + depth > end:
            raise ValueError(f"{path}: {what}: needs {colour + depth} bytes at byte {place}, the file ends at byte "
                             f"{end}; {_REMEDY}")  # fmt: skip
        offsets[frame] = place
        place += colour + depth
    times = np.minimum(heads["times_us"][:, 0], 2**63 - 1).astype(np.int64)
    return SensIndex(offsets, heads["bytes"].astype(np.int64), heads["pose"], times)


def _raw_picture(data: bytes, dtype: np.dtype, shape: tuple[int, ...], where: str) -> np.ndarray:
    expected = math.prod(shape) * dtype.itemsize
    if len(data) != expected:
        raise ValueError(f"{where}: expected {expected} bytes for {shape}, got {len(data)}; {_REMEDY}")
    return np.frombuffer(data, dtype).reshape(shape)


def whole_centres(intrinsics: np.ndarray) -> np.ndarray:
    """K (3,3) with pixel centres at +0.5 as ScanNet's files hold it: pixel centres at whole numbers, 4x4."""
    matrix = np.eye(4)
    matrix[:3, :3] = np.asarray(intrinsics, np.float64)[:3, :3]
    matrix[:2, 2] -= 0.5
    return matrix


def write_sens(
    path: str | Path,
    frames: Iterable[Frame],
    intrinsic_color: np.ndarray,
    intrinsic_depth: np.ndarray,
    depth_shift: float = 1000.0,
    sensor_name: str = "StructureSensor",
) -> None:
    """Write a recording; frames are taken one at a time, and the file appears whole or not at all.

    A frame is ``(rgb, depth, world_from_camera)``: uint8 ``(H, W, 3)``, uint16 ``(h, w)`` in 1/`depth_shift` metres
    (0 = none), and ``(4, 4)`` in metres, OpenCV axes; infinite poses stand for lost tracking. Intrinsics are 4x4 as the
    file holds them, pixel centres at whole numbers (`whole_centres`); the extrinsics of both cameras are the identity.
    ValueError for no frame, or one whose shapes or types differ from the first one's or from the above; OutputError
    where the file cannot be written.
    """
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        name = sensor_name.encode("utf-8")
        file.write(struct.pack("<IQ", VERSION, len(name)) + name)
        header_at, count = file.tell(), 0
        sizes: tuple[int, ...] = ()
        file.write(bytes(_HEADER.itemsize))
        for count, frame in enumerate(frames, 1):
            found = _sizes(frame, f"{path}: frame {count - 1}")
            sizes = sizes or found
            if found != sizes:
                raise ValueError(f"{path}: frame {count - 1} is (W, H, w, h) {found}, frame 0 was {sizes}; resize it")
            _write_frame(file, frame, (count - 1) * _MICROSECONDS_A_FRAME)
        if not count:
            raise ValueError(f"{path}: expected at least one frame, received none")
        file.write(struct.pack("<Q", 0))
        file.seek(header_at)
        header = (intrinsic_color, np.eye(4), intrinsic_depth, np.eye(4), (_JPEG, _ZLIB), sizes, depth_shift, count)
        file.write(np.array(header, _HEADER).tobytes())


def _sizes(frame: Frame, where: str) -> tuple[int, ...]:
    rgb, depth, pose = frame
    if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.size == 0:
        raise ValueError(f"{where}: expected uint8 (H, W, 3) colour, got {rgb.dtype} {rgb.shape}")
    if depth.dtype != np.uint16 or depth.ndim != 2 or depth.size == 0:
        raise ValueError(f"{where}: expected uint16 (h, w) depth, got {depth.dtype} {depth.shape}")
    if np.shape(pose) != (4, 4):
        raise ValueError(f"{where}: expected a 4x4 world_from_camera, got shape {np.shape(pose)}")
    return rgb.shape[1], rgb.shape[0], depth.shape[1], depth.shape[0]


def _write_frame(file: BinaryIO, frame: Frame, time_us: int) -> None:
    rgb, depth, pose = frame
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(rgb)).save(buffer, "JPEG", quality=95)
    colour = buffer.getvalue()
    packed = zlib.compress(np.ascontiguousarray(depth, dtype="<u2").tobytes())
    head = np.array((pose, (time_us, time_us), (len(colour), len(packed))), _FRAME_HEAD)
    file.write(head.tobytes() + colour + packed)
