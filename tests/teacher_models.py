"""Teachers of a few thousand weights, saved as folders: what the tests of stage 1 learn from."""

from __future__ import annotations

from pathlib import Path

import torch
from helpers import micro_config, scatter
from transformers import CLIPVisionConfig, CLIPVisionModel

from vidllm.model.huggingface import VidLLMForConditionalGeneration, VidLLMProcessor
from vidllm.training.texts import load_or_build_tokenizer


def tiny_tower(width: int = 24, image_size: int = 56, seed: int = 3) -> CLIPVisionModel:
    """A CLIP vision tower of three blocks, 4 x 4 patches."""
    torch.manual_seed(seed)
    return CLIPVisionModel(
        CLIPVisionConfig(
            hidden_size=width, intermediate_size=2 * width, num_hidden_layers=3, num_attention_heads=2,
            image_size=image_size, patch_size=14, projection_dim=width,
        )
    ).eval()


def geometry_model(seed: int = 1, **parts: object) -> VidLLMForConditionalGeneration:
    """Our geometric half without an adapter."""
    torch.manual_seed(seed)
    return scatter(VidLLMForConditionalGeneration(micro_config(adapter={"variant": "none"}, **parts))).eval()


def save_teachers(folder: Path, shards: list[Path]) -> tuple[str, str, str]:
    """Folders of a geometry teacher, a language teacher and a student that is neither, with the rooms' tokenizer."""
    tokenizer = load_or_build_tokenizer(folder / "tokenizer", shards, 600)
    geometry, language, student = (folder / name for name in ("geometry", "language", "student"))
    for place, seed, adapter in ((geometry, 1, {"variant": "none"}), (student, 2, {})):
        torch.manual_seed(seed)
        config = micro_config(len(tokenizer), adapter=adapter)
        scatter(VidLLMForConditionalGeneration(config)).save_pretrained(place)
        VidLLMProcessor.from_config(config, tokenizer).save_pretrained(place)
    tiny_tower().save_pretrained(language)
    return str(geometry), str(language), str(student)
