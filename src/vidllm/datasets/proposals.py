"""Object proposals of Mask3D (Schult et al., ICRA 2023) as LEO distributes them: ``SCENE.mask.npz``.

A file is a sparse matrix, masks x vertices of ``SCENE_vh_clean_2.ply``, as scipy's ``save_npz`` writes it; it is read
with numpy alone. A proposal's box is the axis-aligned one of its aligned vertices. Peers take the first 50 masks.
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float

MAX_PROPOSALS = 50


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
    path = Path(path)
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, zipfile.BadZipFile, EOFError) as error:
        raise ValueError(f"{path}: not a readable .npz of masks ({error}); fetch it again") from error
    try:
        rows, shape = _rows(arrays)
    except (KeyError, IndexError, ValueError, TypeError) as error:
        raise ValueError(
            f"{path}: not a sparse matrix of masks x vertices ({error}); it holds {sorted(arrays)}, expected scipy's "
            "save_npz form"
        ) from error
    return Proposals(tuple(rows[:limit]), int(shape[1]))


def _rows(arrays: dict[str, np.ndarray]) -> tuple[list[np.ndarray], np.ndarray]:
    """Columns of the true elements of each row, for the forms csr, csc and coo."""
    raw = arrays["format"].item()
    kind = raw.decode() if isinstance(raw, bytes) else str(raw)
    shape = arrays["shape"]
    if shape.shape != (2,) or shape.min() < 0:
        raise ValueError(f"shape {shape.tolist()}")
    kept = arrays["data"] != 0
    if kind == "coo":
        row, column = arrays["row"], arrays["col"]
    elif kind in ("csr", "csc"):
        counts = np.diff(arrays["indptr"])
        outer = np.repeat(np.arange(len(counts)), counts)
        row, column = (outer, arrays["indices"]) if kind == "csr" else (arrays["indices"], outer)
    else:
        raise ValueError(f"form {kind}")
    row, column = row[kept], column[kept]
    if len(row) and (row.min() < 0 or column.min() < 0 or row.max() >= shape[0] or column.max() >= shape[1]):
        raise ValueError(f"an element outside {shape.tolist()}")
    order = np.argsort(row, kind="stable")
    parts = np.split(column[order], np.searchsorted(row[order], np.arange(1, shape[0])))
    return [np.sort(part) for part in parts[: shape[0]]], shape
