"""Videos, their scenes, and the one worker that reconstructs and asks them, in the order in which it was asked.

Everything is bounded: the videos on disk, the scenes in memory (the least recently used one goes first, and is
reconstructed again when it is asked for), the jobs that wait, the time and the memory of decoding.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, BinaryIO, TypeVar

import numpy as np
import torch

from vidllm.io.captures.bags import BAG_SUFFIXES
from vidllm.io.files import check_source
from vidllm.io.pictures import IMAGE_SUFFIXES
from vidllm.scene import Scene, VidLLM
from vidllm.serving.decoding import Plan, decoded

T = TypeVar("T")
MAX_MESSAGE, MAX_NAME = 600, 100  # characters
MESSAGE = 96 * 2**20  # bytes of a request that is no upload: a video of 64 MiB in base64, and what is around it
DISK_FULL = "no space is left on the server's disk; try again later"
CLOSE_S = 10.0
_CHUNK = 2**20


class Refused(ValueError):
    """What is not done: one line for whoever asked, and the status of HTTP."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Limits:
    """What a server gives at most. Bytes; seconds."""

    upload: int = 512 * 2**20  # bytes of one video
    disk: int = 4 * 2**30  # bytes of all videos that are kept
    memory: int = 2 * 2**30  # bytes of all scenes that are kept
    waiting: int = 64  # jobs
    frames: int = 64  # of a video
    decode_s: float = 120.0  # until a decoder is killed
    decode_memory: int = 4 * 2**30  # bytes of a decoder


@dataclass
class Video:
    """A video and what became of it; ``state``: stored, queued, decoding, reconstructing, ready or failed.

    ``done``: frames so far. ``jobs``: how many wait or run. ``held``: bytes of the scene in memory.
    """

    id: str
    name: str
    path: Path
    bytes: int
    created: int
    state: str = "stored"
    done: int = 0
    error: str = ""
    warnings: tuple[str, ...] = ()
    jobs: int = 0
    scene: Scene | None = None
    held: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        shown = ("id", "name", "bytes", "state", "done", "error")
        return {**{name: getattr(self, name) for name in shown}, "warnings": list(self.warnings)}


class Core:
    """A model, its videos and its worker; a context manager, since it has a thread and a temporary folder."""

    def __init__(self, model: VidLLM, limits: Limits = Limits()) -> None:
        self.model, self.limits = model, limits
        images, windows = model.processor.image_processor, model.model.config.windows
        most = min(limits.frames, windows.most)
        self._plan = Plan(min(images.num_frames, most), most, images.shorter_side, images.resize_mode,
                          images.patch_size, limits.decode_s, limits.decode_memory)  # fmt: skip
        self._temporary = TemporaryDirectory(prefix="vidllm-")
        self.folder = Path(self._temporary.name)
        self._videos: dict[str, Video] = {}  # the least recently used one first
        self._lock = threading.Lock()
        self._jobs: queue.Queue[tuple[Video, Callable[[Scene], Any], Future[Any]] | None] = queue.Queue(limits.waiting)
        self._worker = threading.Thread(target=self._work, name="vidllm worker", daemon=True)
        self._worker.start()

    def __enter__(self) -> Core:
        return self

    def __exit__(self, *_: object) -> None:
        """Jobs that wait are cancelled, the running one is waited for, though not for long."""
        while True:
            try:
                self._jobs.put_nowait(None)
                break
            except queue.Full:
                self._drop()
        self._worker.join(CLOSE_S)
        self._temporary.cleanup()

    # ---- videos -----------------------------------------------------------------------------------------------

    def keep(self, source: BinaryIO, name: str) -> Video:
        """Keep an upload; the same bytes are the same video. ``name`` is shown, and never a path.

        Refused where it is empty or too large, or there is no room beside videos that are being worked on.
        """
        name = "".join(c if c.isprintable() else " " for c in name.replace("\\", "/").rsplit("/", 1)[-1])
        name = name.strip()[:MAX_NAME] or "video"
        digest, size = hashlib.sha256(), 0
        with self._part() as (part, file):
            while chunk := source.read(_CHUNK):
                size += len(chunk)
                if size > self.limits.upload:
                    raise Refused(f"{name}: over {self.limits.upload:,} bytes; send a shorter or smaller video", 413)
                digest.update(chunk)
                file.write(chunk)
            if not size:
                raise Refused(f"{name}: the file is empty; record it again")
            suffix = Path(name).suffix.lower()
            suffix = suffix if suffix in IMAGE_SUFFIXES | BAG_SUFFIXES else ""
            digest.update(suffix.encode())
            found = f"file-{digest.hexdigest()[:32]}"
            with self._lock:
                video = self._videos.get(found)
                if video is None:
                    self._make_room(size)
                    path = self.folder / (found + suffix)
                    file.flush()
                    part.rename(path)
                    video = Video(found, name, path, size, int(time.time()))
                    self._videos[found] = video
        return video

    def local(self, path: str) -> Video:
        """A file or folder of this machine, for who may open it: never with a path that came over a network."""
        place = check_source(path).resolve()
        found = f"file-{hashlib.sha256(f'{place} {place.stat().st_mtime_ns}'.encode()).hexdigest()[:32]}"
        with self._lock:
            return self._videos.setdefault(found, Video(found, place.name, place, 0, int(time.time())))

    def video(self, found: str) -> Video:
        """The video of this id, which is then the most recently used one; Refused where there is none."""
        with self._lock:
            if found not in self._videos:
                raise Refused(f"there is no video {found[:MAX_NAME]!r} here (any more); upload it again", 404)
            self._videos[found] = self._videos.pop(found)
            return self._videos[found]

    def videos(self) -> list[Video]:
        """All, the most recently used one first."""
        with self._lock:
            return list(reversed(self._videos.values()))

    def remove(self, found: str) -> None:
        """Forget a video and its scene; Refused while it is worked on."""
        video = self.video(found)
        with self._lock:
            if video.jobs:
                raise Refused(f"{video.name}: is being worked on; remove it later", 409)
            self._forget(video)

    @contextmanager
    def _part(self) -> Iterator[tuple[Path, BinaryIO]]:
        part = self.folder / f"part-{threading.get_ident()}-{time.monotonic_ns()}"
        try:
            with part.open("xb") as file:
                yield part, file
        finally:
            part.unlink(missing_ok=True)

    def _make_room(self, size: int) -> None:
        """Forget the least recently used videos until ``size`` bytes fit."""
        used = sum(video.bytes for video in self._videos.values())
        for video in [video for video in self._videos.values() if not video.jobs]:
            if used + size <= self.limits.disk:
                break
            used -= video.bytes
            self._forget(video)
        if used + size > self.limits.disk:
            raise Refused("no room for another video now; try again later", 507)

    def _forget(self, video: Video) -> None:
        del self._videos[video.id]
        if video.path.parent == self.folder:
            video.path.unlink(missing_ok=True)

    # ---- jobs -------------------------------------------------------------------------------------------------

    def submit(self, video: Video, act: Callable[[Scene], T]) -> Future[T]:
        """What ``act`` will give for the video's scene, which is reconstructed before where it is not there.

        Refused where too many jobs wait. The future raises :class:`Refused` and nothing else.
        """
        future: Future[T] = Future()
        with self._lock:
            video.jobs += 1
            if video.scene is None and video.jobs == 1:
                video.state, video.done, video.error = "queued", 0, ""
        try:
            self._jobs.put_nowait((video, act, future))
        except queue.Full:
            self._release(video)
            raise Refused(f"{self.limits.waiting} requests wait already; try again in some seconds", 503) from None
        return future

    def _release(self, video: Video) -> None:
        with self._lock:
            video.jobs -= 1
            if not video.jobs and video.state == "queued":
                video.state = "stored"

    def _drop(self) -> None:
        """Cancel one job that waits."""
        try:
            job = self._jobs.get_nowait()
        except queue.Empty:
            return
        if job is not None:
            job[2].cancel()
            self._release(job[0])

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            video, act, future = job
            tell: Callable[[], None] | None = None
            if future.set_running_or_notify_cancel():
                try:
                    tell = partial(future.set_result, act(self._scene(video)))
                except BaseException as error:
                    tell = partial(future.set_exception, refusal(error, video))
            self._release(video)
            self._bound(video)
            if tell is not None:
                tell()  # last: whoever hears it finds a video that is not worked on
            del job, video, act, future, tell  # nothing is held while the next job is waited for

    def _scene(self, video: Video) -> Scene:
        if video.scene is None:
            try:
                video.state, video.done = "decoding", 0
                found = decoded(video.path, self.folder / f"{video.id}.frames", self._plan,
                                lambda done: setattr(video, "done", done))  # fmt: skip
                video.state, video.warnings = "reconstructing", tuple(_shown(text, video) for text in found.warnings)
                # the source is no path that is there, so that nothing opens the video again in this process
                frames = replace(found.frames, source=f"{video.id}/{video.name}")
                video.scene = self.model.reconstruct(frames, cameras=found.cameras)
            except BaseException as error:
                video.state, video.error = "failed", str(refusal(error, video))
                raise
            video.warnings += video.scene.warnings
        video.state = "ready"
        return video.scene

    def _bound(self, latest: Video) -> None:
        """Drop the scenes that were used least recently until the others fit."""
        with self._lock:
            latest.held = 0 if latest.scene is None else held_bytes(latest.scene)
            used = sum(video.held for video in self._videos.values())
            for video in self._videos.values():
                if used <= self.limits.memory:
                    break
                if video is not latest and video.held:
                    used -= video.held
                    video.scene, video.held = None, 0
                    video.state = "queued" if video.jobs else "stored"


def refusal(error: BaseException, video: Video) -> Refused:
    """An error as one line for a stranger: the video's name in place of paths, nothing of our faults but their kind."""
    text = _shown(" ".join(str(error).split()), video)
    if isinstance(error, Refused):
        return error
    if isinstance(error, ValueError):
        return Refused(text[:MAX_MESSAGE], 422)
    if is_disk_full(error):
        return Refused(DISK_FULL, 507)
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or "allocate memory" in text:
        return Refused(f"{video.name}: out of memory; send a shorter video", 507)
    logging.getLogger(__name__).error("a fault of vidllm itself", exc_info=error)
    return Refused(f"{video.name}: a fault of vidllm itself ({type(error).__name__}); its log says more", 500)


def is_disk_full(error: BaseException) -> bool:
    """Whether nothing more could be written."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def _shown(text: str, video: Video) -> str:
    return text.replace(str(video.path), video.name)


def held_bytes(scene: Scene) -> int:
    """Bytes of all tensors and arrays that a scene holds beside its model, each storage once."""
    found: dict[int, int] = {}
    seen: set[int] = set()

    def visit(value: Any) -> None:
        if id(value) in seen:
            return
        seen.add(id(value))
        if isinstance(value, torch.Tensor):
            found[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes()
        elif isinstance(value, np.ndarray):
            whole = value if value.base is None or not isinstance(value.base, np.ndarray) else value.base
            found[whole.__array_interface__["data"][0]] = whole.nbytes
        elif isinstance(value, dict | list | tuple):
            for item in value.values() if isinstance(value, dict) else value:
                visit(item)
        elif type(value).__module__.startswith("vidllm.") and not isinstance(value, torch.nn.Module):
            visit(getattr(value, "__dict__", {}))

    visit(scene)
    return sum(found.values())
