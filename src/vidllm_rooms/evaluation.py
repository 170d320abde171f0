"""Evaluate a model on unseen rooms, from video alone, with baselines.

Geometry: :func:`vidllm.evaluation.scene_metrics.score_geometry`. Language: exact match by kind of question, and
grounding with raw boxes (oriented IoU in the scene frame).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache

import torch

from vidllm.datasets.language import Language
from vidllm.english import answer_matches
from vidllm.evaluation.baselines import MEAN_BOX, LanguageOnly
from vidllm.evaluation.scene_metrics import Metrics, best_iou, box_f1, score_geometry
from vidllm.geometry.boxes import iou_oriented
from vidllm.scene import Scene, VidLLM
from vidllm.training.texts import scene_boxes, scene_from_room
from vidllm_rooms.shards import SIZES, render_scene
from vidllm_rooms.world import Clip


def score_questions(scene: Scene, language: Language, blind: LanguageOnly | None, metrics: Metrics) -> None:
    """Exact match of each question by kind, and of the language-only model on the same question."""
    pairs = [(item.question, item.situation) for item in language.questions]
    guesses = blind.answers(pairs) if blind is not None else None
    for i, (item, answer) in enumerate(zip(language.questions, scene.ask_all(pairs), strict=True)):
        right = answer_matches(answer, item.answers)
        metrics.add("qa", right)
        metrics.add(f"qa/{item.kind}", right)
        if guesses is not None:
            guessed = answer_matches(guesses[i], item.answers)
            metrics.add("baseline_qa", guessed)
            metrics.add(f"baseline_qa/{item.kind}", guessed)


def score_grounding(scene: Scene, clip: Clip, language: Language, mean_box: Sequence[float], metrics: Metrics) -> None:
    """Raw boxes against the oriented boxes of the ground truth, in the scene frame of the first camera."""
    boxes = true_boxes(clip)
    for item in language.references:
        several = item.kind in ("none", "several")
        found = scene.ground(item.expression, several=several)
        if item.kind == "none":
            metrics.add("none_right", not found)
        elif item.kind == "several":
            metrics.add("f1_25", box_f1(found, [boxes[t] for t in item.targets], 0.25))
        else:
            iou = best_iou(found[:1], boxes[item.targets[0]])
            guess = float(iou_oriented(torch.tensor([mean_box]), torch.tensor([boxes[item.targets[0]]]))[0, 0])
            for name, value in (("", iou), ("baseline_", guess)):
                metrics.add(f"{name}iou", value)
                metrics.add(f"{name}acc_25", value >= 0.25)
                metrics.add(f"{name}acc_50", value >= 0.5)


def true_boxes(clip: Clip) -> dict[int, list[float]]:
    """Boxes (centre, size, yaw) of a room's objects in the scene frame of the first camera, by id."""
    record = {"objects": [{"id": o.id, "box": [*o.centre, *o.size, o.yaw]} for o in clip.room.objects]}
    return scene_boxes(record, scene_from_room(torch.from_numpy(clip.extrinsics).float()))


@lru_cache(maxsize=512)
def remembered_room(seed: int, frames: int, height: int, width: int) -> tuple[Clip, Language]:
    """A room on which several models are evaluated, rendered once per process."""
    return render_scene(seed, frames, height, width)


def remembered_clip(seed: int, frames: int) -> Clip:
    """The clip of such a room, at its evaluation size."""
    return remembered_room(seed, frames, *SIZES[seed % len(SIZES)])[0]


def evaluate(
    model: VidLLM, seeds: Iterable[int], blind: LanguageOnly | None = None,
    progress: Callable[[int], None] = lambda done: None, frames: int | None = None,
    render: Callable[[int, int, int, int], tuple[Clip, Language]] = render_scene,
) -> Metrics:  # fmt: skip
    """Render each seed's room, reconstruct it from its frames alone, ask all questions, and collect the metrics.

    ``render`` may cache rooms for the evaluation of several models.
    """
    metrics = Metrics()
    count = frames or model.model.config.default_frames
    mean_box = blind.mean_box if blind is not None else MEAN_BOX
    for done, seed in enumerate(seeds, 1):
        clip, language = render(seed, count, *SIZES[seed % len(SIZES)])
        scene = model.reconstruct(clip.rgb)
        score_geometry(scene, clip.depth_m, clip.extrinsics, metrics)
        score_questions(scene, language, blind, metrics)
        score_grounding(scene, clip, language, mean_box, metrics)
        progress(done)
    return metrics
