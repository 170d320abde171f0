"""What stops a run, and a free port for two processes: shared by the tests of the loops."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from vidllm.training import loop


@contextmanager
def interrupted_at(step: int) -> Iterator[None]:
    """Ctrl-C at a step of whatever loop runs inside, which must let it through."""
    taken = loop.train_step

    def stops(run, number, *processes):
        if number == step:
            raise KeyboardInterrupt
        return taken(run, number, *processes)

    with pytest.MonkeyPatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(loop, "train_step", stops)
        yield


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
