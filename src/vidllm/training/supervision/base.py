"""The interface of supervision beside the paper's losses (ours): terms from what a step has computed.

Each is listed by name in :data:`vidllm.training.supervision.SUPERVISIONS`; its weight is the field ``NAME_weight`` of
the configuration. At weight 0 it is not built and nothing of it is computed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Generic, TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from vidllm.datasets.shards import LabelSpace
from vidllm.model.huggingface import VidLLMForConditionalGeneration
from vidllm.model.outputs import Cameras, Features, VisualPrefix
from vidllm.training.config import SupervisionWeights
from vidllm.training.data import Batch
from vidllm.training.losses import GeometryTargets, masked_mean
from vidllm.training.packing import PackedTexts
from vidllm.training.supervision.matches import Matches, correspondences
from vidllm.training.texts import TextMaker

LABEL_HEADS = ("category", "colour", "material")
NEAR = 0.4  # normalised length below which directions are not told apart


class AuxiliaryHeads(nn.Module):
    """``categories``, ``colours`` and ``materials`` count the shell or background as class 0."""

    def __init__(self, width: int, categories: int, colours: int, materials: int, match_dim: int = 64) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.category = nn.Linear(width, categories)
        self.colour = nn.Linear(width, colours)
        self.material = nn.Linear(width, materials)
        self.match = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, match_dim))
        self.point = nn.Sequential(nn.LayerNorm(2 * width), nn.Linear(2 * width, 3))
        self.represent: Any = None  # a perceptron, where 3DRS's supervision is wanted

    def point_loss(
        self,
        attended: Float[Tensor, "B F P D"],
        points: Float[Tensor, "B F P 3"],
        valid: Bool[Tensor, "B F P"],
        bearing_weight: float = 0.0,
    ) -> Tensor:
        """Mean distance of each patch's point (first camera's frame, normalised lengths).

        ``bearing_weight`` adds the distance of its direction from the first camera (unit vectors, shorter for points
        nearer than ``NEAR``): what is seen of a camera's motion is much finer than the depth, whose error drowns it.
        """
        told = self.point(attended.float()).float()
        error = (told - points).norm(dim=-1)
        if bearing_weight > 0:
            reach = [x / x.norm(dim=-1, keepdim=True).clamp(min=NEAR) for x in (told, points)]
            error = error + bearing_weight * (reach[0] - reach[1]).norm(dim=-1)
        return masked_mean(error, valid)

    def semantic_loss(
        self,
        language: Float[Tensor, "B F P C"],
        category: Int[Tensor, "B F P"],
        colour: Int[Tensor, "B F P"],
        material: Int[Tensor, "B F P"],
    ) -> tuple[Tensor, dict[str, float]]:
        """Summed cross-entropies of each patch's names; objects outweigh the shell. Accuracies are on objects.

        Patches of class -1 are not known: they count as shell on which there is nothing to learn, so that a few known
        ones do not outweigh a room's. Where that is so of all, there is no term and no accuracy.
        """
        tokens = self.norm(language.float())
        thing = category.flatten() > 0
        weight = torch.where(thing, 1.0, 0.15)
        terms, figures = [], {}
        for name, target in (("category", category), ("colour", colour), ("material", material)):
            head: nn.Linear = getattr(self, name)
            logits, classes = head(tokens).flatten(0, 2).float(), target.flatten()
            if not (classes >= 0).any():
                continue
            each = F.cross_entropy(logits, classes, reduction="none", ignore_index=-1)  # 0 where it is not known
            terms.append((each * weight).sum() / weight.sum())
            right = (logits.detach().argmax(-1) == classes) & thing
            figures[f"patch_{name}"] = right.sum().item() / max(1, int(thing.sum()))
        return torch.stack(terms).sum(), figures


#: Weighted loss terms and figures for the log, by name.
Terms = tuple[dict[str, Tensor], dict[str, float]]


@dataclass
class GeometryOutputs:
    """Of a step on geometry: features and cameras predicted, and the truth."""

    model: VidLLMForConditionalGeneration
    features: Features
    cameras: Cameras
    targets: GeometryTargets

    @property
    def frames(self) -> int:
        """Frames of each scene."""
        return self.targets.depth.shape[1]

    @property
    def partner(self) -> Tensor:
        """The frame that each frame is matched with."""
        return torch.arange(self.frames, device=self.targets.depth.device).roll(-1)

    @cached_property
    def matches(self) -> Matches:
        """Patches of each frame and its partner that see the same point."""
        targets, patch_size = self.targets, self.model.config.encoder.patch_size
        with torch.no_grad():
            return correspondences(
                targets.depth_m, targets.extrinsics, targets.intrinsics, self.features.encoder.grid, patch_size,
                self.partner,
            )  # fmt: skip


@dataclass
class LanguageOutputs:
    """Of a step on language: the visual prefix, the texts, and where both begin in the language model's sequence.

    ``start`` = positions of the first 3D patch and of the first text token; ``seen`` = last hidden states of all that
    comes before the texts.
    """

    model: VidLLMForConditionalGeneration
    prefix: VisualPrefix
    packed: PackedTexts
    start: tuple[int, int]
    seen: Tensor


Outputs = TypeVar("Outputs", GeometryOutputs, LanguageOutputs)


@dataclass(frozen=True)
class Parts:
    """What supervision is built from."""

    weights: SupervisionWeights
    model: VidLLMForConditionalGeneration
    heads: AuxiliaryHeads
    labels: LabelSpace
    texts: TextMaker


class Supervision(ABC, Generic[Outputs]):
    """One kind of supervision, of steps whose outputs it ``reads``."""

    name: ClassVar[str]
    reads: ClassVar[type]
    needs_labels: ClassVar[bool] = False  # of patches; without a label space it is not built

    def __init__(self, parts: Parts) -> None:
        self.weights, self.heads = parts.weights, parts.heads
        self.weight: float = getattr(parts.weights, f"{self.name}_weight")

    @abstractmethod
    def loss(self, outputs: Outputs, batch: Batch) -> Terms:
        """Weighted terms and figures of a step."""


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
