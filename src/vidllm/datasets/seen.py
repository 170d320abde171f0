"""The training data of a model: a record in its folder, and the scenes of a benchmark that occur in it.

``seen.json`` beside the weights::

    {"rooms": [[10000, 11439]], "scenes": ["scene0000_00"], "possibly": {"scannet": "why"}}

``rooms`` are ranges of seeds, ends included; ``scenes`` names of scans or videos; ``possibly`` data sets of which
unknown scenes were used, with the reason (``any``: part of the training data is unknown).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vidllm.datasets.records import Entry, Table, list_of, name, read_table, whole
from vidllm.io.atomic import write_json
from vidllm.io.files import has_file, read_json, read_json_lines, read_json_object, read_text
from vidllm.io.parquet import read_parquet

SEEN_FILE = "seen.json"
ANY = "any"
#: How the scenes of data sets are called.
_NAMES = {
    "scannet": re.compile(r"scene0\d{3}_\d{2}"), "scannetpp": re.compile("[0-9a-f]{10}"),
    "arkitscenes": re.compile(r"\d{8}"), ANY: re.compile(".*"),
}  # fmt: skip
_ROOM = re.compile(r"scene9(\d{3,})_00")
_FIELDS = ("scene_name", "scene_id", "scan_id", "episode_history")
_IN_PATH = re.compile(r"scene\d{4,}_\d{2}")  # OpenEQA: scannet-v0/002-scannet-scene0709_00


@dataclass(frozen=True)
class Seen:
    """The record (see the module)."""

    rooms: tuple[tuple[int, int], ...] = ()
    scenes: frozenset[str] = frozenset()
    possibly: Mapping[str, str] = field(default_factory=dict)

    def __or__(self, other: Seen) -> Seen:
        rooms = tuple(sorted({*self.rooms, *other.rooms}))
        return Seen(rooms, self.scenes | other.scenes, {**self.possibly, **other.possibly})

    def knows(self, scene: str) -> bool:
        """Whether the scene was certainly used."""
        room = _ROOM.fullmatch(scene)
        return scene in self.scenes or (room is not None and any(a <= int(room[1]) <= b for a, b in self.rooms))

    def doubt(self, scene: str) -> str | None:
        """Why the scene may have been used, None without a reason."""
        sets = (dataset for dataset in self.possibly if _NAMES[dataset].fullmatch(scene))
        return next((self.possibly[dataset] for dataset in sets), None)


def seen_of(scenes: Iterable[int | str]) -> Seen:
    """The record of training scenes as shards name them: seeds of rooms, names of scans."""
    found = set(scenes)
    seeds, names = sorted(s for s in found if isinstance(s, int)), {s for s in found if isinstance(s, str)}
    ranges: list[tuple[int, int]] = []
    for seed in seeds:
        if ranges and seed == ranges[-1][1] + 1:
            ranges[-1] = (ranges[-1][0], seed)
        else:
            ranges.append((seed, seed))
    return Seen(tuple(ranges), frozenset(names))


def _range(entry: Entry, field: str, value: Any) -> tuple[int, int]:
    pair = list_of(whole)(entry, field, value)
    if len(pair) != 2 or pair[0] > pair[1]:
        raise entry.error(field, "pairs of seeds, the first not above the second", value)
    return pair[0], pair[1]


def _reasons(entry: Entry, field: str, value: Any) -> dict[str, str]:
    known = isinstance(value, dict) and set(value) <= set(_NAMES)
    if not known or not all(isinstance(reason, str) for reason in value.values()):
        raise entry.error(field, f"reasons by data set ({', '.join(_NAMES)})", value)
    return dict(value)


_SEEN: Table = {"rooms": (list_of(_range), ()), "scenes": (list_of(name), ()), "possibly": (_reasons, {})}


def read_seen(folder: str | Path) -> Seen | None:
    """The record in a model's folder, None without one; ValueError for a broken one."""
    path = Path(folder) / SEEN_FILE
    if not has_file(path):
        return None
    values = Entry(str(path), read_json_object(path)).read(_SEEN)
    return Seen(values["rooms"], frozenset(values["scenes"]), values["possibly"])


def seen_or_unknown(folder: str | Path) -> Seen:
    """The record in a model's folder; without one, a record that nothing is known."""
    found = read_seen(folder)
    return Seen(possibly={ANY: f"{Path(folder).name} has no {SEEN_FILE}"}) if found is None else found


def write_seen(folder: Path, seen: Seen) -> None:
    """Write the record into a model's folder."""
    value = {"rooms": seen.rooms, "scenes": sorted(seen.scenes), "possibly": dict(seen.possibly)}
    write_json(folder / SEEN_FILE, value, indent=None)


def benchmark_scenes(path: str | Path) -> list[str]:
    """The scenes of a benchmark's file: JSON, JSON lines, CSV or parquet with scenes in their rows, or one a line.

    ValueError where the file cannot be read or names none.
    """
    path = Path(path)
    readers: dict[str, Callable[[Path], Any]] = {
        ".parquet": read_parquet, ".jsonl": lambda file: [row for _, row in read_json_lines(file)], ".json": read_json,
        ".csv": lambda file: [{"scan_id": row.values["scan_id"]} for row in read_table(file, {"scan_id"})],
    }  # fmt: skip
    reader = readers.get(path.suffix)
    found = read_text(path).split() if reader is None else list(_scenes_in(reader(path)))
    if not found:
        raise ValueError(f"{path}: names no scene ({', '.join(_FIELDS)}); give a benchmark's annotations or scene list")
    return list(dict.fromkeys(found))


def _scenes_in(value: Any) -> Iterator[str]:
    if isinstance(value, list):
        for member in value:
            yield from _scenes_in(member)
    elif isinstance(value, dict):
        given = next((value[key] for key in _FIELDS if isinstance(value.get(key), str)), None)
        if given is None:
            for member in value.values():
                yield from _scenes_in(member)
        else:
            inside = _IN_PATH.search(given)
            yield inside[0] if inside else given.rpartition("/")[2]
