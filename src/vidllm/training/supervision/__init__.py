"""Supervision beside the paper's losses, for small models that start from nothing: one interface, listed by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from vidllm.training.data import Batch
from vidllm.training.supervision.base import GeometryOutputs, LanguageOutputs, Parts, Supervision, Terms
from vidllm.training.supervision.geometry import AttentionToMatches, Correspondence, Naming, PatchLabels, PatchPoints
from vidllm.training.supervision.language import Words

__all__ = ["SUPERVISIONS", "GeometryOutputs", "LanguageOutputs", "Parts", "Supervision", "build", "terms_of"]

#: In the order in which their terms are added up.
SUPERVISIONS: tuple[type[Supervision[Any]], ...] = (
    PatchPoints, PatchLabels, Naming, Correspondence, AttentionToMatches, Words,
)  # fmt: skip


def build(parts: Parts) -> list[Supervision[Any]]:
    """What the configuration gives a weight to, and the labels of the data allow."""
    return [
        kind(parts) for kind in SUPERVISIONS
        if getattr(parts.config, f"{kind.name}_weight") > 0 and (parts.labels.categories or not kind.needs_labels)
    ]  # fmt: skip


def terms_of(
    supervision: Sequence[Supervision[Any]], outputs: GeometryOutputs | LanguageOutputs, batch: Batch
) -> Terms:
    """Terms and figures of all that read such outputs."""
    terms: dict[str, Tensor] = {}
    figures: dict[str, float] = {}
    for each in supervision:
        if isinstance(outputs, each.reads):
            more, told = each.loss(outputs, batch)
            terms.update(more)
            figures.update(told)
    return terms, figures
