"""One scene, one variant: the outputs of a system in a setting for all items of the scene. Greedy, and nothing tuned.

Captions are asked for at a point, the ``<coord>`` prompt. In ``raw`` and ``oracle-geometry`` that is the centre of
the annotated object, told through the registration, and the caption's box is the one that the model itself finds for
its own words; among proposals it is the centre of the proposal with the best IoU, whose box and IoU are reported, as
the language models among the peers do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from vidllm.evaluation.baselines import MEAN_BOX, LanguageOnly, nearest_to
from vidllm.evaluation.protocols.box_metrics import hull_iou
from vidllm.evaluation.recording import (
    EvaluationScene,
    Placed,
    aligned_corners,
    in_scene,
    moved_points,
    object_corners,
    oriented_corners,
)
from vidllm.evaluation.tasks import Item, Task, Variant
from vidllm.model import prompts
from vidllm.scene import Box

Row = dict[str, Any]
MAX_ANSWER_TOKENS, MAX_CAPTION_TOKENS = 64, 96


@dataclass(frozen=True)
class Helpers:
    """What the baselines need: the language-only model and the most frequent text, where they are asked for."""

    blind: LanguageOnly | None = None
    text: str = ""
    counted_over: str = ""  # where the most frequent text was counted

    @cached_property
    def language_only_caption(self) -> str:
        """What the language-only model says of every object."""
        assert self.blind is not None  # to it every object is at the same unknown point
        return self.blind.replies([prompts.caption_prompt()], MAX_CAPTION_TOKENS)[0]

    @property
    def mean_box(self) -> tuple[float, ...]:
        """Of the language-only model's training data."""
        return MEAN_BOX if self.blind is None else self.blind.mean_box


def predict(task: Task, variant: Variant, case: EvaluationScene, items: Sequence[Item], helpers: Helpers) -> list[Row]:
    """One row an item, in their order (see ``tasks.py`` for the fields)."""
    if task.kind == "answer":
        found: list[Row] = [{"answer": answer} for answer in _answers(task, variant, case, items, helpers)]
    elif task.kind == "caption":
        found = [_caption(variant, case, item, helpers) for item in items]
    else:
        found = [_boxes(task, variant, case, item, helpers) for item in items]
    return [{"key": i.key, "scene_id": i.scene_id, **row} for i, row in zip(items, found, strict=True)]


def _placed(variant: Variant, case: EvaluationScene) -> Placed:
    return case.placed(variant.setting, positions=variant.system != "2d")


def _answers(
    task: Task, variant: Variant, case: EvaluationScene, items: Sequence[Item], helpers: Helpers
) -> Sequence[str]:
    questions, most = [task.ask(item) for item in items], task.answer_tokens or MAX_ANSWER_TOKENS
    if variant.sees:
        return _placed(variant, case).scene.ask_all(questions, most)
    if variant.system == "language-only":
        assert helpers.blind is not None
        return helpers.blind.answers(questions, most)
    return [helpers.text] * len(items)


def _caption(variant: Variant, case: EvaluationScene, item: Item, helpers: Helpers) -> Row:
    """Without proposals, the box is the one that the model finds for its own caption, or the mean box."""
    true = object_corners(case.objects, case.scene_id, item.entry.object_id, item.key)
    corners, centre = None, (true.min(0) + true.max(0)) / 2
    if variant.source is not None:
        boxes, _ = case.candidates(variant.source)
        if not len(boxes):
            return {"caption": "", "box": None, "iou": 0.0}
        ious = np.array([float(hull_iou(aligned_corners(box), true)) for box in boxes])
        best = int(ious.argmax())
        corners, centre = aligned_corners(boxes[best]), boxes[best][:3]
    if variant.sees:
        placed = _placed(variant, case)
        point = moved_points(np.linalg.inv(placed.to_aligned), centre)
        text = placed.scene.describe(point.tolist(), MAX_CAPTION_TOKENS)
        if corners is None and text.strip():
            found = placed.scene.ground(text.strip()[: prompts.MAX_QUESTION_CHARS], several=False)
            corners = _corners(found[0], placed)
    else:
        text = helpers.language_only_caption if variant.system == "language-only" else helpers.text
    corners = _mean_corners(case, helpers) if corners is None else corners
    return {"caption": text, "box": corners.tolist(), "iou": float(hull_iou(corners, true))}


def _mean_corners(case: EvaluationScene, helpers: Helpers) -> np.ndarray:
    return oriented_corners(helpers.mean_box, case.recording.aligned_from_level())


def _corners(box: Box, placed: Placed) -> np.ndarray:
    return oriented_corners([*box.center, *box.size, box.yaw], placed.to_aligned)


def _boxes(task: Task, variant: Variant, case: EvaluationScene, item: Item, helpers: Helpers) -> Row:
    if variant.source is not None:
        return _chosen(task, variant, case, item, helpers)
    if not variant.sees:
        return {"boxes": [_mean_corners(case, helpers).tolist()], "scores": [1.0]}
    placed = _placed(variant, case)
    found = placed.scene.ground(task.ask(item)[0], several=task.several)
    return {"boxes": [_corners(box, placed).tolist() for box in found], "scores": [box.score for box in found]}


def _chosen(task: Task, variant: Variant, case: EvaluationScene, item: Item, helpers: Helpers) -> Row:
    assert variant.source is not None
    given, ids = case.candidates(variant.source)
    if not len(given):
        return {"boxes": [], "scores": [], "object_ids": []}
    if variant.sees:
        placed = _placed(variant, case)
        boxes = [in_scene(box, placed.to_aligned) for box in given]
        picked = placed.scene.choose(task.ask(item)[0], boxes, several=task.several)
    else:
        picked = [(nearest_to(_mean_corners(case, helpers).mean(0), given), 1.0)]
    row: Row = {
        "boxes": [aligned_corners(given[number]).tolist() for number, _ in picked],
        "scores": [score for _, score in picked],
    }
    if ids is not None:
        row["object_ids"] = [ids[number] for number, _ in picked]
    return row
