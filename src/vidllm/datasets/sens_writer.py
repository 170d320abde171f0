"""Writes ScanNet's ``.sens`` recordings (version 4), one frame at a time, so that other RGB-D data reads the same way.

Layout, little endian: u32 version; u64 length and the sensor's name; 4x4 float32 of intrinsic_color,
extrinsic_color, intrinsic_depth, extrinsic_depth; i32 colour codec, i32 depth codec; u32 colour width and height,
depth width and height; f32 depth_shift (depth units a metre); u64 number of frames. Then for every frame
world-from-camera as 4x4 float32, u64 time stamps of colour and depth in microseconds, u64 bytes of colour and of
depth, and those bytes. At the end u64 number of inertial records (0).
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from vidllm.io.atomic import atomic_path

VERSION = 4
COLOUR_CODECS = {-1: "unknown", 0: "raw", 1: "png", 2: "jpeg"}
DEPTH_CODECS = {-1: "unknown", 0: "raw_ushort", 1: "zlib_ushort", 2: "occi_ushort"}
FRAME_HEAD = struct.Struct("<16f4Q")  # pose, two time stamps, two byte counts
_JPEG, _ZLIB = 2, 1
_MICROSECONDS_A_FRAME = 33_333

Frame = tuple[np.ndarray, np.ndarray, np.ndarray]


def whole_centres(intrinsics: np.ndarray) -> np.ndarray:
    """K with pixel centres at +0.5 as ScanNet's files hold it: pixel centres at whole numbers, a 4x4 matrix.

    Args:
        intrinsics: ``(3, 3)`` or ``(4, 4)``, pixel centres at +0.5.
    """
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
    jpeg_quality: int = 95,
) -> None:
    """Write a recording; frames are taken one at a time, and the file appears whole or not at all.

    The extrinsics of both cameras are the identity.

    Args:
        path: the file to write.
        frames: ``(rgb, depth, world_from_camera)``: uint8 ``(H, W, 3)``, uint16 ``(h, w)`` in 1/`depth_shift` metres
            (0 = none), and ``(4, 4)`` in metres, OpenCV axes; infinite poses stand for lost tracking.
        intrinsic_color: 4x4 as the file holds it, pixel centres at whole numbers (`whole_centres`).
        intrinsic_depth: the same for depth.
        depth_shift: depth units a metre.
        sensor_name: any text.
        jpeg_quality: 1 to 95.

    Raises:
        ValueError: no frame, or one whose shapes or types differ from the first one's or from the above.
        OutputError: the file cannot be written.
    """
    cameras = [
        _matrix(intrinsic_color, "intrinsic_color"), np.eye(4, dtype="<f4"),
        _matrix(intrinsic_depth, "intrinsic_depth"), np.eye(4, dtype="<f4"),
    ]  # fmt: skip
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        sizes: tuple[int, ...] = ()
        count_at = count = 0
        for count, frame in enumerate(frames, 1):
            found = _sizes(frame, f"{path}: frame {count - 1}")
            if not sizes:
                sizes = found
                count_at = _write_header(file, cameras, sizes, depth_shift, sensor_name)
            if found != sizes:
                raise ValueError(f"{path}: frame {count - 1} is (W, H, w, h) {found}, frame 0 was {sizes}; resize it")
            _write_frame(file, frame, count - 1, jpeg_quality)
        if not count:
            raise ValueError(f"{path}: expected at least one frame, received none")
        file.write(struct.pack("<Q", 0))
        file.seek(count_at)
        file.write(struct.pack("<Q", count))


def _matrix(matrix: np.ndarray, name: str) -> np.ndarray:
    array = np.asarray(matrix, dtype="<f4")
    if array.shape != (4, 4):
        raise ValueError(f"expected {name} as a 4x4 matrix, got shape {array.shape}")
    return array


def _sizes(frame: Frame, where: str) -> tuple[int, int, int, int]:
    rgb, depth, pose = frame
    if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.size == 0:
        raise ValueError(f"{where}: expected uint8 (H, W, 3) colour, got {rgb.dtype} {rgb.shape}")
    if depth.dtype != np.uint16 or depth.ndim != 2 or depth.size == 0:
        raise ValueError(f"{where}: expected uint16 (h, w) depth, got {depth.dtype} {depth.shape}")
    if np.shape(pose) != (4, 4):
        raise ValueError(f"{where}: expected a 4x4 world_from_camera, got shape {np.shape(pose)}")
    return rgb.shape[1], rgb.shape[0], depth.shape[1], depth.shape[0]


def _write_header(
    file: BinaryIO, cameras: list[np.ndarray], sizes: tuple[int, ...], depth_shift: float, sensor_name: str
) -> int:
    """Write everything before the frames; returns where their number stands."""
    name = sensor_name.encode("utf-8")
    file.write(struct.pack("<IQ", VERSION, len(name)) + name)
    for matrix in cameras:
        file.write(matrix.tobytes())
    file.write(struct.pack("<2i4If", _JPEG, _ZLIB, *sizes, depth_shift))
    position = file.tell()
    file.write(struct.pack("<Q", 0))
    return position


def _write_frame(file: BinaryIO, frame: Frame, index: int, quality: int) -> None:
    rgb, depth, pose = frame
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(rgb)).save(buffer, "JPEG", quality=quality)
    colour = buffer.getvalue()
    packed = zlib.compress(np.ascontiguousarray(depth, dtype="<u2").tobytes())
    time_us = index * _MICROSECONDS_A_FRAME
    numbers = np.asarray(pose, np.float32).ravel().tolist()
    file.write(FRAME_HEAD.pack(*numbers, time_us, time_us, len(colour), len(packed)))
    file.write(colour)
    file.write(packed)
