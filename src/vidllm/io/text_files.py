"""Reading text and bytes, bounded: FIFOs, devices, binary files and huge files raise a ValueError of one line."""

from __future__ import annotations

from pathlib import Path

from vidllm.io.files import check_regular_file

MAX_BYTES = 256 * 2**20


def read_bytes(path: str | Path, most: int = MAX_BYTES) -> bytes:
    """The bytes of a regular file of at most ``most`` bytes; ValueError naming the file."""
    path = check_regular_file(path)
    try:
        size = path.stat().st_size
        if size > most:
            raise ValueError(f"{path}: {size} bytes, expected at most {most}; is it another file?")
        return path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}); check the path") from error


def read_text(path: str | Path, most: int = MAX_BYTES) -> str:
    """The UTF-8 text of a file, without a byte order mark; ValueError as :func:`read_bytes`, and for other bytes."""
    content = read_bytes(path, most)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{path}: not UTF-8 text (line {line}, byte {error.start}); is it a binary file?") from None


def data_lines(text: str) -> list[tuple[int, str]]:
    """(line number from 1, line) of every line that is neither blank nor a comment after ``#``."""
    lines = ((number, line.strip()) for number, line in enumerate(text.split("\n"), 1))
    return [(number, line) for number, line in lines if line and not line.startswith("#")]


def number(word: str, where: str) -> float:
    """A float from a word; ValueError that names where it stands."""
    try:
        return float(word)
    except ValueError:
        shown = word if len(word) <= 40 else word[:40] + "..."
        raise ValueError(f"{where}: expected a number, got {shown!r}") from None
