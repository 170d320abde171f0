"""NumPy's .npz, read so that no file can run code or fill the memory: headers are checked before data are read."""

from __future__ import annotations

import math
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from vidllm.io.files import check_regular_file

MAX_BYTES = 64 * 2**20  # of all arrays of a file together
MAX_ARRAYS = 64
_CHUNK = 2**20
_KINDS = "biufSU"  # whole and real numbers, truth values, text
_COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


def read_npz(path: str | Path, max_bytes: int = MAX_BYTES) -> dict[str, np.ndarray]:
    """The arrays of a .npz by name.

    Raises:
        ValueError: the file is missing, damaged, no .npz, or its arrays hold objects or over ``max_bytes`` bytes.
    """
    path = check_regular_file(path)
    try:
        with path.open("rb") as file:
            start = file.read(6)
        if start == b"\x93NUMPY":
            raise ValueError("a single array (.npy), expected several (.npz)")
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            _check_sizes(members, max_bytes)
            return {member.filename.removesuffix(".npy"): _read_member(archive, member) for member in members}
    except Exception as error:  # zipfile and numpy's header have no error of their own
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ValueError(f"{path}: not a readable .npz ({reason}); fetch it again") from None


def _check_sizes(members: list[zipfile.ZipInfo], max_bytes: int) -> None:
    total = sum(member.file_size for member in members)
    if len(members) > MAX_ARRAYS:
        raise ValueError(f"{len(members)} arrays, expected at most {MAX_ARRAYS}")
    if total > max_bytes:
        raise ValueError(f"{total:,} bytes of arrays, expected at most {max_bytes:,}")


def _read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    name = member.filename
    if not name.endswith(".npy") or member.compress_type not in _COMPRESSIONS:
        raise ValueError(f"{name}: not an array that numpy wrote")
    with archive.open(member) as stream:
        version = np.lib.format.read_magic(stream)
        if version not in ((1, 0), (2, 0)):
            raise ValueError(f"{name}: an array of form {version[0]}.{version[1]}, expected 1.0 or 2.0")
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(stream)
        if dtype.kind not in _KINDS:
            raise ValueError(f"{name}: holds {dtype}, expected numbers or text: objects are never unpickled")
        needed, left = math.prod(shape) * dtype.itemsize, member.file_size - stream.tell()
        if needed != left or min(shape, default=0) < 0:
            raise ValueError(f"{name}: shape {shape} needs {needed:,} bytes, the file holds {left:,}")
        return _filled(stream, needed).view(dtype).reshape(shape, order="F" if fortran else "C")


def _filled(stream: Any, size: int) -> np.ndarray:
    """``size`` bytes of a stream that holds just these (its checksum is compared at the end)."""
    buffer = np.empty(size, np.uint8)
    done = 0
    while done < size:
        part = stream.read(min(_CHUNK, size - done))
        if not part:
            raise ValueError(f"{size:,} bytes expected, {done:,} found")
        buffer[done : done + len(part)] = np.frombuffer(part, np.uint8)
        done += len(part)
    if stream.read(1):
        raise ValueError(f"more than {size:,} bytes found")
    return buffer
