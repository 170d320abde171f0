"""Atomic outputs: write under a temporary name next to the target, then rename.

Everything is written inside a temporary folder ``.NAME.HOST-PID-START-RANDOM.part``, including temporary files of
libraries (safetensors' ``.tmpXXXXXX``). The name identifies the writing process, so that the next command can remove
what a killed process left, and never what a running one is writing.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

_OWNED = re.compile(r"\..+\.(?P<host>[0-9a-f]{6})-(?P<pid>\d+)-(?P<start>\w+)-[0-9a-f]{8}\.part")
_FOREIGN_SECONDS = 24 * 3600  # after which an unchanged temporary folder of another machine is removed
_FULL = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EIO, errno.EROFS)
_MOST_BYTES = 120  # of the target's name in that of its temporary: file systems allow 255


class OutputError(OSError):
    """An output that could not be written: one line with the path and the reason."""


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a file name in a temporary folder; on leaving, flush the file to disk and rename it to `path`.

    Missing parent folders are created. On any error the temporary folder is removed and an existing `path` is
    unchanged. The file gets the permissions of the umask.

    Raises:
        OutputError: the disk is full, the folder is not writable, or nothing was written.
    """
    path = _absolute(path)
    if path.is_dir():
        raise OutputError(f"{path}: cannot write (a folder); give the name of a file")
    with _temporary_folder(temporary_beside(path), path) as temporary:
        file = temporary / path.name
        yield file
        _settle(file, temporary)
        os.replace(file, path)
        _sync(path.parent)


def write_json(path: str | Path, value: Any, indent: int | None = 1) -> None:
    """Write a value as JSON; OutputError as :func:`atomic_path`."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(value, indent=indent) + "\n", encoding="utf-8")


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Yield a temporary folder; on leaving, rename it to `path`.

    An existing folder with files is kept: files of the same name are replaced atomically, others stay. On any error the
    temporary folder is removed and `path` is unchanged. Permissions as for `atomic_path`.

    Raises:
        OutputError: as `atomic_path`; also if `path` is a file.
    """
    path = _absolute(path)
    inside = path.is_dir()  # it may be a mount point, or beside it nothing may be written
    with _temporary_folder(temporary_beside(path / "files" if inside else path), path) as temporary:
        yield temporary
        files = sorted(file for file in temporary.rglob("*") if file.is_file())
        for file in files:
            _settle(file, temporary)
        _publish(temporary, path, files)


@contextmanager
def _temporary_folder(temporary: Path, path: Path) -> Iterator[Path]:
    """Make a temporary folder for the output `path`, which errors name, and remove it in the end."""
    try:
        with naming_errors(path, temporary):
            temporary.mkdir(parents=True)
            clear_leftovers(temporary.parent, once=True)
            yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def remove_folder(path: str | Path) -> None:
    """Remove a folder; if interrupted, nothing is left under its name."""
    path = _absolute(path)
    doomed = temporary_beside(path)
    os.replace(path, doomed)
    shutil.rmtree(doomed)


def temporary_beside(path: str | Path) -> Path:
    """A new name next to `path` that identifies this process; nothing is created."""
    path = Path(path)
    stem = path.name.encode()[:_MOST_BYTES].decode(errors="ignore")
    pid = os.getpid()
    return path.with_name(f".{stem}.{_host()}-{pid}-{_start_of(pid) or 0}-{uuid.uuid4().hex[:8]}.part")


def clear_leftovers(folder: str | Path, *, once: bool = False) -> None:
    """Remove temporary folders of dead processes in `folder` itself (not below it).

    Those of running processes are kept, and those of other machines and containers until a day after their last change.
    With `once`, each process checks a folder only once.
    """
    folder = _absolute(folder)
    if once and folder in _SEEN:
        return
    _SEEN.add(folder)
    with suppress(OSError):
        for entry in list(os.scandir(folder)):
            match = _OWNED.fullmatch(entry.name)
            if match is not None and entry.is_dir(follow_symlinks=False) and _is_left(Path(entry.path), match):
                shutil.rmtree(entry.path, ignore_errors=True)


def clear_leftovers_of(output: str | Path) -> None:
    """:func:`clear_leftovers` before a command writes to `output`: next to it, in it, and in its subfolders."""
    output = _absolute(output)
    clear_leftovers(output.parent)
    if output.is_dir():
        clear_leftovers(output)
        with suppress(OSError):
            for entry in list(os.scandir(output)):
                if entry.is_dir(follow_symlinks=False):
                    clear_leftovers(entry.path)


@contextmanager
def naming_errors(path: Path, temporary: Path | None = None) -> Iterator[None]:
    """Turn every error of writing into an OutputError that names `path`, not the temporary name.

    Errors of libraries (safetensors, torch, tokenizers) for a full disk are recognised by their text. Errors about
    other files (inputs) pass unchanged.
    """
    try:
        yield
    except OutputError as error:
        if temporary is None or str(temporary) not in str(error):
            raise
        raise OutputError(str(error).replace(str(temporary), str(path))) from error
    except OSError as error:
        if _is_elsewhere(error, path, temporary):
            raise
        raise _unwritten(path, error.strerror or str(error)) from error
    except Exception as error:
        text = " ".join(str(error).split())
        reason = next((os.strerror(code) for code in _FULL if os.strerror(code) in text), None)
        if reason is None and "PytorchStreamWriter failed" not in text and "unexpected pos" not in text:
            raise
        raise _unwritten(path, reason or text[:200]) from error


# ---- parts ----------------------------------------------------------------------------------------------------------

_SEEN: set[Path] = set()  # folders that this process has cleared


def _absolute(path: str | Path) -> Path:
    """The path without ``.`` and ``..``, so that it has a name."""
    return Path(os.path.abspath(path))


def _unwritten(path: Path, reason: str) -> OutputError:
    return OutputError(f"{path}: cannot write ({reason}); check free space and permissions")


def _is_elsewhere(error: OSError, path: Path, temporary: Path | None) -> bool:
    """Whether an error is about another file than the output."""
    if not isinstance(error.filename, str | Path) or error.errno in _FULL:
        return False
    named = _absolute(error.filename)
    places = (path, *path.parents) if temporary is None else (path, *path.parents, temporary, *temporary.parents)
    return named not in places and not any(named.is_relative_to(place) for place in (path, temporary) if place)


def _publish(temporary: Path, path: Path, files: list[Path]) -> None:
    if path.exists() or not _renamed(temporary, path):
        if not path.is_dir():
            raise NotADirectoryError("a file of this name is in the way")
        for file in files:
            target = path / file.relative_to(temporary)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(file, target)
    _sync(path.parent)


def _renamed(temporary: Path, path: Path) -> bool:
    """Rename a folder; False where another process has made one of that name in the meantime."""
    try:
        os.replace(temporary, path)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        return False
    return True


def _settle(file: Path, temporary: Path) -> None:
    """Set the permissions of the umask (as mkdir did) and flush the content to disk."""
    wanted = temporary.stat().st_mode & 0o666
    if file.stat().st_mode & 0o777 != wanted:
        file.chmod(wanted)
    _sync(file)


def _is_left(path: Path, match: re.Match[str]) -> bool:
    """Whether the process that wrote a temporary folder has ended."""
    if match["host"] == _host():
        return not _lives(int(match["pid"]), match["start"])
    try:
        newest = max(entry.lstat().st_mtime for entry in (path, *path.rglob("*")))
    except OSError:
        return False
    return time.time() - newest > _FOREIGN_SECONDS


def _lives(pid: int, start: str) -> bool:
    """Whether a process with this number and start time runs here: numbers are reused."""
    if Path("/proc/self/stat").exists():
        return _start_of(pid) == start
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True


@lru_cache(maxsize=1)
def _host() -> str:
    """Hash of this machine or container, within which process numbers are unique."""
    try:
        space = os.readlink("/proc/self/ns/pid")
    except OSError:
        space = ""
    return hashlib.sha256(f"{socket.gethostname()} {space}".encode()).hexdigest()[:6]


def _start_of(pid: int) -> str | None:
    """Boot and start time of a running process on Linux; None if there is none, or it is a zombie."""
    try:
        state, *rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()[:6]
    except (OSError, ValueError):
        return None
    return None if state in "ZX" else f"{boot}{rest[18]}"


def _sync(path: Path) -> None:
    """Flush a file or folder to disk; folders that cannot be opened (as on Windows) are left to the system."""
    if path.is_dir() and not hasattr(os, "O_DIRECTORY"):
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
