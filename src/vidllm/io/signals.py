"""Ctrl-C (SIGINT) and SIGTERM: work ends cleanly, and the exit code is 128 plus the signal's number."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(KeyboardInterrupt):
    """Raised where a signal ended the work; ``exit_code`` is 130 for SIGINT, 143 for SIGTERM."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.exit_code = 128 + signum


@contextmanager
def sigterm_raises() -> Iterator[None]:
    """Within it SIGTERM raises :class:`Stopped`, as Ctrl-C does: temporary files are removed on the way out."""

    def handler(signum: int, _: FrameType | None) -> None:
        raise Stopped(signum)

    with _handling((signal.SIGTERM,), handler):
        yield


class StopRequest:
    """Within it the first SIGINT or SIGTERM is only noted in ``signum`` (0: none); the second raises at once.

    In other threads than the main one nothing is noted: signals come to that alone.
    """

    def __init__(self) -> None:
        self.signum = 0
        self._context = _handling(SIGNALS, self._note)

    def _note(self, signum: int, _: FrameType | None) -> None:
        if self.signum:
            raise Stopped(signum)
        self.signum = signum

    def __enter__(self) -> StopRequest:
        self._context.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._context.__exit__(kind, error, trace)


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
