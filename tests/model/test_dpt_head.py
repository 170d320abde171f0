"""DPT: sizes, chunks, ranges."""

from __future__ import annotations

import pytest
import torch
from small_model import small_config

from vidllm.model.configuration import DenseHeadConfig
from vidllm.model.dpt_head import DPTDecoder, DPTHead, position_map
from vidllm.model.huggingface import VidLLMForConditionalGeneration

CONFIG = DenseHeadConfig(features=16, out_channels=(8, 12, 16, 16), tap_layers=(0, 1, 2, 3), frames_chunk_size=2)


def taps(batch: int, frames: int, patches: int) -> list[torch.Tensor]:
    return [torch.randn(batch, frames, patches, 20) for _ in range(4)]


def test_chunked_equals_unchunked():
    head = DPTHead(CONFIG, 20, 4, "inv_log").eval()
    tokens = taps(2, 3, 12)
    chunked = head(tokens, (42, 56))
    head.config = DenseHeadConfig(**{**vars(CONFIG), "frames_chunk_size": 100})
    whole = head(tokens, (42, 56))
    for a, b in zip(chunked, whole, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("grid", [(3, 4), (5, 2), (1, 1)])
def test_sizes_of_the_pyramid(grid: tuple[int, int]):
    decoder = DPTDecoder(20, 16, (8, 12, 16, 16))
    tokens = [t[0] for t in taps(1, 2, grid[0] * grid[1])]
    h, w = grid
    laterals = [tuple(m.shape[-2:]) for m in decoder.pyramid(tokens, grid)]
    assert laterals == [(4 * h, 4 * w), (2 * h, 2 * w), (h, w), ((h + 1) // 2, (w + 1) // 2)]
    assert [tuple(m.shape) for m in decoder(tokens, grid)] == [(2, 16, n * h, n * w) for n in (1, 2, 4, 8)]


def test_outputs_have_the_image_size_and_range():
    depth, confidence = DPTHead(CONFIG, 20, 2, "exp").eval()(taps(2, 3, 12), (42, 56))
    assert depth.shape == (2, 3, 42, 56, 1) and confidence.shape == (2, 3, 42, 56)
    assert (depth > 0).all() and (confidence >= 1).all()


def test_half_precision_gives_float32():
    head, tokens = DPTHead(CONFIG, 20, 2, "exp").eval(), taps(1, 2, 12)
    depth, confidence = head(tokens, (42, 56))
    half, half_confidence = head.bfloat16()([t.bfloat16() for t in tokens], (42, 56))
    assert half.dtype == half_confidence.dtype == torch.float32
    torch.testing.assert_close(half, depth, atol=0, rtol=0.05)
    torch.testing.assert_close(half_confidence, confidence, atol=0, rtol=0.05)


def test_frames_are_independent():
    head = DPTHead(CONFIG, 20, 2, "exp").eval()
    tokens = taps(1, 3, 12)
    alone = head([t[:, 1:2] for t in tokens], (42, 56))[0]
    torch.testing.assert_close(head(tokens, (42, 56))[0][:, 1:2], alone, atol=1e-5, rtol=1e-5)


def test_checkpointing_gives_the_same_gradients():
    head, tokens, gradients = DPTHead(CONFIG, 20, 2, "exp").train(), taps(1, 2, 4), []
    for head.gradient_checkpointing in (False, True):
        head.zero_grad()
        head(tokens, (28, 28))[0].mean().backward()
        gradients.append(head.decoder.projects[0].weight.grad.clone())
    torch.testing.assert_close(*gradients)


def test_position_map_is_odd_in_the_sines_and_knows_the_aspect():
    places = position_map(8, 5, 7, 7 / 5)
    assert places.shape == (8, 5, 7)
    torch.testing.assert_close(places[0], -places[0].flip(-1))
    torch.testing.assert_close(places[4], -places[4].flip(-2))
    assert not torch.allclose(places, position_map(8, 5, 7, 1.0))


def test_bad_arguments_raise():
    with pytest.raises(ValueError, match="divisible by 8"):
        DPTHead(DenseHeadConfig(features=12), 20, 2, "exp")
    with pytest.raises(ValueError, match="unknown activation"):
        DPTHead(CONFIG, 20, 2, "softmax")
    with pytest.raises(ValueError, match="tokens of four"):
        DPTDecoder(20, 16, (8, 12, 16, 16))([torch.randn(1, 4, 20)] * 3, (2, 2))
    with pytest.raises(ValueError, match="16 patches, got 12"):
        DPTHead(CONFIG, 20, 2, "exp")(taps(1, 1, 12), (56, 56))


def test_the_finest_maps_may_be_read_from_the_encoder():
    config = small_config(64, {"<video>": 1, "<loc>": 2, "<coord>": 3})
    plain = VidLLMForConditionalGeneration(config)
    assert isinstance(plain.depth_head.decoder.norm, torch.nn.LayerNorm)
    config.dense_head.encoder_taps = 2
    model = VidLLMForConditionalGeneration(config).eval()
    width = config.encoder.hidden_size
    assert [norm.normalized_shape[0] for norm in model.depth_head.decoder.norm] == [width, width, 2 * width, 2 * width]
    images = torch.rand(1, 2, 3, 28, 42)
    features = model.encode(images)
    cameras = model.predict_cameras(features)
    assert torch.equal(cameras.dense_features[1], features.encoder.intermediate_features[1])
    depth, _ = model.predict_depth(cameras, features.image_size, torch.tensor([1]))
    assert depth.shape == (1, 1, 28, 42)
    config.dense_head.encoder_taps = 5
    with pytest.raises(ValueError, match="encoder_taps is 5: expected 0 to 4"):
        VidLLMForConditionalGeneration(config)
