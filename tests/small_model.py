"""A model smaller than the smallest preset, random, saved as a folder: what the tests of scenes and commands load."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import torch

from vidllm.model.configuration import (
    AdapterConfig,
    AttentionConfig,
    CameraHeadConfig,
    DenseHeadConfig,
    EncoderConfig,
    GroundingConfig,
    MetricDepthConfig,
    PatchesConfig,
)
from vidllm.model.huggingface import VidLLMConfig, VidLLMForConditionalGeneration, VidLLMProcessor
from vidllm.model.presets import tiny
from vidllm.model.text import build_tokenizer, special_token_ids


def small_config(vocabulary: int, ids: dict[str, int]) -> VidLLMConfig:
    """Frames of 56 pixels, blocks of width 48."""
    text = tiny(vocabulary).text_config
    text.update({"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "head_dim": 16})
    return VidLLMConfig(
        encoder=EncoderConfig(48, depth=4, num_heads=3, image_size=56, tap_layers=(0, 1, 2, 3)),
        adapter=AdapterConfig(bridge_tokens=4, num_heads=3),
        attention=AttentionConfig(depth=4, num_heads=3, layer_scale_init=0.1),
        camera_head=CameraHeadConfig(trunk_depth=1, num_heads=3, iterations=2),
        dense_head=DenseHeadConfig(8, out_channels=(8, 8, 8, 8), tap_layers=(0, 1, 2, 3)),
        metric_depth=MetricDepthConfig(features=8, out_channels=(8, 8, 8, 8), bin_embedding=8, num_bins=8),
        patches=PatchesConfig(max_patches=48),
        grounding=GroundingConfig(32, num_queries=12, num_layers=2, num_heads=2, neighbours=(4, 8)),
        text_config=text,
        default_frames=4,
        shorter_side=56,
        video_token_id=ids["<video>"],
        loc_token_id=ids["<loc>"],
        coord_token_id=ids["<coord>"],
    )


def save_small_model(folder: Path) -> Path:
    """Write the model and its processor, which are made once, to a folder."""
    shutil.copytree(_made(), folder, dirs_exist_ok=True)
    torch.manual_seed(0)  # as well where it was made before
    return folder


@cache
def _made() -> Path:
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    torch.manual_seed(0)
    tokenizer = build_tokenizer(["how many chairs are there?", "the red chair", "two"], 300)
    config = small_config(len(tokenizer), special_token_ids(tokenizer))
    VidLLMForConditionalGeneration(config).save_pretrained(folder)
    VidLLMProcessor.from_config(config, tokenizer).save_pretrained(folder)
    return folder


def noise_clip(frames: int = 4, height: int = 56, width: int = 70) -> np.ndarray:
    """Frames (F, H, W, 3) of noise, the same every time."""
    return np.random.default_rng(0).integers(0, 256, (frames, height, width, 3), dtype=np.uint8)
