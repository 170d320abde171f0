"""Reading pictures: files of still formats, files with several pictures, and folders in the order of their names.

Folders are sorted naturally (`frame_10` after `frame_9`), or by value if all names are decimal numbers (0.1, 0.15, 0.2;
-2 before -1). No frame of a folder is skipped silently: a picture of an unsupported kind, a pipe or a broken link is an
error that names it.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, features
from torch import Tensor

from vidllm.io.files import InputError

try:  # HEIC is read where this package is installed
    from pillow_heif import register_heif_opener
except ImportError:
    register_heif_opener = None

_PLAIN = {".png", ".jpg", ".jpeg", ".jfif", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".mpo"}
_HEIF = {".heic", ".heif", ".hif"}
_OTHERS = _HEIF | {".avif", ".jp2", ".jxl", ".tga", ".gif", ".exr", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf"}
_AVIF = {".avif"} if "avif" in features.modules and features.check("avif") else set()  # Pillow 11.3 and later
IMAGE_SUFFIXES = frozenset(_PLAIN | _AVIF | (_HEIF if register_heif_opener else set()))
UNREAD_SUFFIXES = frozenset(_OTHERS) - IMAGE_SUFFIXES  # pictures that cannot be read from a folder here
UNREAD_HEIF = frozenset(_HEIF) - IMAGE_SUFFIXES
ORIENTATION = 0x0112  # EXIF's tag
DRAFT_GAP = 2.0  # as Pillow's own reducing_gap
_NUMBER = re.compile(r"[+-]?\d+(\.\d+)?(e[+-]\d\d+)?", re.ASCII)

if register_heif_opener:
    register_heif_opener()


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """Sorting key that puts `frame_10` after `frame_9`."""
    parts = re.split(r"(\d+)", name.lower())
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts if part]


def natural_order(names: Sequence[str]) -> list[int]:
    """Indices of file names in the order of a video: by value if all are decimal numbers, else naturally.

    A common prefix (`rgb_0.1.png`) is ignored. `1.9, 1.10, 1.11` are section numbers, not decimals: a fraction ends in
    zero although the fractions differ in length, which neither `str(float)` nor a fixed format writes.
    """
    stems = [os.path.splitext(name)[0] for name in names]
    shared = re.sub(r"[\d.]+$", "", os.path.commonprefix(stems))  # noqa: RUF071 (characters are meant)
    shared = "" if shared in ("-", "+") else shared
    values = [stem[len(shared) :] for stem in stems]
    if not values or not all(_NUMBER.fullmatch(value.lower()) for value in values) or _are_sections(values):
        return sorted(range(len(names)), key=lambda i: (natural_key(names[i]), names[i]))
    return sorted(range(len(names)), key=lambda i: (Decimal(values[i]), names[i]))


def _are_sections(values: Sequence[str]) -> bool:
    fractions = [value.partition(".")[2] for value in values if "." in value and "e" not in value.lower()]
    padded = any(len(fraction) > 1 and fraction.endswith("0") for fraction in fractions)
    return padded and len({len(fraction) for fraction in fractions}) > 1


def list_images(folder: Path) -> list[Path]:
    """The pictures of a folder in order (`natural_order`); hidden files and files of other kinds are left out.

    Raises:
        InputError: there is none; one is not a regular file (a pipe, a device, a broken link); or some are of a kind
            that cannot be read here and have no readable twin of the same name (as `a.jpg` beside `a.dng`).
    """
    files = [f for f in folder.iterdir() if not f.name.startswith(".")]
    pictures = [f for f in files if f.suffix.lower() in IMAGE_SUFFIXES and not f.is_dir()]
    twins = {f.stem for f in pictures}
    _refuse_unread(folder, sorted(f.name for f in files if f.suffix.lower() in UNREAD_SUFFIXES and f.stem not in twins))
    if not pictures:
        raise InputError(f"{folder}: no picture in this folder; expected files ending in {sorted(IMAGE_SUFFIXES)}")
    for picture in pictures:
        if not picture.is_file():
            raise InputError(f"{picture}: not a file (a pipe, a device or a broken link); remove it from the folder")
    return [pictures[i] for i in natural_order([f.name for f in pictures])]


def _refuse_unread(folder: Path, names: list[str]) -> None:
    if not names:
        return
    heif = any(Path(name).suffix.lower() in _HEIF for name in names)
    remedy = "pip install pillow-heif, or convert" if heif else "convert"
    shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    raise InputError(f"{folder}: {len(names)} pictures of a kind that cannot be read ({shown}); {remedy} them to PNG "
                     "or JPEG, or move them out of the folder")  # fmt: skip


def open_image(path: Path) -> Image.Image:
    """Read one picture as RGB, upright (EXIF orientation applied); of a file with several, the first one, with a
    warning.

    Raises `InputError` if it cannot be read.
    """
    return open_for(path, lambda size: size)[0]


Size = tuple[int, int]


def open_for(path: Path, least: Callable[[Size], Size]) -> tuple[Image.Image, Size]:
    """:func:`open_image` for a picture that will be downsized, perhaps already at a smaller size, and its (H, W) in the
    file.

    ``least``: function from the (H, W) of a picture to the size it will be resized to.
    """
    check_picture(path)
    with _readable(path), Image.open(path) as image:
        count = picture_count(image)
        turned = image.getexif().get(ORIENTATION, 1) > 4  # rows become columns
        size = (image.width, image.height) if turned else (image.height, image.width)
        decode_small(image, least(size))
        picture = to_rgb(image, str(path))
    if count > 1:
        warnings.warn(f"{path}: holds {count} pictures, of which the first is used; give this file alone as the source "
                      "for all of them", stacklevel=3)  # fmt: skip
    return picture, size


def decode_small(image: Image.Image, least: Size) -> None:
    """Let a JPEG be decoded at 1/2, 1/4 or 1/8 of its size, if both sides are multiples of this.

    At least ``DRAFT_GAP`` times the final (H, W) are kept, so that the result hardly differs.
    """
    short, long = sorted(image.size)
    fits = [f for f in (2, 4, 8) if short % f == 0 and long % f == 0
            and short >= f * DRAFT_GAP * min(least) and long >= f * DRAFT_GAP * max(least)]  # fmt: skip
    if fits and image.format == "JPEG":
        image.draft("RGB", (image.width // fits[-1], image.height // fits[-1]))


def check_picture(path: Path) -> None:
    """`InputError` for a picture that is missing, not a regular file, or of a kind that needs another package."""
    if not path.is_file():
        kind = "not a file" if path.exists() else "no such file"
        raise InputError(f"{path}: {kind}; check the path")
    if path.suffix.lower() in UNREAD_HEIF:
        raise InputError(f"{path}: HEIC pictures need another package; pip install pillow-heif, or convert it to JPEG")


@contextmanager
def _readable(path: str | Path) -> Iterator[None]:
    """Turn the errors of Pillow's readers (OSError, SyntaxError, TypeError, ...) into one line."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        reason = "its header asks for more memory than there is" if isinstance(error, MemoryError) else error
        raise InputError(f"{path}: not a readable picture ({reason}); convert it to PNG or JPEG") from error


def picture_count(image: Image.Image) -> int:
    """Number of pictures of equal size in a file: animated WebP, PNG and AVIF, TIFF pages, MPO.

    A photograph whose other pictures differ in size (a thumbnail, a gain map, a pyramid) counts as one.
    """
    count = int(getattr(image, "n_frames", 1))
    if count > 1 and image.format in ("MPO", "TIFF"):
        size = image.size
        alike = all(_size_of(image, number) == size for number in range(1, count))
        image.seek(0)
        return count if alike else 1
    return count


def _size_of(image: Image.Image, number: int) -> tuple[int, int] | None:
    """The size of one picture of several; None where an MPO's index points nowhere, as phones write it."""
    try:
        image.seek(number)
    except (OSError, SyntaxError, ValueError):
        if image.format == "MPO":
            return None
        raise
    return image.size


def pictures_in(path: Path) -> tuple[int, bool]:
    """(number of pictures, whether libav reads them as a video: an animated PNG). `InputError` if it cannot be read."""
    check_picture(path)
    with _readable(path), Image.open(path) as image:
        count = picture_count(image)
        return count, count > 1 and image.format == "PNG"


def read_pictures(path: Path, wanted: Sequence[int]) -> Iterator[tuple[int, Image.Image, float]]:
    """(number, RGB picture, time in seconds) of the wanted pictures of one file, ascending.

    Without durations (TIFF, MPO) the time is the number, one second a picture, as for a folder.
    """
    chosen, time_ms = set(wanted), 0.0
    with _readable(path), Image.open(path) as image:
        timed = image.format not in ("MPO", "TIFF")
        for number in range(max(chosen) + 1):
            image.seek(number)
            image.load()
            if number in chosen:
                yield number, to_rgb(image, str(path)), time_ms / 1000 if timed else float(number)
            time_ms += float(image.info.get("duration", 0))


def to_rgb(image: Image.Image, name: str) -> Image.Image:
    """A PIL picture as upright 8-bit RGB; alpha is dropped. Refuses 16-bit and float pictures.

    Upright RGB pictures are not copied.
    """
    if image.mode.startswith(("I", "F")):
        raise InputError(f"{name}: {image.mode} picture (16-bit or float, a depth map?); give 8-bit colour frames")
    with _readable(name):
        upright = ImageOps.exif_transpose(image) if image.getexif().get(ORIENTATION, 1) != 1 else image
        upright.load()
        return upright if upright.mode == "RGB" else upright.convert("RGB")


def array_to_image(frame: Any, name: str) -> Image.Image:
    """Turn one `(H, W, 3)` or `(3, H, W)` array or tensor, uint8 or float in [0, 1], into an RGB picture.

    Channels last is tried first, so a `(3, H, 3)` array counts as channels last.

    Raises:
        InputError: another shape or type, an empty picture, NaN, or values outside [0, 1].
    """
    is_float = isinstance(frame, Tensor) and frame.is_floating_point()
    array = frame.detach().cpu().float().numpy() if is_float else np.asarray(frame)
    if array.ndim != 3 or 3 not in (array.shape[-1], array.shape[0]) or array.size == 0:
        raise InputError(f"{name}: expected a non-empty (H, W, 3) or (3, H, W) frame, got shape {array.shape}")
    if array.shape[-1] != 3:
        array = array.transpose(1, 2, 0)
    if array.dtype == np.uint8:
        return Image.fromarray(np.ascontiguousarray(array))
    if not np.issubdtype(array.dtype, np.floating):
        raise InputError(f"{name}: expected uint8 or float pixels, got {array.dtype}; convert to uint8 in 0..255")
    if not np.isfinite(array).all():
        raise InputError(f"{name}: pixels hold NaN or infinity; clean the array first")
    low, high = float(array.min()), float(array.max())
    if low < 0 or high > 1:
        raise InputError(f"{name}: float pixels must lie in [0, 1], got [{low:g}, {high:g}]; divide by 255?")
    return Image.fromarray(np.ascontiguousarray((array * 255).round().astype(np.uint8)))


def item_to_image(item: Any, name: str) -> Image.Image:
    """Turn one item of a list source (a path, a PIL picture, an array or a tensor) into an RGB picture."""
    if isinstance(item, str | Path):
        return open_image(Path(item))
    if isinstance(item, Image.Image):
        return to_rgb(item, name)
    if not isinstance(item, np.ndarray | Tensor | list | tuple) and not hasattr(item, "__array__"):
        raise InputError(f"{name}: expected a path, a PIL picture, an array or a tensor, got {type(item).__name__}; "
                         "save a file object to disk and give its path")  # fmt: skip
    return array_to_image(item, name)


# ---- names of frames that are times or numbers ---------------------------------------------------------------------

_UNITS = {13: 1_000, 16: 1_000_000, 19: 1_000_000_000}  # digits of a time since 1970: milli-, micro-, nanoseconds


def stem(name: str) -> str:
    """A file name without folders and without suffixes of letters; decimals are kept (``1305031453.36.png``)."""
    return re.sub(r"(\.[A-Za-z][A-Za-z0-9]*)+$", "", name.replace("\\", "/").rsplit("/", 1)[-1])


def times_of(names: Sequence[str]) -> list[float] | None:
    """Times in seconds from names (without suffixes), or None if not all names are times, or if two are equal.

    A time is a number of seconds with a decimal point, or a whole number of 13, 16 or 19 digits: milli-, micro- or
    nanoseconds since 1970.
    """
    words = [stem(name) for name in names]
    if words and all(re.fullmatch(r"[0-9]{1,12}\.[0-9]{1,12}", word) for word in words):
        times = [float(word) for word in words]
    elif words and all(re.fullmatch(r"[0-9]+", word) for word in words) and len({len(word) for word in words}) == 1:
        unit = _UNITS.get(len(words[0]))
        if unit is None:
            return None
        times = [int(word) / unit for word in words]
    else:
        return None
    return times if len(set(times)) == len(times) else None


def number_of(name: str) -> int | None:
    """The whole number in a name (``frame-000012.color.png``: 12), None if it contains none, several or a decimal."""
    found = re.findall(r"[0-9]+", stem(name))
    return int(found[0]) if len(found) == 1 and len(found[0]) <= 18 else None
