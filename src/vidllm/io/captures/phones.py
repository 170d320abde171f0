"""Recordings of phones: Record3D, Polycam, Stray Scanner and ARKitScenes, each from ARKit.

ARKit's camera is OpenGL's (x right, y up, looking along -z); its world is metric and has y up. Its principal points are
offsets from the corner of the picture, as ours.

    Record3D       zip with `metadata` (JSON; poses are qx qy qz qw tx ty tz, K by columns) and `rgbd/N.jpg`, `N.depth`
                   (LZFSE of float32 metres), `N.conf`; or `metadata.json`, `rgb/N.jpg` and `depth/N.exr` (float32
                   metres in the red channel, github.com/marek-simonik/record3d issues 53 and 67); its world is that of
                   the first camera, so up is not known
    Polycam        `keyframes/`: `corrected_images` or `images`, `corrected_cameras` or `cameras` (t_00 ... t_23 by
                   rows), `depth` (millimetres), `confidence`   github.com/PolyCam/polyform
    Stray Scanner  `rgb.mp4`, `odometry.csv` (turned to OpenCV's camera already), `camera_matrix.csv`, `depth`
                   (millimetres), `confidence`   github.com/StrayRobots/scanner, docs/format.md
    ARKitScenes    `lowres_wide.traj` (time, axis-angle and translation of camera-from-world, OpenCV's camera, z up),
                   `lowres_wide`, `lowres_depth` (millimetres), `lowres_wide_intrinsics`   github.com/apple/ARKitScenes
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from vidllm.io.cameras.json_frames import OPENGL_FROM_OPENCV
from vidllm.io.cameras.matrices import cells, poses_of_quaternions, read_matrix
from vidllm.io.cameras.records import a_number, pinhole
from vidllm.io.captures.capture import Y_UP, Z_UP, Capture, check_complete, trusted_depth, without_doubt
from vidllm.io.files import InputError, data_lines, number, read_bytes, read_json_object, read_text
from vidllm.io.pictures import list_images, stem

_MOST_SIDE = 4096  # of a depth map
_APART_S = 0.005  # at most, between a picture of ARKitScenes and its pose


def _table(told: dict[str, Any], key: str, columns: int, file: Path) -> np.ndarray:
    """Rows of numbers in a JSON file; ValueError for anything else. NaN is accepted."""
    rows = told.get(key)
    if not isinstance(rows, list) or not all(isinstance(row, list) and len(row) == columns for row in rows):
        raise ValueError(f"{file}: {key} is not a list of rows of {columns} numbers; export it again")
    numbers = [[a_number(cell, f"{file}: {key}") for cell in row] for row in rows]
    return np.array(numbers, np.float64).reshape(-1, columns)


def _side(told: dict[str, Any], key: str, file: Path) -> int:
    side = a_number(told.get(key), f"{file}: {key}")
    if not (side.is_integer() and 0 < side < 10**5):
        raise ValueError(f"{file}: {key} is {side:g}, expected a number of pixels")
    return int(side)


# ---- Record3D ------------------------------------------------------------------------------------------------------


def read_record3d(folder: Path) -> Capture | None:
    """A folder with Record3D's metadata; None for other folders."""
    file = next((folder / n for n in ("metadata", "metadata.json") if (folder / n).is_file()), None)
    pictures = next((folder / n for n in ("rgbd", "rgb") if (folder / n).is_dir()), None)
    if file is None or pictures is None:
        return None
    told = read_json_object(file)
    if "poses" not in told or "K" not in told:
        return None
    rows = _table(told, "poses", 7, file)
    places = [f"pose {n}" for n in range(len(rows))]
    poses = poses_of_quaternions(rows[:, 4:], rows[:, :4], places, file) @ OPENGL_FROM_OPENCV
    files = [pictures / f"{n}.jpg" for n in range(len(rows))]
    check_complete([f for f in files if not f.is_file()], len(files), "a picture", folder)
    depths = {}
    if any((pictures / f"{n}.depth").is_file() for n in range(len(rows))):
        size = _side(told, "dh", file), _side(told, "dw", file)
        there = [n for n in range(len(rows)) if (pictures / f"{n}.depth").is_file()]
        depths = {n: partial(_lzfse_depth, pictures / f"{n}.depth", size) for n in there}
    elif (folder / "depth").is_dir():
        maps = {n: folder / "depth" / f"{n}.exr" for n in range(len(rows))}
        depths = {n: partial(trusted_depth, path) for n, path in maps.items() if path.is_file()}
    still = len(rows) > 1 and bool((rows == [0, 0, 0, 1, 0, 0, 0]).all())  # the front camera, which is not tracked
    times = [a_number(time, f"{file}: frameTimestamps") for time in told.get("frameTimestamps") or ()]
    return Capture(
        "Record3D", [f.name for f in files], files, None if still else poses, _record3d_lens(told, len(rows), file),
        (_side(told, "h", file), _side(told, "w", file)), depths,
        times_s=times if len(times) == len(rows) else None,
    )  # fmt: skip


def _record3d_lens(told: dict[str, Any], count: int, file: Path) -> np.ndarray:
    if told.get("perFrameIntrinsicCoeffs"):
        each = _table(told, "perFrameIntrinsicCoeffs", 4, file)
        if len(each) != count:
            raise ValueError(f"{file}: {len(each)} perFrameIntrinsicCoeffs for {count} poses; export it again")
        return np.stack([pinhole(*row) for row in each])
    k = _table({"K": [told["K"]]}, "K", 9, file)[0]
    return pinhole(k[0], k[4], k[6], k[7])


def _lzfse_depth(file: Path, size: tuple[int, int]) -> np.ndarray:
    """One depth map in metres; InputError without the package lzfse."""
    try:
        import lzfse
    except ImportError:
        raise InputError(f"{file.name}: Record3D depth is LZFSE data; pip install 'vidllm[record3d]'") from None
    most = size[0] * size[1]
    if max(size) > _MOST_SIDE:
        raise ValueError(f"{file.name}: a depth map of {size[1]}x{size[0]} pixels; export it again")
    metres = np.frombuffer(_lzfse_bytes(lzfse, file, 4 * most), "<f4").reshape(size)
    metres = np.where(np.isfinite(metres) & (metres > 0), metres, 0).astype(np.float32)
    confidence = file.with_suffix(".conf")
    if not confidence.is_file():
        return metres
    return without_doubt(metres, np.frombuffer(_lzfse_bytes(lzfse, confidence, most), "u1").reshape(size), file)


def _lzfse_bytes(lzfse: Any, file: Path, size: int) -> bytes:
    """The decompressed content of a file, which must have ``size`` bytes; the file must not be larger."""
    try:
        found: bytes = lzfse.decompress(read_bytes(file, size + 4096))
    except Exception as error:  # the library has its own error class
        raise ValueError(f"{file.name}: damaged LZFSE data ({error}); export it again") from error
    if len(found) != size:
        raise ValueError(f"{file.name}: {len(found)} bytes of depth or confidence, expected {size}; export it again")
    return found


# ---- Polycam -------------------------------------------------------------------------------------------------------


def read_polycam(folder: Path) -> Capture | None:
    """Polycam's raw data; None for other folders."""
    keys = folder / "keyframes" if (folder / "keyframes").is_dir() else folder
    corrected = (keys / "corrected_images").is_dir() and (keys / "corrected_cameras").is_dir()
    images, cameras = (keys / f"{'corrected_' if corrected else ''}{name}" for name in ("images", "cameras"))
    if not (images.is_dir() and cameras.is_dir()):
        return None
    files = list_images(images)
    described = [cameras / f"{file.stem}.json" for file in files]
    check_complete([f for f in described if not f.is_file()], len(files), "a camera", folder)
    told = [read_json_object(file) for file in described]
    names = ("fx", "fy", "cx", "cy", *(f"t_{row}{column}" for row in range(3) for column in range(4)))
    both = list(zip(told, described, strict=True))
    rows = np.array([[a_number(one.get(name), f"{file}: {name}") for name in names] for one, file in both])
    poses = np.tile(np.eye(4), (len(rows), 1, 1))
    poses[:, :3] = rows[:, 4:].reshape(-1, 3, 4)
    sizes = {(_side(one, "height", file), _side(one, "width", file)) for one, file in both}
    if len(sizes) > 1:
        raise ValueError(f"{cameras}: pictures of {len(sizes)} sizes; the frames of a recording have one")
    depths = {
        n: partial(trusted_depth, keys / "depth" / f"{f.stem}.png", keys / "confidence" / f"{f.stem}.png")
        for n, f in enumerate(files) if (keys / "depth" / f"{f.stem}.png").is_file()
    }  # fmt: skip
    times = [int(f.stem) / 1e6 for f in files] if all(f.stem.isdecimal() for f in files) else None
    return Capture("Polycam", [f.name for f in files], files, poses @ OPENGL_FROM_OPENCV,
                   np.stack([pinhole(*row[:4]) for row in rows]), next(iter(sizes), None), depths, Y_UP,
                   times_s=times)  # fmt: skip


# ---- Stray Scanner -------------------------------------------------------------------------------------------------


def read_stray(folder: Path) -> Capture | None:
    """A recording of Stray Scanner; None for other folders."""
    file, film = folder / "odometry.csv", folder / "rgb.mp4"
    if not (file.is_file() and film.is_file()):
        return None
    lines = data_lines(read_text(file))
    header = [word.strip() for word in lines[0][1].split(",")] if lines else []
    wanted = ["timestamp", "frame", "x", "y", "z", "qx", "qy", "qz", "qw"]
    if missing := [name for name in wanted if name not in header]:
        raise ValueError(f"{file}: no column {missing[0]}; expected {', '.join(wanted)}")
    lens = [name for name in ("fx", "fy", "cx", "cy") if name in header]
    columns, table = {name: header.index(name) for name in (*wanted, *lens)}, []
    for line, text in lines[1:]:
        where = f"{file}: line {line}"
        row = cells(text, header, where)
        table.append([number(row[column], f"{where}: {name}") for name, column in columns.items()])
    rows = np.array(table).reshape(-1, len(columns))
    numbers = rows[:, 1].astype(int)
    if not np.array_equal(numbers, np.arange(len(numbers))):
        raise ValueError(f"{file}: frames are not numbered 0, 1, 2, ...; export it again")
    poses = poses_of_quaternions(rows[:, 2:5], rows[:, 5:9], [f"line {line}" for line, _ in lines[1:]], file)
    k: np.ndarray = np.stack([pinhole(*row[9:]) for row in rows]) if len(lens) == 4 and len(rows) else np.eye(3)
    if k.ndim == 2:
        k = read_matrix(folder / "camera_matrix.csv")[:3, :3]
    maps = {int(path.stem): path for path in (folder / "depth").glob("*.png") if path.stem.isdecimal()}
    depths = {n: partial(trusted_depth, path, folder / "confidence" / path.name) for n, path in maps.items()}
    return Capture("Stray Scanner", [f"frame_{n:06d}" for n in numbers], film, poses, k, depths=depths, up=Y_UP,
                   times_s=rows[:, 0].tolist())  # fmt: skip


# ---- ARKitScenes ---------------------------------------------------------------------------------------------------


def read_arkitscenes(folder: Path) -> Capture | None:
    """A scene of ARKitScenes (or its ``ID_frames``); None for other folders."""
    places = (folder / "lowres_wide.traj", *folder.glob("*_frames/lowres_wide.traj"))
    file = next((place for place in places if place.is_file()), None)
    if file is None:
        return None
    base = file.parent
    files = list_images(base / "lowres_wide") if (base / "lowres_wide").is_dir() else []
    times = np.array([_time(file) for file in files])
    lens = {_time(file): file for file in base.glob("lowres_wide_intrinsics/*.pincam")}
    lenses = [nearest_row(np.array(sorted(lens)), time, _APART_S) for time in times]
    check_complete([f for f, row in zip(files, lenses, strict=True) if row is None], len(files), "a .pincam", folder)
    read = [_numbers(lens[sorted(lens)[row]], 6)[0] for row in lenses if row is not None]
    size = (int(read[0][1]), int(read[0][0])) if read else None
    rows = _numbers(file, 7)
    at = [nearest_row(rows[:, 0], time, _APART_S) for time in times]
    poses = np.full((len(files), 4, 4), np.nan)
    for n, row in enumerate(at):
        if row is not None and np.isfinite(rows[row]).all():
            poses[n] = _inverse(rows[row, 1:4], rows[row, 4:])
    depths = {
        n: partial(trusted_depth, base / "lowres_depth" / f.name, base / "confidence" / f.name)
        for n, f in enumerate(files) if (base / "lowres_depth" / f.name).is_file()
    }  # fmt: skip
    k = np.stack([pinhole(*row[2:]) for row in read]) if read else None
    return Capture("ARKitScenes", [f.name for f in files], files, poses, k, size, depths, Z_UP, times_s=times.tolist())


def _time(file: Path) -> float:
    """Seconds in the name of a file, ``ID_305.123.png``."""
    return number(stem(file.name).split("_")[-1], f"{file}: its time")


def _numbers(file: Path, columns: int) -> np.ndarray:
    """Rows of numbers in a text file."""
    found = []
    for line, text in data_lines(read_text(file)):
        words, where = text.split(), f"{file}: line {line}"
        if len(words) != columns:
            raise ValueError(f"{where}: {len(words)} words, expected {columns} numbers")
        found.append([number(word, where) for word in words])
    if not found:
        raise ValueError(f"{file}: contains no number")
    return np.array(found)


def nearest_row(times: np.ndarray, wanted: float, apart: float) -> int | None:
    """The row with the time nearest to ``wanted``; None if it is more than ``apart`` away."""
    row = int(np.abs(times - wanted).argmin()) if len(times) else 0
    return row if len(times) and abs(times[row] - wanted) <= apart else None


def _inverse(axis_angle: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """World-from-camera of a camera-from-world."""
    from scipy.spatial.transform import Rotation

    pose = np.eye(4)
    pose[:3, :3] = Rotation.from_rotvec(axis_angle).as_matrix().T
    pose[:3, 3] = -pose[:3, :3] @ shift
    return pose
