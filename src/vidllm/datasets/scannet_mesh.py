"""ScanNet's meshes and what is written about their vertices: segments, objects, class numbers and proposals.

The vertices of ``SCENE_vh_clean_2.ply`` are grouped into segments (``.segs.json``), segments into objects
(``.aggregation.json``). An object's box is the axis-aligned one of its vertices after axis alignment: the ground truth
of ScanRefer and of everything built on it. Proposals are a sparse matrix, masks x vertices, as scipy's ``save_npz``
writes it; their boxes are those of their aligned vertices, and peers take the first 50.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int
from scipy import sparse

from vidllm.datasets.records import MOST, entries, list_of, read_table, text, whole
from vidllm.io.files import read_bytes, read_json, read_npz

_TYPES = {
    "char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4", "float": "f4",
    "double": "f8", "int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2", "int32": "i4", "uint32": "u4",
    "float32": "f4", "float64": "f8",
}  # fmt: skip
_ORDERS = {"binary_little_endian": "<", "binary_big_endian": ">"}
_MAX_HEADER = 65_536
_COUNT = re.compile(r"[0-9]{1,18}")


@dataclass(frozen=True)
class Instance:
    """One object of a scene; its box is centre and size in metres in the aligned frame, None for one without vertex."""

    object_id: int  # ScanNet's ``objectId``, the number that every language set uses
    label: str  # as annotated, with blanks
    box: tuple[float, float, float, float, float, float] | None
    vertices: int  # how many
    nyu40: int | None  # class number, None without the label map (or where the map has no such label)


def read_mesh(path: str | Path) -> Float[np.ndarray, "V 3"]:
    """The vertices of a binary PLY file of triangles, float64 metres in its own frame.

    ValueError naming the file and what is wrong, also where its faces are cut or of another form.
    """
    path = Path(path)
    raw = read_bytes(path, None)
    order, elements, start = _header(raw, path)
    if [name for name, _, _ in elements[:2]] != ["vertex", "face"]:
        raise ValueError(f"{path}: expected the elements vertex and face, got {[name for name, _, _ in elements]}")
    (_, vertex_count, fields), (_, face_count, face_fields) = elements[:2]
    names, kinds = [name for name, _ in fields], dict(fields)
    if not {"x", "y", "z"} <= set(names) or len(kinds) < len(names) or not set(kinds.values()) <= set(_TYPES):
        raise ValueError(f"{path}: expected vertices x, y, z of PLY's types, got {fields}; fetch it again")
    vertex = np.dtype([(name, order + _TYPES[kind]) for name, kind in fields])
    table = _table(raw, vertex, vertex_count, start, path, "vertices")
    xyz = np.stack([table[axis].astype(np.float64) for axis in "xyz"], -1)
    if not np.isfinite(xyz).all():
        first = int((~np.isfinite(xyz).all(-1)).argmax())
        raise ValueError(f"{path}: vertex {first} is {xyz[first].tolist()}, expected finite metres; fetch it again")
    words = face_fields[0][1].split() if len(face_fields) == 1 else []
    if len(words) != 3 or words[0] != "list" or not all(_TYPES.get(kind, "f")[0] in "iu" for kind in words[1:]):
        raise ValueError(f"{path}: expected faces as one list of vertex numbers, got {face_fields}")
    triangle = np.dtype([("n", order + _TYPES[words[1]]), ("v", order + _TYPES[words[2]], 3)])
    faces = _table(raw, triangle, face_count, start + table.nbytes, path, "faces")
    if (faces["n"] != 3).any() or (face_count and not 0 <= faces["v"].min() <= faces["v"].max() < vertex_count):
        raise ValueError(f"{path}: expected triangles of its {vertex_count} vertices; fetch the mesh again")
    return xyz


Element = tuple[str, int, list[tuple[str, str]]]


def _header(raw: bytes, path: Path) -> tuple[str, list[Element], int]:
    head, mark, _ = raw[:_MAX_HEADER].partition(b"end_header\n")
    lines = head.decode("ascii", "replace").split("\n")
    if lines[0].strip() != "ply" or not mark:
        raise ValueError(f"{path}: expected a PLY file; fetch the mesh again")
    order, elements = "", list[Element]()
    for line in lines[1:]:
        words = line.split()
        if words[:1] == ["format"]:
            order = _ORDERS.get(" ".join(words[1:2]), "")
        elif words[:1] == ["element"]:
            if len(words) != 3 or not _COUNT.fullmatch(words[2]):
                raise ValueError(f"{path}: expected an element's name and its number, got {line:.60}; fetch it again")
            elements.append((words[1], int(words[2]), []))
        elif words[:1] == ["property"] and elements:
            elements[-1][2].append((words[-1], " ".join(words[1:-1])))
    if not order:
        raise ValueError(f"{path}: expected a binary PLY, as ScanNet distributes; convert it")
    return order, elements, len(head) + len(mark)


def _table(raw: bytes, dtype: np.dtype, count: int, start: int, path: Path, what: str) -> np.ndarray:
    if start + count * dtype.itemsize > len(raw):
        needed = count * dtype.itemsize
        raise ValueError(
            f"{path}: {count} {what} need {needed} bytes at byte {start}, the file ends at {len(raw)}; fetch it again"
        )
    return np.frombuffer(raw, dtype, count, start)


def read_segments(path: str | Path) -> Int[np.ndarray, " V"]:
    """The segment of each vertex (``segIndices``); ValueError naming the file when it holds none."""
    values = read_json(path)
    found = values.get("segIndices") if isinstance(values, dict) else None
    if not isinstance(found, list) or not all(type(v) is int and abs(v) < MOST for v in found):
        raise ValueError(f"{path}: expected segIndices, one whole number a vertex; is it a .segs.json file?")
    return np.asarray(found, np.int64)


def read_groups(path: str | Path) -> list[tuple[int, str, tuple[int, ...]]]:
    """(objectId, label, segments) of each object of an ``.aggregation.json``; ids may be text.

    ValueError naming file and entry, when one is broken or an objectId comes twice.
    """
    values = read_json(path)
    if not isinstance(values, dict) or "segGroups" not in values:
        raise ValueError(f"{path}: expected segGroups; is it an .aggregation.json file?")
    groups: dict[int, tuple[int, str, tuple[int, ...]]] = {}
    for entry in entries(values["segGroups"], path, "segGroups"):
        number = entry.get("objectId" if "objectId" in entry.values else "id", whole)
        if number in groups:
            raise ValueError(f"{entry.where}: objectId {number} comes twice; fetch the file again")
        groups[number] = number, entry.get("label", text), entry.get("segments", list_of(whole))
    return list(groups.values())


def read_label_map(path: str | Path) -> dict[str, int]:
    """nyu40 class of each raw label of ``scannetv2-labels.combined.tsv``; ValueError naming file and line."""
    table: dict[str, int] = {}
    for entry in read_table(path, {"raw_category", "nyu40id"}, "\t"):
        table.setdefault(entry.get("raw_category", text), entry.get("nyu40id", whole))
    if not table:
        raise ValueError(f"{path}: expected raw_category and nyu40id of each label, got no row; fetch it again")
    return table


def box_of(points: Float[np.ndarray, "N 3"]) -> Float[np.ndarray, " 6"]:
    """Centre and size of the axis-aligned box of points; NaN when there are none."""
    if len(points) == 0:
        return np.full(6, np.nan)
    low, high = points.min(0).astype(np.float64), points.max(0).astype(np.float64)
    return np.concatenate([(low + high) / 2, high - low])


def make_instances(
    aligned: Float[np.ndarray, "V 3"],
    segments: Int[np.ndarray, " V"],
    groups: list[tuple[int, str, tuple[int, ...]]],
    labels: dict[str, int] | None,
) -> list[Instance]:
    """The objects of a scene, in the order of `groups`, with boxes of their `aligned` vertices."""
    order = np.argsort(segments, kind="stable")
    ranked = segments[order]
    instances = []
    for number, label, members in groups:
        wanted = np.unique(np.asarray(members, np.int64))
        low, high = np.searchsorted(ranked, wanted, "left"), np.searchsorted(ranked, wanted, "right")
        rows = np.concatenate([order[a:b] for a, b in zip(low, high, strict=True)] or [order[:0]])
        x, y, z, dx, dy, dz = (float(v) for v in box_of(aligned[rows]))
        box = (x, y, z, dx, dy, dz) if len(rows) else None
        instances.append(Instance(number, label, box, len(rows), None if labels is None else labels.get(label)))
    return instances


# -- proposals of Mask3D (Schult et al., ICRA 2023) as LEO distributes them: SCENE.mask.npz

MAX_PROPOSALS = 50
MAX_MASKS, MAX_VERTICES = 100_000, 50_000_000  # of a file; ScanNet has hundreds and under a million


@dataclass(frozen=True)
class Proposals:
    """The proposals of one scene: the vertex numbers of each mask, and how many vertices the mesh has."""

    rows: tuple[np.ndarray, ...]
    vertices: int

    def __len__(self) -> int:
        return len(self.rows)

    def boxes(self, vertices: Float[np.ndarray, "V 3"]) -> Float[np.ndarray, "N 6"]:
        """Centre and size of each proposal in the frame of the vertices; NaN for an empty mask.

        ValueError where the mesh has another number of vertices than the masks.
        """
        if len(vertices) != self.vertices:
            raise ValueError(f"expected the {self.vertices} vertices that the masks number, got {len(vertices)}; "
                             "are mesh and proposals of one scene, and the mesh _vh_clean_2.ply?")  # fmt: skip
        return np.stack([box_of(vertices[row]) for row in self.rows]) if self.rows else np.zeros((0, 6))


def read_proposals(path: str | Path) -> Proposals:
    """The first proposals of a file, `MAX_PROPOSALS` at most. ValueError naming the file when it is not one."""
    arrays = read_npz(path)
    try:
        rows, shape = _rows(arrays)
    except (KeyError, IndexError, ValueError, TypeError) as error:
        raise ValueError(
            f"{path}: not a sparse matrix of masks x vertices ({error}); it holds {sorted(arrays)}, expected scipy's "
            "save_npz form"
        ) from error
    return Proposals(tuple(rows[:MAX_PROPOSALS]), shape[1])


def _rows(arrays: dict[str, np.ndarray]) -> tuple[list[np.ndarray], tuple[int, int]]:
    """Columns of the true elements of each row, for the forms csr, csc and coo, and the matrix's shape."""
    raw = arrays["format"].item()
    kind = raw.decode() if isinstance(raw, bytes) else str(raw)
    if kind not in ("csr", "csc", "coo"):
        raise ValueError(f"form {kind!r:.20}")
    for name in ("shape", "row", "col") if kind == "coo" else ("shape", "indices", "indptr"):
        if arrays[name].dtype.kind not in "iu" or arrays[name].ndim != 1:
            raise ValueError(f"{name} is {arrays[name].dtype} {arrays[name].shape}, expected a row of whole numbers")
    if arrays["data"].dtype.kind not in "biuf":
        raise ValueError(f"data is {arrays['data'].dtype}, expected numbers")
    masks, vertices = (int(n) for n in arrays["shape"])
    if not (0 <= masks <= MAX_MASKS and 0 <= vertices <= MAX_VERTICES):
        raise ValueError(f"{masks} masks of {vertices} vertices, expected at most {MAX_MASKS} and {MAX_VERTICES}")
    if kind == "coo":
        matrix = sparse.coo_matrix((arrays["data"] != 0, (arrays["row"], arrays["col"])), (masks, vertices)).tocsr()
    else:
        form = sparse.csr_matrix if kind == "csr" else sparse.csc_matrix
        matrix = form((arrays["data"] != 0, arrays["indices"], arrays["indptr"]), (masks, vertices))
        matrix.check_format(full_check=True)
        matrix = matrix.tocsr()
    matrix.sum_duplicates()
    matrix.eliminate_zeros()
    return np.split(matrix.indices, matrix.indptr[1:-1])[:masks], (masks, vertices)
