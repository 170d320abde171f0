"""How large a model is, part by part, without allocating it: the network is built on the meta device and counted."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from vidllm.model.configuration import VidLLMConfig
from vidllm.model.modeling import VidLLMForConditionalGeneration


@dataclass(frozen=True)
class Part:
    """A box of Figure 2, its form in words, and how many parameters it has."""

    name: str
    form: str
    parameters: int


def build_on_meta(config: VidLLMConfig) -> VidLLMForConditionalGeneration:
    """The network with shapes and no storage."""
    with torch.device("meta"):
        return VidLLMForConditionalGeneration(config)


def count(module: nn.Module | None) -> int:
    """Parameters of a module, tied ones once; 0 for a part the configuration leaves out."""
    return 0 if module is None else sum(p.numel() for p in module.parameters())


def parts(config: VidLLMConfig) -> list[Part]:
    """All parts in the figure's order; their parameters add up to the model's."""
    model = build_on_meta(config)
    forms = _forms(config)
    attention = model.attention
    blocks = count(attention.frame_blocks) + count(attention.global_blocks)
    rows = {
        "encoder": count(model.encoder),
        "cross-task adapter": count(model.adapter),
        "frame attention": count(attention.frame_blocks),
        "global attention": count(attention.global_blocks),
        "camera and register tokens": count(attention) - blocks,
        "camera head": count(model.camera_head),
        "gravity head": count(model.gravity_head),
        "depth head": count(model.depth_head),
        "point head": count(model.point_head),
        "metric depth model": count(model.metric_depth),
        "3D position embedding": count(model.position_embedding),
        "projector": count(model.projector),
        "coordinate embedding": count(model.coordinate_embedding),
        "language model": count(model.language_model),
        "grounding decoder": count(model.grounding),
    }
    return [Part(name, forms.get(name, ""), number) for name, number in rows.items()]


def total(rows: list[Part]) -> int:
    """Parameters of all parts together."""
    return sum(part.parameters for part in rows)


def _forms(config: VidLLMConfig) -> dict[str, str]:
    encoder, text, attention, depth = config.encoder, config.text_config, config.attention, config.metric_depth
    pair = f"{attention.depth} blocks, {attention.num_heads} heads"
    return {
        "encoder": f"{encoder.depth} blocks, width {encoder.hidden_size}, patch {encoder.patch_size}",
        "cross-task adapter": f"{config.adapter.variant}, {config.adapter.bridge_tokens} bridge tokens",
        "frame attention": pair,
        "global attention": pair,
        "camera and register tokens": f"1 and {attention.num_register_tokens}, two kinds of frame",
        "camera head": f"{config.camera_head.trunk_depth} blocks, {config.camera_head.iterations} refinements",
        "depth head": f"{config.dense_head.features} features",
        "point head": f"{config.dense_head.features} features" if config.dense_head.point_head else "left out",
        "metric depth model": f"{depth.num_bins} bins, {depth.min_depth_m:g} to {depth.max_depth_m:g} m"
        if depth.enabled
        else "left out",
        "language model": f"{text.model_type}, {text.num_hidden_layers} layers, width {text.hidden_size}",
        "grounding decoder": f"{config.grounding.num_layers} layers, {config.grounding.num_queries} queries",
    }
