"""ReferIt3D's tables ``nr3d.csv`` and ``sr3d.csv`` (Achlioptas et al., ECCV 2020): which of the given boxes is meant.

The context of an utterance is its ``stimulus_id``, ``scene-label-n-target-distractor-...``: n objects of one class, the
target among them. Easy contexts have n <= 2; an utterance is view-dependent when it holds a word such as "left".
"""

from __future__ import annotations

import ast
import csv
import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vidllm.datasets.records import Entry
from vidllm.io.files import check_regular_file

_STIMULUS = re.compile(
    r"(?P<scene>scene[0-9_]+)-(?P<label>.+?)-(?P<n>\d{1,18})-(?P<target>\d{1,18})(?P<rest>(?:-\d{1,18})*)"
)
_TRUE, _FALSE = ("true", "1"), ("false", "0", "")
VIEW_WORDS = frozenset(
    ("front", "behind", "back", "right", "left", "facing", "leftmost", "rightmost", "looking", "across")
)


@dataclass(frozen=True)
class ReferIt3DUtterance:
    """One utterance.

    Attributes:
        scene_id: such as ``scene0000_00``.
        target_id: ScanNet's id of the object meant.
        instance_type: its class, with blanks.
        utterance: as written; `tokens`: as the authors split it.
        distractor_ids: the other objects of the class that the context names.
        n_objects: objects of the class in the context, the target included.
        mentions_target_class: whether the class is said.
        correct_guess: whether a listener found the target (Sr3D: None).
        reference_type: of Sr3D, such as ``between`` (Nr3D: None).
        anchor_ids: of Sr3D, the objects it relates the target to.
        dataset: ``nr3d`` or ``sr3d``, as the file says.
        stimulus_id, assignment_id: the file's own ids.
    """

    scene_id: str
    target_id: int
    instance_type: str
    utterance: str
    tokens: tuple[str, ...]
    distractor_ids: tuple[int, ...]
    n_objects: int
    mentions_target_class: bool | None
    correct_guess: bool | None
    reference_type: str | None
    anchor_ids: tuple[int, ...]
    dataset: str
    stimulus_id: str
    assignment_id: str

    @property
    def easy(self) -> bool:
        """At most two objects of the class in the context."""
        return self.n_objects <= 2

    @property
    def view_dependent(self) -> bool:
        """Whether a word depends on where one stands (Nr3D's rule)."""
        return bool(VIEW_WORDS.intersection(self.tokens))


def read_referit3d(path: str | Path) -> list[ReferIt3DUtterance]:
    """The utterances of an ``nr3d*.csv`` or ``sr3d*.csv``, in order; ValueError naming file, entry and field."""
    path = check_regular_file(path)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, restkey="")
            missing = {"scan_id", "target_id", "utterance", "stimulus_id"} - set(reader.fieldnames or ())
            if missing:
                raise ValueError(f"{path}: expected a ReferIt3D table, columns {sorted(missing)} are missing")
            return [_utterance(Entry(path, index, row)) for index, row in enumerate(reader)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path}: cannot be read as a table ({error}); fetch it again") from error


def _utterance(entry: Entry) -> ReferIt3DUtterance:
    context = _STIMULUS.fullmatch(entry.name_of("stimulus_id"))
    target = entry.integer("target_id")
    if context is None or int(context["target"]) != target or context["scene"] != entry.name_of("scan_id"):
        expected = f"scene-label-n-{target}-distractors of {entry.values.get('scan_id')}"
        raise entry.error("stimulus_id", expected, entry.values["stimulus_id"])
    utterance = entry.sentence("utterance")
    distractors = tuple(int(word) for word in context["rest"].split("-")[1:])
    tokens = _items(entry, "tokens", str) if entry.values.get("tokens") else tuple(utterance.lower().split())
    return ReferIt3DUtterance(
        scene_id=context["scene"],
        target_id=target,
        instance_type=entry.values.get("instance_type") or context["label"],
        utterance=utterance,
        tokens=tokens,
        distractor_ids=_items(entry, "distractor_ids", int) if entry.values.get("distractor_ids") else distractors,
        n_objects=int(context["n"]),
        mentions_target_class=_flag(entry, "mentions_target_class"),
        correct_guess=_flag(entry, "correct_guess"),
        reference_type=entry.values.get("reference_type") or None,
        anchor_ids=_items(entry, "anchor_ids", int) if entry.values.get("anchor_ids") else (),
        dataset=(entry.values.get("dataset") or entry.path.stem.split("_")[0]).lower(),
        stimulus_id=entry.text("stimulus_id"),
        assignment_id=entry.values.get("assignmentid") or "",
    )


def _items(entry: Entry, field: str, kind: type) -> tuple[Any, ...]:
    """A list written as Python text, read as a literal: nothing is executed."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python's own, about how the text is written
            values = ast.literal_eval(entry.text(field))
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        values = None
    if not isinstance(values, list | tuple) or not all(isinstance(v, kind) for v in values):
        raise entry.error(field, f"a list of {kind.__name__}", entry.values[field])
    return tuple(values)


def _flag(entry: Entry, field: str) -> bool | None:
    if field not in entry.values:
        return None
    word = (entry.values[field] or "").strip().lower()
    if word not in (*_TRUE, *_FALSE):
        raise entry.error(field, "True or False", entry.values[field])
    return None if not word else word in _TRUE
