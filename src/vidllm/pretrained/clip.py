"""CLIP's vision tower (L/14 at 336 pixels in LLaVA-3D), as transformers writes it: alone or within the whole CLIP."""

from __future__ import annotations

from typing import Any

from transformers import CLIPVisionConfig

from vidllm.io.weight_files import Checkpoint
from vidllm.model.config_fields import check_loops
from vidllm.pretrained import licences
from vidllm.pretrained.conversion import KeyMap, Renames, Source

#: Key map to the cascade's ``clip``.
RENAMES: Renames = (
    (r"(?:vision_model\.)?embeddings\.position_ids", ""),
    (r"(?:vision_model\.)?((?:embeddings|pre_layrnorm|encoder|post_layernorm)\..+)", r"clip.\1"),
    (r"(?:text_model|text_projection|visual_projection|logit_scale).*", ""),
)
#: CLIP ViT-L/14 at 336 pixels.
CLIP_L_336: dict[str, Any] = {
    "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
    "image_size": 336, "patch_size": 14, "projection_dim": 768, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5,
}  # fmt: skip
_LEFT_OUT = ("model_type", "architectures", "transformers_version", "torch_dtype", "dtype", "_name_or_path")


def clip_config(settings: dict[str, Any] | None, place: str) -> CLIPVisionConfig:
    """The vision tower's configuration from a ``config.json``; CLIP-L/14-336 without one."""
    found = CLIP_L_336 if settings is None else settings
    if settings is not None:
        kind = settings.get("model_type")
        if kind not in ("clip", "clip_vision_model"):
            raise ValueError(f"{place}: holds a model of type {kind!r}, expected clip or clip_vision_model")
        if kind == "clip":
            found = settings.get("vision_config") or {}
    try:
        check_loops(found, "vision_config")
        return CLIPVisionConfig(**{name: value for name, value in found.items() if name not in _LEFT_OUT})
    except Exception as error:  # transformers and huggingface_hub have errors of their own
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{place}: config.json is not that of a CLIP ({reason}); fetch it again") from error


def clip_source(checkpoint: Checkpoint) -> Source:
    """CLIP's weights for an import: the cascade's ``clip``."""
    return Source("CLIP", checkpoint, KeyMap(RENAMES).translate, ("clip.",), licences.CLIP)
