"""The interface of supervision beside the paper's losses (ours): terms from what a step has computed.

Each is listed by name in :data:`vidllm.training.supervision.SUPERVISIONS`; its weight is the field ``NAME_weight`` of
the training configuration. At weight 0 it is not built and nothing of it is computed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Generic, TypeVar

import torch
from torch import Tensor

from vidllm.datasets.shards import LabelSpace
from vidllm.model.huggingface import VidLLMForConditionalGeneration
from vidllm.model.outputs import Cameras, Features, VisualPrefix
from vidllm.training.config import TrainConfig
from vidllm.training.data import Batch
from vidllm.training.losses.correspondence import Matches, correspondences
from vidllm.training.losses.targets import GeometryTargets
from vidllm.training.packing import PackedTexts
from vidllm.training.supervision.heads import AuxiliaryHeads
from vidllm.training.texts import TextMaker

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

    ``start`` = positions of the first 3D patch and of the first text token.
    """

    model: VidLLMForConditionalGeneration
    prefix: VisualPrefix
    packed: PackedTexts
    start: tuple[int, int]


Outputs = TypeVar("Outputs", GeometryOutputs, LanguageOutputs)


@dataclass(frozen=True)
class Parts:
    """What supervision is built from."""

    config: TrainConfig
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
        self.config, self.heads = parts.config, parts.heads
        self.weight: float = getattr(parts.config, f"{self.name}_weight")

    @abstractmethod
    def loss(self, outputs: Outputs, batch: Batch) -> Terms:
        """Weighted terms and figures of a step."""
