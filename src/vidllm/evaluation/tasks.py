"""The benchmarks as a model meets them: which items there are, and how outputs become the official files.

Every task turns the dataset's own entries into items, items into the references of the protocols, and a model's
outputs into their submission; scoring then goes through the very functions that score a file (``protocols``).
Outputs are rows with ``key`` and ``scene_id``, and ``answer``; or ``caption``, ``box`` (8 corners or None) and ``iou``;
or ``boxes`` (n of 8 corners), ``scores`` and, where annotated objects were chosen among, ``object_ids``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vidllm.datasets.layout import DataRoot
from vidllm.datasets.multi3drefer import Multi3DReferDescription
from vidllm.datasets.referit3d import ReferIt3DUtterance
from vidllm.datasets.scan2cap import CaptionedObject, group_by_object
from vidllm.datasets.scanqa import ScanQAQuestion
from vidllm.datasets.scanrefer import ScanReferDescription
from vidllm.datasets.sqa3d import SQA3DQuestion
from vidllm.datasets.words import tokens
from vidllm.evaluation.registration import box_reader
from vidllm.evaluation.settings import Kind, Variant
from vidllm.io.files import read_json
from vidllm.model import prompts

__all__ = ["TASKS", "BoxOf", "Item", "Task", "refusals", "refuse_repeats", "task_named"]

Row = dict[str, Any]
BoxOf = Callable[[str, int, str], np.ndarray]
"""(scene, object id, entry's name) to the corners (8, 3) of the annotated object in the aligned frame."""

#: A box without volume: a miss under every protocol, for where there is nothing to choose from.
NOWHERE = [[0.0, 0.0, 0.0]] * 8


@dataclass(frozen=True)
class Item:
    """One thing to be answered: ``key`` differs between all items of a split."""

    key: str
    scene_id: str
    entry: Any

    @property
    def object_id(self) -> int:
        """The annotated object, of captions."""
        return int(self.entry.object_id)


class Task(ABC):
    """One benchmark. Subclasses say how its entries become items, references and submissions."""

    name: str
    kind: Kind
    prompt: str
    """The template as the model gets it."""
    several = False
    """Whether an expression may mean none or several objects."""
    words = ""
    """The field of an entry with its question or expression."""

    @abstractmethod
    def items(self, entries: Sequence[Any]) -> list[Item]:
        """One item for each thing to be answered, in the order of the file."""

    @abstractmethod
    def references(self, items: Sequence[Item], box_of: BoxOf, data: DataRoot) -> Any:
        """What the protocols call references."""

    @abstractmethod
    def submission(self, items: Sequence[Item], outputs: Mapping[str, Row], protocol: str) -> Any:
        """What the protocol calls predictions."""

    def ask(self, item: Item) -> tuple[str, str | None]:
        """(question or expression, situation or None); captions are asked for at a point instead."""
        if not self.words:
            raise TypeError(f"{self.name} asks nothing in words")
        return getattr(item.entry, self.words), None

    def texts(self, entries: Sequence[Any]) -> list[str]:
        """The annotated texts of a split, for the most frequent one: every annotator's; grounding has none."""
        if self.kind != "answer":
            raise TypeError(f"{self.name} has no texts to be said")
        return [answer for entry in entries for answer in entry.answers]

    def withheld(self, items: Sequence[Item]) -> bool:
        """Whether the split comes without its answers, so that there is nothing to score against."""
        return False

    def why_not(self, protocol: str, variant: Variant, data: DataRoot) -> str | None:
        """Why a protocol cannot be applied to a variant, None where it can."""
        return None


class ScanQA(Task):
    """Questions about a room."""

    name, kind, prompt = "scanqa", "answer", prompts.qa_prompt("{question}")
    words = "question"

    def items(self, entries: Sequence[ScanQAQuestion]) -> list[Item]:
        """One a question."""
        return [Item(entry.question_id, entry.scene_id, entry) for entry in entries]

    def withheld(self, items: Sequence[Item]) -> bool:
        """The test files have no answers."""
        return not any(item.entry.answers for item in items)

    def references(self, items: Sequence[Item], box_of: BoxOf, data: DataRoot) -> list[Row]:
        """ScanQA's own entries."""
        return [
            {
                "scene_id": item.scene_id, "question_id": item.key, "question": item.entry.question,
                "answers": list(item.entry.answers), "object_ids": list(item.entry.object_ids),
                "object_names": list(item.entry.object_names),
            }
            for item in items
        ]  # fmt: skip

    def submission(self, items: Sequence[Item], outputs: Mapping[str, Row], protocol: str) -> list[Row]:
        """The list of the benchmark's server, one answer for ten."""
        return [
            {"scene_id": i.scene_id, "question_id": i.key, "answer_top10": [outputs[i.key]["answer"]], "bbox": []}
            for i in items
        ]


class SQA3D(Task):
    """Questions asked from a place in the room."""

    name, kind, prompt = "sqa3d", "answer", prompts.situated_prompt("{situation}", "{question}")

    def items(self, entries: Sequence[SQA3DQuestion]) -> list[Item]:
        """One a question."""
        return [Item(str(entry.question_id), entry.scene_id, entry) for entry in entries]

    def ask(self, item: Item) -> tuple[str, str | None]:
        """The question and where one stands."""
        return item.entry.question, item.entry.situation.text

    def references(self, items: Sequence[Item], box_of: BoxOf, data: DataRoot) -> Row:
        """The two files and the vocabulary (None where it is not there)."""
        vocabulary = data.find("answer_dict.json", "sqa3d")
        return {
            "questions": {"questions": [self._question(item) for item in items]},
            "annotations": {"annotations": [self._annotation(item) for item in items]},
            "answer_dict": None if vocabulary is None else read_json(vocabulary),
        }

    def submission(self, items: Sequence[Item], outputs: Mapping[str, Row], protocol: str) -> list[Row]:
        """The list of the official free-form program, with ``question_id``."""
        return [
            {
                **self._question(item), "agent_pos": self._pose(item)["position"],
                "agent_rot": self._pose(item)["rotation"], "answer": outputs[item.key]["answer"],
            }
            for item in items
        ]  # fmt: skip

    def why_not(self, protocol: str, variant: Variant, data: DataRoot) -> str | None:
        """The closed vocabulary needs its file."""
        if protocol == "official_closed" and data.find("answer_dict.json", "sqa3d") is None:
            return "answer_dict.json is not there"
        return None

    @staticmethod
    def _question(item: Item) -> Row:
        entry: SQA3DQuestion = item.entry
        return {
            "scene_id": item.scene_id, "situation": entry.situation.text, "question": entry.question,
            "question_id": entry.question_id,
        }  # fmt: skip

    def _annotation(self, item: Item) -> Row:
        answers = [{"answer": answer} for answer in item.entry.answers]
        return {"question_id": item.entry.question_id, "answers": answers, **self._pose(item)}

    @staticmethod
    def _pose(item: Item) -> Row:
        situation = item.entry.situation
        rotation = dict(zip(("_x", "_y", "_z", "_w"), situation.rotation, strict=True))
        return {"position": dict(zip("xyz", situation.position, strict=True)), "rotation": rotation}


class Scan2Cap(Task):
    """Captions of annotated objects, each asked for at a point."""

    name, kind, prompt = "scan2cap", "caption", prompts.caption_prompt()
    _DETECTORS = ("cvpr21", "benchmark", "ll3da")

    def items(self, entries: Sequence[ScanReferDescription]) -> list[Item]:
        """One an object; an object under two names is one, under the first, as the evaluators read it."""
        found: dict[str, Item] = {}
        for thing in group_by_object(entries):
            key = f"{thing.scene_id}|{thing.object_id}"
            if key in found:
                before: CaptionedObject = found[key].entry
                both = (*before.descriptions, *thing.descriptions)
                thing = CaptionedObject(before.scene_id, before.object_id, before.object_name, both)
            found[key] = Item(key, thing.scene_id, thing)
        return list(found.values())

    def texts(self, entries: Sequence[ScanReferDescription]) -> list[str]:
        """The descriptions."""
        return [entry.description for entry in entries]

    def references(self, items: Sequence[Item], box_of: BoxOf, data: DataRoot) -> list[Row]:
        """The list of ``ScanRefer_filtered_*_gt_bbox.json``, object by object."""
        return [_described(entry, box_of) for item in items for entry in item.entry.descriptions]

    def submission(self, items: Sequence[Item], outputs: Mapping[str, Row], protocol: str) -> Any:
        """Proposals by scene for the detectors' protocols, one answer an object for the language models'."""
        if protocol not in self._DETECTORS:
            return [
                {
                    "scene_id": item.scene_id, "object_id": str(item.object_id), "object_name": item.entry.object_name,
                    "iou": outputs[item.key]["iou"], "pred_response": outputs[item.key]["caption"],
                }
                for item in items
            ]  # fmt: skip
        scenes: dict[str, list[Row]] = {item.scene_id: [] for item in items}
        for item in items:
            row = outputs[item.key]
            if row["box"] is not None:
                caption = " ".join(["sos", *tokens(row["caption"]), "eos"])
                scenes[item.scene_id].append({"caption": caption, "box": row["box"], "obj_prob": [0.0, 1.0]})
        return scenes


class ScanRefer(Task):
    """One object from a description."""

    name, kind, prompt = "scanrefer", "box", prompts.grounding_prompt("{expression}")
    words = "description"

    def items(self, entries: Sequence[ScanReferDescription]) -> list[Item]:
        """One a description."""
        return [Item(f"{e.scene_id}|{e.object_id}|{e.ann_id}", e.scene_id, e) for e in entries]

    def references(self, items: Sequence[Item], box_of: BoxOf, data: DataRoot) -> list[Row]:
        """The list of ``ScanRefer_filtered_*_gt_bbox.json``."""
        return [_described(item.entry, box_of) for item in items]

    def submission(self, items: Sequence[Item], outputs: Mapping[str, Row], protocol: str) -> list[Row]:
        """The benchmark's list; "unique" and "multiple" are worked out from the references."""
        return [
            {
                "scene_id": item.scene_id, "object_id": str(item.entry.object_id), "ann_id": str(item.entry.ann_id),
                "bbox": next(iter(outputs[item.key]["boxes"]), NOWHERE),
            }
            for item in items
        ]  # fmt: skip


class Multi3DRefer(Task):
    """None, one or several objects from a description."""

    name, kind, prompt, several = "multi3drefer", "box", prompts.multi_grounding_prompt("{expression}"), True
    words = "description"

    def items(self, entries: Sequence[Multi3DReferDescription]) -> list[Item]:
        """One a description."""
        return [Item(f"{e.scene_id}|{e.ann_id}", e.scene_id, e) for e in entries]

    def references(self, items: Sequence[Item], box_of: BoxOf, data: DataRoot) -> dict[str, list[Row]]:
        """Entries by scene, as M3DRef-CLIP's generated ground truth has them."""
        scenes: dict[str, list[Row]] = {item.scene_id: [] for item in items}
        for item in items:
            boxes = [box_of(item.scene_id, number, item.key) for number in item.entry.object_ids]
            bounds = [[box.min(0).tolist(), box.max(0).tolist()] for box in boxes]
            row = {"ann_id": item.entry.ann_id, "eval_type": item.entry.eval_type, "aabb_bound": bounds}
            scenes[item.scene_id].append(row)
        return scenes

    def submission(self, items: Sequence[Item], outputs: Mapping[str, Row], protocol: str) -> dict[str, list[Row]]:
        """Boxes by scene."""
        scenes: dict[str, list[Row]] = {item.scene_id: [] for item in items}
        for item in items:
            scenes[item.scene_id].append({"ann_id": item.entry.ann_id, "aabb": outputs[item.key]["boxes"]})
        return scenes


class ReferIt3D(Task):
    """One of the annotated objects from an utterance (Nr3D, Sr3D); by box where none are given."""

    kind, prompt, words = "box", prompts.grounding_prompt("{expression}"), "utterance"

    def __init__(self, name: str) -> None:
        self.name = name

    def items(self, entries: Sequence[ReferIt3DUtterance]) -> list[Item]:
        """One an utterance: by its assignment, else its number in the file."""
        return [Item(e.assignment_id or str(number), e.scene_id, e) for number, e in enumerate(entries)]

    def references(self, items: Sequence[Item], box_of: BoxOf, data: DataRoot) -> list[Row]:
        """The rows of the table, with the target's box."""
        rows = []
        for item in items:
            entry: ReferIt3DUtterance = item.entry
            flag = True if entry.mentions_target_class is None else entry.mentions_target_class
            rows.append({
                "id": item.key, "stimulus_id": entry.stimulus_id, "target_id": entry.target_id,
                "tokens": list(entry.tokens), "mentions_target_class": flag,
                "bbox": box_of(item.scene_id, entry.target_id, f"{self.name} {item.key}").tolist(),
            })  # fmt: skip
        return rows

    def submission(self, items: Sequence[Item], outputs: Mapping[str, Row], protocol: str) -> list[Row]:
        """Objects for ``official``, boxes for the others."""
        if protocol == "official":
            return [{"id": item.key, "target_id": outputs[item.key]["object_ids"][0]} for item in items]
        return [{"id": item.key, "bbox": next(iter(outputs[item.key]["boxes"]), NOWHERE)} for item in items]

    def why_not(self, protocol: str, variant: Variant, data: DataRoot) -> str | None:
        """The official protocol counts chosen objects, not boxes."""
        if protocol == "official" and variant.source != "gt":
            return "it counts the annotated object that was chosen (setting proposals-gt)"
        return None


def _described(entry: ScanReferDescription, box_of: BoxOf) -> Row:
    """An annotation with its object's box, as ``ScanRefer_filtered_*_gt_bbox.json`` has it."""
    what = f"{entry.scene_id}, object {entry.object_id}, annotation {entry.ann_id}"
    return {
        "scene_id": entry.scene_id, "object_id": str(entry.object_id), "object_name": entry.object_name,
        "ann_id": str(entry.ann_id), "description": entry.description, "token": list(entry.tokens),
        "bbox": box_of(entry.scene_id, entry.object_id, what).tolist(),
    }  # fmt: skip


TASKS: dict[str, Task] = {
    task.name: task
    for task in (ScanQA(), SQA3D(), Scan2Cap(), ScanRefer(), Multi3DRefer(), ReferIt3D("nr3d"), ReferIt3D("sr3d"))
}
"""The benchmarks that a model is run on, by name."""


def refuse_repeats(task: str, split: str, items: Sequence[Item]) -> None:
    """ValueError naming the first id that two items have."""
    seen: set[str] = set()
    for item in items:
        if item.key in seen:
            raise ValueError(f"{task}, {split}: the id {item.key} occurs twice in the annotations; mend them")
        seen.add(item.key)


def task_named(name: str) -> Task:
    """The task; ValueError naming the known ones."""
    if name not in TASKS:
        raise ValueError(f"no task {name!r}; known: {', '.join(TASKS)}")
    return TASKS[name]


def refusals(data: DataRoot, name: str, split: str, entries: list[Any], deep: bool) -> Iterator[str]:
    """One message for each fault of a set's split that ``vidllm eval --data`` would refuse.

    Args:
        data: the root.
        name: the set.
        split: its split.
        entries: what its reader gave.
        deep: also look up the objects that are named in the scenes that are there, which reads their meshes.
    """
    task = task_named(name)
    items = task.items(entries)
    try:
        refuse_repeats(name, split, items)
    except ValueError as error:
        yield str(error)
    if not deep or task.withheld(items):
        return
    there, box_of = set(data.scene_ids()), box_reader(data)
    present = [item for item in items if item.scene_id in there]
    groups = [present] if task.kind == "answer" else [[item] for item in present]
    told: set[str] = set()
    for group in groups:
        try:
            task.references(group, box_of, data)
        except ValueError as error:
            if str(error) not in told:
                told.add(str(error))
                yield str(error)
