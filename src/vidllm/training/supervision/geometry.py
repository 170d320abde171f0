"""Supervision of steps on geometry (ours): what patches show, where they lie, which of them match."""

from __future__ import annotations

import torch
from torch import Tensor

from vidllm.model.patches_3d import back_project
from vidllm.training.data import Batch
from vidllm.training.losses.correspondence import correspondence_loss
from vidllm.training.losses.targets import GeometryTargets
from vidllm.training.supervision.attention import MatchingAttention
from vidllm.training.supervision.base import GeometryOutputs, Parts, Supervision, Terms
from vidllm.training.supervision.oracle_features import OracleFeatures, naming_loss


class PatchLabels(Supervision[GeometryOutputs]):
    """Category, colour and material of each patch, from the semantic stream."""

    name = "semantic"
    reads = GeometryOutputs
    needs_labels = True

    def loss(self, outputs: GeometryOutputs, batch: Batch) -> Terms:
        """``semantic``, and accuracies on objects; nothing for clips that name nothing."""
        if not batch.named:
            return {}, {}
        language = outputs.features.streams.language
        semantic, figures = self.heads.semantic_loss(language, batch.category, batch.colour, batch.material)
        return {"semantic": self.weight * semantic}, figures


class PatchPoints(Supervision[GeometryOutputs]):
    """The 3D point of each patch, from the last intermediate layer of global-frame attention."""

    name = "patch_point"
    reads = GeometryOutputs

    def loss(self, outputs: GeometryOutputs, batch: Batch) -> Terms:
        """``patch_points``"""
        model, targets = outputs.model, outputs.targets
        with torch.no_grad():
            points, valid = back_project(
                targets.depth, targets.intrinsics, _scaled(targets), outputs.features.encoder.grid,
                model.config.encoder.patch_size,
            )  # fmt: skip
        last = outputs.cameras.attended.intermediate_features[max(model.config.dense_head.tap_layers)]
        loss = self.heads.point_loss(last, points, valid, self.config.bearing_weight)
        return {"patch_points": self.weight * loss}, {}


def _scaled(targets: GeometryTargets) -> Tensor:
    """Extrinsics (B,F,3,4) at the targets' normalised scale."""
    s = targets.scale[:, None, None, None]
    return torch.cat([targets.extrinsics[..., :3], targets.extrinsics[..., 3:] / s], -1)


class Naming(Supervision[GeometryOutputs]):
    """The semantic stream is drawn to the oracle features of what patches show."""

    name = "naming"
    reads = GeometryOutputs
    needs_labels = True

    def __init__(self, parts: Parts) -> None:
        super().__init__(parts)
        width = parts.model.config.encoder.hidden_size
        self.oracle = OracleFeatures(width, *parts.labels.sizes).to(parts.model.device)

    def loss(self, outputs: GeometryOutputs, batch: Batch) -> Terms:
        """``naming``; nothing for clips that name nothing."""
        if not batch.named:
            return {}, {}
        named = self.oracle.features(batch.category, batch.colour, batch.material)
        loss = naming_loss(outputs.features.streams.language, named, batch.category)
        return {"naming": self.weight * loss}, {}


class Correspondence(Supervision[GeometryOutputs]):
    """Matching patches of two frames are alike in the geometric stream."""

    name = "correspondence"
    reads = GeometryOutputs

    def loss(self, outputs: GeometryOutputs, batch: Batch) -> Terms:
        """``correspondence``; nothing for a single frame."""
        if outputs.frames == 1:
            return {}, {}
        matches, stream = outputs.matches, outputs.features.streams.geometry.float()
        loss = correspondence_loss(self.heads.match(stream), matches.index, matches.valid, outputs.partner)
        return {"correspondence": self.weight * loss}, {}


class AttentionToMatches(Supervision[GeometryOutputs]):
    """A head of some global blocks attends to matching patches (:mod:`vidllm.training.supervision.attention`)."""

    name = "guide"
    reads = GeometryOutputs

    def __init__(self, parts: Parts) -> None:
        super().__init__(parts)
        last = parts.model.config.attention.depth - 1
        layers = sorted({min(i, last) for i in parts.config.guide_layers})
        self.attention = MatchingAttention(parts.model.attention, layers)

    def loss(self, outputs: GeometryOutputs, batch: Batch) -> Terms:
        """``guide``; nothing for a single frame."""
        if outputs.frames == 1:
            return {}, {}
        return {"guide": self.weight * self.attention.loss(outputs.matches, outputs.partner)}, {}
