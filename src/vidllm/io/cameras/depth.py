"""Known depth maps: metres along the optical axis, 0 = unknown, with the pictures' field of view, of any size."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float
from PIL import Image

from vidllm.io.files import InputError, check_regular_file, naming, read_npy
from vidllm.io.pictures import number_of, stem

SAME_SHAPE = 0.02  # relative difference of the aspect ratios of depth and picture that rounding explains
MILLIMETRES = 0.001


@dataclass(frozen=True)
class DepthMaps:
    """Depth of a source's frames: ``read(number, name)`` returns (h,w) metres, None for a frame without a map."""

    read: Callable[[int, str], np.ndarray | None]
    where: str = "given depth"


def read_depth_folder(folder: str | Path) -> DepthMaps:
    """The maps in a folder, one per frame by the name of its picture or the number in it; ValueError without any."""
    folder = Path(folder).expanduser()
    files = [f for f in folder.iterdir() if f.suffix.lower() in (".png", ".npy", ".exr")] if folder.is_dir() else []
    if not files:
        raise ValueError(f"{folder}: no depth map here; expected a folder of 16-bit PNG (millimetres) or .npy or "
                         ".exr (metres)")  # fmt: skip
    by_name = {stem(file.name): file for file in files}
    numbers = {number_of(name): file for name, file in by_name.items()}

    def read(number: int, name: str) -> np.ndarray | None:
        file = by_name.get(stem(name), numbers.get(number) if len(numbers) == len(files) else None)
        return None if file is None else read_depth_file(file)

    return DepthMaps(read, str(folder))


def read_depth_file(path: Path, unit_m: float = MILLIMETRES) -> Float[np.ndarray, "h w"]:
    """Metres of a 16-bit PNG in ``unit_m``, or of a .npy or OpenEXR in metres; ValueError for any other file."""
    if path.suffix.lower() == ".npy":
        metres = read_npy(path)
    elif path.suffix.lower() == ".exr":
        metres = _read_exr(path)
    else:
        try:
            with Image.open(check_regular_file(path)) as image:
                mode, values = image.mode, np.asarray(image)
        except ValueError:
            raise
        except Exception as error:  # Pillow raises many kinds for damaged files
            raise ValueError(f"{path}: not a readable depth picture ({error}); export it again") from error
        if not mode.startswith("I"):
            raise ValueError(f"{path}: expected depth as a 16-bit grey PNG, got mode {mode}; export it again")
        metres = values * np.float32(unit_m)
    if metres.ndim != 2 or not metres.size:
        raise ValueError(f"{path}: expected a depth map (h, w), got {metres.shape}")
    return np.where(np.isfinite(metres) & (metres > 0), metres, 0).astype(np.float32)


def _read_exr(path: Path) -> np.ndarray:
    """The depth channel of an OpenEXR file: Z, R (Record3D's) or Y, or the only one. Extra `exr`."""
    try:
        import OpenEXR
    except ImportError:
        raise InputError(f"{path}: depth as EXR needs OpenEXR: pip install 'vidllm[exr]'; or convert it to "
                         ".npy (metres) or 16-bit PNG (millimetres)") from None  # fmt: skip
    check_regular_file(path)
    with naming(path, "export it again"), redirect_stdout(io.StringIO()):  # it prints warnings
        low, high = OpenEXR.File(str(path), header_only=True).header()["dataWindow"]
        width, height = (int(side) for side in high.astype(np.int64) - low + 1)
        if width * height > (Image.MAX_IMAGE_PIXELS or 0):
            raise ValueError(f"{path}: a depth map of {width}x{height} pixels; export it again")
        channels = OpenEXR.File(str(path), separate_channels=True).channels()
    name = next((n for n in ("Z", "R", "Y", *channels) if n in channels), None)
    if name is None or (len(channels) > 1 and name not in ("Z", "R", "Y")):
        raise ValueError(f"{path}: no channel of depth among {', '.join(channels)[:80]}; expected Z, R or Y")
    return np.asarray(channels[name].pixels, np.float32)


def check_shape(depth_m: np.ndarray, size: Sequence[int], where: str) -> None:
    """ValueError unless depth has the aspect ratio of pictures of (H, W)."""
    if abs(depth_m.shape[0] * size[1] / (depth_m.shape[1] * size[0]) - 1) > SAME_SHAPE:
        raise ValueError(f"{where}: depth of {depth_m.shape[1]}x{depth_m.shape[0]} pixels does not have the aspect "
                         f"ratio of the pictures ({size[1]}x{size[0]}); align depth to the pictures")  # fmt: skip


def nearest_depth(
    depth_m: Float[np.ndarray, "h w"], to_depth: Float[np.ndarray, "3 3"], size: tuple[int, int]
) -> Float[np.ndarray, "H W"]:
    """Depth at every pixel of a (H, W) grid, from the nearest pixel of the map (no interpolation across edges), 0
    outside.

    ``to_depth``: scale and shift of each axis from pixels of the grid to those of the map, centres at +0.5.
    """
    height, width = size
    columns = np.floor(to_depth[0, 0] * (np.arange(width) + 0.5) + to_depth[0, 2]).astype(np.int64)
    rows = np.floor(to_depth[1, 1] * (np.arange(height) + 0.5) + to_depth[1, 2]).astype(np.int64)
    inside = ((rows >= 0) & (rows < depth_m.shape[0]))[:, None] & ((columns >= 0) & (columns < depth_m.shape[1]))
    sampled = depth_m[np.clip(rows, 0, depth_m.shape[0] - 1)[:, None], np.clip(columns, 0, depth_m.shape[1] - 1)]
    return np.where(inside, sampled, np.float32(0))
