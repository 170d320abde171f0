"""Decoding of untrusted videos in separate processes with limited memory and time.

The process returns JSON lines over a pipe and tensors in a safetensors file, so nothing that it sends can be executed.
Where the system supports it, processes are forked from one with all libraries loaded, so that they start quickly.
Recordings (:mod:`vidllm.io.captures`) are read there too, with their cameras and depth; the folder to which they are
unpacked is removed however the process ends.
"""

from __future__ import annotations

import json
import multiprocessing
import shutil
import signal
import tempfile
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import load_file, save_file

from vidllm.io.cameras.given import GivenCameras
from vidllm.io.captures import open_capture
from vidllm.io.files import parse_json
from vidllm.io.frames import Frames, joined
from vidllm.io.video import iter_frames
from vidllm.long_video.frame_choice import choose_frames
from vidllm.scene_file import SceneFile, as_bytes, flat

MAX_LINE = 2**20  # bytes of one message of the process
ATTEMPTS = 2  # if the process was killed from outside
_RESULT = "frames"


@dataclass(frozen=True)
class Plan:
    """Frames that a model needs (minimum and maximum number, shorter side in pixels, ...) and limits of the process.

    ``seconds`` until it is killed; ``memory`` in bytes in addition to its memory at the start.
    """

    least: int
    most: int
    shorter_side: int
    resize: Any
    patch_size: int
    seconds: float
    memory: int


@dataclass(frozen=True)
class Decoded:
    """The frames of a video, the known cameras of a recording (None for other videos), and warnings."""

    frames: Frames
    cameras: GivenCameras | None
    warnings: list[str]


class _Killed(ValueError):
    """The process ended without a message."""


def decoded(path: Path, folder: Path, plan: Plan, progress: Callable[[int], None]) -> Decoded:
    """Read a video or a recording; ``progress`` is called with the number of frames so far.

    ``folder`` exists during the call. ValueError of one line if the video cannot be read, or takes more time or memory
    than ``plan`` allows.
    """
    for attempt in range(ATTEMPTS):
        try:
            folder.mkdir(exist_ok=True)
            return _attempt(path, folder, plan, progress)
        except _Killed:
            if attempt == ATTEMPTS - 1:
                raise
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    raise AssertionError


def _attempt(path: Path, folder: Path, plan: Plan, progress: Callable[[int], None]) -> Decoded:
    here, there = _context().Pipe(duplex=False)
    child = _context().Process(target=_read, args=(str(path), str(folder), plan, there), daemon=True)
    child.start()
    there.close()
    end = time.monotonic() + plan.seconds
    try:
        while True:
            if not here.poll(max(0.0, end - time.monotonic())):
                raise ValueError(f"{path}: not decoded within {plan.seconds:g} s; give a shorter or smaller video")
            told = parse_json(here.recv_bytes(MAX_LINE), f"{path}: its decoder")
            if "error" in told:
                raise ValueError(told["error"])
            if "values" in told:
                held = SceneFile(folder, {"values": told["values"]}, load_file(folder / _RESULT))
                return Decoded(held.build(Frames, "frames"), _cameras(held), told["warnings"])
            progress(told["frames"])
    except EOFError:
        raise _Killed(f"{path}: the process that decodes it was killed; try it again, or a smaller video") from None
    finally:
        child.kill()
        child.join()
        here.close()


def _cameras(held: SceneFile) -> GivenCameras | None:
    """The known cameras of a recording."""
    if "cameras.where" not in held.values["values"]:
        return None
    built = held.build(GivenCameras, "cameras")
    lens, poses = (None if each is None else np.asarray(each) for each in (built.intrinsics, built.poses))
    return replace(built, intrinsics=lens, poses=poses)


@cache
def _context() -> Any:
    """Forks of a process without threads if the system has these, else new processes."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


def _read(path: str, folder: str, plan: Plan, there: Connection) -> None:
    """The main function of the process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to its parent, which kills it
    _limit_memory(plan.memory)
    tempfile.tempdir = folder
    try:
        with warnings.catch_warnings(record=True) as doubts:
            warnings.simplefilter("always", UserWarning)
            capture = open_capture(path)
            given = None if capture is None else capture.cameras
            chosen, parts = choose_frames(path, plan.least, plan.most), []
            for frame in iter_frames(path, chosen, shorter_side=plan.shorter_side, resize=plan.resize,
                                     patch_size=plan.patch_size):  # fmt: skip
                parts.append(frame)
                there.send_bytes(json.dumps({"frames": len(parts)}).encode())
            frames = joined(parts)
            values, tensors = flat(frames=frames, **({} if given is None else {"cameras": given.of(frames)}))
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}
                  | {"frames.images": as_bytes(frames.images).contiguous()}, Path(folder, _RESULT))  # fmt: skip
        unpacked = None if capture is None or capture.held is None else str(capture.held.folder)
        said = [str(doubt.message) for doubt in doubts]
        told: dict[str, Any] = {
            "values": values, "warnings": [text.replace(unpacked, path) if unpacked else text for text in said],
        }  # fmt: skip
    except Exception as error:
        text = str(error) if isinstance(error, ValueError | OSError) else f"{path}: the decoder failed ({error!r})"
        if isinstance(error, MemoryError) or "allocate memory" in text:
            text = f"{path}: decoding it takes over {plan.memory:,} bytes of memory; give a smaller video"
        told = {"error": text}
    with suppress(BrokenPipeError):
        there.send_bytes(json.dumps(told).encode())


def _limit_memory(more: int) -> None:
    """Allow at most so many more bytes of memory, if the system supports it."""
    with suppress(ImportError, OSError, ValueError, IndexError):
        import resource

        held = int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_DATA, (held + more, held + more))
