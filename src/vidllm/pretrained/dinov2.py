"""DINOv2 with registers in our encoder, from transformers' form (older and newer names) or the original hub's."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from vidllm.io.weight_files import Checkpoint, open_checkpoint
from vidllm.model.configuration import EncoderConfig, build_part
from vidllm.model.encoder import DinoEncoder
from vidllm.pretrained import licences
from vidllm.pretrained.conversion import KeyMap, Pairs, Renames, Source, load_strictly, unused_tokens

_OURS = "encoder.backbone"
_HF = r"(?:dinov2_with_registers\.|dinov2\.|backbone\.)?"
_LAYER, _OURS_LAYER = rf"{_HF}encoder\.layer\.(\d+)", rf"{_OURS}.encoder.layer.\1"
_NUMBERED = re.compile(rf"{re.escape(_OURS)}\.encoder\.layer\.(\d+)\.")
_BLOCK = r"blocks\.(?:\d+\.)?(\d+)"
#: Key map to our encoder; the original's fused qkv is split before.
RENAMES: Renames = (
    (rf"{_HF}(embeddings\..+)", rf"{_OURS}.\1"),
    (rf"{_HF}(layernorm\..+)", rf"{_OURS}.\1"),
    *((rf"{_LAYER}\.attention\.attention\.{name}\.(.+)", rf"{_OURS_LAYER}.attention.{name[0]}_proj.\2")
      for name in ("query", "key", "value")),
    (rf"{_LAYER}\.attention\.output\.dense\.(.+)", rf"{_OURS_LAYER}.attention.o_proj.\2"),
    (rf"{_LAYER}\.(.+)", rf"{_OURS_LAYER}.\2"),
    (r"(cls_token|mask_token|register_tokens)", rf"{_OURS}.embeddings.\1"),
    (r"pos_embed", rf"{_OURS}.embeddings.position_embeddings"),
    (r"patch_embed\.proj\.(.+)", rf"{_OURS}.embeddings.patch_embeddings.projection.\1"),
    (r"norm\.(.+)", rf"{_OURS}.layernorm.\1"),
    (rf"{_BLOCK}\.attn\.([qkv])\.(.+)", rf"{_OURS_LAYER}.attention.\2_proj.\3"),
    (rf"{_BLOCK}\.attn\.proj\.(.+)", rf"{_OURS_LAYER}.attention.o_proj.\2"),
    (rf"{_BLOCK}\.ls([12])\.gamma", rf"{_OURS_LAYER}.layer_scale\2.lambda1"),
    (rf"{_BLOCK}\.((?:norm[12]|mlp)\..+)", rf"{_OURS_LAYER}.\2"),
    (r"(?:classifier|head|linear_head)\..+", ""),
)
_MAP = KeyMap(RENAMES)
#: What an encoder may do without.
MASK, REGISTERS = (f"{_OURS}.embeddings.mask_token",), (f"{_OURS}.embeddings.register_tokens",)
_FIELDS = {
    "hidden_size": "hidden_size", "num_hidden_layers": "depth", "num_attention_heads": "num_heads",
    "mlp_ratio": "mlp_ratio", "patch_size": "patch_size", "image_size": "image_size",
    "num_register_tokens": "num_register_tokens", "layer_norm_eps": "layer_norm_eps",
}  # fmt: skip


def dinov2_config(checkpoint: Checkpoint) -> EncoderConfig:
    """Our encoder's configuration from the ``config.json`` beside the weights; DINOv2-L with registers without one."""
    found: dict[str, Any] = checkpoint.settings() or {}
    kind = found.get("model_type", "dinov2_with_registers")
    if kind not in ("dinov2", "dinov2_with_registers"):
        raise ValueError(f"{checkpoint.place}: holds a model of type {kind!r}, expected dinov2[_with_registers]")
    if found.get("use_swiglu_ffn") or found.get("hidden_act", "gelu") != "gelu":
        raise ValueError(f"{checkpoint.place}: only DINOv2 with a GELU MLP is supported (small, base and large are)")
    fields = {ours: found[theirs] for theirs, ours in _FIELDS.items() if theirs in found}
    if kind == "dinov2":
        fields |= {"num_register_tokens": 0, "position_antialias": False}
    config: EncoderConfig = build_part(f"{checkpoint.place}: config.json", EncoderConfig, {**fields, "tap_layers": ()})
    return config


def dinov2_source(checkpoint: Checkpoint, config: EncoderConfig) -> Source:
    """DINOv2's weights for an import: the encoder."""
    given = {} if config.num_register_tokens else unused_tokens(config.hidden_size, REGISTERS)
    return Source("DINOv2", checkpoint, translate, ("encoder.",), licences.DINOV2, MASK, given)


def translate(key: str, tensor: Tensor) -> Pairs | None:
    """One of DINOv2's weights under our names."""
    if ".attn.qkv." in key and tensor.shape[0] % 3 == 0:
        thirds = zip("qkv", tensor.chunk(3), strict=True)
        named = [(_MAP(key.replace(".attn.qkv.", f".attn.{name}.")), third) for name, third in thirds]
        return None if any(name is None for name, _ in named) else [(name, t) for name, t in named if name]
    return _MAP.translate(key, tensor)


def load_encoder(encoder: DinoEncoder, place: str | Path) -> int:
    """Put DINOv2's weights into our encoder, its first layers where ours has fewer; returns how many layers it has.

    ValueError where the checkpoint is smaller or of another width. Of fewer layers the final norm is fitted to none:
    see :func:`fit_final_norm`.
    """
    checkpoint = open_checkpoint(place)
    dinov2_config(checkpoint)
    ours: dict[str, Tensor] = {}
    layers = 0
    for key, tensor in checkpoint.tensors():
        for name, value in translate(key, tensor) or ():
            found = _NUMBERED.match(name)
            layers = max(layers, int(found[1]) + 1 if found else 0)
            if found is None or int(found[1]) < encoder.config.depth:
                ours[name.removeprefix("encoder.")] = value
    if layers < encoder.config.depth:
        wanted = encoder.config.depth
        raise ValueError(f"{place}: {layers} layers of DINOv2 found, but this model's encoder has {wanted}")
    if encoder.config.num_register_tokens == 0:
        ours.setdefault("backbone.embeddings.register_tokens", torch.zeros(1, 0, encoder.config.hidden_size))
    mask = "backbone.embeddings.mask_token"
    ours.setdefault(mask, encoder.state_dict()[mask])
    load_strictly(encoder, ours, "DINOv2")
    return layers


@torch.no_grad()
def fit_final_norm(encoder: DinoEncoder, images: Float[Tensor, "B F 3 H W"]) -> None:
    """Give the final norm's scale and shift such values that each channel has mean 0 and deviation 1 on ``images``.

    The first layers of an encoder have no final norm of their own: the whole encoder's belongs to its last layer.
    """
    norm = encoder.backbone.layernorm
    norm.weight.fill_(1.0)
    norm.bias.zero_()
    tokens = encoder(images).tokens.flatten(0, -2).double()
    deviation, mean = torch.std_mean(tokens, 0)
    norm.weight.copy_(1 / deviation.clamp(min=1e-3))
    norm.bias.copy_(-mean / deviation.clamp(min=1e-3))
