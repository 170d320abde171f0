"""Measure a model on unseen rooms, from video alone: one table, each figure beside its baseline.

Geometry: depth abs-rel and delta1 of the final metric depth (scale from our own alignment), scale error (how far the
median ratio of predicted to true depth is from one), rotation and translation errors relative to the first frame.
Language: exact match by kind of question, and grounding with raw boxes (oriented IoU in the scene frame).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch

from vidllm.evaluation.baselines import MEAN_BOX, LanguageOnly
from vidllm.evaluation.reconstruction_metrics import depth_metrics, depth_on_frames, pose_errors
from vidllm.evaluation.scene_metrics import CONSTANT_DEPTH_M, Metrics, best_iou, box_f1
from vidllm.geometry.boxes import iou_oriented
from vidllm.rooms.language import answer_matches
from vidllm.rooms.shards import SIZES, render_scene
from vidllm.rooms.types import Clip, Language
from vidllm.scene import Scene, VidLLM
from vidllm.training.data import scene_boxes, scene_from_room


def score_geometry(scene: Scene, clip: Clip, metrics: Metrics) -> None:
    """Add a scene's geometric metrics and those of the trivial baselines."""
    depth_m = depth_on_frames(clip.depth_m, scene.frames)
    flat = np.full_like(depth_m, CONSTANT_DEPTH_M)
    for prefix, predicted in (("", scene.depth.numpy()), ("baseline_", flat)):
        errors = depth_metrics(predicted, depth_m)
        for name in ("abs_rel", "delta1", "scale_error", "abs_rel_aligned"):
            metrics.add(f"{prefix}{name}", errors[name])
    true = torch.from_numpy(clip.extrinsics).float()
    still = torch.eye(4).expand(len(true), 4, 4)
    for prefix, poses in (("", scene.extrinsics), ("baseline_", still)):
        angle, travel = pose_errors(poses, true)
        metrics.add(f"{prefix}rotation_deg", *angle.tolist())
        metrics.add(f"{prefix}translation_m", *travel.tolist())


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
    record = {"objects": [_boxed(o) for o in clip.room.objects]}
    boxes = scene_boxes(record, scene_from_room(torch.from_numpy(clip.extrinsics).float()))
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


def _boxed(item: Any) -> dict[str, Any]:
    return {"id": item.id, "box": [*item.centre, *item.size, item.yaw]}


def evaluate(
    model: VidLLM,
    seeds: Iterable[int],
    blind: LanguageOnly | None = None,
    progress: Callable[[int], None] | None = None,
    frames: int | None = None,
    render: Callable[[int, int, int, int], tuple[Clip, Language]] = render_scene,
) -> Metrics:
    """Render each seed's room, reconstruct it from its frames alone, ask everything, and collect the metrics.

    ``render`` may remember rooms for whoever measures several models on the same ones.
    """
    metrics = Metrics()
    count = frames or model.model.config.default_frames
    mean_box = blind.mean_box if blind is not None else MEAN_BOX
    for done, seed in enumerate(seeds):
        height, width = SIZES[seed % len(SIZES)]
        clip, language = render(seed, count, height, width)
        scene = model.reconstruct(clip.rgb)
        score_geometry(scene, clip, metrics)
        score_questions(scene, language, blind, metrics)
        score_grounding(scene, clip, language, mean_box, metrics)
        if progress is not None:
            progress(done + 1)
    return metrics


ROWS: tuple[tuple[str, str, str, str], ...] = (
    ("question answering EM", "qa", "mean", "language only"),
    ("depth abs-rel", "abs_rel", "mean", "flat wall at 2.5 m"),
    ("depth delta1", "delta1", "mean", "flat wall at 2.5 m"),
    ("depth abs-rel, median aligned", "abs_rel_aligned", "mean", "flat wall at 2.5 m"),
    ("scale error, median", "scale_error", "median", "flat wall at 2.5 m"),
    ("rotation error, median (degrees)", "rotation_deg", "median", "camera never moves"),
    ("translation error, median (m)", "translation_m", "median", "camera never moves"),
    ("grounding Acc@0.25, raw boxes", "acc_25", "mean", "mean box"),
    ("grounding Acc@0.5, raw boxes", "acc_50", "mean", "mean box"),
    ("several objects F1@0.25", "f1_25", "mean", ""),
    ("no such object, accuracy", "none_right", "mean", ""),
)


def table(metrics: Metrics) -> list[tuple[str, float, float | None, str]]:
    """Rows of (what, ours, baseline or None, baseline's name), then exact match by kind of question."""
    rows: list[tuple[str, float, float | None, str]] = []
    for title, name, how, baseline in ROWS:
        if name in metrics.values:
            take = getattr(metrics, how)
            other = take(f"baseline_{name}") if f"baseline_{name}" in metrics.values else None
            rows.append((title, take(name), other, baseline))
    for name in sorted(n for n in metrics.values if n.startswith("qa/")):
        other = metrics.mean(f"baseline_{name}") if f"baseline_{name}" in metrics.values else None
        rows.append((f"EM, {name[3:]} ({len(metrics.values[name])})", metrics.mean(name), other, "language only"))
    return rows
