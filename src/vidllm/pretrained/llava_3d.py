"""LLaVA-3D's weights: language model, projector, both position embeddings and, where it has it, CLIP's tower.

The reference ignores the tower in its own checkpoint and reads CLIP from the hub, unless the tower was trained
(``unfreeze_mm_vision_tower``); both should agree, and a checkpoint may leave it out.
"""

from __future__ import annotations

from typing import Any

from transformers import CLIPVisionConfig, PretrainedConfig

from vidllm.io.weight_files import Checkpoint, open_checkpoint, settings_in
from vidllm.pretrained import licences
from vidllm.pretrained.causal_lm import grown, table_names, text_config
from vidllm.pretrained.clip import clip_config, clip_source
from vidllm.pretrained.conversion import KeyMap, Renames, Source

_HEAD = r"(position_embedding_head\..+)"
_TOWER = r"model\.vision_tower\.vision_tower\.(?:vision_model\.)?"
#: Key map to the names that Vid-LLM and the cascade share; only the cascade has ``clip``.
RENAMES: Renames = (
    (r".*rotary_emb\.inv_freq", ""),
    (r"model\.mm_projector\.([02]\..+)", r"projector.\1"),
    (rf"model\.video_tower\.video_tower\.positional_embedding\.{_HEAD}", r"position_embedding.\1"),
    (rf"model\.video_tower\.prompt_encoder\.pos_emb3d\.{_HEAD}", r"coordinate_embedding.\1"),
    (rf"{_TOWER}embeddings\.position_ids", ""),
    (rf"{_TOWER}(.+)", r"clip.\1"),
    (r"((?:model\.(?:embed_tokens|layers|norm)|lm_head)\..+)", r"language_model.\1"),
)
#: Settings of which we compute one value only.
_FIXED = {
    "mm_projector_type": "mlp2x_gelu", "mm_video_tower": "SpatialAwareModule", "mm_vision_select_feature": "patch",
    "mm_use_im_start_end": False,
}  # fmt: skip
DEFAULT_FRAMES = 20


def llava_3d_settings(checkpoint: Checkpoint) -> dict[str, Any]:
    """LLaVA-3D's ``config.json``; ValueError where it is missing, another model's, or of a form we do not compute."""
    found = checkpoint.settings()
    if found is None:
        raise ValueError(f"{checkpoint.place}: config.json is missing; give the folder of LLaVA-3D")
    if found.get("model_type") != "llava_llama" or "mm_video_tower" not in found:
        kind = found.get("model_type")
        raise ValueError(f"{checkpoint.place}: holds a model of type {kind!r}, expected LLaVA-3D's (llava_llama with "
                         "a video tower)")  # fmt: skip
    for name, only in _FIXED.items():
        if name in found and found[name] != only:
            raise ValueError(f"{checkpoint.place}: {name} = {found[name]!r} is not supported; only {only!r} is")
    return found


def llava_3d_text_config(settings: dict[str, Any], place: str) -> PretrainedConfig:
    """The language model within: Llama's form, without the settings of the multimodal parts."""
    unrelated = ("mm_", "tune_", "freeze_", "use_mm_", "tokenizer_", "image_", "num_frames", "num_sample_tokens")
    return text_config({k: v for k, v in settings.items() if not k.startswith(unrelated)}, place, "llama")


def tower_of(checkpoint: Checkpoint) -> tuple[CLIPVisionConfig, Source]:
    """CLIP's tower of LLaVA-3D with its configuration: that among its weights, or else the folder that it names.

    Raises ValueError where there is neither.
    """
    named = str((checkpoint.settings() or {}).get("mm_vision_tower") or "")
    beside = named and (checkpoint.folder / named).is_dir()
    if any(key.startswith("model.vision_tower.") for key, _ in checkpoint.shapes()):
        own = settings_in(checkpoint.folder / named) if beside else None
        fills = Source("LLaVA-3D", checkpoint, KeyMap(RENAMES).translate, ("clip.",), licences.LLAVA_3D)
        return clip_config(own, checkpoint.place), fills
    if not beside:
        raise ValueError(f"{checkpoint.place}: holds no vision tower; give CLIP's ({named or 'CLIP-L/14-336'}) with "
                         "--clip of an import, --teacher-language of stage 1")  # fmt: skip
    clip = open_checkpoint(checkpoint.folder / named)
    return clip_config(clip.settings(), clip.place), clip_source(clip)


def llava_3d_source(checkpoint: Checkpoint, config: PretrainedConfig, before: int, tower: bool = False) -> Source:
    """LLaVA-3D's weights for an import; ``tower``: the cascade's ``clip`` too."""
    translate = grown(KeyMap(RENAMES).translate, table_names(config), before, int(config.vocab_size))
    seen = ("clip.",) if tower else ()
    fills = ("language_model.", "projector.", "position_embedding.", "coordinate_embedding.", *seen)
    optional = ("coordinate_embedding.",)  # the projector's pretraining file has no prompt encoder
    return Source("LLaVA-3D", checkpoint, translate, fills, licences.LLAVA_3D, optional)
