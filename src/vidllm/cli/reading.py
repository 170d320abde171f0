"""Values of options, checked before a model is loaded, and the printing of results."""

from __future__ import annotations

import gc
import json
import math
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vidllm.io.atomic import clear_leftovers_of

if TYPE_CHECKING:
    from vidllm.model.priors import KnownLength


def whole(text: str) -> int:
    """A whole number."""
    return _number(text, int, "a whole number")


def number(text: str) -> float:
    """A number."""
    return _number(text, float, "a number")


def _number(text: str, kind: Callable[[str], Any], name: str) -> Any:
    try:
        return kind(text)
    except ValueError:
        raise ValueError(f"expected {name}, received {text!r}") from None


def frames(text: str) -> int:
    """A number of frames, at least one."""
    count = whole(text)
    if count < 1:
        raise ValueError(f"expected at least 1, received {count}")
    return count


def point(text: str) -> tuple[float, float, float]:
    """``X,Y,Z`` as three finite numbers in metres."""
    try:
        x, y, z = (float(word) for word in text.split(","))
    except ValueError:
        raise ValueError(f"expected three numbers X,Y,Z in metres, received {text!r}") from None
    if not all(math.isfinite(v) for v in (x, y, z)):
        raise ValueError(f"expected finite numbers, received {text!r}")
    return x, y, z


def seeds(text: str) -> range:
    """``A:B`` as the seeds A to B - 1; a single number is one seed."""
    first, _, last = text.partition(":")
    if not (first.isdecimal() and (last.isdecimal() or (not last and ":" not in text))):
        raise ValueError(f"expected A:B with whole numbers, received {text!r}")
    span = range(int(first), int(last) if last else int(first) + 1)
    if not span:
        raise ValueError(f"{text} has no seed; expected A:B with A below B")
    return span


def size(text: str) -> tuple[int, int]:
    """``HxW`` as even pixels (height, width)."""
    height, _, width = text.lower().partition("x")
    if not (height.isdecimal() and width.isdecimal()) or min(int(height), int(width)) < 2:
        raise ValueError(f"expected HxW in pixels, received {text!r}")
    if int(height) % 2 or int(width) % 2:
        raise ValueError(f"expected even sides (video has colour at half resolution), received {text!r}")
    return int(height), int(width)


def as_word(value: Any) -> str:
    """A parsed value as it is written on the command line."""
    if isinstance(value, range):
        return f"{value.start}:{value.stop}"
    if isinstance(value, tuple):
        return ("x" if isinstance(value[0], int) else ",").join(map(str, value))
    return str(value)


def known_length(text: str) -> KnownLength:
    """``FRAME:U,V:U,V=M`` as a known length."""
    from vidllm.model.priors import KnownLength

    where, _, metres = text.partition("=")
    try:
        frame, start, end = where.split(":")
        (u, v), (s, t) = ((float(x) for x in pair.split(",")) for pair in (start, end))
        return KnownLength(int(frame), (u, v), (s, t), float(metres))
    except ValueError:
        raise ValueError(f"--known-length: expected FRAME:U,V:U,V=METRES, received {text!r}") from None


def words(given: Sequence[str]) -> tuple[str, ...]:
    """Comma-separated words of an option that may be repeated, each once."""
    return tuple(dict.fromkeys(word.strip() for text in given for word in text.split(",") if word.strip()))


def writable(path: str) -> Path:
    """The path of an output; ValueError before any work is done if nothing can be written there.

    Incomplete files of killed commands are removed.
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


def check_room(folder: str | Path, need: int, what: str) -> None:
    """Print the bytes to be written and the free space; ValueError if they do not fit."""
    place = next(p for p in (Path(folder).absolute(), *Path(folder).absolute().parents) if p.is_dir())
    free = shutil.disk_usage(place).free
    told = f"{folder}: {what}, {need / 2**30:.3g} GiB to write, {free / 2**30:.3g} GiB free"
    if need > free:
        raise ValueError(f"{told}; free disk space or write less")
    note(told)


def has_desktop() -> bool:
    """Whether a browser can open a window here."""
    return sys.platform in ("darwin", "win32") or any(os.environ.get(n) for n in ("DISPLAY", "WAYLAND_DISPLAY"))


def show(as_json: bool, value: Any, lines: Iterable[str]) -> None:
    """A result on standard output: ``value`` as JSON, or ``lines``."""
    print(json_text(value) if as_json else "\n".join(lines))


def json_text(value: Any) -> str:
    """``value`` as JSON on one line; numbers that are not finite become null."""
    from vidllm.io.files import plain

    return json.dumps(plain(value), ensure_ascii=False, allow_nan=False)


def note(text: str) -> None:
    """A line of progress on standard error."""
    print(text, file=sys.stderr, flush=True)


@contextmanager
def first_imports() -> Iterator[None]:
    """Context in which torch is imported: Python's garbage collection is off, and leaves alone what was made here.

    It would go through the objects of all modules again and again, 0.2 s. No effect where torch is imported already.
    """
    if "torch" in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        gc.enable()


def begin(what: str) -> None:
    """The step that begins, on standard error if that is a terminal."""
    if sys.stderr.isatty():
        note(f"vidllm: {what} ...")


class Progress:
    """``what 12/200, 3 min left`` on standard error, at most once in five seconds and at the end; begins when made."""

    def __init__(self, what: str, total: int = 0) -> None:  # 0: unknown
        self.what, self.total = what, total
        self.begin = self.told = time.monotonic()

    def __call__(self, done: int, total: int | None = None) -> None:
        """Report that ``done`` items are complete."""
        now, total = time.monotonic(), self.total if total is None else total
        if (not total or done < total) and now - self.told < 5:
            return
        self.told = now
        if not total:
            note(f"{self.what} {done}")
            return
        left = (now - self.begin) / max(done, 1) * (total - done)
        shown = f"{left / 60:.0f} min" if left > 90 else f"{left:.0f} s"
        note(f"{self.what} {done}/{total}, {shown} left")
