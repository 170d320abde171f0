"""Values of metrics collected over scenes, and raw boxes against true ones: for rooms, own videos and the demo."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from vidllm.geometry.boxes import iou_oriented
from vidllm.scene import Box

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


def box_f1(found: Sequence[Box], targets: Sequence[Sequence[float]], threshold: float) -> float:
    """2 TP / (P + G) with one-to-one matches, best IoU first; 1 when nothing was to be found and nothing was."""
    if not found or not targets:
        return float(not found and not targets)
    iou = iou_oriented(box_rows(found), torch.tensor(targets)).clone()
    hits = 0
    while float(iou.max()) >= threshold:
        row, column = divmod(int(iou.argmax()), iou.shape[1])
        iou[row], iou[:, column] = -1, -1
        hits += 1
    return 2 * hits / (len(found) + len(targets))
