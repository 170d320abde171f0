"""Random small detectors of transformers' own classes, saved as folders are published."""

from __future__ import annotations

import json
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import torch
import transformers
from safetensors.torch import save_file

WIDTH = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
LAYERS = {"hidden_size": 32, "intermediate_size": 48, "num_layers": 1, "num_attention_heads": 2}
CLIP = {"vocab_size": 60, "bos_token_id": 58, "eos_token_id": 59, "pad_token_id": 59, "max_position_embeddings": 24}


def clip_tokenizer(folder: Path) -> None:
    letters = [*ascii_lowercase, ".", "'", "-"]
    words = [*letters, *(f"{letter}</w>" for letter in letters)]
    vocabulary = {word: n for n, word in enumerate([*words, "<|startoftext|>", "<|endoftext|>"])}
    transformers.CLIPTokenizer(vocab=vocabulary, merges=[]).save_pretrained(folder)


def save_owl(folder: Path) -> Path:
    vision = {**WIDTH, "image_size": 32, "patch_size": 8}
    config = transformers.Owlv2Config(text_config={**WIDTH, **CLIP}, vision_config=vision, projection_dim=32)
    _save(transformers.Owlv2ForObjectDetection, config, folder)
    clip_tokenizer(folder)
    transformers.Owlv2ImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def save_dino(folder: Path) -> Path:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", *ascii_lowercase]
    words += [f"##{letter}" for letter in ascii_lowercase]
    backbone = transformers.SwinConfig(image_size=64, embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2],
                                       window_size=2, out_indices=[2, 3, 4])  # fmt: skip
    text = transformers.BertConfig(vocab_size=len(words), **WIDTH)
    config = transformers.GroundingDinoConfig(
        backbone_config=backbone, text_config=text, d_model=32, encoder_layers=1, decoder_layers=2, num_queries=6,
        encoder_ffn_dim=48, decoder_ffn_dim=48, encoder_attention_heads=2, decoder_attention_heads=2, max_text_len=64,
    )  # fmt: skip
    _save(transformers.GroundingDinoForObjectDetection, config, folder)
    transformers.BertTokenizer(vocab={word: n for n, word in enumerate(words)}).save_pretrained(folder)
    transformers.GroundingDinoImageProcessorPil(size={"shortest_edge": 64, "longest_edge": 128}).save_pretrained(folder)
    return folder


def save_sam(folder: Path) -> Path:
    backbone = {**WIDTH, "model_type": "sam3_vit_model", "image_size": 56, "patch_size": 14, "window_size": 2,
                "global_attn_indexes": [0], "pretrain_image_size": 56}  # fmt: skip
    config = transformers.Sam3Config(
        vision_config={"backbone_config": backbone, "fpn_hidden_size": 32,
                       "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]]},
        text_config={"model_type": "clip_text_model", "projection_dim": 16, **WIDTH, **CLIP},
        geometry_encoder_config=LAYERS, detr_encoder_config=LAYERS,
        detr_decoder_config={**LAYERS, "num_queries": 5},
        mask_decoder_config={"hidden_size": 32, "num_attention_heads": 2},
    )  # fmt: skip
    _save(transformers.Sam3Model, config, folder)
    clip_tokenizer(folder)
    return folder


def _save(kind: Any, config: Any, folder: Path) -> None:
    torch.manual_seed(0)
    kind(config).save_pretrained(folder)


def with_type(folder: Path, name: str) -> Path:
    """A folder whose configuration says another kind of model."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": name}))
    save_file({"weight": torch.zeros(1)}, folder / "model.safetensors")
    return folder
