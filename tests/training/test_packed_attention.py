"""Attention in blocks gives the numbers, and the gradients, of the dense form."""

from __future__ import annotations

import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from vidllm.training.packing import CHUNK, PACKED_ATTENTION, Text, pack, packed_hidden


def _packed():
    generator = torch.Generator().manual_seed(0)
    scenes = []
    for count in (22, 9):
        lengths = torch.randint(3, 24, (count,), generator=generator).tolist()
        scenes.append([
            Text(torch.randint(3, 50, (n,), generator=generator).tolist(), [True] * n, "q", []) for n in lengths
        ])
    return pack(scenes, loc_token_id=1, max_tokens=400)


def _run(implementation: str):
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=3,
                         num_attention_heads=4, num_key_value_heads=2)
    model = AutoModelForCausalLM.from_config(config, attn_implementation=implementation)
    packed = _packed()
    prefix = torch.randn(2, 20, 32, requires_grad=True)
    mask = torch.ones(2, 20, dtype=torch.bool)
    mask[1, 15:] = False
    _, hidden = packed_hidden(model, prefix, mask, model.get_input_embeddings()(packed.input_ids), packed)
    hidden[packed.segment > 0].square().sum().backward()
    return hidden.detach()[packed.segment > 0], prefix.grad, packed


def test_blocks_equal_the_dense_form():
    dense, dense_grad, packed = _run("eager")
    blocks, blocks_grad, _ = _run(PACKED_ATTENTION)
    assert packed.input_ids.shape[1] > 2 * CHUNK  # several blocks were needed
    torch.testing.assert_close(blocks, dense, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(blocks_grad, dense_grad, atol=1e-3, rtol=1e-4)


def test_without_lengths_it_is_plain_attention():
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
                         num_attention_heads=4)  # fmt: skip
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    ids = torch.tensor([[3, 4, 5, 6], [0, 0, 7, 8]])
    mask = torch.tensor([[1, 1, 1, 1], [0, 0, 1, 1]])
    plain = model.generate(ids, attention_mask=mask, max_new_tokens=4, do_sample=False, pad_token_id=0)
    model.set_attn_implementation(PACKED_ATTENTION)
    ours = model.generate(ids, attention_mask=mask, max_new_tokens=4, do_sample=False, pad_token_id=0)
    assert plain.tolist() == ours.tolist()
