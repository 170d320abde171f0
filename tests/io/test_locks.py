"""One process at a time in a folder, and what signals do."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import pytest

from vidllm.io.processes import LOCK_FILE, Stopped, StopRequest, folder_lock, sigterm_raises

HOLDS = """
import sys, time
from vidllm.io.processes import folder_lock
with folder_lock(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


def test_another_process_is_named_and_a_dead_one_is_taken_over(tmp_path):
    child = subprocess.Popen([sys.executable, "-c", HOLDS, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None and child.stdout.readline() == "held\n"
        with pytest.raises(ValueError, match=rf"{tmp_path}: another process .*process {child.pid} on"), (
            folder_lock(tmp_path)
        ):
            pass
    finally:
        child.kill()
        child.wait()
        child.stdout.close()
    assert (tmp_path / LOCK_FILE).exists()  # the dead process could not remove it
    with folder_lock(tmp_path), pytest.raises(ValueError, match=f"process {os.getpid()} on"), folder_lock(tmp_path):
        pass
    assert not list(tmp_path.iterdir())


def test_the_first_signal_is_noted_and_the_second_raises():
    before = signal.getsignal(signal.SIGTERM)
    with StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.signum == signal.SIGTERM
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            signal.sigtimedwait([], 1)
    assert signal.getsignal(signal.SIGTERM) is before
    with pytest.raises(Stopped) as caught, sigterm_raises():
        os.kill(os.getpid(), signal.SIGTERM)
    assert caught.value.exit_code == 143


def test_other_threads_change_no_handler():
    told = []

    def work():
        with StopRequest() as stop, sigterm_raises():
            told.append(stop.signum)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert told == [0]
