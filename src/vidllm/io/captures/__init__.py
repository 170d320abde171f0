"""Recordings of phones, robots and programs, recognised by their content (docs/known_cameras.md).

    Record3D (.r3d, or its export as EXR and JPG) · Polycam's raw data · Stray Scanner · ARKitScenes · a folder with a
    transforms.json · RGB-D folders (our own form, TUM RGB-D) · rosbag2 and MCAP; each as a folder or an archive of one

Readers return the pictures or the video, intrinsics (pixel centres at +0.5), world-from-camera (OpenCV axes, metres),
depth, and the up direction of that world. They raise only ValueError, with a message of one line.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from vidllm.io.captures.archives import Unpacked, is_archive, unpacked
from vidllm.io.captures.bags import read_bag
from vidllm.io.captures.capture import Capture, lone_capture
from vidllm.io.captures.folders import read_clip, read_transforms, read_tum
from vidllm.io.captures.phones import read_arkitscenes, read_polycam, read_record3d, read_stray
from vidllm.io.files import InputError, check_source

__all__ = ["FORMS", "Capture", "open_capture"]

Reader = Callable[[Path], Capture | None]
_READERS: tuple[Reader, ...] = (
    read_record3d, read_polycam, read_stray, read_arkitscenes, read_transforms, read_clip, read_tum, read_bag,
)  # fmt: skip
FORMS = "Record3D, Polycam, Stray Scanner, ARKitScenes, transforms.json, RGB-D, rosbag2 or MCAP"


def open_capture(source: str | Path) -> Capture | None:
    """The recording at a path; None for other paths (a video file, a folder of pictures).

    Raises:
        InputError: the path does not exist, or is an archive that is damaged, unsafe or contains no recording.
        ValueError: a recording is incomplete; the message names what is missing.
    """
    path = check_source(source)
    if path.is_dir():
        return _first(_READERS, path, path, None)
    if not is_archive(path):
        return _first((read_bag,), path, path, None)
    held = unpacked(path)
    with held.named(path):
        found = _first(_READERS, held.folder, path, held)
    if found is None:
        raise InputError(f"{path}: an archive without a recording ({FORMS}); unpack it and give the video or the "
                         "folder of pictures in it")  # fmt: skip
    return found


def _first(readers: Sequence[Reader], place: Path, path: Path, held: Unpacked | None) -> Capture | None:
    for read in readers:
        found = read(place)
        if found is not None:
            return lone_capture(found, str(path), held)
    return None
