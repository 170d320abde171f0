"""Reading JSON, text and arrays, and checking sources of pictures.

Every error is a ValueError of one line with the file, the line and a remedy. Python's JSON reader also raises
RecursionError (deep nesting), ValueError without a file name (integers over 4300 digits) and UnicodeDecodeError, and it
accepts integers that no float can represent and unpaired surrogates. All JSON of the package is read here.
"""

from __future__ import annotations

import io
import json
import math
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

MAX_DIGITS = 308  # the largest float has 309 digits: longer integers overflow wherever they meet one
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def check_regular_file(path: str | Path) -> Path:
    """The path of a regular file; ValueError if it is missing, a folder, a FIFO or a device."""
    path = Path(path)
    if path.is_file():
        return path
    kind = "is a folder" if path.is_dir() else "is not a regular file" if path.exists() else "does not exist"
    raise ValueError(f"{path}: {kind}; give the path of a file")


def has_file(path: str | Path) -> bool:
    """Whether the file exists; ValueError for a folder, a FIFO or a device of this name."""
    path = Path(path)
    return path.exists() and check_regular_file(path) == path


@contextmanager
def naming(path: str | Path, remedy: str = "fetch it again") -> Iterator[None]:
    """Turn any error of a parser into a ValueError of one line that names the file.

    For parsers without an error class of their own. Errors that name the file already, and those of the machine
    (memory, disk), are not changed.
    """
    try:
        yield
    except (OSError, MemoryError):
        raise
    except Exception as error:
        if isinstance(error, ValueError) and str(path) in str(error):
            raise
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ValueError(f"{path}: damaged or another kind of file ({reason}); {remedy}") from error


def read_json(path: str | Path) -> Any:
    """The value of a JSON file (UTF-8, with or without a byte order mark).

    Raises:
        ValueError: the file is missing, no regular file, not UTF-8 or not JSON; the message names file and line.
    """
    return parse_json(read_bytes(path, None), str(path))


def read_json_object(path: str | Path) -> dict[str, Any]:
    """:func:`read_json` of a file that holds one object; ValueError for any other value."""
    value = read_json(path)
    if not isinstance(value, dict):
        raise ValueError(f"{path}: expected a JSON object, got {type(value).__name__}; is it the right file?")
    return value


def read_json_lines(path: str | Path) -> Iterator[tuple[int, Any]]:
    """(line number from 1, value) of every line of a JSON lines file that is not blank; ValueError as for one file."""
    for number, line in numbered_lines(path):
        yield number, parse_json(line, f"{path}: line {number}")


def numbered_lines(path: str | Path) -> Iterator[tuple[int, bytes]]:
    """(line number from 1, bytes) of every line that is not blank; ValueError if the file cannot be read.

    For readers that continue after a broken line; :func:`parse_json` parses each.
    """
    for number, line in enumerate(read_bytes(path, None).removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        if line.strip():
            yield number, line


def parse_json(content: bytes | str, name: str) -> Any:
    """The value of JSON text; ``name`` is its name in messages (a path, or a path and a line)."""
    text = _decoded(content, name) if isinstance(content, bytes) else content
    try:
        value = json.loads(text, parse_int=_bounded_integer)
    except json.JSONDecodeError as error:
        place = f" at line {error.lineno}" if "\n" in text else f" at character {error.pos + 1}"
        raise ValueError(f"{name}: not JSON{place} ({error.msg}); write or fetch the file again") from None
    except RecursionError:
        raise ValueError(f"{name}: JSON nested too deeply to be read; write or fetch the file again") from None
    except _TooLong as error:
        raise ValueError(f"{name}: {error}; write or fetch the file again") from None
    if _SURROGATE.search(text):
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            code = ord(error.object[error.start])
            raise ValueError(f"{name}: an unpaired surrogate \\u{code:04x} in a text; write the file again") from None
    return value


def plain(value: Any) -> Any:
    """A value for JSON: text keys, lists for tuples, None for numbers that are not finite."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


class _TooLong(Exception):
    """An integer of more than MAX_DIGITS digits."""


def _bounded_integer(digits: str) -> int:
    if len(digits.lstrip("-")) > MAX_DIGITS:
        raise _TooLong(f"an integer of {len(digits.lstrip('-'))} digits")
    return int(digits)


def _decoded(content: bytes, name: str) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        place = f"line {line}, byte {error.start}" if b"\n" in content.strip() else f"byte {error.start}"
        raise ValueError(f"{name}: not UTF-8 text ({place}); is it a binary file? fetch it again") from None


# ---- text and bytes, bounded ---------------------------------------------------------------------------------------

MAX_TEXT_BYTES = 256 * 2**20


def read_bytes(path: str | Path, most: int | None = MAX_TEXT_BYTES) -> bytes:
    """The bytes of a regular file of at most ``most`` bytes; ValueError naming the file."""
    path = check_regular_file(path)
    try:
        size = path.stat().st_size
        if most is not None and size > most:
            raise ValueError(f"{path}: {size} bytes, expected at most {most}; is it the right file?")
        return path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}); check the path") from error


def read_text(path: str | Path, most: int = MAX_TEXT_BYTES) -> str:
    """The UTF-8 text of a file, without a byte order mark; ValueError as :func:`read_bytes`, and for other bytes."""
    return _decoded(read_bytes(path, most), str(path))


def data_lines(text: str) -> list[tuple[int, str]]:
    """(line number from 1, line) of every line that is neither blank nor a comment after ``#``."""
    lines = ((number, line.strip()) for number, line in enumerate(text.split("\n"), 1))
    return [(number, line) for number, line in lines if line and not line.startswith("#")]


def number(word: str, where: str) -> float:
    """A float from a word; ValueError that names the place."""
    try:
        return float(word)
    except ValueError:
        shown = word if len(word) <= 40 else word[:40] + "..."
        raise ValueError(f"{where}: expected a number, got {shown!r}") from None


# ---- NumPy's .npz: headers are checked before data are read; no object is unpickled --------------------------------

MAX_NPZ_BYTES = 64 * 2**20  # of all arrays of a file together
MAX_ARRAYS = 64
_KINDS = "biufSU"  # whole and real numbers, truth values, text
_COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


def read_npz(path: str | Path) -> dict[str, np.ndarray]:
    """The arrays of a .npz by name.

    Raises:
        ValueError: the file is missing, damaged, not a .npz, or contains objects or more than :data:`MAX_NPZ_BYTES`.
    """
    path = check_regular_file(path)
    try:
        with path.open("rb") as file:
            start = file.read(6)
        if start == b"\x93NUMPY":
            raise ValueError("a single array (.npy), expected several (.npz)")
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            total = sum(member.file_size for member in members)
            if len(members) > MAX_ARRAYS:
                raise ValueError(f"{len(members)} arrays, expected at most {MAX_ARRAYS}")
            if total > MAX_NPZ_BYTES:
                raise ValueError(f"{total:,} bytes of arrays, expected at most {MAX_NPZ_BYTES:,}")
            arrays = {}
            for member in members:
                name = member.filename
                if not name.endswith(".npy") or member.compress_type not in _COMPRESSIONS:
                    raise ValueError(f"{name}: not an array that numpy wrote")
                with archive.open(member) as stream:
                    arrays[name.removesuffix(".npy")] = _read_array(stream, member.file_size, name)
            return arrays
    except Exception as error:  # zipfile and numpy have no own error class
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ValueError(f"{path}: not a readable .npz ({reason}); fetch it again") from None


def read_npy(path: str | Path) -> np.ndarray:
    """The numbers of a ``.npy`` file as float64; the header must agree with the size of the file."""
    content = read_bytes(path)
    try:
        array = _read_array(io.BytesIO(content), len(content), "it")
        if array.dtype.kind not in "fiu" or array.ndim > 4:
            raise ValueError(f"{array.dtype} of shape {array.shape}")
        return array.astype(np.float64)
    except Exception as error:  # numpy has no own error class
        reason = (str(error).splitlines() or [type(error).__name__])[0][:160]
        raise ValueError(f"{path}: not an array of numbers that numpy.save wrote ({reason}); write it again") from None


def _read_array(stream: Any, size: int, name: str) -> np.ndarray:
    """One array in NumPy's format from a stream of ``size`` bytes; nothing is unpickled."""
    version = np.lib.format.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"{name}: an array of form {version[0]}.{version[1]}, expected 1.0 or 2.0")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(stream)
    if dtype.kind not in _KINDS:
        raise ValueError(f"{name}: holds {dtype}, expected numbers or text: objects are never unpickled")
    needed, left = math.prod(shape) * dtype.itemsize, size - stream.tell()
    if needed != left or min(shape, default=0) < 0:
        raise ValueError(f"{name}: shape {shape} needs {needed:,} bytes, the file holds {left:,}")
    content = bytearray(stream.read(needed + 1))  # a zip's checksum is compared at the end
    if len(content) != needed:
        raise ValueError(f"{name}: {needed:,} bytes expected, {len(content):,} found")
    return np.frombuffer(content, dtype).reshape(shape, order="F" if fortran else "C")


# ---- sources of pictures -------------------------------------------------------------------------------------------

_URL = re.compile(r"[a-z][a-z0-9+.-]+:/", re.IGNORECASE)


class InputError(ValueError):
    """An input that cannot be read: one line with the input, what is wrong with it, and a remedy."""


def check_source(path: str | Path) -> Path:
    """The path of an existing regular file or folder, `~` expanded.

    Raises:
        InputError: an empty name, a URL, nothing of this name, or a pipe, socket or device (reading one may never end).
    """
    text = str(path)
    if not text.strip():
        raise InputError("the video's name is empty; give a video file or a folder of pictures")
    if _URL.match(text):
        raise InputError(f"{text}: URLs are not opened; download the file and give its path")
    try:
        found = Path(text).expanduser()
    except RuntimeError:  # the home of a user who does not exist
        found = Path(text)
    if found.is_dir() or found.is_file():
        return found
    if found.exists():
        raise InputError(f"{text}: not a file or folder but a pipe or device; save the video to a file first")
    raise InputError(f"{text}: no such file or folder; check the path")
