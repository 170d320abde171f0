"""Auxiliary losses for training from random weights (docs/method.md, section 9), with one interface."""

from __future__ import annotations

from typing import Any

from vidllm.datasets.shards import LabelSpace
from vidllm.training.config import SupervisionWeights
from vidllm.training.supervision.base import Supervision
from vidllm.training.supervision.geometry import AttentionToMatches, Correspondence, Naming, PatchLabels, PatchPoints
from vidllm.training.supervision.representation import Representation
from vidllm.training.supervision.words import Words

#: In the order in which their terms are added up.
SUPERVISIONS: tuple[type[Supervision[Any]], ...] = (
    PatchPoints, PatchLabels, Naming, Correspondence, AttentionToMatches, Words, Representation,
)  # fmt: skip


def wanted(weights: SupervisionWeights, labels: LabelSpace) -> list[type[Supervision[Any]]]:
    """The auxiliary losses with a positive weight for which the data have labels."""
    return [
        kind for kind in SUPERVISIONS
        if getattr(weights, f"{kind.name}_weight") > 0 and (labels.categories or not kind.needs_labels)
    ]  # fmt: skip
