"""A lock for output folders, released by the system when its process ends, and signal handling."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import FrameType

from vidllm.io.atomic import naming_errors

LOCK_FILE = ".lock"


@contextmanager
def folder_lock(folder: str | Path, name: str = LOCK_FILE) -> Iterator[None]:
    """Lock `folder` (created if missing) until leaving the context; the lock file is then removed.

    The lock is the system's (flock); the file only names the owner, so the lock of a killed process is free at once. On
    file systems without locks nothing is locked.

    Raises:
        ValueError: another running process has the lock; the message names folder and process.
        OutputError: the file cannot be created.
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
    """The open, locked file; None if the system or the file system has no locks."""
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


# ---- signals: Ctrl-C (SIGINT) and SIGTERM --------------------------------------------------------------------------

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(KeyboardInterrupt):
    """Raised when a signal ended the work; ``exit_code`` is 130 for SIGINT, 143 for SIGTERM."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.exit_code = 128 + signum


@contextmanager
def sigterm_raises() -> Iterator[None]:
    """Context in which SIGTERM raises :class:`Stopped`, as Ctrl-C does, so that temporary files are removed."""

    def handler(signum: int, _: FrameType | None) -> None:
        raise Stopped(signum)

    with _handling((signal.SIGTERM,), handler):
        yield


class StopRequest(ExitStack):
    """Context in which the first SIGINT or SIGTERM only sets ``signum`` (0: none); the second raises at once.

    Has no effect outside the main thread, which alone receives signals.
    """

    signum = 0

    def _note(self, signum: int, _: FrameType | None) -> None:
        if self.signum:
            raise Stopped(signum)
        self.signum = signum

    def __enter__(self) -> StopRequest:
        self.enter_context(_handling(SIGNALS, self._note))
        return self


@contextmanager
def _handling(signals: tuple[signal.Signals, ...], handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {one: signal.getsignal(one) for one in signals}
    for one in signals:
        signal.signal(one, handler)
    try:
        yield
    finally:
        for one, old in before.items():
            signal.signal(one, signal.SIG_DFL if old is None else old)
