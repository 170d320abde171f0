"""ScanQA's question files ``ScanQA_v1.0_{train,val,test_w_obj,test_wo_obj}.json`` (Azuma et al., CVPR 2022)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vidllm.datasets.records import Entry, read_list


@dataclass(frozen=True)
class ScanQAQuestion:
    """One question.

    Attributes:
        scene_id: such as ``scene0000_00``.
        question_id: such as ``train-scene0000-0``.
        question: as written.
        answers: as written, several annotators'; empty in the test files, which withhold them.
        object_ids: ScanNet's object ids; empty in the test files.
        object_names: their names.
    """

    scene_id: str
    question_id: str
    question: str
    answers: tuple[str, ...] = ()
    object_ids: tuple[int, ...] = ()
    object_names: tuple[str, ...] = ()


def read_scanqa(path: str | Path) -> list[ScanQAQuestion]:
    """The questions of a file, in its order. ValueError naming file, entry and field where one is broken."""
    return read_list(path, "ScanQA questions", _question)


def _question(entry: Entry) -> ScanQAQuestion:
    answers = entry.sentences("answers") if "answers" in entry.values else ()
    if "answers" in entry.values and not answers:
        raise entry.error("answers", "at least one answer", [])
    ids = entry.integers("object_ids") if "object_ids" in entry.values else ()
    names = entry.texts("object_names") if "object_names" in entry.values else ()
    return ScanQAQuestion(
        entry.name_of("scene_id"), entry.name_of("question_id"), entry.sentence("question"), answers, ids, names
    )
