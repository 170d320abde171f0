"""ScanNet's meshes and what is written about their vertices: segments, objects and class numbers.

The vertices of ``SCENE_vh_clean_2.ply`` are grouped into segments (``.segs.json``), segments into objects
(``.aggregation.json``). An object's box is the axis-aligned one of its vertices after axis alignment: the ground truth
of ScanRefer and of everything built on it.
"""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int, UInt8

from vidllm.datasets.proposals import box_of
from vidllm.datasets.records import MOST, Entry, entries
from vidllm.io.files import check_regular_file, read_json

_TYPES = {
    "char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4", "float": "f4",
    "double": "f8", "int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2", "int32": "i4", "uint32": "u4",
    "float32": "f4", "float64": "f8",
}  # fmt: skip
_ORDERS = {"binary_little_endian": "<", "binary_big_endian": ">"}
_MAX_HEADER = 65_536
_COUNT = re.compile(r"[0-9]{1,18}")


@dataclass(frozen=True)
class Mesh:
    """A mesh in its file's own frame.

    Attributes:
        vertices: ``(V, 3)`` float64 metres.
        colours: ``(V, 3)`` uint8, or None.
        faces: ``(T, 3)`` int64 vertex numbers.
    """

    vertices: Float[np.ndarray, "V 3"]
    colours: UInt8[np.ndarray, "V 3"] | None
    faces: Int[np.ndarray, "T 3"]


@dataclass(frozen=True)
class Instance:
    """One object of a scene.

    Attributes:
        object_id: ScanNet's ``objectId``, the number that every language set uses.
        label: as annotated, with blanks.
        box: centre and size in metres in the aligned frame; None where no vertex belongs to the object.
        vertices: number of its vertices.
        nyu40: class number, None without the label map (or where the map has no such label).
    """

    object_id: int
    label: str
    box: tuple[float, float, float, float, float, float] | None
    vertices: int
    nyu40: int | None


def read_mesh(path: str | Path) -> Mesh:
    """A binary PLY file of triangles; ValueError naming the file and what is wrong."""
    path = check_regular_file(path)
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path}: the mesh cannot be read ({error.strerror}); fetch it again") from error
    order, elements, start = _header(raw, path)
    if [name for name, _, _ in elements[:2]] != ["vertex", "face"]:
        raise ValueError(f"{path}: expected the elements vertex and face, got {[name for name, _, _ in elements]}")
    (_, vertex_count, fields), (_, face_count, face_fields) = elements[:2]
    vertex = _vertex_type(order, fields, path)
    table = _table(raw, vertex, vertex_count, start, path, "vertices")
    xyz = np.stack([table[axis].astype(np.float64) for axis in "xyz"], -1)
    if not np.isfinite(xyz).all():
        first = int((~np.isfinite(xyz).all(-1)).argmax())
        raise ValueError(f"{path}: vertex {first} is {xyz[first].tolist()}, expected finite metres; fetch it again")
    has_colour = {"red", "green", "blue"} <= set(vertex.names or ())
    colours = np.stack([table[c] for c in ("red", "green", "blue")], -1) if has_colour else None
    return Mesh(xyz, colours, _faces(raw, order, face_fields, face_count, start + table.nbytes, path, vertex_count))


Element = tuple[str, int, list[tuple[str, str]]]


def _vertex_type(order: str, fields: list[tuple[str, str]], path: Path) -> np.dtype:
    """The record of a vertex; ValueError for unknown types, names that come twice, no place, or colours of no byte."""
    names, kinds = [name for name, _ in fields], dict(fields)
    if not {"x", "y", "z"} <= set(names):
        raise ValueError(f"{path}: the vertices have no x, y, z but {names}")
    if len(kinds) < len(names) or not set(kinds.values()) <= set(_TYPES):
        raise ValueError(f"{path}: expected vertices of named numbers of PLY's types, got {fields}; fetch it again")
    if any(_TYPES[kinds.get(colour, "uchar")] != "u1" for colour in ("red", "green", "blue")):
        raise ValueError(f"{path}: expected colours as uchar, got {kinds}; convert them")
    return np.dtype([(name, order + _TYPES[kind]) for name, kind in fields])


def _header(raw: bytes, path: Path) -> tuple[str, list[Element], int]:
    """Byte order, elements and where the data begin."""
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


def _faces(
    raw: bytes, order: str, fields: list[tuple[str, str]], count: int, start: int, path: Path, vertices: int
) -> np.ndarray:
    words = fields[0][1].split() if len(fields) == 1 else []
    if len(words) != 3 or words[0] != "list" or not all(_TYPES.get(kind, "f")[0] in "iu" for kind in words[1:]):
        raise ValueError(f"{path}: expected faces as one list of vertex numbers, got {fields}")
    triangle = np.dtype([("n", order + _TYPES[words[1]]), ("v", order + _TYPES[words[2]], 3)])
    table = _table(raw, triangle, count, start, path, "faces")
    if count and (table["n"] != 3).any():
        raise ValueError(f"{path}: expected triangles, face {int((table['n'] != 3).argmax())} is none")
    faces = table["v"].astype(np.int64)
    if count and (faces.min() < 0 or faces.max() >= vertices):
        raise ValueError(f"{path}: a face names vertex {int(faces.max())} of {vertices}; fetch the mesh again")
    return faces


def read_segments(path: str | Path) -> Int[np.ndarray, " V"]:
    """The segment of each vertex (``segIndices``); ValueError naming the file when it holds none."""
    values = read_json(path)
    found = values.get("segIndices") if isinstance(values, dict) else None
    if not isinstance(found, list) or not all(type(v) is int and abs(v) < MOST for v in found):
        raise ValueError(f"{path}: expected segIndices, one whole number a vertex; is it a .segs.json file?")
    return np.asarray(found, np.int64)


def read_groups(path: str | Path) -> list[tuple[int, str, tuple[int, ...]]]:
    """(objectId, label, segments) of each object of an ``.aggregation.json``; ids may be text.

    Raises:
        ValueError: naming file and entry, when one is broken or an objectId comes twice.
    """
    values = read_json(path)
    if not isinstance(values, dict) or "segGroups" not in values:
        raise ValueError(f"{path}: expected segGroups; is it an .aggregation.json file?")
    groups, seen = [], set()
    for entry in entries(path, values["segGroups"], "segGroups"):
        number = entry.integer("objectId" if "objectId" in entry.values else "id")
        if number in seen:
            raise ValueError(f"{entry.name}: objectId {number} comes twice; fetch the file again")
        seen.add(number)
        groups.append((number, entry.text("label"), entry.integers("segments")))
    return groups


def read_label_map(path: str | Path) -> dict[str, int]:
    """nyu40 class of each raw label of ``scannetv2-labels.combined.tsv``; ValueError naming file and line."""
    path = check_regular_file(path)
    table: dict[str, int] = {}
    try:
        with path.open(encoding="utf-8", newline="") as file:
            for index, row in enumerate(csv.DictReader(file, restkey="", delimiter="\t")):
                entry = Entry(path, index, row)
                table.setdefault(entry.text("raw_category"), entry.integer("nyu40id"))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path}: cannot be read as a table ({error}); fetch it again") from error
    if not table:
        raise ValueError(f"{path}: expected the columns raw_category and nyu40id, got no row; fetch it again")
    return table


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
