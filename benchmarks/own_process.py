"""A measurement in a process of its own, so that memory that an earlier one left behind does not count."""

from __future__ import annotations

import multiprocessing
import re
import resource
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def in_own_process(measure: Callable[..., None], *arguments: Any) -> Any:
    """What ``measure(*arguments, pipe)`` sends through its pipe; None when the process ends without (out of memory)."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    worker = context.Process(target=measure, args=(*arguments, theirs))
    worker.start()
    theirs.close()
    try:
        return ours.recv()
    except EOFError:
        return None
    finally:
        worker.join()


def memory(what: str = "VmHWM", process: int | str = "self") -> int:
    """Bytes of a process by the name that Linux gives them: VmRSS in memory now, VmHWM at most so far (the only one
    that other systems tell), RssAnon of VmRSS those that it filled itself, RssFile those of files.
    """
    status = Path(f"/proc/{process}/status")
    if not status.exists():
        return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = re.search(rf"{what}:\s+(\d+)", status.read_text())
    assert found is not None, what
    return 1024 * int(found[1])


@contextmanager
def most(*names: str) -> Iterator[dict[str, int]]:
    """The most of each :func:`memory` above what there was at the beginning, sampled every ten milliseconds."""
    before, peaks, done = {name: memory(name) for name in names}, dict.fromkeys(names, 0), threading.Event()

    def watch() -> None:
        while not done.wait(0.01):
            for name in names:
                peaks[name] = max(peaks[name], memory(name) - before[name])

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield peaks
    finally:
        done.set()
        watcher.join()
