"""ScanRefer's description files ``ScanRefer_filtered_{train,val,test}.json`` (Chen et al., ECCV 2020)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vidllm.datasets.records import Entry, read_list
from vidllm.io.files import check_regular_file


@dataclass(frozen=True)
class ScanReferDescription:
    """One description of one object.

    Attributes:
        scene_id: such as ``scene0000_00``.
        object_id: ScanNet's object id (text in the file).
        object_name: with underscores, as in the file (``kitchen_cabinets``).
        ann_id: number of the description among those of the object (text in the file).
        description: as written.
        tokens: the same as the authors split it, lower case.
    """

    scene_id: str
    object_id: int
    object_name: str
    ann_id: int
    description: str
    tokens: tuple[str, ...]

    @property
    def label(self) -> str:
        """The object's name with blanks, as ScanNet writes it."""
        return self.object_name.replace("_", " ")


def read_scanrefer(path: str | Path) -> list[ScanReferDescription]:
    """The descriptions of a file, in its order. ValueError naming file, entry and field where one is broken."""
    return read_list(path, "ScanRefer descriptions", make_description)


def read_scene_list(path: str | Path) -> list[str]:
    """The scenes of a split, one a line (``ScanRefer_filtered_val.txt``, ``scannetv2_val.txt``), each once.

    The files have no final newline. ValueError when the file cannot be read or is empty.
    """
    try:
        scenes = check_regular_file(path).read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: cannot be read as a list of scenes ({error}); fetch it again") from error
    if not scenes:
        raise ValueError(f"{path}: expected one scene a line, the file is empty; fetch it again")
    return list(dict.fromkeys(scenes))


def make_description(entry: Entry) -> ScanReferDescription:
    """The description of one record; ValueError naming file, entry and field where it is broken."""
    return ScanReferDescription(
        entry.name_of("scene_id"),
        entry.integer("object_id"),
        entry.name_of("object_name"),
        entry.integer("ann_id"),
        entry.sentence("description"),
        entry.sentences("token") if "token" in entry.values else tuple(entry.text("description").lower().split()),
    )
