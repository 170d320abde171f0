"""Stage 2, one step: reconstruction, metric depth and language losses over one batch (Eqs 8 and 9).

``L = L_recon + L_VL + L_MD`` (docs/method.md, section 9). The language half lifts patches with detached geometry, so
that its gradient reaches the adapter (and the encoder, when it trains) but never the reconstruction branch or the
metric depth model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from vidllm.geometry.cameras import camera_centres
from vidllm.geometry.gravity import scene_from_world
from vidllm.geometry.rotations import quaternion_to_matrix, rotation_angle_deg
from vidllm.model.huggingface import VidLLMForConditionalGeneration
from vidllm.model.outputs import Cameras, Features, Geometry, SceneScale, VisualPrefix
from vidllm.training.config import LossWeights
from vidllm.training.data import Batch
from vidllm.training.losses import (
    GeometryTargets,
    Losses,
    camera_losses,
    choice_loss,
    depth_loss,
    grounding_losses,
    masked_mean,
    metric_depth_loss,
    normalise,
    point_loss,
    vggt_dense_losses,
)
from vidllm.training.packing import PackedTexts, packed_cross_entropy, packed_hidden
from vidllm.training.supervision.base import GeometryOutputs, LanguageOutputs, Supervision, terms_of
from vidllm.training.texts import scene_boxes, scene_from_room


def geometry_losses(
    model: VidLLMForConditionalGeneration,
    batch: Batch,
    weights: LossWeights,
    frames: Tensor,
    supervision: Sequence[Supervision[Any]] = (),
) -> tuple[Losses, Features, Cameras, GeometryTargets]:
    """L_recon + L_MD + gravity (+ supervision) of a batch; dense heads are supervised on ``frames``."""
    targets = normalise(batch.depth_m, batch.extrinsics, batch.intrinsics)
    features = model.encode(batch.images)
    cameras = model.predict_cameras(features)
    size, valid = features.image_size, targets.valid[:, frames]
    vggt, up = weights.reconstruction == "vggt", batch.up
    inner = (weights.translation_weight, weights.rotation_weight, weights.fov_weight)
    camera = (
        camera_losses(cameras.pose_encodings, targets.pose, targets.valid) if vggt
        else camera_losses(cameras.pose_encodings, targets.pose, weights=inner)
    )["camera"]  # fmt: skip
    level = masked_mean(1 - (cameras.up * up.nan_to_num(0.0)).sum(-1), up.isfinite().all(-1))  # NaN: not known
    terms = {"camera": weights.camera_weight * camera, "gravity": weights.gravity_weight * level}

    depth, sure = model.predict_depth(cameras, size, frames)
    wanted = targets.depth[:, frames]
    dense = (
        _sum(vggt_dense_losses(depth[..., None], sure, wanted[..., None], valid, "grad")) if vggt
        else depth_loss(depth, sure, wanted, valid, weights.confidence_weight, weights.inverse_depth)
    )  # fmt: skip
    terms["depth"] = weights.depth_weight * dense
    if model.point_head is not None and weights.point_weight > 0:
        points, sure = model.predict_points(cameras, size, frames)
        wanted = targets.points[:, frames]
        dense = (
            _sum(vggt_dense_losses(points, sure, wanted, valid, "normal")) if vggt
            else point_loss(points, sure, wanted, valid, weights.confidence_weight)
        )  # fmt: skip
        terms["points"] = weights.point_weight * dense
    if model.metric_depth is not None and weights.metric_weight > 0:
        metric, _ = model.predict_metric_depth(features, targets.intrinsics, frames)
        terms["metric"] = weights.metric_weight * metric_depth_loss(metric, targets.depth_m[:, frames], valid)

    figures = _pose_figures(cameras, targets)
    if supervision:
        more, told = terms_of(supervision, GeometryOutputs(model, features, cameras, targets), batch)
        terms, figures = terms | more, figures | told
    return Losses(terms, figures), features, cameras, targets


def _sum(terms: dict[str, Tensor]) -> Tensor:
    return torch.stack(list(terms.values())).sum()


@torch.no_grad()
def _pose_figures(cameras: Cameras, targets: GeometryTargets) -> dict[str, float]:
    last = cameras.pose_encodings[-1].float()
    turned, true = (quaternion_to_matrix(x[..., 3:7]) for x in (last, targets.pose))
    angle = rotation_angle_deg(turned, true)[:, 1:]
    told, wanted = (
        camera_centres(torch.cat((r, x[..., :3, None]), dim=-1))[:, 1:]
        for r, x in ((turned, last), (true, targets.pose))
    )
    towards = F.cosine_similarity(told, wanted, dim=-1)
    alone = not angle.numel()  # a single frame has no pose
    return {
        "rotation_deg": 0.0 if alone else float(angle.median()),
        "translation_cos": 1.0 if alone else float(towards.mean()),
        "fov_rel": float((last[..., 7:] / targets.pose[..., 7:] - 1).abs().median()),
    }


def true_geometry(targets: GeometryTargets, up: Tensor) -> Geometry:
    """Ground truth instead of the reconstruction (early language training, oracle evaluation)."""
    ones = torch.ones_like(targets.scale)
    unit = SceneScale(ones, ones[:, None], torch.zeros_like(ones), torch.ones_like(ones, dtype=torch.bool))
    return Geometry(
        extrinsics=targets.extrinsics, intrinsics=targets.intrinsics, depth_m=targets.depth_m,
        confidence=targets.valid.float(), metric_depth_m=targets.depth_m, scale=unit, up=up,
        scene_from_world=scene_from_world(up),
    )  # fmt: skip


def language_losses(
    model: VidLLMForConditionalGeneration,
    prefix: VisualPrefix,
    packed: PackedTexts,
    prefix_ids: tuple[Tensor, Tensor],
    weights: LossWeights,
    supervision: Sequence[Supervision[Any]] = (),
    batch: Batch | None = None,
) -> Losses:
    """L_VL: cross-entropy of packed texts and the grounding losses of their ``<loc>`` tokens.

    ``prefix_ids`` are the prompt's token ids before and after the scene; ``supervision`` uses ``batch``.
    """
    ids_of = [ids.to(packed.input_ids.device).expand(len(packed.input_ids), -1) for ids in prefix_ids]
    before, after = (model.embed_text(ids) for ids in ids_of)
    tokens = torch.cat([before, prefix.tokens.to(before.dtype), after], 1)
    known = [prefix.mask.new_ones(ids.shape[:2]) for ids in (before, after)]
    mask = torch.cat([known[0], prefix.mask, known[1]], 1)
    text = model.embed_text(packed.input_ids, packed.coordinates)
    seen, hidden = packed_hidden(model.language_model, tokens, mask, text, packed)
    cross_entropy, right = packed_cross_entropy(model.get_output_embeddings(), hidden, packed)
    terms = {"text": weights.text_weight * cross_entropy}
    figures = {"token_acc": float(right), "prefix": float(prefix.mask.sum(1).float().mean())}
    if supervision and batch is not None:
        start = tokens.shape[1] - after.shape[1] - prefix.patch_mask.shape[1], tokens.shape[1]
        more, told = terms_of(supervision, LanguageOutputs(model, prefix, packed, start, seen), batch)
        terms, figures = terms | more, figures | told
    if bool(packed.loc_mask.any()):
        loc_hidden = hidden.gather(1, packed.loc[..., None].expand(-1, -1, hidden.shape[-1]))
        output = model.ground(prefix, loc_hidden)
        for name, value in grounding_losses(output, packed.boxes, packed.box_mask, packed.loc_mask).items():
            terms[f"box_{name}"] = weights.box_weight * value
        if weights.proposal_weight > 0:
            choice = proposal_loss(model, prefix, loc_hidden, packed, *candidate_boxes(packed, batch))
            terms["proposals"] = weights.proposal_weight * choice
    return Losses(terms, figures)


def candidate_boxes(packed: PackedTexts, batch: Batch | None) -> tuple[Float[Tensor, "B M 7"], Bool[Tensor, "B M"]]:
    """All boxes of each scene, without duplicates, and a mask; without ``batch`` the boxes of its texts."""
    rows = [boxes[there] for boxes, there in zip(packed.boxes, packed.box_mask, strict=True)]
    if batch is not None:
        scenes = zip(batch.records, batch.extrinsics.cpu(), strict=True)
        others = [list(scene_boxes(record, scene_from_room(first)).values()) for record, first in scenes]
        rows = [torch.cat([own, own.new_tensor(more).reshape(-1, 7)]) for own, more in zip(rows, others, strict=True)]
    rows = [torch.unique(row, dim=0) for row in rows]
    most = max(1, *map(len, rows))
    known = torch.stack([torch.arange(most, device=row.device) < len(row) for row in rows])
    return torch.stack([F.pad(row, (0, 0, 0, most - len(row))) for row in rows]), known


def proposal_loss(
    model: VidLLMForConditionalGeneration,
    prefix: VisualPrefix,
    loc_hidden: Float[Tensor, "B E D"],
    packed: PackedTexts,
    candidates: Float[Tensor, "B M 7"],
    known: Bool[Tensor, "B M"],
) -> Tensor:
    """InfoNCE of the choice among candidate boxes, which include those of the targets (``choose_proposal``)."""
    logits, none_logit = model.grounding.choose_proposal(
        prefix.patches, prefix.patch_positions, prefix.patch_mask, loc_hidden, candidates, known
    )
    same = (packed.boxes[..., None, :] == candidates[:, None, None]).all(-1)
    positives = same & packed.box_mask[..., None] & known[:, None, None]
    return choice_loss(logits, none_logit, positives, packed.box_mask & packed.loc_mask[..., None], packed.loc_mask)
