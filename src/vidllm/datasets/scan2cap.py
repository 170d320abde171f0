"""Scan2Cap's reference captions: ScanRefer's descriptions grouped by object (Chen et al., CVPR 2021).

Three forms of one caption are in use. Official: the authors' tokens, cut to 30, joined by blanks and wrapped in
``sos`` and ``eos`` (the corpus on which C@0.5 is computed). Spaced: the raw description, lower case, blanks round stops
and commas, wrapped (Video-3D-LLM, 3DRS, VG-LLM). Raw: as written.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

from vidllm.datasets.scanrefer import ScanReferDescription

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


def group_by_object(descriptions: Iterable[ScanReferDescription]) -> list[CaptionedObject]:
    """Objects in order of first mention; the same object under two names counts twice, as in the official corpus."""
    groups: dict[tuple[str, int, str], list[ScanReferDescription]] = {}
    for item in descriptions:
        groups.setdefault((item.scene_id, item.object_id, item.object_name), []).append(item)
    return [CaptionedObject(*key, tuple(group)) for key, group in groups.items()]


def _caption(item: ScanReferDescription, form: Form) -> str:
    if form == "official":
        return f"sos {' '.join(item.tokens[:MAX_TOKENS])} eos"
    if form == "spaced":
        return f"sos {item.description.replace('.', ' . ').replace(',', ' , ').lower()} eos"
    return item.description
