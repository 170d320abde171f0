"""The encoder: taps, grid, position table, starting pose of the camera head."""

from __future__ import annotations

import pytest
import torch

from vidllm.model.camera_head import IDENTITY_POSE, CameraHead
from vidllm.model.configuration import CameraHeadConfig, EncoderConfig
from vidllm.model.encoder import DinoEncoder

CONFIG = EncoderConfig(32, depth=3, num_heads=2, image_size=42, tap_layers=(0, 2))


@pytest.fixture()
def encoder() -> DinoEncoder:
    return DinoEncoder(CONFIG).eval()


def test_shapes_and_taps(encoder: DinoEncoder):
    out = encoder(torch.rand(2, 3, 3, 28, 70))
    assert out.grid == (2, 5)
    assert out.tokens.shape == (2, 3, 10, 32)
    assert [tap.shape for tap in out.intermediate_features] == [(2, 3, 10, 32)] * 2
    torch.testing.assert_close(encoder.backbone.layernorm(out.intermediate_features[1]), out.tokens)


def test_frames_are_independent(encoder: DinoEncoder):
    images = torch.rand(1, 3, 3, 28, 28)
    torch.testing.assert_close(encoder(images[:, 1:2]).tokens, encoder(images).tokens[:, 1:2], atol=1e-5, rtol=1e-5)


def test_checkpointing_gives_the_same_gradients(encoder: DinoEncoder):
    images, gradients = torch.rand(1, 2, 3, 28, 28), []
    for encoder.gradient_checkpointing in (False, True):
        encoder.train().zero_grad()
        encoder(images).tokens.square().mul(torch.arange(32)).mean().backward()
        gradients.append(encoder.backbone.embeddings.patch_embeddings.projection.weight.grad.clone())
    assert gradients[0].abs().max() > 0
    torch.testing.assert_close(*gradients)


def test_bad_sizes_raise(encoder: DinoEncoder):
    with pytest.raises(ValueError, match="multiples of the patch size 14, got 30 x 28"):
        encoder(torch.rand(1, 1, 3, 30, 28))
    with pytest.raises(ValueError, match="tap_layers"):
        DinoEncoder(EncoderConfig(32, depth=2, num_heads=2, tap_layers=(2,)))


def test_camera_head_starts_near_the_identity_and_feeds_back_no_gradient():
    head = CameraHead(CameraHeadConfig(trunk_depth=1, num_heads=2, iterations=3), 32)
    poses = head(torch.randn(2, 4, 32))
    assert len(poses) == 3
    torch.testing.assert_close(poses[-1], torch.tensor(IDENTITY_POSE).expand(2, 4, 9), atol=0.1, rtol=0)
    poses[-1].sum().backward()
    assert head.empty_pose.grad is None  # only the first pass reads it
    assert head.bfloat16()(torch.randn(2, 4, 32).bfloat16())[-1].dtype == torch.float32
