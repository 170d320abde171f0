"""The interface of auxiliary losses (ours): terms from the outputs of a training step.

All are listed in :data:`vidllm.training.supervision.SUPERVISIONS`; the weight is the field ``NAME_weight`` of the
configuration. With weight 0 nothing is built or computed.
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
from vidllm.geometry.cameras import project
from vidllm.model.huggingface import VidLLMForConditionalGeneration
from vidllm.model.outputs import Cameras, Features, VisualPrefix
from vidllm.model.patches_3d import back_project
from vidllm.training.config import SupervisionWeights
from vidllm.training.data import Batch
from vidllm.training.losses import GeometryTargets, masked_mean
from vidllm.training.packing import PackedTexts
from vidllm.training.texts import TextMaker

LABEL_HEADS = ("category", "colour", "material")
NEAR = 0.4  # normalised length below which the bearing loss decreases


class AuxiliaryHeads(nn.Module):
    """Heads of the auxiliary losses; class 0 of ``categories``, ``colours`` and ``materials`` is the background."""

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
        nearer than ``NEAR``): camera motion shows in directions much more precisely than in depth, whose error is
        larger.
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
        """Summed cross-entropies of each patch's labels; objects outweigh the shell. Accuracies are on objects.

        Patches of class -1 (unknown) have the weight of shell and no loss, so that a few known ones do not outweigh a
        room's. If all are unknown, there is no term and no accuracy.
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


@dataclass(frozen=True)
class Matches:
    """Where each patch's centre is seen in its partner frame.

    Attributes:
        place: (B,F,P,2) continuous column and row in the partner's patch grid (0 = centre of the first).
        valid: (B,F,P) whether the partner sees the point.
        grid: rows and columns of patches.
    """

    place: Float[Tensor, "B F P 2"]
    valid: Bool[Tensor, "B F P"]
    grid: tuple[int, int]

    @property
    def index(self) -> Int[Tensor, "B F P"]:
        """The patch that contains the point."""
        column, row = (self.place + 0.5).floor().long().unbind(-1)
        rows, columns = self.grid
        return row.clamp(0, rows - 1) * columns + column.clamp(0, columns - 1)

    def corners(self) -> tuple[Int[Tensor, "B F P 4"], Float[Tensor, "B F P 4"]]:
        """The four patches around the point and their bilinear weights (which sum to 1)."""
        rows, columns = self.grid
        low = self.place.floor()
        part = self.place - low
        indices, weights = [], []
        for down, right in ((0, 0), (0, 1), (1, 0), (1, 1)):
            column, row = (low[..., 0] + right).long(), (low[..., 1] + down).long()
            indices.append(row.clamp(0, rows - 1) * columns + column.clamp(0, columns - 1))
            across, along = (part[..., i] if step else 1 - part[..., i] for i, step in ((0, right), (1, down)))
            weights.append(across * along)
        return torch.stack(indices, -1), torch.stack(weights, -1)


def correspondences(
    depth: Float[Tensor, "B F H W"],
    extrinsics: Float[Tensor, "B F 3 4"],
    intrinsics: Float[Tensor, "B F 3 3"],
    grid: tuple[int, int],
    patch_size: int,
    other: Int[Tensor, " F"],
) -> Matches:
    """For each patch of frame i: where frame ``other[i]`` sees its centre, and whether it does."""
    height, width = depth.shape[-2:]
    points, valid = back_project(depth, intrinsics, extrinsics, grid, patch_size)
    uv, z = project(points, intrinsics[:, other], extrinsics[:, other])
    inside = (uv[..., 0] >= 0) & (uv[..., 0] < width) & (uv[..., 1] >= 0) & (uv[..., 1] < height) & (z > 0.05)
    u = uv[..., 0].nan_to_num(0).clamp(0, width - 1).long()
    v = uv[..., 1].nan_to_num(0).clamp(0, height - 1).long()
    seen = depth[:, other].flatten(2).gather(2, v * width + u)
    agrees = (seen - z).abs() < 0.05 * z.clamp(min=0.05)
    limits = uv.new_tensor([width, height])
    place = torch.minimum(uv.nan_to_num(0).clamp(min=0), limits) / patch_size - 0.5
    return Matches(place, inside & agrees & valid, grid)


#: Weighted loss terms and figures for the log, by name.
Terms = tuple[dict[str, Tensor], dict[str, float]]


@dataclass
class GeometryOutputs:
    """Outputs of a geometry step: features and cameras predicted, and the truth."""

    model: VidLLMForConditionalGeneration
    features: Features
    cameras: Cameras
    targets: GeometryTargets

    @property
    def partner(self) -> Tensor:
        """The frame that each frame is matched with."""
        return torch.arange(self.targets.depth.shape[1], device=self.targets.depth.device).roll(-1)

    @cached_property
    def matches(self) -> Matches:
        """Patches of each frame and its partner that show the same point."""
        targets, patch_size = self.targets, self.model.config.encoder.patch_size
        with torch.no_grad():
            return correspondences(
                targets.depth_m, targets.extrinsics, targets.intrinsics, self.features.encoder.grid, patch_size,
                self.partner,
            )  # fmt: skip


@dataclass
class LanguageOutputs:
    """Outputs of a language step: visual prefix, texts, and their positions in the language model's sequence.

    ``start`` = positions of the first 3D patch and of the first text token; ``seen`` = last hidden states of everything
    before the texts.
    """

    model: VidLLMForConditionalGeneration
    prefix: VisualPrefix
    packed: PackedTexts
    start: tuple[int, int]
    seen: Tensor


Outputs = TypeVar("Outputs", GeometryOutputs, LanguageOutputs)


@dataclass(frozen=True)
class Parts:
    """The inputs for building an auxiliary loss."""

    weights: SupervisionWeights
    model: VidLLMForConditionalGeneration
    heads: AuxiliaryHeads
    labels: LabelSpace
    texts: TextMaker


class Supervision(ABC, Generic[Outputs]):
    """One auxiliary loss, of steps with outputs of the type ``reads``."""

    name: ClassVar[str]
    reads: ClassVar[type]
    needs_labels: ClassVar[bool] = False  # of patches; not built without a label space, not computed without labels
    min_frames: ClassVar[int] = 1  # of each scene

    def __init__(self, parts: Parts) -> None:
        self.weights, self.heads = parts.weights, parts.heads
        self.weight: float = getattr(parts.weights, f"{self.name}_weight")

    @abstractmethod
    def loss(self, outputs: Outputs, batch: Batch) -> Terms:
        """Weighted terms and figures of a step."""


def terms_of(
    supervision: Sequence[Supervision[Any]], outputs: GeometryOutputs | LanguageOutputs, batch: Batch
) -> Terms:
    """Terms and figures of all that use these outputs, and for which the batch has labels and frames."""
    terms: dict[str, Tensor] = {}
    figures: dict[str, float] = {}
    for each in supervision:
        enough = batch.images.shape[1] >= each.min_frames and (batch.named or not each.needs_labels)
        if enough and isinstance(outputs, each.reads):
            more, told = each.loss(outputs, batch)
            terms.update(more)
            figures.update(told)
    return terms, figures
