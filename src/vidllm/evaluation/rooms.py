"""Measure a model on unseen rooms, from video alone: one table, each figure beside its baseline.

Geometry: depth abs-rel and delta1 of the final metric depth (scale from our own alignment), scale error (how far the
median ratio of predicted to true depth is from one), rotation and translation errors relative to the first frame.
Language: exact match by kind of question, and grounding with raw boxes (oriented IoU in the scene frame).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vidllm.evaluation.baselines import MEAN_BOX
from vidllm.evaluation.language_only import LanguageOnly
from vidllm.frames import Frames
from vidllm.geometry.boxes import iou_oriented
from vidllm.geometry.cameras import relative_to_first
from vidllm.geometry.rotations import rotation_angle_deg
from vidllm.rooms.language import answer_matches
from vidllm.rooms.shards import SIZES, render_scene
from vidllm.rooms.types import Clip, Language
from vidllm.scene import Box, Scene, VidLLM
from vidllm.training.data import scene_boxes, scene_from_room

#: What the trivial baselines answer: a flat wall this far away, a camera that never turns.
CONSTANT_DEPTH_M = 2.5


@dataclass
class Figures:
    """Raw figures collected over scenes: name -> values."""

    values: dict[str, list[float]] = field(default_factory=dict)

    def add(self, name: str, *new: float | bool) -> None:
        """Append values to a figure."""
        self.values.setdefault(name, []).extend(float(v) for v in new)

    def mean(self, name: str) -> float:
        """Mean, nan when empty."""
        return float(np.mean(self.values[name])) if self.values.get(name) else float("nan")

    def median(self, name: str) -> float:
        """Median, nan when empty."""
        return float(np.median(self.values[name])) if self.values.get(name) else float("nan")


def depth_figures(predicted: np.ndarray, true: np.ndarray) -> dict[str, float]:
    """abs-rel, delta1 and the scale error of one clip's metric depth (F,H,W) over pixels with ground truth."""
    valid = true > 1e-3
    ratio = predicted[valid].clip(1e-6) / true[valid]
    scale = float(np.median(ratio))
    return {
        "abs_rel": float(np.abs(ratio - 1).mean()),
        "delta1": float((np.maximum(ratio, 1 / ratio) < 1.25).mean()),
        "scale_error": abs(scale - 1),
        "abs_rel_aligned": float(np.abs(ratio / scale - 1).mean()),
    }


def depth_on_frames(depth_m: np.ndarray, frames: Frames) -> np.ndarray:
    """True depth at each pixel centre of the processed frames (F,H,W), the nearest value of ``depth_m`` (F,H0,W0).

    ``depth_m`` covers the whole original frames, at any resolution.
    """
    back = torch.linalg.inv(frames.affine).numpy()
    index = []
    for axis, (row, size) in enumerate(((1, frames.images.shape[-2]), (0, frames.images.shape[-1]))):
        original = (np.arange(size) + 0.5) * back[row, row] + back[row, 2]
        place = np.floor(original * depth_m.shape[1 + axis] / frames.original_size[axis]).astype(int)
        index.append(place.clip(0, depth_m.shape[1 + axis] - 1))
    return depth_m[:, index[0]][:, :, index[1]]


def pose_figures(predicted: Tensor, true: Tensor) -> tuple[Tensor, Tensor]:
    """Rotation (degrees) and translation (metres) errors of each frame but the first; (F,4,4) camera-from-world."""
    ours, theirs = relative_to_first(predicted[None])[0].double(), relative_to_first(true[None])[0].double()
    angle = rotation_angle_deg(ours[1:, :3, :3], theirs[1:, :3, :3])
    return angle, (ours[1:, :3, 3] - theirs[1:, :3, 3]).norm(dim=-1)


def score_geometry(scene: Scene, clip: Clip, figures: Figures) -> None:
    """Add a scene's geometric figures and those of the trivial baselines."""
    depth_m = depth_on_frames(clip.depth_m, scene.frames)
    for name, value in depth_figures(scene.depth.numpy(), depth_m).items():
        figures.add(name, value)
    flat = np.full_like(depth_m, CONSTANT_DEPTH_M)
    for name, value in depth_figures(flat, depth_m).items():
        figures.add(f"baseline_{name}", value)
    true = torch.from_numpy(clip.extrinsics).float()
    still = torch.eye(4).expand(len(true), 4, 4)
    for prefix, poses in (("", scene.extrinsics), ("baseline_", still)):
        angle, travel = pose_figures(poses, true)
        figures.add(f"{prefix}rotation_deg", *angle.tolist())
        figures.add(f"{prefix}translation_m", *travel.tolist())


def score_questions(scene: Scene, language: Language, blind: LanguageOnly | None, figures: Figures) -> None:
    """Exact match of each question by kind, and of the language-only model on the same question."""
    pairs = [(item.question, item.situation) for item in language.questions]
    guesses = blind.answers(pairs) if blind is not None else None
    for i, (item, answer) in enumerate(zip(language.questions, scene.ask_all(pairs), strict=True)):
        right = answer_matches(answer, item.answers)
        figures.add("qa", right)
        figures.add(f"qa/{item.kind}", right)
        if guesses is not None:
            guessed = answer_matches(guesses[i], item.answers)
            figures.add("baseline_qa", guessed)
            figures.add(f"baseline_qa/{item.kind}", guessed)


def score_grounding(scene: Scene, clip: Clip, language: Language, mean_box: Sequence[float], figures: Figures) -> None:
    """Raw boxes against the oriented boxes of the ground truth, in the scene frame of the first camera."""
    record = {"objects": [_boxed(o) for o in clip.room.objects]}
    boxes = scene_boxes(record, scene_from_room(torch.from_numpy(clip.extrinsics).float()))
    for item in language.references:
        several = item.kind in ("none", "several")
        found = scene.ground(item.expression, several=several)
        if item.kind == "none":
            figures.add("none_right", not found)
        elif item.kind == "several":
            figures.add("f1_25", box_f1(found, [boxes[t] for t in item.targets], 0.25))
        else:
            iou = best_iou(found[:1], boxes[item.targets[0]])
            guess = float(iou_oriented(torch.tensor([mean_box]), torch.tensor([boxes[item.targets[0]]]))[0, 0])
            for name, value in (("", iou), ("baseline_", guess)):
                figures.add(f"{name}iou", value)
                figures.add(f"{name}acc_25", value >= 0.25)
                figures.add(f"{name}acc_50", value >= 0.5)


def _boxed(item: Any) -> dict[str, Any]:
    return {"id": item.id, "box": [*item.centre, *item.size, item.yaw]}


def _as_tensor(found: Sequence[Box]) -> Tensor:
    return torch.tensor([[*b.center, *b.size, b.yaw] for b in found])


def best_iou(found: Sequence[Box], target: Sequence[float]) -> float:
    """Oriented IoU of the first box found with the target; 0 when none was found."""
    return float(iou_oriented(_as_tensor(found), torch.tensor([target]))[0, 0]) if found else 0.0


def box_f1(found: Sequence[Box], targets: Sequence[Sequence[float]], threshold: float) -> float:
    """2 TP / (P + G) with one-to-one matches, best IoU first; 1 when nothing was to be found and nothing was."""
    if not found or not targets:
        return float(not found and not targets)
    iou = iou_oriented(_as_tensor(found), torch.tensor(targets)).clone()
    hits = 0
    while float(iou.max()) >= threshold:
        row, column = divmod(int(iou.argmax()), iou.shape[1])
        iou[row], iou[:, column] = -1, -1
        hits += 1
    return 2 * hits / (len(found) + len(targets))


def evaluate(
    model: VidLLM,
    seeds: Iterable[int],
    blind: LanguageOnly | None = None,
    progress: Callable[[int], None] | None = None,
    frames: int | None = None,
    render: Callable[[int, int, int, int], tuple[Clip, Language]] = render_scene,
) -> Figures:
    """Render each seed's room, reconstruct it from its frames alone, ask everything, and collect the figures.

    ``render`` may remember rooms for whoever measures several models on the same ones.
    """
    figures = Figures()
    count = frames or model.model.config.default_frames
    mean_box = blind.mean_box if blind is not None else MEAN_BOX
    for done, seed in enumerate(seeds):
        height, width = SIZES[seed % len(SIZES)]
        clip, language = render(seed, count, height, width)
        scene = model.reconstruct(clip.rgb)
        score_geometry(scene, clip, figures)
        score_questions(scene, language, blind, figures)
        score_grounding(scene, clip, language, mean_box, figures)
        if progress is not None:
            progress(done + 1)
    return figures


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


def table(figures: Figures) -> list[tuple[str, float, float | None, str]]:
    """Rows of (what, ours, baseline or None, baseline's name), then exact match by kind of question."""
    rows: list[tuple[str, float, float | None, str]] = []
    for title, name, how, baseline in ROWS:
        if name in figures.values:
            take = getattr(figures, how)
            other = take(f"baseline_{name}") if f"baseline_{name}" in figures.values else None
            rows.append((title, take(name), other, baseline))
    for name in sorted(n for n in figures.values if n.startswith("qa/")):
        other = figures.mean(f"baseline_{name}") if f"baseline_{name}" in figures.values else None
        rows.append((f"EM, {name[3:]} ({len(figures.values[name])})", figures.mean(name), other, "language only"))
    return rows
