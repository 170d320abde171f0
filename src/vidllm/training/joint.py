"""Stage 2, one step: reconstruction, metric depth and language losses over one batch (Eqs 8 and 9).

``L = L_recon + L_VL + L_MD`` (docs/method.md, section 9). The language half lifts patches with detached geometry, so
that its gradient reaches the adapter (and the encoder, when it trains) but never the reconstruction branch or the
metric depth model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from vidllm.geometry.cameras import camera_centres
from vidllm.geometry.gravity import scene_from_world
from vidllm.geometry.rotations import quaternion_to_matrix, rotation_angle_deg
from vidllm.model.huggingface import VidLLMForConditionalGeneration
from vidllm.model.outputs import Cameras, Features, Geometry, SceneScale, VisualPrefix
from vidllm.training.config import TrainConfig
from vidllm.training.data import Batch
from vidllm.training.losses.camera import camera_loss
from vidllm.training.losses.dense import depth_loss, point_loss
from vidllm.training.losses.grounding import grounding_losses
from vidllm.training.losses.metric import metric_depth_loss
from vidllm.training.losses.targets import GeometryTargets, masked_mean, normalise
from vidllm.training.losses.vggt import vggt_camera_losses, vggt_dense_losses
from vidllm.training.packing import PackedTexts, packed_cross_entropy, packed_hidden
from vidllm.training.supervision import GeometryOutputs, LanguageOutputs, Supervision, terms_of
from vidllm.training.supervision.base import Terms


@dataclass
class Losses:
    """Named, weighted loss terms and figures worth logging."""

    terms: dict[str, Tensor]
    figures: dict[str, float]

    def total(self) -> Tensor:
        """Their sum."""
        return torch.stack([t.float() for t in self.terms.values()]).sum()


def geometry_losses(
    model: VidLLMForConditionalGeneration,
    supervision: Sequence[Supervision[Any]],
    batch: Batch,
    config: TrainConfig,
    frames: Tensor,
) -> tuple[Losses, Features, Cameras, GeometryTargets]:
    """L_recon + L_MD + gravity (+ supervision) of a batch; dense heads are supervised on ``frames``."""
    targets = normalise(batch.depth_m, batch.extrinsics, batch.intrinsics)
    features = model.encode(batch.images)
    cameras = model.predict_cameras(features)
    terms = {
        "camera": config.camera_weight * _camera_term(cameras, targets, config),
        "gravity": config.gravity_weight * _gravity_term(cameras.up, batch.up),
        **_dense_terms(model, features, cameras, targets, config, frames),
    }
    extra, figures = terms_of(supervision, GeometryOutputs(model, features, cameras, targets), batch)
    return Losses(terms | extra, _pose_figures(cameras, targets) | figures), features, cameras, targets


def _camera_term(cameras: Cameras, targets: GeometryTargets, config: TrainConfig) -> Tensor:
    if config.reconstruction == "vggt":
        return vggt_camera_losses(cameras.pose_encodings, targets.pose, targets.valid)["camera"]
    weights = (config.translation_weight, config.rotation_weight, config.fov_weight)
    return camera_loss(cameras.pose_encodings, targets.pose, weights=weights)


def _gravity_term(told: Tensor, up: Tensor) -> Tensor:
    """Mean of 1 - cos over the scenes whose up is known (it is NaN elsewhere)."""
    return masked_mean(1 - (told * up.nan_to_num(0.0)).sum(-1), up.isfinite().all(-1))


def _dense_terms(
    model: VidLLMForConditionalGeneration,
    features: Features,
    cameras: Cameras,
    targets: GeometryTargets,
    config: TrainConfig,
    frames: Tensor,
) -> dict[str, Tensor]:
    size, valid = features.image_size, targets.valid[:, frames]
    depth = *model.predict_depth(cameras, size, frames), targets.depth[:, frames], valid
    terms = {"depth": config.depth_weight * _depth_term(*depth, config)}
    if model.point_head is not None and config.point_weight > 0:
        points = *model.predict_points(cameras, size, frames), targets.points[:, frames], valid
        terms["points"] = config.point_weight * _point_term(*points, config)
    if model.metric_depth is not None and config.metric_weight > 0:
        metric, _ = model.predict_metric_depth(features, targets.intrinsics, frames)
        terms["metric"] = config.metric_weight * metric_depth_loss(metric, targets.depth_m[:, frames], valid)
    return terms


def _depth_term(depth: Tensor, confidence: Tensor, target: Tensor, valid: Tensor, config: TrainConfig) -> Tensor:
    if config.reconstruction == "vggt":
        terms = vggt_dense_losses(depth[..., None], confidence, target[..., None], valid, "grad")
        return torch.stack(list(terms.values())).sum()
    return depth_loss(depth, confidence, target, valid, config.confidence_weight, config.inverse_depth)


def _point_term(points: Tensor, confidence: Tensor, target: Tensor, valid: Tensor, config: TrainConfig) -> Tensor:
    if config.reconstruction == "vggt":
        terms = vggt_dense_losses(points, confidence, target, valid, "normal")
        return torch.stack(list(terms.values())).sum()
    return point_loss(points, confidence, target, valid, config.confidence_weight)


def _pose_figures(cameras: Cameras, targets: GeometryTargets) -> dict[str, float]:
    with torch.no_grad():
        last = cameras.pose_encodings[-1].float()
        turned, true = (quaternion_to_matrix(x[..., 3:7]) for x in (last, targets.pose))
        angle = rotation_angle_deg(turned, true)[:, 1:]
        told, wanted = (
            camera_centres(torch.cat((r, x[..., :3, None]), dim=-1))[:, 1:]
            for r, x in ((turned, last), (true, targets.pose))
        )
        towards = F.cosine_similarity(told, wanted, dim=-1)
        fov = (last[..., 7:] / targets.pose[..., 7:] - 1).abs().median()
    if not angle.numel():
        return {"rotation_deg": 0.0, "translation_cos": 1.0, "fov_rel": float(fov)}
    return {
        "rotation_deg": float(angle.median()), "translation_cos": float(towards.mean()), "fov_rel": float(fov)
    }


def true_geometry(targets: GeometryTargets, up: Tensor) -> Geometry:
    """Ground truth in place of the reconstruction (early language training, oracle evaluation)."""
    ones = torch.ones_like(targets.scale)
    unit = SceneScale(ones, ones[:, None], torch.zeros_like(ones), torch.ones_like(ones, dtype=torch.bool))
    return Geometry(
        targets.extrinsics, targets.intrinsics, targets.depth_m, targets.valid.float(), targets.depth_m, unit, up,
        scene_from_world(up),
    )


def language_losses(
    model: VidLLMForConditionalGeneration,
    prefix: VisualPrefix,
    packed: PackedTexts,
    prefix_ids: tuple[Tensor, Tensor],
    config: TrainConfig,
    supervision: Callable[[LanguageOutputs], Terms] | None = None,
) -> Losses:
    """L_VL: cross-entropy of packed texts and the grounding losses of their ``<loc>`` tokens.

    ``prefix_ids`` are the prompt's token ids before and after the scene; ``supervision`` gives further terms.
    """
    batch = len(packed.input_ids)
    before, after = (model.embed_text(ids.expand(batch, -1)) for ids in prefix_ids)
    tokens = torch.cat([before, prefix.tokens.to(before.dtype), after], 1)
    mask = torch.cat(
        [prefix.mask.new_ones(before.shape[:2]), prefix.mask, prefix.mask.new_ones(after.shape[:2])], 1
    )
    text = model.embed_text(packed.input_ids, packed.coordinates)
    hidden = packed_hidden(model.language_model, tokens, mask, text, packed)
    cross_entropy, right = packed_cross_entropy(model.get_output_embeddings(), hidden, packed)
    terms = {"text": config.text_weight * cross_entropy}
    figures = {"token_acc": float(right), "prefix": float(prefix.mask.sum(1).float().mean())}
    if supervision is not None:
        start = tokens.shape[1] - after.shape[1] - prefix.patch_mask.shape[1], tokens.shape[1]
        more, told = supervision(LanguageOutputs(model, prefix, packed, start))
        terms.update(more)
        figures.update(told)
    if bool(packed.loc_mask.any()):
        index = packed.loc[..., None].expand(-1, -1, hidden.shape[-1])
        output = model.ground(prefix, hidden.gather(1, index))
        losses = grounding_losses(output, packed.boxes, packed.box_mask, packed.loc_mask)
        for name, value in losses.items():
            terms[f"box_{name}"] = config.box_weight * value
    return Losses(terms, figures)
