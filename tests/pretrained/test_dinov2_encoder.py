"""DINOv2 without registers in our encoder: whole, or its first layers with a final norm of their own."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file
from transformers import Dinov2Config, Dinov2Model

from vidllm.model.configuration import EncoderConfig
from vidllm.model.encoder import DinoEncoder, normalise
from vidllm.pretrained.dinov2 import fit_final_norm, load_encoder

OLD_NAMES = {"q_proj": "attention.query", "k_proj": "attention.key", "v_proj": "attention.value",
             "o_proj": "output.dense"}  # fmt: skip


@pytest.fixture
def published(tmp_path):
    """A small DINOv2 of transformers and a file of its weights by the names of facebook/dinov2-small."""
    config = Dinov2Config(hidden_size=24, num_hidden_layers=4, num_attention_heads=2, image_size=70, patch_size=14)
    model = Dinov2Model(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    state = {}
    for name, value in model.state_dict().items():
        for new, old in OLD_NAMES.items():
            name = name.replace(f"attention.{new}", f"attention.{old}")
        state[name] = value.contiguous()
    save_file(state, tmp_path / "dinov2.safetensors")
    return model, tmp_path / "dinov2.safetensors"


def encoder(depth, **kwargs):
    settings = {"num_register_tokens": 0, "position_antialias": False, "image_size": 70} | kwargs
    return DinoEncoder(EncoderConfig(24, depth=depth, num_heads=2, tap_layers=(0, depth - 1), **settings)).eval()


def test_the_first_layers_give_what_transformers_own_model_gives(published):
    model, file = published
    ours = encoder(3)
    assert load_encoder(ours, file) == 4
    images = torch.rand(1, 2, 3, 42, 56)  # fewer patches than the table has, of another shape
    with torch.no_grad():
        hidden = model(normalise(images[0]), output_hidden_states=True).hidden_states
        taps = ours(images).taps
    for tap, layer in zip(taps, (0, 2), strict=True):
        assert torch.allclose(tap[0], hidden[layer + 1][:, 1:], atol=1e-5)


def test_antialiasing_the_position_table_gives_other_features(published):
    _, file = published
    plain, smoothed = encoder(2), encoder(2, position_antialias=True)
    for one in (plain, smoothed):
        load_encoder(one, file)
    small, own = torch.rand(1, 1, 3, 28, 28), torch.rand(1, 1, 3, 70, 70)
    with torch.no_grad():
        assert not torch.allclose(plain(small).tokens, smoothed(small).tokens, atol=1e-3)
        assert torch.allclose(plain(own).tokens, smoothed(own).tokens, atol=1e-5)


def test_the_fitted_norm_gives_channels_of_mean_zero_and_deviation_one(published):
    ours = encoder(2)
    load_encoder(ours, published[1])
    images = torch.rand(2, 3, 3, 42, 42)
    fit_final_norm(ours, images)
    with torch.no_grad():
        tokens = ours(images).tokens.flatten(0, -2)
    assert torch.allclose(tokens.mean(0), torch.zeros(24), atol=1e-4)
    assert torch.allclose(tokens.std(0), torch.ones(24), atol=1e-3)


def test_too_few_layers_or_another_width_are_refused(published):
    with pytest.raises(ValueError, match="4 layers of DINOv2 found, but this model's encoder has 5"):
        load_encoder(encoder(5), published[1])
    with pytest.raises(ValueError, match="DINOv2 weights do not fit"):
        load_encoder(encoder(2, image_size=56), published[1])
