"""Global-frame attention: what is kept, symmetries over frames, special tokens."""

from __future__ import annotations

import pytest
import torch

from vidllm.model.configuration import AttentionConfig
from vidllm.model.global_frame_attention import GlobalFrameAttention

GRID = (2, 3)


@pytest.fixture()
def attention() -> GlobalFrameAttention:
    module = GlobalFrameAttention(
        AttentionConfig(depth=3, num_heads=2, num_register_tokens=2, layer_scale_init=1.0), 16
    )
    with torch.no_grad():
        module.camera_token.normal_()
        module.register_token.normal_()
    return module.eval()


def test_only_tapped_layers_are_kept(attention: GlobalFrameAttention):
    out = attention(torch.randn(2, 4, 6, 16), GRID, [2, 0])
    assert list(out.intermediate_features) == [2, 0]
    assert out.intermediate_features[0].shape == (2, 4, 6, 32)
    assert out.special.shape == (2, 4, 3, 32)


def test_special_is_the_last_layer_whatever_is_tapped(attention: GlobalFrameAttention):
    tokens = torch.randn(1, 3, 6, 16)
    torch.testing.assert_close(attention(tokens, GRID, []).special, attention(tokens, GRID, [1]).special)


def test_permuting_later_frames_permutes_outputs(attention: GlobalFrameAttention):
    tokens, order = torch.randn(1, 5, 6, 16), [0, 3, 1, 4, 2]
    out, permuted = attention(tokens, GRID, [2]), attention(tokens[:, order], GRID, [2])
    torch.testing.assert_close(
        permuted.intermediate_features[2], out.intermediate_features[2][:, order], atol=1e-5, rtol=1e-4
    )
    torch.testing.assert_close(permuted.special, out.special[:, order], atol=1e-5, rtol=1e-4)


def test_the_first_frame_is_special(attention: GlobalFrameAttention):
    tokens, order = torch.randn(1, 3, 6, 16), [1, 0, 2]
    out, permuted = attention(tokens, GRID, [2]), attention(tokens[:, order], GRID, [2])
    assert (permuted.intermediate_features[2] - out.intermediate_features[2][:, order]).abs().max() > 1e-2


def test_frames_hear_each_other_and_scenes_do_not(attention: GlobalFrameAttention):
    tokens = torch.randn(2, 3, 6, 16)
    other = tokens.clone()
    other[0, 2] = torch.randn(6, 16)
    a, b = attention(tokens, GRID, [2]).intermediate_features[2], attention(other, GRID, [2]).intermediate_features[2]
    assert (a[0, 0] - b[0, 0]).abs().max() > 1e-4
    torch.testing.assert_close(a[1], b[1])


def test_extra_tokens_are_heard_and_not_returned(attention: GlobalFrameAttention):
    tokens = torch.randn(1, 2, 6, 16)
    plain = attention(tokens, GRID, [2])
    ridden = attention(tokens, GRID, [2], torch.randn(1, 2, 4, 16))
    a, b = ridden.intermediate_features[2], plain.intermediate_features[2]
    assert a.shape == b.shape and ridden.special.shape == plain.special.shape
    assert (a - b).abs().max() > 1e-3


def test_patch_positions_matter_and_can_be_switched_off():
    for frequency, differs in ((100.0, True), (0.0, False)):
        config = AttentionConfig(depth=2, num_heads=2, rope_frequency=frequency, layer_scale_init=1.0)
        module = GlobalFrameAttention(config, 16).eval()
        tokens, order = torch.randn(1, 2, 6, 16), [5, 4, 3, 2, 1, 0]
        permuted, plain = (module(x, GRID, [1]).intermediate_features[1] for x in (tokens[:, :, order], tokens))
        change = permuted - plain[:, :, order]
        assert (change.abs().max() > 1e-3) == differs


def test_checkpointing_gives_the_same_gradients(attention: GlobalFrameAttention):
    tokens = torch.randn(1, 2, 6, 16)
    gradients = []
    for attention.gradient_checkpointing in (False, True):
        attention.train().zero_grad()
        attention(tokens, GRID, [0, 2]).intermediate_features[2].square().mean().backward()
        gradients.append(attention.frame_blocks[0].attn.qkv.weight.grad.clone())
    torch.testing.assert_close(*gradients)


def test_bfloat16_and_bad_arguments(attention: GlobalFrameAttention):
    with pytest.raises(ValueError, match="has 4 patches"):
        attention(torch.randn(1, 2, 6, 16), (2, 2), [0])
    with pytest.raises(ValueError, match=r"outside 0\.\.2"):
        attention(torch.randn(1, 2, 6, 16), GRID, [3])
    out = attention.bfloat16()(torch.randn(1, 2, 6, 16).bfloat16(), GRID, [2])
    assert out.intermediate_features[2].dtype == torch.bfloat16 and torch.isfinite(out.intermediate_features[2]).all()
