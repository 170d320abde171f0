"""Errors of a model's depth, scale and boxes in rooms, relative to its uncertainties."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from vidllm.datasets.language import Language
from vidllm.evaluation.reconstruction_metrics import depth_on_frames
from vidllm.model.calibration import DEVIATIONS, SHARE, SPREAD_FLOOR, Calibration
from vidllm.scene import Box, Scene, VidLLM
from vidllm_rooms.evaluation import true_boxes
from vidllm_rooms.shards import SIZES, render_scene
from vidllm_rooms.world import Clip

EVERY = 5  # pixel of every EVERY-th row
SCORES = 3  # rows of a box calibration, each with as many boxes


@dataclass
class Errors:
    """Errors relative to the model's own uncertainties, per pixel, scene and box.

    ``depth``: absolute error over the standard deviation of the bins; ``scale``: absolute logarithm of predicted over
    true scale, over the spread; ``boxes``: rows of (score, error of the centre over distance, largest absolute
    logarithm of the sides' ratios).
    """

    depth: list[np.ndarray] = field(default_factory=list)
    scale: list[float] = field(default_factory=list)
    boxes: list[tuple[float, float, float]] = field(default_factory=list)

    def calibration(self, seeds: str) -> Calibration:
        """The factors for which 90% of these errors are within the uncertainty; ValueError without boxes or depth."""
        if not self.boxes or not self.depth or not self.scale:
            raise ValueError("nothing to calibrate: no metric depth, or no expression for an object in these rooms")
        rows = np.array(sorted(self.boxes))
        groups = [group for group in np.array_split(rows, SCORES) if len(group)]
        boxes = tuple((float(g[-1, 0]), upper(g[:, 1]), upper(g[:, 2])) for g in groups)
        depth = upper(np.concatenate(self.depth))
        return Calibration(depth / DEVIATIONS, upper(np.array(self.scale)) / DEVIATIONS, boxes, seeds)

    def coverage(self, calibration: Calibration) -> dict[str, tuple[float, int]]:
        """Coverage of the 90% intervals, and the number of values."""
        depth, scale = np.concatenate(self.depth), np.array(self.scale)
        limits = [calibration.box_errors(score) for score, _, _ in self.boxes]
        pairs = list(zip(self.boxes, limits, strict=True))
        held = {
            "depth": depth <= DEVIATIONS * calibration.depth,
            "scale": scale <= DEVIATIONS * calibration.scale,
            "box centre": np.array([centre <= most for (_, centre, _), (most, _) in pairs]),
            "box size": np.array([math.exp(size) - 1 <= most for (_, _, size), (_, most) in pairs]),
        }
        return {name: (float(inside.mean()), len(inside)) for name, inside in held.items()}


def upper(errors: np.ndarray) -> float:
    """The 90% quantile that also holds for one more error of the same kind (split conformal prediction)."""
    rank = math.ceil(SHARE * (len(errors) + 1) - 1e-9)
    return float(np.sort(errors)[min(rank, len(errors)) - 1])


def measure(model: VidLLM, seeds: Iterable[int], progress: Callable[[int], None] = lambda done: None) -> Errors:
    """Errors in the rooms of these seeds, from their frames alone."""
    errors = Errors()
    for done, seed in enumerate(seeds, 1):
        clip, language = render_scene(seed, model.model.config.default_frames, *SIZES[seed % len(SIZES)])
        scene = model.reconstruct(clip.rgb)
        _add_depth(scene, clip, errors)
        _add_boxes(scene, clip, language, errors)
        progress(done)
    return errors


def _add_depth(scene: Scene, clip: Clip, errors: Errors) -> None:
    true, told, std = depth_on_frames(clip.depth_m, scene.frames), scene.depth.numpy(), scene.bins_std
    valid = (true > 0) & (told > 0)
    if std is not None:
        picked = valid[:, ::EVERY, ::EVERY]
        errors.depth.append((np.abs(told - true) / std.numpy())[:, ::EVERY, ::EVERY][picked])
    ratio, spread = float(np.median(told[valid] / true[valid])), scene.scale.spread
    if math.isfinite(spread):
        errors.scale.append(abs(math.log(ratio)) / math.hypot(spread, SPREAD_FLOOR))


def _add_boxes(scene: Scene, clip: Clip, language: Language, errors: Errors) -> None:
    true = true_boxes(clip)
    for item in language.references:
        if item.kind not in ("none", "several"):
            box = scene.ground(item.expression, several=False)[0]
            errors.boxes.append((box.score, *_box_error(box, true[item.targets[0]])))


def _box_error(box: Box, true: Sequence[float]) -> tuple[float, float]:
    """Centre error over distance, and the largest absolute logarithm of the sides' ratios (horizontal sides sorted)."""
    told = np.array([*box.center, *sorted(box.size[:2]), box.size[2]])
    meant = np.array([*true[:3], *sorted(true[3:5]), true[5]])
    away = float(torch.tensor(box.center).norm())
    off, ratios = float(np.linalg.norm(told[:3] - meant[:3])), np.abs(np.log(told[3:] / meant[3:]))
    return off / max(away, 1e-3), float(ratios.max())
