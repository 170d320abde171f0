"""The language sets of ScanNet as their authors distribute them, each entry a small frozen dataclass.

ScanQA (Azuma et al., CVPR 2022), SQA3D (Ma et al., ICLR 2023), ScanRefer (Chen et al., ECCV 2020), whose descriptions
grouped by object are Scan2Cap's captions (Chen et al., CVPR 2021), Multi3DRefer (Zhang et al., ICCV 2023) and ReferIt3D
(Achlioptas et al., ECCV 2020). Each table below has the fields of one file and what they must be. The readers give
the entries in the order of the file, or ValueError naming file, entry and field where one is broken.
"""

from __future__ import annotations

import ast
import math
import re
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vidllm.datasets.records import (
    Check,
    Entry,
    Table,
    entries,
    is_number,
    list_of,
    made_by,
    name,
    read_table,
    sentence,
    sentences,
    text,
    texts,
    whole,
)
from vidllm.io.files import read_json, read_json_lines, read_text


def read_scene_list(path: str | Path) -> list[str]:
    """The scenes of a split, one a line (``ScanRefer_filtered_val.txt``, ``scannetv2_val.txt``), each once.

    The files have no final newline. ValueError when the file cannot be read or is empty.
    """
    scenes = read_text(path).split()
    if not scenes:
        raise ValueError(f"{path}: expected one scene a line, the file is empty; fetch it again")
    return list(dict.fromkeys(scenes))


@dataclass(frozen=True)
class ScanQAQuestion:
    """One question. The test files withhold answers (several annotators'), ScanNet's object ids and their names."""

    scene_id: str
    question_id: str
    question: str
    answers: tuple[str, ...] = ()
    object_ids: tuple[int, ...] = ()
    object_names: tuple[str, ...] = ()


def _answers(entry: Entry, field: str, value: Any) -> tuple[str, ...]:
    if value == []:
        raise entry.error(field, "at least one answer", value)
    return sentences(entry, field, value)


_SCANQA: Table = {
    "scene_id": name, "question_id": name, "question": sentence, "answers": (_answers, ()),
    "object_ids": (list_of(whole), ()), "object_names": (texts, ()),
}  # fmt: skip


def read_scanqa(path: str | Path) -> list[ScanQAQuestion]:
    """``ScanQA_v1.0_{train,val,test_w_obj,test_wo_obj}.json``."""
    return [ScanQAQuestion(**entry.read(_SCANQA)) for entry in entries(read_json(path), path, "ScanQA questions")]


@dataclass(frozen=True)
class ScanReferDescription:
    """One description of one object.

    ``object_id`` is ScanNet's, ``object_name`` has underscores (``kitchen_cabinets``), ``ann_id`` is the number of the
    description among those of the object, ``tokens`` are the authors' own, in lower case.
    """

    scene_id: str
    object_id: int
    object_name: str
    ann_id: int
    description: str
    tokens: tuple[str, ...]


_SCANREFER: Table = {
    "scene_id": name, "object_id": whole, "object_name": name, "ann_id": whole, "description": sentence,
    "token": (sentences, None),
}  # fmt: skip


def read_scanrefer(path: str | Path) -> list[ScanReferDescription]:
    """``ScanRefer_filtered_{train,val,test}.json``."""
    found = []
    for entry in entries(read_json(path), path, "ScanRefer descriptions"):
        values = entry.read(_SCANREFER)
        tokens = values.pop("token")
        if tokens is None:
            tokens = tuple(values["description"].lower().split())
        found.append(ScanReferDescription(**values, tokens=tokens))
    return found


@dataclass(frozen=True)
class CaptionedObject:
    """One object with every description of it, in the file's order."""

    scene_id: str
    object_id: int
    object_name: str
    descriptions: tuple[ScanReferDescription, ...]


def group_by_object(descriptions: Iterable[ScanReferDescription]) -> list[CaptionedObject]:
    """Objects in order of first mention; the same object under two names is one, under the first name."""
    groups: dict[tuple[str, int], list[ScanReferDescription]] = {}
    for item in descriptions:
        groups.setdefault((item.scene_id, item.object_id), []).append(item)
    return [CaptionedObject(*key, group[0].object_name, tuple(group)) for key, group in groups.items()]


@dataclass(frozen=True)
class Multi3DReferDescription:
    """One description of no, one or several objects; ``ann_id`` is its number in its scene.

    ``eval_type``: zero, single or multiple targets, with or without distractors (``EVAL_TYPES``).
    """

    scene_id: str
    object_ids: tuple[int, ...]
    object_name: str
    ann_id: int
    eval_type: str
    description: str


EVAL_TYPES = ("zt_wo_d", "zt_w_d", "st_wo_d", "st_w_d", "mt")
_MULTI3DREFER: Table = {
    "scene_id": name, "object_ids": list_of(whole), "object_name": text, "ann_id": whole, "eval_type": text,
    "description": sentence,
}  # fmt: skip


def read_multi3drefer(path: str | Path) -> list[Multi3DReferDescription]:
    """``multi3drefer_{train,val}.json``."""
    found = []
    for entry in entries(read_json(path), path, "Multi3DRefer descriptions"):
        item = Multi3DReferDescription(**entry.read(_MULTI3DREFER))
        kind, count = item.eval_type, len(item.object_ids)
        if kind not in EVAL_TYPES:
            raise entry.error("eval_type", f"one of {', '.join(EVAL_TYPES)}", kind)
        if not {"zt": count == 0, "st": count == 1, "mt": count > 1}[kind[:2]]:
            raise entry.error("object_ids", f"as many as eval_type {kind} says", list(item.object_ids))
        found.append(item)
    return found


_STIMULUS = re.compile(
    r"(?P<scene>scene[0-9_]+)-(?P<label>.+?)-(?P<n>\d{1,18})-(?P<target>\d{1,18})(?P<rest>(?:-\d{1,18})*)"
)
_FLAGS = {"true": True, "1": True, "false": False, "0": False, "": None}


@dataclass(frozen=True)
class ReferIt3DUtterance:
    """One utterance about one of several objects of a class."""

    scene_id: str
    target_id: int  # ScanNet's, as all ids of objects
    instance_type: str  # the target's class, with blanks
    utterance: str
    tokens: tuple[str, ...]  # as the authors split it
    distractor_ids: tuple[int, ...]  # the other objects of the class that the context names
    n_objects: int  # of the class in the context, the target included
    mentions_target_class: bool | None
    correct_guess: bool | None  # whether a listener found the target (Sr3D: None)
    reference_type: str | None  # of Sr3D, such as ``between`` (Nr3D: None)
    anchor_ids: tuple[int, ...]  # what it relates the target to
    dataset: str  # ``nr3d`` or ``sr3d``, as the file says
    stimulus_id: str  # the context, ``scene-label-n-target-distractor-...``
    assignment_id: str  # the file's own id


def _literal(kind: type) -> Check:
    """A list written as Python text, read as a literal: nothing is executed. None for an empty field."""

    def checked(entry: Entry, field: str, value: Any) -> tuple[Any, ...] | None:
        if not value:
            return None
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Python's own, about how the text is written
                found = ast.literal_eval(text(entry, field, value))
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
            found = None
        if not isinstance(found, list | tuple) or not all(isinstance(member, kind) for member in found):
            raise entry.error(field, f"a list of {kind.__name__}", value)
        return tuple(found)

    return checked


def _flag(entry: Entry, field: str, value: Any) -> bool | None:
    word = (value or "").strip().lower()
    if word not in _FLAGS:
        raise entry.error(field, "True or False", value)
    return _FLAGS[word]


_plain = made_by(lambda value: value or "")
_REFERIT3D: Table = {
    "scan_id": name, "target_id": whole, "utterance": sentence, "stimulus_id": name, "instance_type": (_plain, ""),
    "tokens": (_literal(str), None), "distractor_ids": (_literal(int), None), "anchor_ids": (_literal(int), None),
    "mentions_target_class": (_flag, None), "correct_guess": (_flag, None), "reference_type": (_plain, ""),
    "dataset": (_plain, ""), "assignmentid": (_plain, ""),
}  # fmt: skip


def read_referit3d(path: str | Path) -> list[ReferIt3DUtterance]:
    """``nr3d*.csv`` or ``sr3d*.csv``."""
    rows = read_table(path, {"scan_id", "target_id", "utterance", "stimulus_id"})
    return [_utterance(entry, Path(path).stem.split("_")[0]) for entry in rows]


def _utterance(entry: Entry, dataset: str) -> ReferIt3DUtterance:
    values = entry.read(_REFERIT3D)
    target, context = values["target_id"], _STIMULUS.fullmatch(values["stimulus_id"])
    if context is None or int(context["target"]) != target or context["scene"] != values["scan_id"]:
        raise entry.error(
            "stimulus_id", f"scene-label-n-{target}-distractors of {values['scan_id']}", values["stimulus_id"]
        )
    if values["distractor_ids"] is None:
        values["distractor_ids"] = tuple(int(word) for word in context["rest"].split("-")[1:])
    if values["tokens"] is None:
        values["tokens"] = tuple(values["utterance"].lower().split())
    derived = {
        "scene_id": values.pop("scan_id"), "assignment_id": values.pop("assignmentid"), "n_objects": int(context["n"]),
        "instance_type": values["instance_type"] or context["label"], "anchor_ids": values["anchor_ids"] or (),
        "reference_type": values["reference_type"] or None, "dataset": (values["dataset"] or dataset).lower(),
    }  # fmt: skip
    return ReferIt3DUtterance(**{**values, **derived})


_QUATERNION_TOLERANCE = 1e-2


@dataclass(frozen=True)
class Situation:
    """Where somebody stands, in words (one sentence, and other sentences for the same) and as a pose.

    An agent at the origin who looks along -x is turned by ``rotation`` (a unit quaternion x, y, z, w about z) and moved
    by ``position`` in metres. The origin is the centre of the bounding box of the mesh ``_vh_clean_2.ply`` as
    distributed, before axis alignment: so the authors' own drawing of the data has it.
    """

    text: str
    alternatives: tuple[str, ...]
    position: tuple[float, float, float]
    rotation: tuple[float, float, float, float]


@dataclass(frozen=True)
class SQA3DQuestion:
    """One question with its answers (the files hold one each) and the situation it is asked in.

    ``question_type`` and ``answer_type`` are as the files say (``N/A``, ``other``).
    """

    scene_id: str
    question_id: int
    question: str
    answers: tuple[str, ...]
    situation: Situation
    question_type: str
    answer_type: str


def _numbers(*names: str) -> Check:
    """An object with finite numbers of these names, as a tuple."""

    def checked(entry: Entry, field: str, value: Any) -> tuple[float, ...]:
        if not isinstance(value, dict) or not all(is_number(value.get(key)) for key in names):
            raise entry.error(field, f"finite numbers {', '.join(names)}", value)
        return tuple(float(value[key]) for key in names)

    return checked


def _quaternion(entry: Entry, field: str, value: Any) -> tuple[float, ...]:
    numbers = _numbers("_x", "_y", "_z", "_w")(entry, field, value)
    length = math.hypot(*numbers)
    if abs(length - 1) > _QUATERNION_TOLERANCE:
        raise entry.error(field, "a unit quaternion", numbers)
    return tuple(n / length for n in numbers)


def _given_answers(entry: Entry, field: str, value: Any) -> tuple[str, ...]:
    given = [a.get("answer") if isinstance(a, dict) else None for a in value] if isinstance(value, list) else []
    if not given or not all(isinstance(answer, str) for answer in given):
        raise entry.error(field, 'a list of {"answer": text}', value)
    return sentences(entry, field, given)


_word = made_by(str)
_ASKED: Table = {
    "scene_id": name, "question_id": whole, "question": sentence, "situation": sentence,
    "alternative_situation": (sentences, ()),
}  # fmt: skip
_ANSWERED: Table = {
    "scene_id": name, "answers": _given_answers, "position": _numbers("x", "y", "z"), "rotation": _quaternion,
    "question_type": (_word, "N/A"), "answer_type": (_word, "N/A"),
}  # fmt: skip


def read_sqa3d(questions: str | Path, annotations: str | Path | None = None) -> list[SQA3DQuestion]:
    """``v1_balanced_questions_*`` joined by id with ``v1_balanced_sqa_annotations_*``, the file beside it by default.

    ValueError also for an id that comes twice, or one without partner.
    """
    other = annotations_path(questions) if annotations is None else Path(annotations)
    asked = _by_id(questions, "questions")
    answers = _by_id(other, "annotations")
    for here, there, path in ((asked, answers, other), (answers, asked, questions)):
        unmatched = next((entry for number, entry in here.items() if number not in there), None)
        if unmatched is not None:
            where = unmatched.where
            raise ValueError(f"{where}: {path} has no entry of this question_id; the files must be of one split")
    found = []
    for number, entry in asked.items():
        question, answer = entry.read(_ASKED), answers[number].read(_ANSWERED)
        if answer["scene_id"] != question["scene_id"]:
            expected = f"{question['scene_id']}, as {Path(questions).name} says"
            raise answers[number].error("scene_id", expected, answer["scene_id"])
        situation = Situation(
            question.pop("situation"), question.pop("alternative_situation"), answer["position"], answer["rotation"]
        )
        annotated = {key: answer[key] for key in ("answers", "question_type", "answer_type")}
        found.append(SQA3DQuestion(**question, **annotated, situation=situation))
    return found


@dataclass(frozen=True)
class VSIQuestion:
    """One question of VSI-Bench about a video."""

    scene_id: str  # the video's name (``scene_name``)
    dataset: str  # scannet, arkitscenes, scannetpp or rooms
    question_id: str
    question_type: str  # its task
    question: str
    options: tuple[str, ...]  # lettered ("A. left"), none where a number is asked for
    answers: tuple[str, ...]  # the right one (``ground_truth``): a letter, or a number as text
    pruned: bool  # the debiased set leaves it out

    @property
    def prompt(self) -> str:
        """What the official script asks of a model."""
        lines = ["These are frames of a video.", self.question]
        if not self.options:
            return "\n".join([*lines, "Please answer the question using a single word or phrase."])
        choose = "Answer with the option's letter from the given choices directly."
        return "\n".join([*lines, "Options:", *self.options, choose])


def _options(entry: Entry, field: str, value: Any) -> tuple[str, ...]:
    return () if value is None else sentences(entry, field, value)


_VSI: Table = {
    "scene_name": name, "dataset": name, "id": whole, "question_type": name, "question": sentence,
    "options": (_options, ()), "ground_truth": _word, "pruned": (made_by(lambda value: value is True), False),
}  # fmt: skip


def read_vsi(path: str | Path) -> list[VSIQuestion]:
    """``test.jsonl``."""
    rows = [row for _, row in read_json_lines(path)]
    found = []
    for entry in entries(rows, path, "VSI-Bench questions", ("id", "scene_name")):
        values = entry.read(_VSI)
        renamed = {"scene_id": values.pop("scene_name"), "question_id": str(values.pop("id"))}
        found.append(VSIQuestion(**renamed, answers=(values.pop("ground_truth"),), **values))
    return found


def annotations_path(questions: str | Path) -> Path:
    """Where the annotations that belong to a questions file lie: beside it, under the official name."""
    path = Path(questions)
    return path.with_name(path.name.replace("_questions_", "_sqa_annotations_"))


def _by_id(path: str | Path, field: str) -> dict[int, Entry]:
    values = read_json(path)
    if not isinstance(values, dict) or field not in values:
        raise ValueError(f"{path}: expected an object with {field!r}, as SQA3D's files have; is it another file?")
    found: dict[int, Entry] = {}
    for entry in entries(values[field], path, field):
        number = entry.get("question_id", whole)
        if number in found:
            raise ValueError(f"{entry.where}: question_id {number} is also that of entry {list(found).index(number)}")
        found[number] = entry
    return found
