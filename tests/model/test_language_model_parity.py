"""Our Llama form against transformers' Llama and Qwen3, and our DINOv2 against transformers', on random weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache
from transformers import Dinov2WithRegistersConfig as DinoConfig
from transformers import Dinov2WithRegistersModel as Dino

from vidllm.model.configuration import EncoderConfig
from vidllm.model.encoder import DinoEncoder, normalise
from vidllm.model.generation import run_language_model
from vidllm.model.language_model import CausalLM, KeyValueCache, TextConfig, is_llama_form

COMMON = {
    "vocab_size": 50, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
    "max_position_embeddings": 128, "pad_token_id": 0,
}  # fmt: skip
FORMS: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "llama", **COMMON, "tie_word_embeddings": True},
    "grouped": {"model_type": "llama", **COMMON, "num_key_value_heads": 2, "head_dim": 16, "rope_theta": 500000.0},
    "biased": {"model_type": "llama", **COMMON, "attention_bias": True, "mlp_bias": True},
    "qwen3": {"model_type": "qwen3", **COMMON, "num_key_value_heads": 2, "head_dim": 12, "rope_theta": 1e6},
}


@pytest.fixture(params=FORMS)
def pair(request: pytest.FixtureRequest) -> tuple[CausalLM, nn.Module]:
    """Our model and transformers' with the same random weights."""
    given = FORMS[request.param]
    theirs = AutoModelForCausalLM.from_config(AutoConfig.for_model(**given)).eval()
    for weight in theirs.parameters():
        nn.init.normal_(weight, std=0.3)
    assert is_llama_form(given)
    assert is_llama_form(theirs.config.to_dict())
    ours = CausalLM(TextConfig(theirs.config.to_dict())).eval()
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict())
    assert TextConfig(given).rope_parameters["rope_theta"] == theirs.config.rope_parameters["rope_theta"]
    return ours, theirs


def same(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-6)


@torch.no_grad()
def test_whole_sequence_with_hidden_states(pair: tuple[CausalLM, nn.Module]):
    ours, theirs = pair
    x = torch.randn(2, 9, 32)
    a, b = (model(inputs_embeds=x, output_hidden_states=True) for model in (ours, theirs))
    same(a.logits, b.logits)
    for mine, other in zip(a.hidden_states, b.hidden_states, strict=True):
        same(mine, other)
    same(ours(inputs_embeds=x, logits_to_keep=1).logits, b.logits[:, -1:])


@torch.no_grad()
def test_padding_and_positions(pair: tuple[CausalLM, nn.Module]):
    ours, theirs = pair
    x, mask = torch.randn(3, 7, 32), torch.ones(3, 7, dtype=torch.long)
    mask[0, :3] = mask[2, :1] = 0
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    a, b = (m(inputs_embeds=x, attention_mask=mask, position_ids=positions).logits for m in (ours, theirs))
    same(a[mask.bool()], b[mask.bool()])


@torch.no_grad()
def test_cache_in_steps_rows_and_branches(pair: tuple[CausalLM, nn.Module]):
    ours, theirs = pair
    prefix, suffix, last = torch.randn(1, 6, 32), torch.randn(2, 4, 32), torch.randn(2, 1, 32)
    mine, other = KeyValueCache(), DynamicCache(config=theirs.config)
    same(
        ours(inputs_embeds=prefix, cache=mine, use_cache=True).logits,
        run_language_model(theirs, inputs_embeds=prefix, cache=other, use_cache=True).logits,
    )
    grown = mine.branch()
    for cache in (grown, other):
        cache.batch_repeat_interleave(2)
    mask = torch.ones(2, 10, dtype=torch.long)
    mask[1, 6:8] = 0
    for x, seen in ((suffix, mask), (last, torch.cat([mask, mask[:, :1]], 1))):
        positions = (seen.cumsum(1) - 1)[:, -x.shape[1] :]
        told = {"inputs_embeds": x, "attention_mask": seen, "position_ids": positions, "use_cache": True}
        a, b = ours(**told, cache=grown).logits, run_language_model(theirs, **told, cache=other).logits
        alive = seen[:, -x.shape[1] :].bool()
        same(a[alive], b[alive])
    assert mine.get_seq_length() == 6
    whole = torch.cat([prefix, suffix[:1], last[:1]], 1)
    same(ours(inputs_embeds=whole, logits_to_keep=1).logits, a[:1])


@torch.no_grad()
def test_half_precision_is_that_of_transformers(pair: tuple[CausalLM, nn.Module]):
    ours, theirs = (model.bfloat16() for model in pair)
    x = torch.randn(1, 5, 32).bfloat16()
    torch.testing.assert_close(ours(inputs_embeds=x).logits, theirs(inputs_embeds=x).logits, atol=0.05, rtol=0.02)


@pytest.mark.parametrize(
    "change",
    [
        {"model_type": "mistral"},
        {"hidden_act": "gelu"},
        {"use_sliding_window": True},
        {"rope_scaling": {"rope_type": "llama3", "factor": 8.0}},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}},
        {"layer_types": ["sliding_attention"]},
        {"quantization_config": {"bits": 4}},
    ],
)
def test_other_forms_are_left_to_transformers(change: dict[str, Any]):
    assert is_llama_form(FORMS["llama"])
    assert not is_llama_form({**FORMS["llama"], **change})


# ---- the encoder --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(42, 42), (28, 70), (84, 56)])
@pytest.mark.parametrize("registers", [0, 4])
@torch.no_grad()
def test_encoder_is_dinov2_with_registers(size: tuple[int, int], registers: int):
    theirs = Dino(
        DinoConfig(
            hidden_size=32, num_hidden_layers=3, num_attention_heads=2, mlp_ratio=4, image_size=42, patch_size=14,
            num_register_tokens=registers,
        )
    ).eval()  # fmt: skip
    for weight in theirs.parameters():
        nn.init.normal_(weight, std=0.2)
    ours = DinoEncoder(EncoderConfig(32, 3, 2, image_size=42, num_register_tokens=registers, tap_layers=(0, 2))).eval()
    assert set(ours.backbone.state_dict()) == set(theirs.state_dict())
    ours.backbone.load_state_dict(theirs.state_dict())
    images = torch.rand(1, 2, 3, *size)
    expected = theirs(normalise(images)[0], output_hidden_states=True)
    found = ours(images)
    same(found.tokens[0], expected.last_hidden_state[:, 1 + registers :])
    for tokens, layer in zip(found.intermediate_features, (1, 3), strict=True):
        same(tokens[0], expected.hidden_states[layer][:, 1 + registers :])


@torch.no_grad()
def test_encoder_without_registers_is_dinov2():
    """Its position table is resized without antialiasing."""
    from transformers import Dinov2Config, Dinov2Model

    theirs = Dinov2Model(
        Dinov2Config(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=56, patch_size=14)
    ).eval()
    for weight in theirs.parameters():
        nn.init.normal_(weight, std=0.2)
    config = EncoderConfig(
        32, 2, 2, image_size=56, num_register_tokens=0, position_antialias=False, tap_layers=(0, 1)
    )
    ours = DinoEncoder(config).eval()
    lacking = ours.backbone.load_state_dict(theirs.state_dict(), strict=False)
    assert lacking.missing_keys == ["embeddings.register_tokens"]
    assert not lacking.unexpected_keys
    images = torch.rand(1, 2, 3, 28, 42)
    same(ours(images).tokens[0], theirs(normalise(images)[0]).last_hidden_state[:, 1:])
