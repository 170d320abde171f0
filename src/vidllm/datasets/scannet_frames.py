"""The frames of a ScanNet scene as exported folders, with the methods of the recording itself (:mod:`sens`).

    posed_images/SCENE/00000.jpg .png .txt          one frame in ten, as mmdetection3d and EmbodiedScan export
    color/0.jpg depth/0.png pose/0.txt intrinsic/   ScanNet's own SensReader

Colour and depth differ in size, each with its own intrinsics. The files hold K with pixel centres at whole numbers;
what is returned here has them at +0.5. Poses are world-from-camera in metres, infinite where tracking was lost.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8

from vidllm.datasets.sens import SensFile
from vidllm.export.depth_png import read_depth_png
from vidllm.io.cameras.matrices import half_centres, read_matrix
from vidllm.io.files import InputError, has_file
from vidllm.io.pictures import Size, open_for

COLOUR_SUFFIXES = (".jpg", ".jpeg", ".png")


def colour_pictures(folder: Path) -> dict[str, Path]:
    """The colour pictures of an exported folder by their numbers as written, in order; none of another folder."""
    split = (folder / "color").is_dir()  # as SensReader exports; else the .png files are depth
    found = {}
    for path in (folder / "color" if split else folder).iterdir():
        suffix = path.suffix.lower()
        if path.stem.isdecimal() and suffix in COLOUR_SUFFIXES and (split or suffix != ".png"):
            found[path.stem] = path
    return dict(sorted(found.items(), key=lambda pair: int(pair[0])))


class FolderFrames:
    """Frames of an exported folder, with the methods of the recording itself (:class:`SensFile`).

    Poses are world-from-camera in metres, infinite where tracking was lost.
    """

    def __init__(self, folder: Path) -> None:
        self.where = folder
        self._split = (folder / "color").is_dir()
        self._colour = colour_pictures(folder)
        self.names = list(self._colour)

    def _path(self, kind: str, frame: int, suffix: str) -> Path:
        if not 0 <= frame < len(self.names):
            raise ValueError(f"{self.where}: no frame {frame}; expected 0 to {len(self.names) - 1}")
        name = self.names[frame] + suffix
        return self.where / kind / name if self._split else self.where / name

    def colour(self, frame: int, least: Size | None = None) -> UInt8[np.ndarray, "H W 3"]:
        """The colour picture, perhaps smaller where it will be resized to ``least`` (H, W); read-only."""
        self._path("color", frame, "")
        return np.asarray(open_for(self._colour[self.names[frame]], lambda size: least or size)[0])

    def depth_m(self, frame: int) -> Float[np.ndarray, "h w"]:
        """Depth in metres, 0 = none."""
        path = self._path("depth", frame, ".png")
        try:
            return read_depth_png(path)
        except OSError as error:
            raise InputError(f"{path}: not a readable depth picture ({error}); export the scene again") from error

    def pose(self, frame: int) -> Float[np.ndarray, "4 4"]:
        """World-from-camera."""
        return read_matrix(self._path("pose", frame, ".txt"))

    @cached_property
    def _intrinsics(self) -> dict[str, np.ndarray | None]:
        names = {
            "color": ("intrinsic/intrinsic_color.txt", "intrinsic_color.txt", "intrinsic.txt"),
            "depth": ("intrinsic/intrinsic_depth.txt", "intrinsic_depth.txt", "depth_intrinsic.txt"),
        }
        found: dict[str, np.ndarray | None] = {}
        for kind, places in names.items():
            path = next((self.where / place for place in places if has_file(self.where / place)), None)
            found[kind] = None if path is None else half_centres(read_matrix(path), path)
        return found

    def intrinsics(self, kind: str) -> Float[np.ndarray, "3 3"] | None:
        """K of ``color`` or ``depth``, None where no file holds it."""
        return self._intrinsics[kind]


FrameSource = SensFile | FolderFrames
"""Frames that are read one at a time; ``where`` is their file or folder, ``names`` their numbers in the recording."""
