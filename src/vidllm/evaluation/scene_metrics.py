"""Values of metrics collected over scenes, and raw boxes against true ones: for rooms, own videos and the demo.

Your own videos and sentences (:mod:`vidllm.datasets.jsonl`), before and after fine-tuning. Questions: exact match after
the cleaning of :mod:`answers`, beside the file's own most frequent answer of the kind. Boxes: as for rooms, Acc@0.25
and Acc@0.5 of one, F1@0.25 of several, accuracy where there is none. Captions: ROUGE-L.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vidllm.datasets.jsonl import Example, scene_places
from vidllm.evaluation.protocols.answers import clean_answer, match_any
from vidllm.evaluation.reconstruction_metrics import depth_metrics, depth_on_frames, pose_errors
from vidllm.evaluation.text_metrics.captions import rouge_l
from vidllm.evaluation.text_metrics.ptb import tokenize
from vidllm.geometry.boxes import iou_oriented
from vidllm.scene import Box, Scene, VidLLM

#: What the trivial baselines answer: a flat wall this far away, a camera that never turns.
CONSTANT_DEPTH_M = 2.5


@dataclass
class Metrics:
    """Values collected over scenes: name -> values."""

    values: dict[str, list[float]] = field(default_factory=dict)

    def add(self, name: str, *new: float | bool) -> None:
        """Append values to a metric."""
        self.values.setdefault(name, []).extend(float(v) for v in new)

    def mean(self, name: str) -> float:
        """Mean, nan when empty."""
        return float(np.mean(self.values[name])) if self.values.get(name) else float("nan")

    def median(self, name: str) -> float:
        """Median, nan when empty."""
        return float(np.median(self.values[name])) if self.values.get(name) else float("nan")


def box_rows(found: Sequence[Box]) -> Tensor:
    """Boxes (n,7): centre, size and yaw."""
    return torch.tensor([[*b.center, *b.size, b.yaw] for b in found])


def best_iou(found: Sequence[Box], target: Sequence[float]) -> float:
    """Oriented IoU of the first box found with the target; 0 when none was found."""
    return float(iou_oriented(box_rows(found), torch.tensor([target]))[0, 0]) if found else 0.0


def matched_pairs(iou: Tensor, threshold: float) -> list[tuple[int, int]]:
    """(row, column) of the one-to-one matches in an IoU matrix (n,m) that reach the threshold, best first."""
    iou, pairs = iou.clone(), list[tuple[int, int]]()
    while iou.numel() and float(iou.max()) >= threshold:
        row, column = divmod(int(iou.argmax()), iou.shape[1])
        iou[row], iou[:, column] = -1, -1
        pairs.append((row, column))
    return pairs


def box_f1(found: Sequence[Box], targets: Sequence[Sequence[float]], threshold: float) -> float:
    """2 TP / (P + G) with one-to-one matches, best IoU first; 1 when nothing was to be found and nothing was."""
    if not found or not targets:
        return float(not found and not targets)
    hits = matched_pairs(iou_oriented(box_rows(found), torch.tensor(targets)), threshold)
    return 2 * len(hits) / (len(found) + len(targets))


def scene_errors(scene: Scene, depth_m: np.ndarray, extrinsics: np.ndarray) -> dict[str, float]:
    """Those of :func:`depth_metrics`, and medians over the frames: ``rotation_deg`` and ``translation_m``.

    ``depth_m`` (F,H,W) is the true depth of the processed frames, ``extrinsics`` (F,4,4) are camera-from-world.
    """
    angle, travel = pose_errors(scene.extrinsics, torch.from_numpy(extrinsics).float())
    errors = depth_metrics(scene.depth.numpy(), depth_m)
    return {**errors, "rotation_deg": float(angle.median()), "translation_m": float(travel.median())}


def score_geometry(scene: Scene, depth_m: np.ndarray, extrinsics: np.ndarray, metrics: Metrics) -> None:
    """Add a scene's geometric metrics and those of the trivial baselines.

    Depth abs-rel and delta1 of the final metric depth (scale from our own alignment), scale error (how far the median
    ratio of predicted to true depth is from one), rotation and translation errors relative to the first frame.
    ``depth_m`` (F,H,W) is the truth at any resolution, ``extrinsics`` (F,4,4) are camera-from-world.
    """
    depth_m = depth_on_frames(depth_m, scene.frames)
    flat = np.full_like(depth_m, CONSTANT_DEPTH_M)
    for prefix, predicted in (("", scene.depth.numpy()), ("baseline_", flat)):
        errors = depth_metrics(predicted, depth_m)
        for name in ("abs_rel", "delta1", "scale_error", "abs_rel_aligned"):
            metrics.add(f"{prefix}{name}", errors[name])
    true = torch.from_numpy(extrinsics).float()
    still = torch.eye(4).expand(len(true), 4, 4)
    for prefix, poses in (("", scene.extrinsics), ("baseline_", still)):
        angle, travel = pose_errors(poses, true)
        metrics.add(f"{prefix}rotation_deg", *angle.tolist())
        metrics.add(f"{prefix}translation_m", *travel.tolist())


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


# -- own videos


@dataclass(frozen=True)
class Row:
    """One measure: its name, of how many sentences, the model's value, and that of the most frequent answer."""

    measure: str
    count: int
    value: float
    baseline: float | None = None


def score_examples(
    model: VidLLM,
    examples: Sequence[Example],
    frames: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Row]:
    """Reconstruct every video from its frames alone, ask everything that is told of it, and score.

    ``progress`` is called with the numbers of videos done and of all. ValueError for a video that cannot be read.
    """
    videos: dict[Path, list[Example]] = {}
    for example in examples:
        videos.setdefault(example.video, []).append(example)
    metrics, outputs = Metrics(), dict[int, str]()
    for done, (video, of_it) in enumerate(videos.items(), 1):
        scene = model.reconstruct(video, frames or model.processor.image_processor.num_frames)
        questions = [e for e in of_it if e.task == "question"]
        answers = scene.ask_all([(q.text, q.situation) for q in questions]) if questions else []
        outputs |= {q.line: answer for q, answer in zip(questions, answers, strict=True)}
        for example in of_it:
            if example.boxes is not None:
                _score_boxes(scene, example, metrics)
            if example.task == "caption":
                outputs[example.line] = scene.describe(scene_places(example)[1])
        if progress is not None:
            progress(done, len(videos))
    return _rows(examples, outputs, metrics)


def _score_boxes(scene: Scene, example: Example, metrics: Metrics) -> None:
    targets = scene_places(example)[0] or []
    found = scene.ground(example.text, several=len(targets) != 1)
    if len(targets) == 1:
        iou = best_iou(found[:1], targets[0])
        metrics.add("one box Acc@0.25", iou >= 0.25)
        metrics.add("one box Acc@0.5", iou >= 0.5)
    elif targets:
        metrics.add("several boxes F1@0.25", box_f1(found, targets, 0.25))
    else:
        metrics.add("no such object, accuracy", not found)


def _rows(examples: Sequence[Example], answers: dict[int, str], metrics: Metrics) -> list[Row]:
    questions = [example for example in examples if example.task == "question"]
    captions = [example for example in examples if example.task == "caption"]
    rows = [_question_row("questions, exact match", questions, answers)] if questions else []
    kinds = list(dict.fromkeys(example.kind for example in questions))
    if len(kinds) > 1:
        rows += [_question_row(f"  {kind}", [q for q in questions if q.kind == kind], answers) for kind in kinds]
    rows += [Row(name, len(values), metrics.mean(name)) for name, values in metrics.values.items()]
    if captions:
        references = [tokenize(example.answers) for example in captions]
        scored = rouge_l(references, tokenize([answers[example.line] for example in captions]))
        rows.append(Row("captions ROUGE-L", len(captions), scored.total[0]))
    return rows


def _question_row(name: str, questions: Sequence[Example], answers: dict[int, str]) -> Row:
    """Exact match, and that of the answer that these questions have most often."""
    references = [[clean_answer(answer) for answer in question.answers] for question in questions]
    given = (clean_answer(answers[question.line]) for question in questions)
    right = [match_any(answer, reference)[0] for answer, reference in zip(given, references, strict=True)]
    most_frequent = Counter(answer for reference in references for answer in set(reference)).most_common(1)[0][0]
    guessed = [most_frequent in reference for reference in references]
    return Row(name, len(questions), sum(right) / len(right), sum(guessed) / len(guessed))
