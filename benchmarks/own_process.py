"""A measurement in a process of its own, so that memory that an earlier one left behind does not count."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
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
