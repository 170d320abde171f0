"""The steps that a configuration takes, and a walk through each of them for :mod:`step_costs`.

A walk calls the model's own parts in the order of the real step. Where the real step depends on values it takes the
most there can be: as many 3D patches as the cap allows, as many words as a row holds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._pytree import tree_map_only

from vidllm.model.modeling import Cameras, Features, VidLLMForConditionalGeneration
from vidllm.model.patches_3d import PooledPatches
from vidllm.training.auxiliary import AuxiliaryHeads
from vidllm.training.config import TrainConfig
from vidllm.training.losses.correspondence import correspondence_loss
from vidllm.training.losses.distillation import Projections, Streams, distillation_losses
from vidllm.training.stage1 import Stage1Config
from vidllm.training.step_costs import Walk
from vidllm.training.teacher_runs import LanguageTeacherConfig

T = TypeVar("T")
SCORED = 0.15  # share of max_text_tokens that are answers, whose logits are computed (rooms: 0.13 to 0.14)
REACH = 64  # tokens of the longest text


@dataclass(frozen=True)
class StepPlan:
    """One kind of step: ``share`` of a run's steps, ``scenes`` of ``frames`` frames."""

    kind: str
    scenes: int
    frames: int
    share: float


def plans(config: TrainConfig | Stage1Config | LanguageTeacherConfig) -> list[StepPlan]:
    """The kinds of step of a run, their shares adding up to one; of each kind that with most frames a scene."""
    if isinstance(config, TrainConfig):
        return _stage2_plans(config)
    most = max(config.clip_frames)
    scenes = max(1, config.clip_images // most)
    if isinstance(config, Stage1Config):
        return [StepPlan("distil", scenes, most, 1.0)]
    first = min(1.0, config.contrastive_steps / max(1, config.steps))
    pairs = config.shards_a_step * config.scenes_a_shard
    both = [StepPlan("contrast", pairs, 1, first), StepPlan("instruct", scenes, most, 1 - first)]
    return [plan for plan in both if plan.share > 0]


def _stage2_plans(config: TrainConfig) -> list[StepPlan]:
    after = max(0, config.steps - config.language_start) / max(1, config.steps)
    said = after * config.language_share
    alone = said * config.language_only_share
    shares = {
        "window": (1 - said) * (1 - config.spread_share), "spread": (1 - said) * config.spread_share,
        "clip": said - alone, "language": alone * (1 - config.named_share), "named": alone * config.named_share,
    }  # fmt: skip
    made = []
    for kind, share in shares.items():
        frames = max(config.window_frames if kind == "window" else config.clip_frames)
        images = config.clip_images
        if kind in ("window", "spread"):
            images = config.window_scenes * min(config.window_frames)
        if share > 1e-9:
            made.append(StepPlan(kind, max(1, images // frames), frames, share))
    return made


def scored_tokens(rows: int, length: int) -> int:
    """Tokens of ``rows`` rows whose logits are computed."""
    return max(1, round(SCORED * rows * length))


# ---- stage 2 ----------------------------------------------------------------------------------------------------


def stage2_step(
    model: VidLLMForConditionalGeneration, auxiliary: AuxiliaryHeads, config: TrainConfig, plan: StepPlan,
    size: tuple[int, int],
) -> Callable[[Walk], Tensor]:  # fmt: skip
    """A walk through a step of stage 2 on frames of ``size`` (H, W)."""

    def step(walk: Walk) -> Tensor:
        images = torch.rand(plan.scenes, plan.frames, 3, *size)
        if plan.kind == "named":
            grid = model.encoder.grid(*size)
            tokens = torch.rand(plan.scenes, plan.frames, grid[0] * grid[1], model.config.encoder.hidden_size)
            return _sum(_language(walk, model, config, tokens, None))
        if plan.kind == "language":
            with torch.no_grad():
                features = _see(walk, model, images)
                _all_frames(walk, model, features, model.locate(features))
            return _sum(_language(walk, model, config, features.flows.language, features.flows.bridge))
        features = _see(walk, model, images)
        cameras = model.locate(features)
        walk.part("global-frame attention", *cameras.attended.taps.values(), *cameras.pose_encodings, cameras.up)
        outputs = _geometry(walk, model, auxiliary, config, features, cameras, plan)
        if plan.kind == "clip":
            with torch.no_grad():
                _all_frames(walk, model, _detached(features), _detached(cameras))
            outputs += _language(walk, model, config, features.flows.language, features.flows.bridge)
        return _sum(outputs)

    return step


def _see(walk: Walk, model: VidLLMForConditionalGeneration, images: Tensor) -> Features:
    seen = model.encoder(images)
    walk.part("encoder", seen.tokens, *seen.taps)
    flows = model.adapter(seen.tokens)
    walk.part("cross-task adapter", flows.geometry, flows.language, *([] if flows.bridge is None else [flows.bridge]))
    return Features(seen, flows, (images.shape[-2], images.shape[-1]))


def _geometry(
    walk: Walk, model: VidLLMForConditionalGeneration, auxiliary: AuxiliaryHeads, config: TrainConfig,
    features: Features, cameras: Cameras, plan: StepPlan,
) -> list[Tensor]:  # fmt: skip
    """Cameras, the dense heads on the frames that are supervised, and the auxiliary heads."""
    frames = torch.arange(min(plan.frames, config.dense_frames if plan.kind == "clip" else config.window_dense_frames))
    outputs = [*cameras.pose_encodings, cameras.up, *model.relative_depth(cameras, features.image_size, frames)]
    if model.point_head is not None and config.point_weight > 0:
        outputs += model.relative_points(cameras, features.image_size, frames)
    walk.part("depth and point heads", *outputs[len(cameras.pose_encodings) + 1 :])
    if model.metric_depth is not None and config.metric_weight > 0:
        measured = model.measure(features, torch.rand(plan.scenes, plan.frames, 3, 3), frames)
        walk.part("metric depth model", *measured)
        outputs += measured
    last = cameras.attended.taps[max(model.config.dense_head.tap_layers)]
    told = [auxiliary.point(last.float()), *(
        head(auxiliary.norm(features.flows.language.float())) for head in (auxiliary.category, auxiliary.colour)
    )]  # fmt: skip
    if plan.frames > 1:
        told.append(_matches(auxiliary, features.flows.geometry))
    walk.part("auxiliary heads", *told)
    return outputs + told


def _matches(auxiliary: AuxiliaryHeads, geometry: Tensor) -> Tensor:
    places = torch.zeros(geometry.shape[:3], dtype=torch.long)
    other = torch.arange(geometry.shape[1]).roll(-1)
    return correspondence_loss(auxiliary.match(geometry.float()), places, places > 0, other)


def _detached(part: T) -> T:
    """The same dataclass with the graph behind its tensors left out."""
    given: Any = part
    kept = {f.name: tree_map_only(Tensor, Tensor.detach, getattr(given, f.name)) for f in fields(given)}
    return replace(given, **{k: _detached(v) if is_dataclass(v) else v for k, v in kept.items()})


def _all_frames(
    walk: Walk, model: VidLLMForConditionalGeneration, features: Features, cameras: Cameras
) -> None:
    """The depth of all frames, without gradient, that the patches are lifted with."""
    kept = [model.relative_depth(cameras, features.image_size)]
    if model.metric_depth is not None:
        batch, frames = features.seen.tokens.shape[:2]
        kept.append(model.measure(features, torch.rand(batch, frames, 3, 3)))
    walk.part("reconstruction to lift with")
    del kept


def _language(
    walk: Walk, model: VidLLMForConditionalGeneration, config: TrainConfig, tokens: Tensor, bridge: Tensor | None
) -> list[Tensor]:
    """Lifting, the language model over scene and texts, the logits of answers, boxes."""
    batch, places = len(tokens), min(model.config.patches.max_patches, tokens.shape[1] * tokens.shape[2])
    if model.config.patches.positions:
        tokens = tokens + model.position_embedding(torch.rand(*tokens.shape[:3], 3, dtype=tokens.dtype))
    kept = tokens.flatten(1, 2)[:, :places]
    mask = torch.ones(batch, places, dtype=torch.bool)
    prefix = model.present(
        PooledPatches(kept, torch.rand(batch, places, 3), mask, torch.zeros(batch, places), torch.rand(batch)), bridge
    )
    walk.part("lift and projector", prefix.tokens, prefix.patches)
    length, seen = config.max_text_tokens, prefix.tokens.shape[1]
    text = model.get_input_embeddings()(torch.zeros(batch, length, dtype=torch.long))
    whole = torch.cat([prefix.tokens.to(text.dtype), text], 1)
    bias = torch.zeros(batch, 1, seen + length, seen + length, dtype=whole.dtype)
    out = model.language_model.base_model(
        inputs_embeds=whole, attention_mask=bias, position_ids=torch.zeros(batch, seen + length, dtype=torch.long),
        use_cache=False, packed_prefix=seen, packed_reach=REACH,
    )
    hidden = out.last_hidden_state[:, seen:]
    walk.part("language model", hidden)
    scored = hidden.flatten(0, 1)[: scored_tokens(batch, length)]
    logits = model.get_output_embeddings()(scored).float()
    text_loss = F.cross_entropy(logits, torch.zeros(len(scored), dtype=torch.long))
    walk.part("logits", text_loss)
    if not config.references:
        return [text_loss]
    found = model.ground(prefix, hidden[:, : config.references])
    walk.part("grounding decoder", found.boxes, found.logits, found.none_logit)
    return [text_loss, found.boxes, found.logits, found.none_logit]


def _sum(outputs: Sequence[Tensor]) -> Tensor:
    return torch.stack([output.sum().float() for output in outputs]).sum()


# ---- stage 1 and the language teacher -----------------------------------------------------------------------------


def stage1_step(
    model: VidLLMForConditionalGeneration, projections: Projections, teachers: Sequence[nn.Module],
    config: Stage1Config, plan: StepPlan, size: tuple[int, int],
) -> Callable[[Walk], Tensor]:  # fmt: skip
    """A walk through a step of stage 1; ``teachers``: the networks that run beside it (none where tokens are kept)."""

    def step(walk: Walk) -> Tensor:
        images = torch.rand(plan.scenes, plan.frames, 3, *size)
        features = _see(walk, model, images)
        student = projections(features.flows.geometry, features.flows.language)
        with torch.no_grad():
            for teacher in teachers:
                side = getattr(teacher.config, "image_size", None)
                if side is None or teacher is teachers[0]:
                    teacher(images)
                else:
                    teacher(pixel_values=F.interpolate(images.flatten(0, 1), (side, side)), output_hidden_states=True)
        walk.part("teachers")
        target = Streams(torch.rand_like(student.geometry), torch.rand_like(student.language))
        return _sum(list(distillation_losses(student, target, config.structure).values()))

    return step


def language_teacher_step(
    model: VidLLMForConditionalGeneration, clip: nn.Module, config: LanguageTeacherConfig, start: TrainConfig,
    plan: StepPlan,
) -> Callable[[Walk], Tensor]:  # fmt: skip
    """A walk through a step of the language teacher: contrast, or instruction."""
    tower: Any = clip.vision_model

    def contrast(walk: Walk) -> Tensor:
        pixels = torch.rand(plan.scenes, 3, config.image_size, config.image_size)
        ids = torch.zeros(plan.scenes, config.text_length, dtype=torch.long)
        out = clip(input_ids=ids, pixel_values=pixels, attention_mask=torch.ones_like(ids))
        walk.part("CLIP", out.logits_per_image)
        return out.logits_per_image.float().sum()

    def instruct(walk: Walk) -> Tensor:
        pixels = torch.rand(plan.scenes * plan.frames, 3, config.image_size, config.image_size)
        with torch.set_grad_enabled(config.tune_tower):
            tokens = tower(pixel_values=pixels, output_hidden_states=True).hidden_states[-2][:, 1:]
        walk.part("CLIP", tokens)
        return _sum(_language(walk, model, start, tokens.unflatten(0, (plan.scenes, plan.frames)), None))

    return contrast if plan.kind == "contrast" else instruct


def mean_cost(shares: Sequence[tuple[float, dict[str, int]]]) -> Counter[str]:
    """Operations of each part in a mean step."""
    total: Counter[str] = Counter()
    for share, table in shares:
        total.update({name: round(share * flops) for name, flops in table.items()})
    return total
