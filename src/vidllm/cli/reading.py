"""Values of options, checked before a model is loaded, and the printing of results."""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vidllm.io.atomic import clear_leftovers_of

if TYPE_CHECKING:
    from vidllm.given_cameras import GivenCameras
    from vidllm.model.known_scale import KnownLength, KnownScale


def point(text: str) -> tuple[float, float, float]:
    """``X,Y,Z`` as three finite numbers in metres."""
    try:
        x, y, z = (float(word) for word in text.split(","))
    except ValueError:
        raise ValueError(f"--at: expected three numbers X,Y,Z in metres, received {text!r}") from None
    if not all(math.isfinite(v) for v in (x, y, z)):
        raise ValueError(f"--at: expected finite numbers, received {text!r}")
    return x, y, z


def seeds(text: str) -> range:
    """``A:B`` as the seeds A to B - 1; a single number is one seed."""
    first, _, last = text.partition(":")
    if not (first.isdecimal() and (last.isdecimal() or (not last and ":" not in text))):
        raise ValueError(f"--seeds: expected A:B with whole numbers, received {text!r}")
    span = range(int(first), int(last) if last else int(first) + 1)
    if not span:
        raise ValueError(f"--seeds: {text} has no seed; expected A:B with A below B")
    return span


def size(text: str) -> tuple[int, int]:
    """``HxW`` as even pixels (height, width)."""
    height, _, width = text.lower().partition("x")
    if not (height.isdecimal() and width.isdecimal()) or min(int(height), int(width)) < 2:
        raise ValueError(f"--size: expected HxW in pixels, received {text!r}")
    if int(height) % 2 or int(width) % 2:
        raise ValueError(f"--size: expected even sides (video has colour at half resolution), received {text!r}")
    return int(height), int(width)


def frames(count: int | None) -> int | None:
    """A number of frames, at least one, or None for the model's own."""
    if count is not None and count < 1:
        raise ValueError(f"--frames: expected at least 1, received {count}")
    return count


def known_scale(scale: float | None, camera_height: float | None, length: str | None) -> KnownScale | None:
    """``--scale``, ``--camera-height``, ``--known-length``: None without any, ValueError with several or wrong ones."""
    from vidllm.model.known_scale import KnownScale

    if scale is None and camera_height is None and length is None:
        return None
    return KnownScale(scale, camera_height, None if length is None else known_length(length))


def known_cameras(
    intrinsics: str | None, poses: str | None, scale: str | None, one_lens: bool | None = None
) -> GivenCameras | None:
    """``--intrinsics``, ``--poses``, ``--poses-scale``, ``--one-lens``: None without any, ValueError for wrong ones."""
    if scale is not None and poses is None:
        raise ValueError("--poses-scale is the unit of the poses; it needs --poses")
    if one_lens is not None and intrinsics is not None:
        raise ValueError("--one-lens has no effect beside --intrinsics; leave one of them out")
    if intrinsics is None and poses is None and one_lens is None:
        return None
    from vidllm.given_cameras import read_cameras

    return read_cameras(intrinsics, poses, None if scale is None else scale == "metric", one_lens)


def known_length(text: str) -> KnownLength:
    """``FRAME:U,V:U,V=M`` as a known length."""
    from vidllm.model.known_scale import KnownLength

    where, _, metres = text.partition("=")
    try:
        frame, start, end = where.split(":")
        (u, v), (s, t) = ((float(x) for x in pair.split(",")) for pair in (start, end))
        return KnownLength(int(frame), (u, v), (s, t), float(metres))
    except ValueError:
        raise ValueError(f"--known-length: expected FRAME:U,V:U,V=METRES, received {text!r}") from None


def source(path: str) -> None:
    """ValueError when there is no such file or folder, before a model is loaded for it."""
    from vidllm.io.sources import check_source

    check_source(path)


def is_saved_scene(path: str) -> bool:
    """Whether a folder in place of a video holds a saved scene, whole or damaged (what ``--format scene`` writes)."""
    if not Path(path).expanduser().is_dir():
        return False
    from vidllm import scene_file

    return scene_file.is_saved_scene(path)


def formats(text: str, known: tuple[str, ...]) -> list[str]:
    """Comma-separated export formats, each once."""
    names = list(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        raise ValueError(f"--format: unknown format {', '.join(unknown) or repr(text)}; choose from {', '.join(known)}")
    return names


def writable(path: str) -> Path:
    """The path of an output; ValueError at once where nothing can be written, before minutes are spent.

    What killed commands left half written there is removed.
    """
    parent = Path(path).absolute().parent
    while not parent.exists() and parent != parent.parent:
        parent = parent.parent
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise ValueError(f"{path}: cannot write there ({parent} is not a writable folder)")
    clear_leftovers_of(path)
    return Path(path)


def writable_folder(path: str) -> Path:
    """As :func:`writable`, for an output that is a folder."""
    if Path(path).exists() and not (Path(path).is_dir() and os.access(path, os.W_OK | os.X_OK)):
        raise ValueError(f"{path}: cannot write there (not a writable folder)")
    return writable(path)


def print_json(value: Any) -> None:
    """JSON on standard output; numbers that are not finite become null."""
    print(json_text(value))


def json_text(value: Any) -> str:
    """``value`` as JSON on one line; numbers that are not finite become null."""
    return json.dumps(_plain(value), ensure_ascii=False, allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def note(text: str) -> None:
    """A line of progress on standard error."""
    print(text, file=sys.stderr, flush=True)


class Progress:
    """``what 12/200, 3 min left`` on standard error, at most once in five seconds and at the end."""

    def __init__(self, what: str, total: int | None) -> None:
        self.what, self.total = what, total
        self.begin = self.told = time.monotonic()

    def __call__(self, done: int) -> None:
        """Tell how much is done."""
        now = time.monotonic()
        if self.total is None:
            note(f"{self.what} {done}")
            return
        if done < self.total and now - self.told < 5:
            return
        self.told = now
        left = (now - self.begin) / max(done, 1) * (self.total - done)
        shown = f"{left / 60:.0f} min" if left > 90 else f"{left:.0f} s"
        note(f"{self.what} {done}/{self.total}, {shown} left")


def progress(what: str) -> Callable[[int, int], None]:
    """A progress line that hears (done, total); its time begins at the call of this function."""
    line = Progress(what, 0)

    def tell(done: int, total: int) -> None:
        line.total = total
        line(done)

    return tell


def words(given: list[str] | None) -> tuple[str, ...] | None:
    """Comma-separated words of an option that may be repeated; None where it was not given."""
    if given is None:
        return None
    return tuple(dict.fromkeys(word.strip() for text in given for word in text.split(",") if word.strip()))
