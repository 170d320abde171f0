"""Decoding side by side equals decoding one by one, and leaves the cached prefix as it was."""

from __future__ import annotations

import torch
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache, PreTrainedModel

from vidllm.model.generation import greedy_after_prefix, run_language_model

EOS = 2


def _model() -> PreTrainedModel:
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "llama", vocab_size=40, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=128, initializer_range=0.3,
    )
    return AutoModelForCausalLM.from_config(config).eval()


def _prefix_cache(model: PreTrainedModel, prefix: torch.Tensor) -> DynamicCache:
    cache = DynamicCache(config=model.config)
    with torch.inference_mode():
        run_language_model(model, input_ids=prefix, cache=cache, use_cache=True)
    return cache


def _one_by_one(model: PreTrainedModel, prefix: torch.Tensor, suffix: list[int], steps: int) -> list[int]:
    ids = torch.cat([prefix, torch.tensor([suffix])], 1)
    said: list[int] = []
    with torch.inference_mode():
        for _ in range(steps):
            token = int(model(input_ids=ids).logits[0, -1].argmax())
            if token == EOS:
                break
            said.append(token)
            ids = torch.cat([ids, torch.tensor([[token]])], 1)
    return said


def test_many_suffixes_give_the_answers_of_each_alone() -> None:
    model = _model()
    prefix = torch.randint(3, 40, (1, 7))
    cache = _prefix_cache(model, prefix)
    suffixes = [[5, 6, 7], [8], [9, 10, 11, 12, 13], [30, 31]]
    together = greedy_after_prefix(model, cache, suffixes, EOS, 12)
    assert together == [_one_by_one(model, prefix, s, 12) for s in suffixes]
    assert cache.get_seq_length() == 7
    assert greedy_after_prefix(model, cache, suffixes[:1], EOS, 12) == together[:1]


def test_nothing_is_said_when_no_tokens_are_allowed() -> None:
    model = _model()
    cache = _prefix_cache(model, torch.tensor([[4, 5]]))
    assert greedy_after_prefix(model, cache, [[6], [7, 8]], EOS, 0) == [[], []]
