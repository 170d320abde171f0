"""Builders that several test files share: a model of a few thousand weights, a handful of rendered rooms."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor
from transformers import AutoConfig

from vidllm.cli import main
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
from vidllm.model.huggingface import VidLLMConfig, VidLLMForConditionalGeneration

VIDEO, LOC, COORD = 3, 4, 5


def line_of_failure(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line on standard error of a command that fails with 2."""
    capsys.readouterr()
    assert main(arguments) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("vidllm: error: "), lines
    return lines[0]


def micro_config(vocab_size: int = 40, adapter: dict[str, Any] | None = None, **parts: Any) -> VidLLMConfig:
    """The classes of every preset at the smallest size that still has two of everything."""
    channels = (8, 8, 8, 8)
    given: dict[str, Any] = dict(
        encoder=EncoderConfig(24, depth=4, num_heads=2, image_size=28, mlp_ratio=2.0, tap_layers=(0, 1, 2, 3)),
        adapter=AdapterConfig(**{"bridge_tokens": 3, "num_heads": 2, "layer_scale_init": 0.2, **(adapter or {})}),
        attention=AttentionConfig(depth=4, num_heads=2, mlp_ratio=2.0, num_register_tokens=1, layer_scale_init=0.2),
        camera_head=CameraHeadConfig(trunk_depth=1, num_heads=2, mlp_ratio=2.0, layer_scale_init=0.2, iterations=2),
        dense_head=DenseHeadConfig(8, out_channels=channels, tap_layers=(0, 1, 2, 3)),
        metric_depth=MetricDepthConfig(
            features=8, out_channels=channels, num_bins=8, bin_embedding=8, attractors=(4, 2, 2, 1), canonical_focal=1.0
        ),
        patches=PatchesConfig(max_patches=64),
        grounding=GroundingConfig(16, num_queries=8, num_layers=2, num_heads=2, neighbours=(2, 4), mlp_ratio=2.0),
        text_config=AutoConfig.for_model(
            "llama", vocab_size=vocab_size, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
            num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=1024, tie_word_embeddings=True,
            bos_token_id=1, eos_token_id=2, pad_token_id=0,
        ),
        default_frames=3, shorter_side=28, video_token_id=VIDEO, loc_token_id=LOC, coord_token_id=COORD,
    )  # fmt: skip
    return VidLLMConfig(**{**given, **parts})


def micro_model(seed: int = 0, **parts: Any) -> VidLLMForConditionalGeneration:
    """A model of :func:`micro_config` in evaluation mode, its weights spread enough that every path matters."""
    torch.manual_seed(seed)
    return scatter(VidLLMForConditionalGeneration(micro_config(**parts))).eval()


def scatter(model: VidLLMForConditionalGeneration, std: float = 0.05) -> VidLLMForConditionalGeneration:
    """The model with a little noise on every weight (at the start many are zero)."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(std * torch.randn_like(parameter))
    return model


def video(frames: int = 3, height: int = 28, width: int = 42, batch: int = 1, seed: int = 0) -> Tensor:
    """Random images (B,F,3,H,W) in [0,1]."""
    return torch.rand(batch, frames, 3, height, width, generator=torch.Generator().manual_seed(seed))


def agent_pose(situation: Any) -> np.ndarray:
    """SQA3D's situation as a 4x4 pose, as the authors' own drawing has it: one who looks along -x, turned and moved."""
    pose = np.eye(4)
    pose[:3, :3] = Rotation.from_quat(situation.rotation).as_matrix()
    pose[:3, 3] = situation.position
    return pose
