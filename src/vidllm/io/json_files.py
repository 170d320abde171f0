"""Reading JSON: every error is a ValueError of one line that names the file, the line and the remedy.

Python's own reader also raises RecursionError (deep nesting), a ValueError without a file (integers over 4300 digits)
and UnicodeDecodeError, and it lets through integers that no float can hold and unpaired surrogates that no file can
store. All JSON of the package is read here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

MAX_DIGITS = 308  # the largest float has 309 digits: longer integers overflow wherever they meet one
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def check_regular_file(path: str | Path) -> Path:
    """The path, where it is a regular file; ValueError for what is missing, a folder, a FIFO or a device."""
    path = Path(path)
    if path.is_file():
        return path
    kind = "is a folder" if path.is_dir() else "is no regular file" if path.exists() else "does not exist"
    raise ValueError(f"{path}: {kind}; give the path of a file")


def has_file(path: str | Path) -> bool:
    """Whether there is a file; ValueError where a folder, a FIFO or a device has its place, which is not ignored."""
    path = Path(path)
    return path.exists() and check_regular_file(path) == path


@contextmanager
def naming(path: str | Path, remedy: str = "fetch it again") -> Iterator[None]:
    """What a parser raises inside, of any kind, becomes a ValueError of one line that names the file.

    For parsers that have no error of their own. Errors that name the file, and those of the machine (no memory, a full
    disk), are left as they are.
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
    return parse_json(_read_bytes(path), str(path))


def read_json_object(path: str | Path) -> dict[str, Any]:
    """:func:`read_json` of a file that holds one object; ValueError for any other value."""
    value = read_json(path)
    if not isinstance(value, dict):
        raise ValueError(f"{path}: expected a JSON object, got {type(value).__name__}; is it another file?")
    return value


def read_json_lines(path: str | Path) -> Iterator[tuple[int, Any]]:
    """(line number from 1, value) of every line of a JSON lines file that is not blank; ValueError as for one file."""
    for number, line in numbered_lines(path):
        yield number, parse_json(line, f"{path}: line {number}")


def numbered_lines(path: str | Path) -> Iterator[tuple[int, bytes]]:
    """(line number from 1, bytes) of every line that is not blank; ValueError when the file cannot be read.

    For a reader that goes on behind a broken line; :func:`parse_json` makes a value of each.
    """
    for number, line in enumerate(_read_bytes(path).removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        if line.strip():
            yield number, line


def parse_json(content: bytes | str, name: str) -> Any:
    """The value of JSON text; ``name`` is how messages call it (a path, or a path and a line)."""
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
        _refuse_lone_surrogates(value, name)
    return value


class _TooLong(Exception):
    """An integer of more than MAX_DIGITS digits."""


def _bounded_integer(digits: str) -> int:
    if len(digits.lstrip("-")) > MAX_DIGITS:
        raise _TooLong(f"an integer of {len(digits.lstrip('-'))} digits")
    return int(digits)


def _read_bytes(path: str | Path) -> bytes:
    path = check_regular_file(path)
    try:
        return path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}); check the path") from error


def _decoded(content: bytes, name: str) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        place = f"line {line}, byte {error.start}" if b"\n" in content.strip() else f"byte {error.start}"
        raise ValueError(f"{name}: not UTF-8 text ({place}); save it as UTF-8 or fetch the file again") from None


def _refuse_lone_surrogates(value: Any, name: str) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        code = ord(error.object[error.start])
        raise ValueError(f"{name}: an unpaired surrogate \\u{code:04x} in a text; write the file again") from None
