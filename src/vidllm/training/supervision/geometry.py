"""Auxiliary losses of geometry steps: labels, points and matches of patches."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from vidllm.model.global_frame_attention import GlobalFrameAttention
from vidllm.model.patches_3d import back_project
from vidllm.model.transformer import Attention
from vidllm.training.data import Batch
from vidllm.training.losses import masked_mean
from vidllm.training.supervision.base import GeometryOutputs, Matches, Parts, Supervision, Terms

SEED = 20_26
BASE_WIDTH = 192  # of the first models; multiples of it repeat their vectors, so that a language half carries over
SHARES = (0.7, 0.5, 0.4)  # standard deviation of the vectors of categories, colours, materials
MATCH_TEMPERATURE = 0.1  # of the cosine similarities of matching patches
SHELL_WEIGHT = 0.15  # of a patch of the shell in the naming loss


class OracleFeatures:
    """Semantic vectors of categories, colours and materials: the same for all runs of one width and label space."""

    def __init__(self, width: int, categories: int, colours: int, materials: int) -> None:
        generator = torch.Generator().manual_seed(SEED)
        counts = (categories, colours, materials)
        times = width // BASE_WIDTH if width % BASE_WIDTH == 0 else 1
        drawn = [s * torch.randn(n, width // times, generator=generator) for n, s in zip(counts, SHARES, strict=True)]
        self.tables = [table.repeat(1, times) for table in drawn]

    def to(self, device: torch.device) -> OracleFeatures:
        """The same vectors on a device (in place)."""
        self.tables = [table.to(device) for table in self.tables]
        return self

    def features(
        self, category: Int[Tensor, "B F P"], colour: Int[Tensor, "B F P"], material: Int[Tensor, "B F P"]
    ) -> Float[Tensor, "B F P C"]:
        """The sum of the semantic vectors of every patch; class 0 is floor, walls and ceiling."""
        return sum(t[i] for t, i in zip(self.tables, (category, colour, material), strict=True))  # type: ignore[return-value]

    @torch.no_grad()
    def nearest(self, language: Float[Tensor, "B F P C"], category: Int[Tensor, "B F P"]) -> Float[Tensor, "B F P C"]:
        """The nearest semantic vector of an object of this category, over all colours and materials."""
        colours, materials = (table[min(1, len(table) - 1) :] for table in self.tables[1:])
        looks = (colours[:, None] + materials).flatten(0, 1)
        named = self.tables[0][category.clamp(min=0)]
        return named + looks[torch.cdist(language.float() - named, looks).argmin(-1)]


def naming_loss(
    language: Float[Tensor, "B F P C"], named: Float[Tensor, "B F P C"], category: Int[Tensor, "B F P"]
) -> Tensor:
    """Mean squared distance of the semantic stream from the semantic vectors; objects weigh more than the shell.

    Patches of class -1 (unknown) have the weight of shell and no distance.
    """
    weight = torch.where(category > 0, 1.0, SHELL_WEIGHT)
    error = (language.float() - named).square().mean(-1) * (category >= 0)
    return (error * weight).sum() / weight.sum()


def correspondence_loss(
    tokens: Float[Tensor, "B F P C"],
    target: Int[Tensor, "B F P"],
    valid: Bool[Tensor, "B F P"],
    other: Int[Tensor, " F"],
) -> Tensor:
    """Cross-entropy of each patch over the patches of its partner frame, cosine similarity over ``temperature``."""
    unit = F.normalize(tokens.float(), dim=-1)
    logits = torch.einsum("bfpc,bfqc->bfpq", unit, unit[:, other]) / MATCH_TEMPERATURE
    each = F.cross_entropy(logits.flatten(0, 2), target.flatten(), reduction="none")
    return masked_mean(each, valid.flatten())


class MatchingAttention:
    """Hooks on some global blocks that compute a loss of one attention head."""

    def __init__(self, attention: GlobalFrameAttention, layers: Sequence[int] = (1,), head: int = 0) -> None:
        self._head = head
        self._heard: dict[int, tuple[Tensor, Tensor | None]] = {}
        blocks = [attention.global_blocks[layer].attn for layer in layers]
        self._modules = [block for block in blocks if isinstance(block, Attention)]
        for order, module in enumerate(self._modules):
            module.register_forward_pre_hook(partial(self._listen, order), with_kwargs=True)

    def _listen(self, order: int, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._heard[order] = args[0], args[1] if len(args) > 1 else kwargs.get("rotary")

    def loss(self, matches: Matches, other: Int[Tensor, " F"]) -> Tensor:
        """Mean cross-entropy with the matching patches, over patches that have them, for the last forward pass."""
        if not self._heard:
            raise ValueError("the guided block has not run yet; call the model first")
        target, share = matches.corners()
        _, frames, patches = matches.valid.shape
        terms = []
        for order, module in enumerate(self._modules):
            q, k, _ = module.heads(*self._heard[order])
            query, key = (x[:, self._head].unflatten(1, (frames, -1)) for x in (q, k))
            asked = query[:, :, -patches:].float() * query.shape[-1] ** -0.5
            both = torch.cat([key, key[:, other]], 2).float()  # tokens of each frame, then of its partner
            logs = torch.einsum("bfpd,bfsd->bfps", asked, both).log_softmax(-1)
            each = -(logs.gather(-1, 2 * key.shape[2] - patches + target) * share).sum(-1)
            terms.append(masked_mean(each, matches.valid))
        self._heard.clear()
        return torch.stack(terms).mean()


class PatchLabels(Supervision[GeometryOutputs]):
    """Category, colour and material of each patch, from the semantic stream."""

    name = "semantic"
    reads = GeometryOutputs
    needs_labels = True

    def loss(self, outputs: GeometryOutputs, batch: Batch) -> Terms:
        """``semantic`` and accuracies on objects (``clip_category``: real clips)."""
        language = outputs.features.streams.language
        semantic, figures = self.heads.semantic_loss(language, batch.category, batch.colour, batch.material)
        if not batch.records:
            figures = {f"clip_{name.removeprefix('patch_')}": value for name, value in figures.items()}
        return {"semantic": self.weight * semantic}, figures


class PatchPoints(Supervision[GeometryOutputs]):
    """The 3D point of each patch, from the last intermediate layer of global-frame attention."""

    name = "patch_point"
    reads = GeometryOutputs

    def loss(self, outputs: GeometryOutputs, batch: Batch) -> Terms:
        """``patch_points``"""
        model, targets = outputs.model, outputs.targets
        with torch.no_grad():
            translation = targets.extrinsics[..., 3:] / targets.scale[:, None, None, None]
            extrinsics = torch.cat([targets.extrinsics[..., :3], translation], -1)  # at the normalised scale
            points, valid = back_project(
                targets.depth, targets.intrinsics, extrinsics, outputs.features.encoder.grid,
                model.config.encoder.patch_size,
            )  # fmt: skip
        last = outputs.cameras.attended.intermediate_features[max(model.config.dense_head.tap_layers)]
        loss = self.heads.point_loss(last, points, valid, self.weights.bearing_weight)
        return {"patch_points": self.weight * loss}, {}


class Naming(Supervision[GeometryOutputs]):
    """The semantic stream is pulled towards the semantic vectors of what patches show."""

    name = "naming"
    reads = GeometryOutputs
    needs_labels = True

    def __init__(self, parts: Parts) -> None:
        super().__init__(parts)
        width = parts.model.config.encoder.hidden_size
        self.oracle = OracleFeatures(width, *parts.labels.sizes).to(parts.model.device)

    def loss(self, outputs: GeometryOutputs, batch: Batch) -> Terms:
        """``naming``; on real clips only the category is known."""
        language = outputs.features.streams.language
        named = (
            self.oracle.features(batch.category, batch.colour, batch.material) if batch.records
            else self.oracle.nearest(language, batch.category)
        )  # fmt: skip
        loss = naming_loss(language, named, batch.category)
        return {"naming": self.weight * loss}, {}


class Correspondence(Supervision[GeometryOutputs]):
    """Features of matching patches of two frames are similar in the geometric stream."""

    name = "correspondence"
    reads = GeometryOutputs
    min_frames = 2

    def loss(self, outputs: GeometryOutputs, batch: Batch) -> Terms:
        """``correspondence``"""
        matches, stream = outputs.matches, outputs.features.streams.geometry.float()
        loss = correspondence_loss(self.heads.match(stream), matches.index, matches.valid, outputs.partner)
        return {"correspondence": self.weight * loss}, {}


class AttentionToMatches(Supervision[GeometryOutputs]):
    """A head of some global blocks attends to matching patches."""

    name = "guide"
    reads = GeometryOutputs
    min_frames = 2

    def __init__(self, parts: Parts) -> None:
        super().__init__(parts)
        last = parts.model.config.attention.depth - 1
        layers = sorted({min(i, last) for i in parts.weights.guide_layers})
        self.attention = MatchingAttention(parts.model.attention, layers)

    def loss(self, outputs: GeometryOutputs, batch: Batch) -> Terms:
        """``guide``"""
        return {"guide": self.weight * self.attention.loss(outputs.matches, outputs.partner)}, {}
