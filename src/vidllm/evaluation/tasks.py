"""The benchmarks as a model meets them: which items there are, and how outputs become the official files.

Every task turns the dataset's own entries into items, items into the references of the protocols, and a model's
outputs into their submission; scoring then goes through the very functions that score a file (``protocols``).
Outputs are rows with ``key`` and ``scene_id``, and ``answer``; or ``caption``, ``box`` (8 corners or None) and ``iou``;
or ``boxes`` (n of 8 corners), ``scores`` and, where annotated objects were chosen among, ``object_ids``.

A column of a benchmark's table is a system in a setting (docs/benchmarks.md): systems ``vidllm``, ``2d``,
``language-only``, ``most-frequent`` and ``mean-box``; settings ``raw``, ``proposals-mask3d`` and ``-gt``,
``oracle-geometry`` and ``given-poses``, and ``no-video`` for systems without it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from vidllm.datasets.annotations import (
    ReferIt3DUtterance,
    ScanReferDescription,
    group_by_object,
)
from vidllm.datasets.layout import DataRoot
from vidllm.english import tokens
from vidllm.evaluation.recording import TOLD, box_reader
from vidllm.io.files import read_json
from vidllm.model import prompts

Kind = Literal["answer", "caption", "box"]
Source = Literal["mask3d", "gt"]

SETTINGS = ("raw", "proposals", "oracle-geometry", "given-poses")
SOURCES: tuple[Source, ...] = ("mask3d", "gt")
NO_VIDEO = "no-video"

BASELINES_OF: dict[Kind, tuple[str, ...]] = {
    "answer": ("2d", "language-only", "most-frequent"),
    "caption": ("2d", "language-only", "most-frequent"),
    "box": ("2d", "mean-box"),
}


@dataclass(frozen=True)
class Variant:
    """A system in a setting; ``name`` is also that of its file of predictions."""

    system: str
    setting: str

    @property
    def name(self) -> str:
        """``system.setting``."""
        return f"{self.system}.{self.setting}"

    @property
    def source(self) -> str | None:
        """Whose boxes are given, ``mask3d`` or ``gt``; None where none are."""
        return self.setting.partition("proposals-")[2] or None

    @property
    def sees(self) -> bool:
        """Whether the system looks at the video."""
        return self.system in ("vidllm", "2d")


def variants(
    kind: Kind, settings: Sequence[str], source: Source | None, baselines: Sequence[str]
) -> tuple[Variant, ...]:
    """The variants of a task: our model in every setting, then each of the baselines, which ``BASELINES_OF`` lists.

    Baselines stand in every setting but those of ``TOLD``. ``source`` is None where no proposals are there.
    ValueError for no setting, an unknown setting or baseline, one that the task does not have, or proposals without a
    source.
    """
    if not settings:
        raise ValueError(f"expected at least one setting of {', '.join(SETTINGS)}, received none")
    for name in settings:
        if name not in SETTINGS:
            raise ValueError(f"no setting {name!r}; known: {', '.join(SETTINGS)}")
        if name == "proposals" and kind == "answer":
            raise ValueError("answers in words need no boxes: leave the setting 'proposals' out")
        if name == "proposals" and source is None:
            raise ValueError("the setting 'proposals' needs boxes: SCENE.mask.npz of Mask3D in ROOT, or --proposals gt")
    for name in baselines:
        if name not in BASELINES_OF[kind]:
            raise ValueError(f"no baseline {name!r} of this task; known: {', '.join(BASELINES_OF[kind])}")
    named = [f"proposals-{source}" if name == "proposals" else name for name in dict.fromkeys(settings)]
    found = [Variant("vidllm", setting) for setting in named]
    for name in (b for b in BASELINES_OF[kind] if b in baselines):
        if kind == "answer" and name != "2d":
            found.append(Variant(name, NO_VIDEO))
        else:
            found += [Variant(name, setting) for setting in named if setting not in TOLD]
    return tuple(found)


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


class Task(ABC):
    """One benchmark. Subclasses say how its entries become items, references and submissions.

    ``prompt`` is the template as the model gets it, ``ids`` the fields that name an entry, ``words`` the one with its
    question or expression; ``several``: an expression may mean none or several objects.
    """

    name: str
    kind: Kind
    prompt: str
    ids: tuple[str, ...]
    words = ""
    several = False
    answer_tokens: int | None = None  # the most of an answer, where the benchmark's own script says it

    def items(self, entries: Sequence[Any]) -> list[Item]:
        """One item for each thing to be answered, in the order of the file."""
        return [Item(self.key(entry, number), entry.scene_id, entry) for number, entry in enumerate(entries)]

    def key(self, entry: Any, number: int) -> str:
        """The key of an entry, the ``number``-th of its file."""
        return "|".join(str(getattr(entry, name)) for name in self.ids)

    def references(self, items: Sequence[Item], box_of: BoxOf, data: DataRoot) -> Any:
        """What the protocols call references: the benchmark's own file."""
        return [self.reference(item, box_of) for item in items]

    def submission(self, items: Sequence[Item], outputs: Mapping[str, Row], protocol: str) -> Any:
        """What the protocol calls predictions: the file for the benchmark's server."""
        return [self.prediction(item, outputs[item.key], protocol) for item in items]

    @abstractmethod
    def reference(self, item: Item, box_of: BoxOf) -> Row:
        """The item's entry in the references."""

    @abstractmethod
    def prediction(self, item: Item, output: Row, protocol: str) -> Row:
        """The item's entry in the predictions."""

    def ask(self, item: Item) -> tuple[str, str | None]:
        """(question or expression, situation or None); captions are asked for at a point instead."""
        return getattr(item.entry, self.words), None

    def texts(self, entries: Sequence[Any]) -> list[str]:
        """The annotated texts of a split, for the most frequent one: every annotator's; grounding has none."""
        return [answer for entry in entries for answer in entry.answers]

    def withheld(self, items: Sequence[Item]) -> bool:
        """Whether the split comes without its answers, so that there is nothing to score against."""
        return self.kind == "answer" and not any(item.entry.answers for item in items)

    def why_not(self, protocol: str, variant: Variant, data: DataRoot) -> str | None:
        """Why a protocol cannot be applied to a variant, None where it can."""
        return None


class _ScanQA(Task):
    name, kind, prompt, words = "scanqa", "answer", prompts.qa_prompt("{question}"), "question"
    ids = ("question_id",)

    def reference(self, item: Item, box_of: BoxOf) -> Row:
        lists = {name: list(getattr(item.entry, name)) for name in ("answers", "object_ids", "object_names")}
        return {"scene_id": item.scene_id, "question_id": item.key, "question": item.entry.question, **lists}

    def prediction(self, item: Item, output: Row, protocol: str) -> Row:
        return {"scene_id": item.scene_id, "question_id": item.key, "answer_top10": [output["answer"]], "bbox": []}


class _SQA3D(Task):
    name, kind, prompt = "sqa3d", "answer", prompts.situated_prompt("{situation}", "{question}")
    ids = ("question_id",)

    def ask(self, item: Item) -> tuple[str, str | None]:
        return item.entry.question, item.entry.situation.text

    def references(self, items: Sequence[Item], box_of: BoxOf, data: DataRoot) -> Row:
        """The two files and the vocabulary (None where it is not there)."""
        vocabulary = data.find("answer_dict.json", "sqa3d")
        return {
            "questions": {"questions": [self._question(item) for item in items]},
            "annotations": {"annotations": super().references(items, box_of, data)},
            "answer_dict": None if vocabulary is None else read_json(vocabulary),
        }

    def reference(self, item: Item, box_of: BoxOf) -> Row:
        """Of the file of annotations."""
        answers = [{"answer": answer} for answer in item.entry.answers]
        return {"question_id": item.entry.question_id, "answers": answers, **self._pose(item, "position", "rotation")}

    def prediction(self, item: Item, output: Row, protocol: str) -> Row:
        """As the official free-form program has it, with ``question_id``."""
        return {**self._question(item), **self._pose(item, "agent_pos", "agent_rot"), "answer": output["answer"]}

    def why_not(self, protocol: str, variant: Variant, data: DataRoot) -> str | None:
        if protocol == "official_closed" and data.find("answer_dict.json", "sqa3d") is None:
            return "answer_dict.json is not there"
        return None

    @staticmethod
    def _question(item: Item) -> Row:
        situation, question = item.entry.situation.text, item.entry.question
        number = item.entry.question_id
        return {"scene_id": item.scene_id, "situation": situation, "question": question, "question_id": number}

    @staticmethod
    def _pose(item: Item, position: str, rotation: str) -> Row:
        situation = item.entry.situation
        turned = dict(zip(("_x", "_y", "_z", "_w"), situation.rotation, strict=True))
        return {position: dict(zip("xyz", situation.position, strict=True)), rotation: turned}


class _VSI(Task):
    name, kind, prompt, words = "vsi", "answer", prompts.qa_prompt("{question}"), "prompt"
    ids, answer_tokens = ("question_id",), 16

    def reference(self, item: Item, box_of: BoxOf) -> Row:
        """The row of ``test.jsonl``."""
        entry = item.entry
        kind, truth = entry.question_type, entry.answers[0]
        return {"id": item.key, "question_type": kind, "ground_truth": truth, "pruned": entry.pruned}

    def prediction(self, item: Item, output: Row, protocol: str) -> Row:
        return {"id": item.key, "prediction": output["answer"]}


class _ScanRefer(Task):
    name, prompt, words = "scanrefer", prompts.grounding_prompt("{expression}"), "description"
    kind: Kind = "box"
    ids: tuple[str, ...] = ("scene_id", "object_id", "ann_id")

    def reference(self, item: Item, box_of: BoxOf) -> Row:
        """An entry of ``ScanRefer_filtered_*_gt_bbox.json``."""
        entry: ScanReferDescription = item.entry
        what = f"{entry.scene_id}, object {entry.object_id}, annotation {entry.ann_id}"
        return {
            "scene_id": entry.scene_id, "object_id": str(entry.object_id), "object_name": entry.object_name,
            "ann_id": str(entry.ann_id), "description": entry.description, "token": list(entry.tokens),
            "bbox": box_of(entry.scene_id, entry.object_id, what).tolist(),
        }  # fmt: skip

    def prediction(self, item: Item, output: Row, protocol: str) -> Row:
        """The benchmark's own; "unique" and "multiple" are worked out from the references."""
        ids = {"object_id": str(item.entry.object_id), "ann_id": str(item.entry.ann_id)}
        return {"scene_id": item.scene_id, **ids, "bbox": _first_box(output)}


class _Scan2Cap(_ScanRefer):
    """ScanRefer's descriptions as captions, object by object."""

    name, kind, prompt, words = "scan2cap", "caption", prompts.caption_prompt(), ""
    ids = ("scene_id", "object_id")
    _DETECTORS = ("cvpr21", "benchmark", "ll3da")

    def items(self, entries: Sequence[ScanReferDescription]) -> list[Item]:
        """One an object; an object under two names is one, under the first, as the evaluators read it."""
        return super().items(group_by_object(entries))

    def texts(self, entries: Sequence[ScanReferDescription]) -> list[str]:
        return [entry.description for entry in entries]

    def references(self, items: Sequence[Item], box_of: BoxOf, data: DataRoot) -> list[Row]:
        described = [replace(item, entry=entry) for item in items for entry in item.entry.descriptions]
        return [self.reference(item, box_of) for item in described]

    def submission(self, items: Sequence[Item], outputs: Mapping[str, Row], protocol: str) -> Any:
        """Proposals by scene for the detectors' protocols, one answer an object for the language models'."""
        if protocol not in self._DETECTORS:
            return super().submission(items, outputs, protocol)
        scenes: dict[str, list[Row]] = {item.scene_id: [] for item in items}
        for item in items:
            row = outputs[item.key]
            if row["box"] is not None:
                caption = " ".join(["sos", *tokens(row["caption"]), "eos"])
                scenes[item.scene_id].append({"caption": caption, "box": row["box"], "obj_prob": [0.0, 1.0]})
        return scenes

    def prediction(self, item: Item, output: Row, protocol: str) -> Row:
        entry = item.entry
        named = {"scene_id": item.scene_id, "object_id": str(entry.object_id), "object_name": entry.object_name}
        return {**named, "iou": output["iou"], "pred_response": output["caption"]}


class _Multi3DRefer(Task):
    """Entries by scene, as M3DRef-CLIP's generated ground truth and its predictions have them."""

    name, kind, prompt, words = "multi3drefer", "box", prompts.multi_grounding_prompt("{expression}"), "description"
    ids, several = ("scene_id", "ann_id"), True

    def references(self, items: Sequence[Item], box_of: BoxOf, data: DataRoot) -> dict[str, list[Row]]:
        return self._by_scene(items, super().references(items, box_of, data))

    def reference(self, item: Item, box_of: BoxOf) -> Row:
        boxes = [box_of(item.scene_id, number, item.key) for number in item.entry.object_ids]
        bounds = [[box.min(0).tolist(), box.max(0).tolist()] for box in boxes]
        return {"ann_id": item.entry.ann_id, "eval_type": item.entry.eval_type, "aabb_bound": bounds}

    def submission(self, items: Sequence[Item], outputs: Mapping[str, Row], protocol: str) -> dict[str, list[Row]]:
        return self._by_scene(items, super().submission(items, outputs, protocol))

    def prediction(self, item: Item, output: Row, protocol: str) -> Row:
        return {"ann_id": item.entry.ann_id, "aabb": output["boxes"]}

    @staticmethod
    def _by_scene(items: Sequence[Item], rows: Sequence[Row]) -> dict[str, list[Row]]:
        scenes: dict[str, list[Row]] = {}
        for item, row in zip(items, rows, strict=True):
            scenes.setdefault(item.scene_id, []).append(row)
        return scenes


class _ReferIt3D(Task):
    """One of the annotated objects from an utterance (Nr3D, Sr3D); by box where none are given."""

    kind, prompt, words = "box", prompts.grounding_prompt("{expression}"), "utterance"

    def __init__(self, name: str) -> None:
        self.name = name

    def key(self, entry: ReferIt3DUtterance, number: int) -> str:
        """The assignment, else the number in the file."""
        return entry.assignment_id or str(number)

    def reference(self, item: Item, box_of: BoxOf) -> Row:
        """The row of the table, with the target's box."""
        entry: ReferIt3DUtterance = item.entry
        return {
            "id": item.key, "stimulus_id": entry.stimulus_id, "target_id": entry.target_id,
            "tokens": list(entry.tokens), "mentions_target_class": entry.mentions_target_class is not False,
            "bbox": box_of(item.scene_id, entry.target_id, f"{self.name} {item.key}").tolist(),
        }  # fmt: skip

    def prediction(self, item: Item, output: Row, protocol: str) -> Row:
        """An object for ``official``, a box for the others."""
        if protocol == "official":
            return {"id": item.key, "target_id": output["object_ids"][0]}
        return {"id": item.key, "bbox": _first_box(output)}

    def why_not(self, protocol: str, variant: Variant, data: DataRoot) -> str | None:
        if protocol == "official" and variant.source != "gt":
            return "it counts the annotated object that was chosen (setting proposals-gt)"
        return None


def _first_box(row: Row) -> Any:
    return next(iter(row["boxes"]), NOWHERE)


_TASKS = (
    _ScanQA(), _SQA3D(), _Scan2Cap(), _ScanRefer(), _Multi3DRefer(), _ReferIt3D("nr3d"), _ReferIt3D("sr3d"), _VSI(),
)  # fmt: skip
TASKS: dict[str, Task] = {task.name: task for task in _TASKS}
"""The benchmarks that a model is run on, by name."""


def refuse_repeats(task: str, split: str, items: Sequence[Item]) -> None:
    """ValueError naming the first id that two items have."""
    for key, count in Counter(item.key for item in items).items():
        if count > 1:
            raise ValueError(f"{task}, {split}: the id {key} occurs twice in the annotations; mend them")


def task_named(name: str) -> Task:
    """The task; ValueError naming the known ones."""
    if name not in TASKS:
        raise ValueError(f"no task {name!r}; known: {', '.join(TASKS)}")
    return TASKS[name]


def refusals(data: DataRoot, name: str, split: str, entries: list[Any], deep: bool) -> Iterator[str]:
    """One message for each fault of a set's split that ``vidllm eval --data`` would refuse.

    ``entries`` are what its reader gave; ``deep``: also look up the objects that are named in the scenes that are
    there, which reads their meshes.
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
    messages: dict[str, None] = {}
    for group in groups:
        try:
            task.references(group, box_of, data)
        except ValueError as error:
            messages[str(error)] = None
    yield from messages
