"""Reads ScanNet's ``.sens`` recordings (version 4) in place: any frame at random, one frame in memory at a time.

The index of a recording is built by walking over the heads of its records, seeking past the pictures between them, so
the poses of a whole scan are known after reading 96 bytes a frame. Layout: :mod:`vidllm.datasets.sens_writer`.
"""

from __future__ import annotations

import io
import math
import os
import struct
import zlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from vidllm.datasets.sens_writer import COLOUR_CODECS, DEPTH_CODECS, FRAME_HEAD, VERSION
from vidllm.io.files import check_regular_file

_MAX_NAME = 4096
_MAX_SIDE = 65_535
_SPARE = 65_536  # bytes a picture may take beyond twice those of its pixels
_REMEDY = "the file is cut or damaged: fetch it again"


@dataclass(frozen=True)
class SensHeader:
    """What stands before the frames.

    Attributes:
        sensor_name: the sensor's name.
        intrinsic_color, extrinsic_color, intrinsic_depth, extrinsic_depth: 4x4 float64 as the file holds them, pixel
            centres at whole numbers.
        colour_codec, depth_codec: names such as ``jpeg`` and ``zlib_ushort``.
        colour_size, depth_size: (height, width) in pixels.
        depth_shift: depth units a metre.
        num_frames: as stated; the index shows whether they are there.
    """

    sensor_name: str
    intrinsic_color: np.ndarray
    extrinsic_color: np.ndarray
    intrinsic_depth: np.ndarray
    extrinsic_depth: np.ndarray
    colour_codec: str
    depth_codec: str
    colour_size: tuple[int, int]
    depth_size: tuple[int, int]
    depth_shift: float
    num_frames: int


@dataclass(frozen=True)
class SensIndex:
    """Where each frame lies.

    Attributes:
        offsets: ``(F,)`` int64, byte of each frame's colour.
        sizes: ``(F, 2)`` int64, bytes of colour and of depth, which follows it.
        poses: ``(F, 4, 4)`` float32, as stored, world-from-camera; infinite where tracking was lost.
        times_us: ``(F,)`` int64 time of the colour picture in microseconds.
    """

    offsets: np.ndarray
    sizes: np.ndarray
    poses: np.ndarray
    times_us: np.ndarray


class SensFile:
    """One recording. Opening reads the header alone; nothing stays open between calls.

    Raises:
        ValueError: not a ``.sens`` of version 4, or cut: the message names file, frame and byte.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        with self._open() as file:
            self.header, self._first = _read_header(file, self.path)

    def __len__(self) -> int:
        return self.header.num_frames

    @cached_property
    def index(self) -> SensIndex:
        """Offsets, sizes and poses of every frame; ValueError where the file ends too early."""
        with self._open() as file:
            return _read_index(file, self.path, self._first, self.header)

    def pose(self, frame: int) -> Float[np.ndarray, "4 4"]:
        """World-from-camera of a frame, metres, OpenCV axes; may be infinite."""
        self._check(frame)
        return self.index.poses[frame].astype(np.float64)

    def colour(self, frame: int) -> UInt8[np.ndarray, "H W 3"]:
        """The colour picture of a frame; ValueError when it cannot be decoded."""
        header, where = self.header, f"{self.path}: frame {frame}"
        data = self._bytes(frame, depth=False)
        if header.colour_codec == "raw":
            return _raw_picture(data, np.dtype(np.uint8), (*header.colour_size, 3), f"{where}: raw colour").copy()
        if header.colour_codec not in ("jpeg", "png"):
            raise ValueError(f"{where}: colour codec {header.colour_codec} is not one of raw, png, jpeg; re-export it")
        try:
            with Image.open(io.BytesIO(data)) as image:
                _check_size(image.size[::-1], header.colour_size, where)  # before it is decoded: it may be huge
                pixels = np.array(image.convert("RGB"))
        except _SizeError:
            raise
        except Exception as error:  # Pillow raises many kinds for damaged bytes
            place = int(self.index.offsets[frame])
            raise ValueError(f"{where}, byte {place}: unreadable {header.colour_codec} ({error}); {_REMEDY}") from error
        return pixels

    def depth_m(self, frame: int) -> Float[np.ndarray, "h w"]:
        """Depth of a frame in metres along the optical axis, float32, 0 = none; ValueError when it cannot be read."""
        header, where = self.header, f"{self.path}: frame {frame}"
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
        check_regular_file(self.path)
        try:
            return self.path.open("rb", buffering=0)
        except OSError as error:
            raise ValueError(f"{self.path}: cannot be opened ({error.strerror}); check the path") from error

    def _check(self, frame: int) -> None:
        if not 0 <= frame < len(self):
            raise ValueError(f"{self.path}: no frame {frame}; expected 0 to {len(self) - 1}")

    def _bytes(self, frame: int, depth: bool) -> bytes:
        self._check(frame)
        colour_bytes, depth_bytes = (int(n) for n in self.index.sizes[frame])
        start = int(self.index.offsets[frame]) + (colour_bytes if depth else 0)
        with self._open() as file:
            file.seek(start)
            return _read(file, depth_bytes if depth else colour_bytes, self.path, f"frame {frame}")


class _SizeError(ValueError):
    """A picture of another size than the header says."""


def _check_size(found: tuple[int, ...], stated: tuple[int, int], where: str) -> None:
    if found != stated:
        raise _SizeError(f"{where}: colour is {found} (H, W), the header says {stated}; {_REMEDY}")


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
    name = _read(file, name_length, path, "header").decode("utf-8", "replace").rstrip("\0")
    matrices = np.frombuffer(_read(file, 256, path, "header"), "<f4").reshape(4, 4, 4).astype(np.float64)
    colour, depth, cw, ch, dw, dh, shift, count = struct.unpack("<2i4IfQ", _read(file, 36, path, "header"))
    if min(cw, ch, dw, dh) < 1 or max(cw, ch, dw, dh) > _MAX_SIDE or not (math.isfinite(shift) and shift > 0):
        raise ValueError(f"{path}: header: sizes {cw}x{ch}, {dw}x{dh} and depth shift {shift}; {_REMEDY}")
    size = os.fstat(file.fileno()).st_size
    if count * FRAME_HEAD.size > size:
        raise ValueError(f"{path}: header: {count} frames in a file of {size} bytes; {_REMEDY}")
    codecs = COLOUR_CODECS.get(colour, str(colour)), DEPTH_CODECS.get(depth, str(depth))
    header = SensHeader(
        name, matrices[0], matrices[1], matrices[2], matrices[3], *codecs, (ch, cw), (dh, dw), shift, count
    )
    return header, file.tell()


def _read_index(file: BinaryIO, path: Path, first: int, header: SensHeader) -> SensIndex:
    count = header.num_frames
    most = 6 * math.prod(header.colour_size) + _SPARE, 4 * math.prod(header.depth_size) + _SPARE
    end = os.fstat(file.fileno()).st_size
    heads, offsets, place = [], [], first
    for frame in range(count):
        file.seek(place)
        head = FRAME_HEAD.unpack(_read(file, FRAME_HEAD.size, path, f"frame {frame} of {count}"))
        place += FRAME_HEAD.size
        needed = head[18] + head[19]
        if head[18] > most[0] or head[19] > most[1]:
            raise ValueError(f"{path}: frame {frame} of {count}: {head[18]} and {head[19]} bytes of colour and depth "
                             f"at byte {place}, more than {most[0]} and {most[1]}; {_REMEDY}")  # fmt: skip
        if place + needed > end:
            raise ValueError(f"{path}: frame {frame} of {count}: needs {needed} bytes at byte {place}, "
                             f"the file ends at byte {end}; {_REMEDY}")  # fmt: skip
        heads.append(head)
        offsets.append(place)
        place += needed
    poses = np.array([head[:16] for head in heads], np.float32).reshape(-1, 4, 4)
    times = np.array([min(head[16], 2**63 - 1) for head in heads], np.int64)
    sizes = np.array([head[18:] for head in heads], np.int64).reshape(-1, 2)
    return SensIndex(np.array(offsets, np.int64), sizes, poses, times)


def _raw_picture(data: bytes, dtype: np.dtype, shape: tuple[int, ...], where: str) -> np.ndarray:
    expected = math.prod(shape) * dtype.itemsize
    if len(data) != expected:
        raise ValueError(f"{where}: expected {expected} bytes for {shape}, got {len(data)}; {_REMEDY}")
    return np.frombuffer(data, dtype).reshape(shape)
