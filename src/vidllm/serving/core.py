"""Videos, their scenes, and the one worker thread that runs the model, in the order of the requests.

Everything is bounded: the videos on disk, the scenes in memory (the least recently used one is dropped first, and
reconstructed again on request), the waiting jobs, the time and the memory of decoding.
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
MESSAGE = 96 * 2**20  # bytes of a request that is no upload: room for a video of 64 MiB in base64
CLOSE_S = 10.0
_CHUNK = 2**20


class Refused(ValueError):
    """A request that is refused: one line for the client, and the HTTP status."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Limits:
    """Limits of a server. Bytes; seconds."""

    upload: int = 512 * 2**20  # size of one video
    disk: int = 4 * 2**30  # size of all stored videos
    memory: int = 2 * 2**30  # size of all scenes
    waiting: int = 64  # waiting jobs
    frames: int = 64  # frames per video
    decode_s: float = 120.0  # time until a decoder is killed
    decode_memory: int = 4 * 2**30  # memory of a decoder


@dataclass
class Video:
    """A video and its state: stored, queued, decoding, reconstructing, ready or failed.

    ``done``: frames decoded so far. ``jobs``: number of waiting and running jobs. ``held``: bytes of the scene.
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
    """A model, its videos and its worker; a context manager that owns a thread and a temporary folder."""

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
        """Cancel waiting jobs, and wait up to ``CLOSE_S`` seconds for the running one."""
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
        """Store an upload; equal bytes are the same video. ``name`` is only shown, never used as a path.

        Refused if it is empty or too large, or if videos in use fill the disk limit.
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
        """A file or folder of this machine; the path must not come from the network."""
        place = check_source(path).resolve()
        found = f"file-{hashlib.sha256(f'{place} {place.stat().st_mtime_ns}'.encode()).hexdigest()[:32]}"
        with self._lock:
            return self._videos.setdefault(found, Video(found, place.name, place, 0, int(time.time())))

    def video(self, found: str) -> Video:
        """The video with this id, which becomes the most recently used one; Refused if there is none."""
        with self._lock:
            if found not in self._videos:
                raise Refused(f"there is no video {found[:MAX_NAME]!r} here (any more); upload it again", 404)
            self._videos[found] = self._videos.pop(found)
            return self._videos[found]

    def videos(self) -> list[Video]:
        """All videos, the most recently used one first."""
        with self._lock:
            return list(reversed(self._videos.values()))

    def remove(self, found: str) -> None:
        """Delete a video and its scene; Refused while it is in use."""
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
        """Delete the least recently used videos until ``size`` bytes fit."""
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
        """The future result of ``act`` on the video's scene, which is reconstructed first if necessary.

        Refused if too many jobs wait. The future raises only :class:`Refused`.
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
        """Cancel one waiting job."""
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
                tell()  # last: the video is no longer in use then
            del job, video, act, future, tell  # keep no scene alive while waiting for the next job

    def _scene(self, video: Video) -> Scene:
        if video.scene is None:
            try:
                video.state, video.done = "decoding", 0
                found = decoded(video.path, self.folder / f"{video.id}.frames", self._plan,
                                lambda done: setattr(video, "done", done))  # fmt: skip
                video.state, video.warnings = "reconstructing", tuple(_shown(text, video) for text in found.warnings)
                # the source is not an existing path, so that this process never opens the video
                frames = replace(found.frames, source=f"{video.id}/{video.name}")
                video.scene = self.model.reconstruct(frames, cameras=found.cameras)
            except BaseException as error:
                video.state, video.error = "failed", str(refusal(error, video))
                raise
            video.warnings += video.scene.warnings
        video.state = "ready"
        return video.scene

    def _bound(self, latest: Video) -> None:
        """Drop the least recently used scenes until the others fit."""
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


def refusal(error: BaseException, video: Video | None = None) -> Refused:
    """An error as one line for a client: names of videos instead of paths, and no details of internal errors."""
    if isinstance(error, Refused):
        return error
    text = " ".join(str(error).split())
    name, text = ("", text) if video is None else (f"{video.name}: ", _shown(text, video))
    if isinstance(error, ValueError):
        return Refused(text[:MAX_MESSAGE], 400 if video is None else 422)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return Refused("no space is left on the server's disk; try again later", 507)
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or "allocate memory" in text:
        return Refused(f"{name}out of memory; send a shorter video", 507)
    logging.getLogger(__name__).error("internal error", exc_info=error)
    return Refused(f"{name}internal error ({type(error).__name__}); see the server's log", 500)


def _shown(text: str, video: Video) -> str:
    return text.replace(str(video.path), video.name)


def held_bytes(scene: Scene) -> int:
    """Bytes of all tensors and arrays of a scene without its model, each storage counted once."""
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
