"""One process at a time in an output folder: a lock file that the system releases when its process ends."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from vidllm.io.atomic import naming_errors

LOCK_FILE = ".lock"


@contextmanager
def folder_lock(folder: str | Path, name: str = LOCK_FILE) -> Iterator[None]:
    """Hold `folder` (made when missing) until left; the file goes with it.

    The lock is the system's (flock), the file only says whose it is: one that a killed process left is taken over at
    once. Where a file system has no locks, nothing is held.

    Raises:
        ValueError: another living process holds it; the message names folder and process.
        OutputError: the file cannot be made.
    """
    path = Path(folder) / name
    with naming_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = _held(path)
    try:
        yield
    finally:
        if handle is not None:
            with suppress(OSError):
                path.unlink()
            os.close(handle)


def _held(path: Path) -> int | None:
    """The open, locked file; None where the system or the file system knows no locks."""
    try:
        import fcntl
    except ImportError:  # Windows
        return None
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.read(handle, 200).decode(errors="replace").strip() or "unknown"
            os.close(handle)
            raise ValueError(
                f"{path.parent}: another process works in this folder ({owner}); wait for it, stop it, or choose "
                "another output folder"
            ) from None
        except OSError:
            os.close(handle)
            return None
        if _is_still(handle, path):
            os.truncate(handle, 0)
            os.write(handle, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
            return handle
        os.close(handle)  # its holder removed the file after we had opened it


def _is_still(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False
