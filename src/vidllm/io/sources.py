"""Check a path to pictures or a video before it is opened."""

from __future__ import annotations

import re
from pathlib import Path

_URL = re.compile(r"[a-z][a-z0-9+.-]+:/", re.IGNORECASE)


class InputError(ValueError):
    """An input that cannot be read: one line naming the input, what is wrong with it, and the remedy."""


def check_source(path: str | Path) -> Path:
    """The path of an existing regular file or folder, `~` expanded.

    Raises:
        InputError: an empty name, a URL, nothing of this name, or a pipe, socket or device (reading one may never end).
    """
    text = str(path)
    if not text.strip():
        raise InputError("the video's name is empty; give a video file or a folder of pictures")
    if _URL.match(text):
        raise InputError(f"{text}: URLs are not opened; download the file and give its path")
    try:
        found = Path(text).expanduser()
    except RuntimeError:  # the home of a user who does not exist
        found = Path(text)
    if found.is_dir() or found.is_file():
        return found
    if found.exists():
        raise InputError(f"{text}: not a file or folder but a pipe or device; save the video to a file first")
    raise InputError(f"{text}: no such file or folder; check the path")
