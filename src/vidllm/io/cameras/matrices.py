"""Matrices and tables of them in text files and arrays: ScanNet, 7-Scenes, NumPy, TUM, KITTI.

Pixel centres of matrices in files lie at whole numbers.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from jaxtyping import Float

from vidllm.io.cameras.records import Intrinsics, PerFrame, per_word, pinhole
from vidllm.io.files import data_lines, number, read_npy, read_text
from vidllm.io.pictures import number_of, times_of

MAX_MATRIX_BYTES = 2**20
BOTTOM_TOLERANCE = 1e-6


def half_centres(matrix: np.ndarray, where: str | Path) -> Float[np.ndarray, "3 3"]:
    """K of the file `where`, pixel centres at whole numbers, as K with pixel centres at +0.5.

    Raises:
        ValueError: not finite, a focal length that is not above zero, or a last row other than 0 0 1.
    """
    intrinsics = np.array(matrix[:3, :3], np.float64)
    finite = np.isfinite(intrinsics).all()
    if not finite or min(intrinsics[0, 0], intrinsics[1, 1]) <= 0 or tuple(intrinsics[2]) != (0, 0, 1):
        shown = intrinsics.round(3).tolist()
        raise ValueError(f"{where}: expected intrinsics fx 0 cx, 0 fy cy, 0 0 1 in pixels, got {shown}; fetch it again")
    intrinsics[:2, 2] += 0.5
    return intrinsics


def read_matrix(path: Path) -> Float[np.ndarray, "4 4"]:
    """A 4x4 (or 3x3, 3x4, then filled up) matrix of a text file; ValueError naming the file. May hold infinities."""
    rows, lines = [], []
    for line, text in data_lines(read_text(path, MAX_MATRIX_BYTES)):
        try:
            rows.append([float(word) for word in text.replace(",", " ").split()])
        except ValueError as error:
            raise ValueError(f"{path}: expected a matrix of numbers (line {line}: {error})") from None
        lines.append(line)
    sides = [len(row) for row in rows]
    if sides not in ([3] * 3, [4] * 3, [4] * 4):
        raise ValueError(f"{path}: expected a 4x4 matrix, got rows of {sides[:9]} numbers; export the scene again")
    matrix = np.eye(4)
    matrix[: len(rows), : sides[0]] = rows
    check_bottom_row(matrix, f"{path}: line {lines[-1]}")
    return matrix


def check_bottom_row(matrix: np.ndarray, where: str) -> None:
    """ValueError unless the fourth row of a finite matrix is 0 0 0 1."""
    bottom = matrix[3:4]
    wanted = np.eye(4)[3]
    if np.isfinite(matrix).all() and len(bottom) and np.abs(bottom[0] - wanted).max() > BOTTOM_TOLERANCE:
        told = " ".join(f"{value:g}" for value in bottom[0])
        raise ValueError(f"{where}: the matrix's last row is {told}, expected 0 0 0 1; is it transposed?")


def intrinsics_of_matrix(matrix: np.ndarray, where: str) -> Intrinsics:
    """A 3x3 or 4x4 matrix whose pixel centres are at whole numbers."""
    if matrix.shape == (4, 4):
        check_bottom_row(matrix, where)
        if not np.array_equal(matrix[:3, 3], np.zeros(3)):
            raise ValueError(f"{where}: the fourth column of intrinsics is {matrix[:3, 3].tolist()}, expected zeros; "
                             "is it a pose?")  # fmt: skip
    return Intrinsics(half_centres(matrix, where), where=where)


def read_intrinsics_text(path: Path) -> Intrinsics:
    """A matrix, or one line with fx fy cx cy (pixel centres at +0.5, as on the command line)."""
    lines = data_lines(read_text(path, MAX_MATRIX_BYTES))
    words = lines[0][1].replace(",", " ").split() if len(lines) == 1 else []
    if len(words) == 4:
        return Intrinsics(pinhole(*(number(w, f"{path}: line {lines[0][0]}") for w in words)), where=str(path))
    return intrinsics_of_matrix(read_matrix(path), str(path))


def read_pose_folder(folder: Path) -> PerFrame:
    """One matrix per file: ``0.txt`` (ScanNet), ``frame-000000.pose.txt`` (7-Scenes), or names that are times."""
    inner = folder / "pose" if (folder / "pose").is_dir() else folder
    files = sorted(inner.glob("*.pose.txt"))
    if not files:
        files = [f for f in inner.glob("*.txt") if f.stem.isdecimal() or times_of([f.stem])]
        files.sort(key=lambda f: (float(f.stem), f.name))
    if not files:
        raise ValueError(f"{folder}: no pose such as 0.txt or frame-000000.pose.txt in this folder, and no model of "
                         "COLMAP")  # fmt: skip
    names = [file.name.removesuffix(".txt").removesuffix(".pose") for file in files]
    numbers = [n for n in map(number_of, names) if n is not None]
    return PerFrame(
        np.stack([read_matrix(file) for file in files]), names, times_of(names),
        numbers if len(numbers) == len(names) else None, str(folder), [file.name for file in files],
    )  # fmt: skip


def intrinsics_of_array(path: Path) -> Intrinsics:
    """``.npy``: (3,3) or (4,4), (N,3,3), (N,4,4), or the four numbers fx, fy, cx, cy."""
    array = read_npy(path)
    if array.shape == (4,):
        return Intrinsics(pinhole(*array.tolist()), where=str(path))
    if array.shape in ((3, 3), (4, 4)):
        return intrinsics_of_matrix(array, str(path))
    if array.ndim != 3 or array.shape[1:] not in ((3, 3), (4, 4)) or not len(array):
        raise ValueError(f"{path}: expected intrinsics (3, 3), (N, 3, 3) or (4,), got an array of {array.shape}")
    matrices = [intrinsics_of_matrix(m, f"{path}: row {n}").given for n, m in enumerate(array)]
    return Intrinsics(counted(np.stack([np.asarray(m) for m in matrices]), path), where=str(path))


def whole_poses(array: np.ndarray, places: list[str], path: Path) -> Float[np.ndarray, "N 4 4"]:
    """(N,3,4) or (N,4,4) as (N,4,4); ValueError for another last row, naming its place."""
    poses = np.tile(np.eye(4), (len(array), 1, 1))
    poses[:, : array.shape[1]] = array
    wrong = np.isfinite(poses).all((1, 2)) & (np.abs(poses[:, 3] - np.eye(4)[3]).max(-1) > BOTTOM_TOLERANCE)
    for row in np.flatnonzero(wrong)[:1]:
        check_bottom_row(poses[row], f"{path}: {places[row]}")
    return poses


def counted(matrices: np.ndarray, path: Path, places: list[str] | None = None) -> PerFrame:
    """Matrices without keys: those of the source's frames 0, 1, 2, ... (with a warning when they are used)."""
    said = places or [f"row {n}" for n in range(len(matrices))]
    return PerFrame(matrices, numbers=list(range(len(matrices))), where=str(path), places=said, counted=True)


# ---- tables of poses, one a line -----------------------------------------------------------------------------------
#
# time tx ty tz qx qy qz qw                 TUM: position and unit quaternion, scalar last (or a name for the time)
#     [name or time] r00 r01 r02 t0 r10 ... t2  a matrix by rows, 12 or 16 numbers (KITTI's without a name)

TIMES_ARE_NUMBERS = "times are frame numbers"  # in the comment of a trajectory of pictures without a clock
QUATERNION_TOLERANCE = 0.01  # of its length
_KEYS = ("name", "file", "filename", "image", "file_path", "timestamp_s", "timestamp", "time_s", "time", "frame")
_PLACE, _TURN = ("tx", "ty", "tz"), ("qx", "qy", "qz", "qw")
_MATRIX = tuple(f"r{i}{j}" if j < 3 else f"t{i}" for i in range(3) for j in range(4))


def read_pose_table(path: Path) -> PerFrame:
    """Poses of a text file; ValueError names file and line."""
    text = read_text(path)
    lines = data_lines(text)
    if not lines:
        raise ValueError(f"{path}: contains no pose")
    if path.suffix.lower() == ".csv":
        header = _header(lines[0][1])
        if header is not None:
            return _of_columns(header, lines[1:], path)
        comment = text.lstrip().split("\n", 1)[0]
        if comment.startswith("#") and "," in comment and re.search(r"[A-Za-z]", comment):
            return _of_columns(_header(comment.lstrip("# ")) or [], lines, path)
    rows = [re.split(r"[,\s]+", line.rstrip(",")) for _, line in lines]
    comments = " ".join(line for line in text.split("\n", 9)[:9] if line.startswith("#"))
    return poses_of_rows(rows, [f"line {line}" for line, _ in lines], path, has_clock=TIMES_ARE_NUMBERS not in comments)


def poses_of_rows(rows: list[list[str]], places: list[str], path: Path, has_clock: bool = True) -> PerFrame:
    """Poses from words; the number of words per row determines the format."""
    width = len(rows[0])
    for row, place in zip(rows, places, strict=True):
        if len(row) != width or width not in (8, 12, 13, 16, 17):
            expected = f"{width}, as in {places[0]}" if width in (8, 12, 13, 16, 17) else "8 (or a matrix: 12, 13, ...)"
            raise ValueError(f"{path}: {place}: {len(row)} words, expected a TUM trajectory or matrices: {expected}")
    keyed = width in (8, 13, 17)
    try:
        numbers = np.array([[float(word) for word in row[keyed:]] for row in rows], np.float64)
    except ValueError:
        for row, place in zip(rows, places, strict=True):
            for word in row[keyed:]:
                number(word, f"{path}: {place}: expected a TUM trajectory or matrices")
        raise
    if width == 8:
        poses = poses_of_quaternions(numbers[:, :3], numbers[:, 3:], places, path)
    else:
        poses = whole_poses(numbers.reshape(len(rows), -1, 4), places, path)
    if not keyed:
        return counted(poses, path, places)
    words = [row[0] for row in rows]
    for word, place in zip(words, places, strict=True):
        if re.fullmatch(r"[+-]?(nan|inf|infinity)", word, re.IGNORECASE):
            raise ValueError(f"{path}: {place}: a time of {word}; leave the line out")
    found = per_word(poses, words, str(path), places)
    if has_clock:
        return found
    return PerFrame(poses, numbers=found.numbers, where=str(path), places=places)


def poses_of_array(path: Path) -> PerFrame:
    """``.npy``: (N,4,4) or (N,3,4) for the source's frames 0, 1, 2, ...; or rows as in a text file of poses."""
    array = read_npy(path)
    if array.ndim == 2 and len(array):
        places = [f"row {n}" for n in range(len(array))]
        return poses_of_rows([[repr(x) for x in row] for row in array.tolist()], places, path)
    if array.ndim != 3 or array.shape[1:] not in ((3, 4), (4, 4)) or not len(array):
        raise ValueError(f"{path}: expected poses (N, 4, 4) or (N, 3, 4), got an array of {array.shape}")
    return counted(whole_poses(array, [f"row {n}" for n in range(len(array))], path), path)


def poses_of_quaternions(
    positions: Float[np.ndarray, "N 3"], quaternions: Float[np.ndarray, "N 4"], places: list[str], path: Path
) -> Float[np.ndarray, "N 4 4"]:
    """Poses from positions and quaternions (x, y, z, w); those not finite or all zero (tracking lost) become NaN."""
    poses = np.tile(np.eye(4), (len(positions), 1, 1))
    poses[:, :3, 3] = positions
    with np.errstate(over="ignore", invalid="ignore"):
        lengths = np.linalg.norm(quaternions, axis=1)
    lost = ~np.isfinite(quaternions).all(1) | (quaternions == 0).all(1)
    for row in np.flatnonzero(~lost & ~(np.abs(lengths - 1) <= QUATERNION_TOLERANCE))[:1]:
        raise ValueError(f"{path}: {places[row]}: a quaternion of length {lengths[row]:.4g}, expected 1 (scalar last)")
    if not lost.all():
        from scipy.spatial.transform import Rotation  # takes a second to import

        poses[~lost, :3, :3] = Rotation.from_quat(quaternions[~lost]).as_matrix()
    poses[lost] = np.nan
    return poses


def _header(line: str) -> list[str] | None:
    """The names of columns, or None where the line holds no words but a name and numbers."""
    words = [word.strip().strip('"').lower() for word in line.split(",")]
    return words if len(words) > 1 and re.fullmatch(r"[A-Za-z_][\w .\[\]/-]*", words[-1]) else None


def _of_columns(header: list[str], lines: list[tuple[int, str]], path: Path) -> PerFrame:
    columns = {name: place for place, name in enumerate(header)}
    key = next((name for name in _KEYS if name in columns), None)
    values = next((form for form in (_PLACE + _TURN, _MATRIX) if all(name in columns for name in form)), None)
    if key is None or values is None or len(columns) != len(header):
        raise ValueError(f"{path}: columns {', '.join(header)[:160]}; expected name or time, then tx, ty, tz, qx, qy, "
                         "qz, qw, or r00, r01, r02, t0, r10, ..., t2 (camera in the world)")  # fmt: skip
    places = [f"line {line}" for line, _ in lines]
    rows = [cells(text, header, f"{path}: {place}") for (_, text), place in zip(lines, places, strict=True)]
    if not rows:
        raise ValueError(f"{path}: contains no pose")
    return poses_of_rows([[row[columns[name]] for name in (key, *values)] for row in rows], places, path)


def cells(text: str, header: list[str], where: str) -> list[str]:
    """The cells of a line of a CSV; ValueError unless it has one for each column."""
    found = [cell.strip().strip('"') for cell in text.split(",")]
    if len(found) != len(header):
        raise ValueError(f"{where}: {len(found)} cells, expected {len(header)} ({', '.join(header)[:120]}); is the "
                         "file complete?")  # fmt: skip
    return found


def read_intrinsics_csv(path: Path) -> Intrinsics:
    """Columns fx, fy, cx, cy (width, height): one line, or one per frame with a name or time; or a matrix without
    header.
    """
    lines = data_lines(read_text(path))
    header = _header(lines[0][1]) if lines else None
    if header is None:
        return read_intrinsics_text(path)
    columns = {name: place for place, name in enumerate(header)}
    if not all(name in columns for name in ("fx", "fy", "cx", "cy")) or len(lines) < 2:
        raise ValueError(f"{path}: columns {', '.join(header)[:160]}; expected fx, fy, cx, cy and a line of numbers")
    places = [f"line {line}" for line, _ in lines[1:]]
    rows = [cells(text, header, f"{path}: {place}") for (_, text), place in zip(lines[1:], places, strict=True)]

    def column(name: str) -> list[float]:
        return [number(row[columns[name]], f"{path}: {p}: {name}") for row, p in zip(rows, places, strict=True)]

    matrices = np.stack([pinhole(*row) for row in zip(*map(column, ("fx", "fy", "cx", "cy")), strict=True)])
    sizes = set(zip(*map(column, ("height", "width")), strict=True)) if {"height", "width"} <= set(columns) else set()
    if len(sizes) > 1 or not all(0 < side < 1e6 for size in sizes for side in size):
        raise ValueError(f"{path}: pictures of sizes {sorted(sizes)[:3]}; the frames of a video have one")
    size = next(((int(h), int(w)) for h, w in sizes), None)
    key = next((name for name in _KEYS if name in columns), None)
    if key is None:
        if len(rows) > 1:
            raise ValueError(f"{path}: {len(rows)} lines without a name or time; add a column, or keep one line")
        return Intrinsics(matrices[0], size, str(path))
    return Intrinsics(per_word(matrices, [row[columns[key]] for row in rows], str(path), places), size, str(path))
