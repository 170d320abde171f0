"""Functions that the YAML files name. A document says where an item is; everything else is vidllm's own evaluation.

lmms-eval wants one number for each metric: every metric gets the same payloads, and the scores of a protocol are
computed once for all of them.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from vidllm.datasets.layout import DataRoot
from vidllm.evaluation.protocols import protocol
from vidllm.evaluation.recording import aligned_corners
from vidllm.evaluation.tasks import NOWHERE, Item, Task, task_named

FRAMES = 32  # that a model gets as pictures
Doc = Mapping[str, Any]
Payload = dict[str, Any]

#: Each task's metrics: name in lmms-eval, protocol, and the way to the number in its scores.
METRICS: dict[str, dict[str, tuple[str, tuple[str, ...]]]] = {
    "scanqa": {
        "official_em1": ("official", ("EM@1",)),
        "official_bleu4": ("official", ("Bleu_4",)),
        "official_meteor": ("official", ("METEOR",)),
        "official_rouge_l": ("official", ("ROUGE_L",)),
        "official_cider": ("official", ("CIDEr",)),
        "leo_em_refined": ("leo", ("em_refined",)),
    },
    "sqa3d": {
        "leo_em": ("leo", ("em_overall",)),
        "leo_em_refined": ("leo", ("em_refined_overall",)),
    },
    "scan2cap": {
        f"cvpr21_{short}_05": ("cvpr21", ("@0.5IoU", name))
        for short, name in {"cider": "CIDEr", "bleu4": "BLEU-4", "meteor": "METEOR", "rouge_l": "ROUGE_L"}.items()
    },
    "scanrefer": {
        f"official_acc_{short}": ("official", ("deduplicated_known_only", "scores", "overall", "overall", name))
        for short, name in {"025": "acc@0.25iou", "05": "acc@0.5iou"}.items()
    },
}


class Benchmark:
    """A split of a task, read once."""

    def __init__(self, root: str, name: str, split: str) -> None:
        self.task: Task = task_named(name)
        self.data = DataRoot(root)
        self.items: dict[str, Item] = {i.key: i for i in self.task.items(self.data.annotations(name, split))}
        self._boxes: dict[str, dict[int, np.ndarray]] = {}

    def box_of(self, scene: str, object_id: int, what: str) -> np.ndarray:
        """Corners of an annotated object; ValueError naming the entry when it has none."""
        if scene not in self._boxes:
            found = self.data.scene(scene).instances
            self._boxes[scene] = {i.object_id: aligned_corners(i.box) for i in found if i.box is not None}
        if object_id not in self._boxes[scene]:
            raise ValueError(f"{what}: {scene} has no object {object_id} with a box")
        return self._boxes[scene][object_id]


benchmark = cache(Benchmark)


def of(doc: Doc) -> Benchmark:
    """The benchmark that a document belongs to."""
    return benchmark(doc["root"], doc["benchmark"], doc["split"])


# ---- what a model gets ------------------------------------------------------------------------------------------


def doc_to_visual(doc: Doc) -> list[Any]:
    """Frames of the scan as pictures, spread evenly over those with a pose."""
    from PIL import Image

    scene = DataRoot(Path(doc["root"])).scene(doc["scene_id"])
    return [Image.fromarray(scene.colour(int(number))) for number in scene.uniform_frames(FRAMES)]


def doc_to_text(doc: Doc, lmms_eval_specific_kwargs: Mapping[str, str] | None = None) -> str:
    """Situation and question, or description; captions and boxes say what is wanted."""
    given = lmms_eval_specific_kwargs or {}
    words = " ".join(part for part in (doc["situation"], doc["question"]) if part)
    return f"{given.get('pre_prompt', '')}{words}{given.get('post_prompt', '')}"


def doc_to_target(doc: Doc) -> str:
    """The first annotated text, for the log."""
    here = of(doc)
    entry = here.items[doc["key"]].entry
    answers = getattr(entry, "answers", None) or [d.description for d in getattr(entry, "descriptions", ())]
    return str(answers[0]) if answers else str(doc["question"])


# ---- what becomes of its answer ---------------------------------------------------------------------------------


def process_results(doc: Doc, results: Sequence[str]) -> dict[str, Payload]:
    """The same payload for every metric of the task."""
    here = of(doc)
    payload = {"doc": dict(doc), "row": row_of(here, here.items[doc["key"]], str(results[0]))}
    return {name: payload for name in METRICS[doc["benchmark"]]}


def row_of(here: Benchmark, item: Item, text: str) -> Payload:
    """An output row from an answer: text as it is, or what the JSON in it says."""
    head = {"key": item.key, "scene_id": item.scene_id}
    if here.task.kind == "answer":
        return {**head, "answer": text.strip()}
    value = _json(text)
    if here.task.kind == "caption":
        if isinstance(value, dict) and {"caption", "box", "iou"} <= set(value):
            return {**head, **{name: value[name] for name in ("caption", "box", "iou")}}
        box = here.box_of(item.scene_id, item.entry.object_id, item.key)
        return {**head, "caption": text.strip(), "box": box.tolist(), "iou": 1.0}
    boxes = value["boxes"] if isinstance(value, dict) and "boxes" in value else [value]
    return {**head, "boxes": [_corners(box) for box in boxes]}


def _json(text: str) -> Any:
    """The JSON value that the text is or holds (from its first bracket to its last), else None."""
    for start, end in (("{", "}"), ("[", "]")):
        first, last = text.find(start), text.rfind(end)
        if 0 <= first < last:
            try:
                return json.loads(text[first : last + 1])
            except ValueError:
                continue
    return None


def _corners(value: Any) -> list[list[float]]:
    """Corners of 6 numbers or of 8 points; a box without volume for anything else."""
    try:
        numbers = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        return NOWHERE
    if numbers.shape == (6,) and np.isfinite(numbers).all():
        return [[float(v) for v in corner] for corner in aligned_corners(numbers)]
    return numbers.tolist() if numbers.shape == (8, 3) else NOWHERE


# ---- numbers ----------------------------------------------------------------------------------------------------

_scored: dict[tuple[str, str], Mapping[str, Any]] = {}


def scores(payloads: Sequence[Payload], name: str) -> Mapping[str, Any]:
    """The scores of a protocol over all documents, computed once for the same payloads."""
    digest = hashlib.sha256(json.dumps(payloads, sort_keys=True).encode()).hexdigest()
    if (digest, name) not in _scored:
        here = of(payloads[0]["doc"])
        items = [here.items[payload["doc"]["key"]] for payload in payloads]
        outputs = {payload["row"]["key"]: payload["row"] for payload in payloads}
        references = here.task.references(items, here.box_of, here.data)
        submission = here.task.submission(items, outputs, name)
        _scored[digest, name] = protocol(here.task.name, name).score(references, submission)
    return _scored[digest, name]


def _aggregation(task: str, metric: str) -> Callable[[Sequence[Payload]], float]:
    name, way = METRICS[task][metric]

    def aggregate(payloads: Sequence[Payload]) -> float:
        value: Any = scores(payloads, name)
        for step in way:
            value = value[step]
        return float(value) if isinstance(value, int | float) else math.nan

    aggregate.__name__ = f"{task}_{metric}"
    return aggregate


globals().update(
    {f"{task}_{metric}": _aggregation(task, metric) for task, found in METRICS.items() for metric in found}
)
