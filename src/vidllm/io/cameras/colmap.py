"""COLMAP models: ``cameras`` and ``images``, as .bin or .txt. Poses are camera-from-world, pixel centres at +0.5."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from vidllm.io.cameras.matrices import poses_of_quaternions
from vidllm.io.cameras.records import Intrinsics, PerFrame, Poses, pinhole, refuse_lens, tell_distortion
from vidllm.io.files import check_regular_file, data_lines, has_file, number, read_text
from vidllm.io.pictures import stem, times_of

IN_METRES = "metres"  # in a comment of images.txt, where its unit is known
_FOLDERS = ("", "sparse/0", "sparse", "0", "colmap/sparse/0")
_MAX_LINE = 64 * 2**20
# COLMAP's models by their numbers in .bin: name, and names of the parameters; those of fisheye lenses are refused
_MODELS: dict[int, tuple[str, tuple[str, ...]]] = {
    0: ("SIMPLE_PINHOLE", ("f", "cx", "cy")),
    1: ("PINHOLE", ("fx", "fy", "cx", "cy")),
    2: ("SIMPLE_RADIAL", ("f", "cx", "cy", "k1")),
    3: ("RADIAL", ("f", "cx", "cy", "k1", "k2")),
    4: ("OPENCV", ("fx", "fy", "cx", "cy", "k1", "k2", "p1", "p2")),
    5: ("OPENCV_FISHEYE", ("",) * 8),
    6: ("FULL_OPENCV", ("fx", "fy", "cx", "cy", "k1", "k2", "p1", "p2", "k3", "k4", "k5", "k6")),
    7: ("FOV", ("",) * 5),
    8: ("SIMPLE_RADIAL_FISHEYE", ("",) * 4),
    9: ("RADIAL_FISHEYE", ("",) * 5),
    10: ("THIN_PRISM_FISHEYE", ("",) * 12),
    11: ("RAD_TAN_THIN_PRISM_FISHEYE", ("",) * 16),
}
_BY_NAME = dict(_MODELS.values())


@dataclass(frozen=True)
class _Camera:
    matrix: np.ndarray
    size: tuple[int, int]


@dataclass(frozen=True)
class _Image:
    name: str
    camera: int
    place: str
    turn: tuple[float, ...]  # w, x, y, z
    shift: tuple[float, ...]


def find_model(path: Path) -> Path | None:
    """The folder of the COLMAP model at a path (itself, its sparse/0, or one of its files), None without one."""
    if path.is_file():
        return path.parent if path.name in ("cameras.txt", "cameras.bin", "images.txt", "images.bin") else None
    folders = (path / name for name in _FOLDERS)
    return next((f for f in folders if _file(f, "cameras") is not None or _file(f, "images") is not None), None)


def _file(folder: Path, name: str) -> Path | None:
    return next((f for f in (folder / f"{name}.bin", folder / f"{name}.txt") if has_file(f)), None)


def read_colmap_intrinsics(folder: Path) -> Intrinsics:
    """One K if the model has one camera, else one per image name."""
    path = _file(folder, "cameras")
    if path is None:
        raise ValueError(f"{folder}: no cameras.txt or cameras.bin beside images; export the model again")
    cameras = _read_cameras(path)
    if len(cameras) == 1:
        only = next(iter(cameras.values()))
        return Intrinsics(only.matrix, only.size, str(path))
    images = _read_images(folder)
    for image in images:
        if image.camera not in cameras:
            raise ValueError(f"{image.place}: camera {image.camera} of {image.name} is not in {path.name}")
    sizes = {cameras[image.camera].size for image in images}
    if len(sizes) > 1:
        raise ValueError(f"{path}: pictures of {len(sizes)} sizes; the frames of a video have one")
    matrices = np.stack([cameras[image.camera].matrix for image in images])
    return Intrinsics(_keyed(matrices, images, folder), sizes.pop(), str(path))


def read_colmap_poses(folder: Path) -> Poses:
    """World-from-camera of every registered image."""
    images = _read_images(folder)
    path = _file(folder, "images")
    assert path is not None
    places = [image.place.removeprefix(f"{path}: ") for image in images]
    quaternions = np.array([[*image.turn[1:], image.turn[0]] for image in images])
    shifts = np.array([image.shift for image in images])
    camera_from_world = poses_of_quaternions(shifts, quaternions, places, path)
    poses = camera_from_world.copy()
    poses[:, :3, :3] = camera_from_world[:, :3, :3].transpose(0, 2, 1)
    with np.errstate(all="ignore"):
        poses[:, :3, 3] = -np.einsum("nij,nj->ni", poses[:, :3, :3], shifts)
    return Poses(_keyed(poses, images, folder), metric=True if _says_metres(path) else None)


def _keyed(matrices: np.ndarray, images: list[_Image], folder: Path) -> PerFrame:
    path = _file(folder, "images")
    names = [image.name for image in images]
    return PerFrame(matrices, [stem(name) for name in names], times_of(names), where=str(path),
                    places=[image.place.removeprefix(f"{path}: ") for image in images])  # fmt: skip


def _says_metres(path: Path) -> bool:
    if path.suffix != ".txt":
        return False
    with path.open("rb") as file:
        head = file.read(2000)
    return any(line.startswith(b"#") and IN_METRES.encode() in line for line in head.split(b"\n"))


# ---- cameras ------------------------------------------------------------------------------------------------------


def _read_cameras(path: Path) -> dict[int, _Camera]:
    cameras: dict[int, _Camera] = {}
    for number_, model, size, parameters, place in _binary_cameras(path) if path.suffix == ".bin" else _lines(path):
        if number_ in cameras:
            raise ValueError(f"{place}: camera {number_} occurs twice; keep one of them")
        cameras[number_] = _camera(model, size, parameters, place)
    if not cameras:
        raise ValueError(f"{path}: contains no camera")
    return cameras


_Row = tuple[int, str, tuple[int, int], list[float], str]


def _lines(path: Path) -> Iterator[_Row]:
    for line, text in data_lines(read_text(path)):
        place, words = f"{path}: line {line}", text.split()
        if len(words) < 4:
            raise ValueError(f"{place}: expected CAMERA_ID MODEL WIDTH HEIGHT PARAMS, got {text[:80]!r}")
        parameters = [number(word, place) for word in words[4:]]
        yield _whole(words[0], place), words[1], (_whole(words[3], place), _whole(words[2], place)), parameters, place


def _binary_cameras(path: Path) -> Iterator[_Row]:
    with _Reader(path) as reader:
        count = reader.count("cameras", 8 + 16 + 24)
        for index in range(count):
            place = f"{path}: camera {index + 1} of {count}"
            camera, model, width, height = reader.take("<IiQQ", place)
            if model not in _MODELS:
                raise ValueError(f"{place}: model number {model}, expected {min(_MODELS)} to {max(_MODELS)}; "
                                 "write it with an older COLMAP, or is the file damaged?")  # fmt: skip
            name, parameters = _MODELS[model]
            yield camera, name, (height, width), list(reader.take(f"<{len(parameters)}d", place)), place


def _camera(model: str, size: tuple[int, int], parameters: list[float], place: str) -> _Camera:
    if model not in _BY_NAME or not _BY_NAME[model][0]:
        raise refuse_lens(model[:40], place)
    names = _BY_NAME[model]
    if len(names) != len(parameters):
        raise ValueError(f"{place}: {len(parameters)} parameters of {model}, expected {len(names)}")
    if not all(0 < side < 10**6 for side in size):
        raise ValueError(f"{place}: a picture of {size[1]}x{size[0]} pixels")
    told = dict(zip(names, parameters, strict=True))
    fx, fy = told.get("fx", told.get("f", 0.0)), told.get("fy", told.get("f", 0.0))
    matrix = pinhole(fx, fy, told["cx"], told["cy"])
    tell_distortion(matrix, size, {n: v for n, v in told.items() if n[0] in "kp"}, place)
    return _Camera(matrix, size)


# ---- images -------------------------------------------------------------------------------------------------------


def _read_images(folder: Path) -> list[_Image]:
    path = _file(folder, "images")
    if path is None:
        raise ValueError(f"{folder}: no images.txt or images.bin beside cameras; export the model again")
    images = list(_binary_images(path) if path.suffix == ".bin" else _text_images(path))
    if not images:
        raise ValueError(f"{path}: contains no image")
    return images


def _text_images(path: Path) -> Iterator[_Image]:
    """Two lines an image; the second, with its points, may be blank."""
    points = False
    for line, content in _raw_lines(path):
        if points:
            points = False
            continue
        if not content.strip() or content.lstrip().startswith(b"#"):
            continue
        place = f"{path}: line {line}"
        try:
            words = content.decode("utf-8").split(maxsplit=9)
        except UnicodeDecodeError:
            raise ValueError(f"{place}: not UTF-8 text; is it a binary file?") from None
        if len(words) < 10:
            raise ValueError(f"{place}: expected IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME, got {len(words)} words")
        values = tuple(number(word, place) for word in words[1:8])
        yield _Image(words[9].strip(), _whole(words[8], place), place, values[:4], values[4:])
        points = True


def _raw_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    with check_regular_file(path).open("rb") as file:
        for line in range(1, 2**62):
            content = file.readline(_MAX_LINE + 1)
            if not content:
                return
            if len(content) > _MAX_LINE:
                raise ValueError(f"{path}: line {line}: over {_MAX_LINE} bytes; is it the right file?")
            yield line, content


def _binary_images(path: Path) -> Iterator[_Image]:
    with _Reader(path) as reader:
        count = reader.count("images", 4 + 56 + 4 + 1 + 8)
        for index in range(count):
            place = f"{path}: image {index + 1} of {count}"
            values = reader.take("<I7dI", place)
            name = reader.name(place)
            reader.skip(reader.take("<Q", place)[0] * 24, place)
            yield _Image(name, values[8], place, values[1:5], values[5:8])


def _whole(word: str, place: str) -> int:
    if not word.isascii() or not word.isdecimal() or len(word) > 18:
        raise ValueError(f"{place}: expected a whole number, got {word[:40]!r}")
    return int(word)


class _Reader:
    """A binary file; counts are checked against its length before use."""

    def __init__(self, path: Path) -> None:
        self.path = check_regular_file(path)
        self.length = self.path.stat().st_size
        self.file: BinaryIO = self.path.open("rb")

    def __enter__(self) -> _Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def _left(self) -> int:
        return self.length - self.file.tell()

    def count(self, what: str, least: int) -> int:
        """The number of records that follow, each of at least so many bytes."""
        (found,) = self.take("<Q", f"{self.path}: number of {what}")
        if found * least > self._left():
            raise ValueError(f"{self.path}: {found} {what} announced, but {self._left()} bytes follow; is it complete, "
                             "and a COLMAP file?")  # fmt: skip
        return int(found)

    def take(self, form: str, place: str) -> tuple[Any, ...]:
        """Values of a struct format."""
        size = struct.calcsize(form)
        content = self.file.read(size)
        if len(content) < size:
            raise ValueError(f"{place}: the file ends here; copy or export it again")
        return struct.unpack(form, content)

    def skip(self, size: int, place: str) -> None:
        """Go on by so many bytes."""
        if size > self._left():
            raise ValueError(f"{place}: {size} bytes announced, but {self._left()} follow; copy or export it again")
        self.file.seek(size, 1)

    def name(self, place: str) -> str:
        """A text that ends with a zero byte."""
        start = self.file.tell()
        text, end, _ = self.file.read(4097).partition(b"\0")
        if not end:
            raise ValueError(f"{place}: its name does not end within 4096 bytes; copy or export the file again")
        self.file.seek(start + len(text) + 1)
        try:
            return text.decode("utf-8")
        except UnicodeDecodeError:
            raise ValueError(f"{place}: its name is not UTF-8 text; copy or export the file again") from None
