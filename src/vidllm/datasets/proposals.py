"""Object proposals of Mask3D (Schult et al., ICRA 2023) as LEO distributes them: ``SCENE.mask.npz``.

A file is a sparse matrix, masks x vertices of ``SCENE_vh_clean_2.ply``, as scipy's ``save_npz`` writes it; it is read
with numpy alone. A proposal's box is the axis-aligned one of its aligned vertices. Peers take the first 50 masks.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float

from vidllm.io.files import read_npz

MAX_PROPOSALS = 50
MAX_MASKS, MAX_VERTICES = 100_000, 50_000_000  # of a file; ScanNet has hundreds and under a million


@dataclass(frozen=True)
class Proposals:
    """The proposals of one scene.

    Attributes:
        rows: vertex numbers of each mask.
        vertices: vertices of the mesh they number.
    """

    rows: tuple[np.ndarray, ...]
    vertices: int

    def __len__(self) -> int:
        return len(self.rows)

    def masks(self) -> Bool[np.ndarray, "N V"]:
        """The masks as a full matrix."""
        full = np.zeros((len(self.rows), self.vertices), bool)
        for mask, row in zip(full, self.rows, strict=True):
            mask[row] = True
        return full

    def boxes(self, vertices: Float[np.ndarray, "V 3"]) -> Float[np.ndarray, "N 6"]:
        """Centre and size of each proposal in the frame of the vertices; NaN for an empty mask.

        Raises:
            ValueError: the mesh has another number of vertices than the masks.
        """
        if len(vertices) != self.vertices:
            raise ValueError(f"expected the {self.vertices} vertices that the masks number, got {len(vertices)}; "
                             "are mesh and proposals of one scene, and the mesh _vh_clean_2.ply?")  # fmt: skip
        return np.stack([box_of(vertices[row]) for row in self.rows]) if self.rows else np.zeros((0, 6))


def box_of(points: Float[np.ndarray, "N 3"]) -> Float[np.ndarray, " 6"]:
    """Centre and size of the axis-aligned box of points; NaN when there are none."""
    if len(points) == 0:
        return np.full(6, np.nan)
    low, high = points.min(0).astype(np.float64), points.max(0).astype(np.float64)
    return np.concatenate([(low + high) / 2, high - low])


def read_proposals(path: str | Path, limit: int | None = MAX_PROPOSALS) -> Proposals:
    """The first `limit` proposals of a file (None: all). ValueError naming the file when it is not one."""
    arrays = read_npz(path)
    try:
        rows, shape = _rows(arrays)
    except (KeyError, IndexError, ValueError, TypeError) as error:
        raise ValueError(
            f"{path}: not a sparse matrix of masks x vertices ({error}); it holds {sorted(arrays)}, expected scipy's "
            "save_npz form"
        ) from error
    return Proposals(tuple(rows[:limit]), shape[1])


def _rows(arrays: dict[str, np.ndarray]) -> tuple[list[np.ndarray], tuple[int, int]]:
    """Columns of the true elements of each row, for the forms csr, csc and coo, and the matrix's shape."""
    raw = arrays["format"].item()
    kind = raw.decode() if isinstance(raw, bytes) else str(raw)
    shape = _shape(arrays["shape"])
    count = _vector(arrays["data"], "data").size
    if kind == "coo":
        row, column = (_whole(arrays[name], name, count) for name in ("row", "col"))
    elif kind in ("csr", "csc"):
        indices = _whole(arrays["indices"], "indices", count)
        outer = _outer(arrays["indptr"], shape[0 if kind == "csr" else 1], count)
        row, column = (outer, indices) if kind == "csr" else (indices, outer)
    else:
        raise ValueError(f"form {kind!r:.20}")
    kept = arrays["data"] != 0
    row, column = row[kept], column[kept]
    if len(row) and (row.min() < 0 or column.min() < 0 or row.max() >= shape[0] or column.max() >= shape[1]):
        raise ValueError(f"an element outside {shape}")
    order = np.argsort(row, kind="stable")
    parts = np.split(column[order], np.searchsorted(row[order], np.arange(1, shape[0])))
    return [np.sort(part) for part in parts[: shape[0]]], shape


def _shape(given: np.ndarray) -> tuple[int, int]:
    """(masks, vertices); ValueError for numbers that no scene has."""
    if given.shape != (2,) or given.dtype.kind not in "iu":
        raise ValueError(f"a shape of {given.dtype} {given.shape}")
    masks, vertices = (int(n) for n in given)
    if not (0 <= masks <= MAX_MASKS and 0 <= vertices <= MAX_VERTICES):
        raise ValueError(f"{masks} masks of {vertices} vertices, expected at most {MAX_MASKS} and {MAX_VERTICES}")
    return masks, vertices


def _vector(array: np.ndarray, name: str) -> np.ndarray:
    if array.ndim != 1 or array.dtype.kind not in "biuf":
        raise ValueError(f"{name} is {array.dtype} {array.shape}, expected a row of numbers")
    return array


def _whole(array: np.ndarray, name: str, count: int) -> np.ndarray:
    if _vector(array, name).dtype.kind not in "iu" or len(array) != count:
        raise ValueError(f"{name} is {array.dtype} {array.shape}, expected {count} whole numbers")
    return array


def _outer(pointers: np.ndarray, rows: int, count: int) -> np.ndarray:
    """The row (or column) of each element from where rows begin; ValueError where these do not cover the elements."""
    begins = _whole(pointers, "indptr", rows + 1).astype(np.int64)
    if begins[0] != 0 or begins[-1] != count or bool((np.diff(begins) < 0).any()):
        raise ValueError(f"indptr does not run from 0 to {count}")
    return np.repeat(np.arange(rows, dtype=np.int32), np.diff(begins))
