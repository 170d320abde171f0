"""Scan2Cap's reference captions: ScanRefer's descriptions grouped by object (Chen et al., CVPR 2021).

Three forms of one caption are in use. Official: the authors' tokens, cut to 30, joined by blanks and wrapped in
``sos`` and ``eos`` (the corpus on which C@0.5 is computed). Spaced: the raw description, lower case, blanks round stops
and commas, wrapped (Video-3D-LLM, 3DRS, VG-LLM). Raw: as written.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from vidllm.datasets.records import Entry
from vidllm.datasets.scanrefer import ScanReferDescription, make_description, read_scanrefer
from vidllm.io.json_files import read_json

Form = Literal["official", "spaced", "raw"]
MAX_TOKENS = 30


@dataclass(frozen=True)
class CaptionedObject:
    """One object with every description of it.

    Attributes:
        scene_id, object_id, object_name: as in ScanRefer's file.
        descriptions: in the file's order.
    """

    scene_id: str
    object_id: int
    object_name: str
    descriptions: tuple[ScanReferDescription, ...]

    @property
    def key(self) -> str:
        """``scene|object_id|object_name``, as the official corpus names it."""
        return f"{self.scene_id}|{self.object_id}|{self.object_name}"

    def captions(self, form: Form = "official") -> tuple[str, ...]:
        """The reference captions in one of the three forms. ValueError for another one."""
        if form not in get_args(Form):
            raise ValueError(f"expected a form among {', '.join(get_args(Form))}, got {form!r}")
        return tuple(_caption(d, form) for d in self.descriptions)


def read_scan2cap(path: str | Path) -> list[CaptionedObject]:
    """The objects of a ``ScanRefer_filtered_*.json``; ValueError naming file, entry and field where one is broken."""
    return group_by_object(read_scanrefer(path))


def group_by_object(descriptions: Iterable[ScanReferDescription]) -> list[CaptionedObject]:
    """Objects in order of first mention; the same object under two names counts twice, as in the official corpus."""
    groups: dict[tuple[str, int, str], list[ScanReferDescription]] = {}
    for item in descriptions:
        groups.setdefault((item.scene_id, item.object_id, item.object_name), []).append(item)
    return [CaptionedObject(*key, tuple(group)) for key, group in groups.items()]


def read_corpus(path: str | Path) -> dict[str, tuple[str, ...]]:
    """A ready corpus ``{"scene|object_id|object_name": [caption, ...]}`` (``corpus_val.json`` of Scan2Cap and LEO).

    Raises:
        ValueError: naming file and key, when a key is not of that form or holds no list of texts.
    """
    values = read_json(path)
    if not isinstance(values, dict):
        raise ValueError(f"{path}: expected captions by scene|object_id|object_name; is it another file?")
    corpus = {}
    for index, (key, captions) in enumerate(values.items()):
        entry = Entry(Path(path), index, {key: captions})
        if key.count("|") != 2 or not key.split("|")[1].isdecimal():
            raise entry.error(key, "named scene|object_id|object_name", captions)
        corpus[key] = entry.sentences(key)
    return corpus


def read_organized(path: str | Path) -> dict[str, dict[int, dict[int, ScanReferDescription]]]:
    """``ScanRefer_filtered_organized.json``: descriptions by scene, object id and annotation id.

    Raises:
        ValueError: naming file, entry and field where one is broken or lies under other ids than its own.
    """
    tree: dict[str, dict[int, dict[int, ScanReferDescription]]] = {}
    for index, (names, values) in enumerate(_leaves(path, read_json(path), 3)):
        entry = Entry(Path(path), index, values)
        item = make_description(entry)
        if names != (item.scene_id, str(item.object_id), str(item.ann_id)):
            raise entry.error("scene_id, object_id, ann_id", f"{names}, under which it lies", item)
        tree.setdefault(item.scene_id, {}).setdefault(item.object_id, {})[item.ann_id] = item
    return tree


def _leaves(
    path: str | Path, value: object, depth: int, names: tuple[str, ...] = ()
) -> Iterable[tuple[tuple[str, ...], dict[str, object]]]:
    if not isinstance(value, dict):
        raise ValueError(f"{path}: expected records by scene, object and annotation, got {value!r:.60} at {names}")
    if depth == 0:
        yield names, value
        return
    for name, inner in value.items():
        yield from _leaves(path, inner, depth - 1, (*names, str(name)))


def _caption(item: ScanReferDescription, form: Form) -> str:
    if form == "official":
        return f"sos {' '.join(item.tokens[:MAX_TOKENS])} eos"
    if form == "spaced":
        return f"sos {item.description.replace('.', ' . ').replace(',', ' , ').lower()} eos"
    return item.description
