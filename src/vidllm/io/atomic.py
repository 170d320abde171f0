"""Outputs appear whole or not at all: write beside the target under another name, then rename."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


class OutputError(OSError):
    """An output that could not be written: one line naming the path and the reason."""


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary file name in the target's folder; on leaving, flush it to disk and rename it to `path`.

    Missing parent folders are made. On any error the temporary file is removed and an existing `path` is untouched.

    Raises:
        OutputError: the disk is full, the folder is not writable, or nothing was written.
    """
    path = Path(path)
    if path.is_dir():
        raise OutputError(f"{path}: cannot write (a folder); give the name of a file")
    temporary = _temporary(path)
    try:
        with _named_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            _sync(temporary)
            os.replace(temporary, path)
            _sync(path.parent)
    finally:
        with suppress(OSError):
            temporary.unlink()


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Yield a temporary folder; on leaving, rename it to `path`.

    A folder that is there already is kept: files of the same name are replaced, each in one step, others stay. The
    temporary folder then lies inside it, so that `.`, `..` and a mounted volume are written as any other.
    On any error the temporary folder is removed and `path` is untouched.

    Raises:
        OutputError: as `atomic_path`; also when `path` is a file.
    """
    path = Path(path)
    temporary = _temporary(path / "folder") if path.is_dir() else _temporary(path)
    try:
        with _named_errors(path, temporary):
            temporary.mkdir(parents=True)
            yield temporary
            files = sorted(file for file in temporary.rglob("*") if file.is_file())
            for file in files:
                _sync(file)
            _publish(temporary, path, files)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _publish(temporary: Path, path: Path, files: list[Path]) -> None:
    if not path.exists():
        os.replace(temporary, path)
    elif not path.is_dir():
        raise NotADirectoryError("a file of this name is in the way")
    else:
        for file in files:
            target = path / file.relative_to(temporary)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(file, target)
    _sync(path.parent)


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.stem}.{uuid.uuid4().hex[:8]}.part{path.suffix}")


@contextmanager
def _named_errors(path: Path, temporary: Path | None = None) -> Iterator[None]:
    """Every error of writing as an OutputError that speaks of `path`, never of the temporary name."""
    try:
        yield
    except OutputError as error:
        if temporary is None or str(temporary) not in str(error):
            raise
        raise OutputError(str(error).replace(str(temporary), str(path))) from error
    except OSError as error:
        raise OutputError(
            f"{path}: cannot write ({error.strerror or error}); check free space and permissions"
        ) from error


def _sync(path: Path) -> None:
    """Flush a file or folder to disk; folders that cannot be opened (as on Windows) are left to the system."""
    if path.is_dir() and not hasattr(os, "O_DIRECTORY"):
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
