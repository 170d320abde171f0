"""The guide scores the attention that the guided head really pays, and its gradient reaches that head."""

from __future__ import annotations

import pytest
import torch

from vidllm.model.configuration import AttentionConfig
from vidllm.model.global_frame_attention import GlobalFrameAttention
from vidllm.training.supervision.base import Matches
from vidllm.training.supervision.geometry import MatchingAttention


def _stack() -> GlobalFrameAttention:
    torch.manual_seed(0)
    return GlobalFrameAttention(AttentionConfig(depth=2, num_heads=2, num_register_tokens=1), 32)


def test_loss_is_minus_log_attention_between_two_frames() -> None:
    stack = _stack()
    guide = MatchingAttention(stack, layers=(1,), head=1)
    tokens = torch.randn(1, 2, 6, 32)
    stack(tokens, (2, 3), (1,))
    place = torch.stack([3.5 * torch.rand(1, 2, 6) - 0.5, 2 * torch.rand(1, 2, 6) - 0.5], -1)
    matches = Matches(place, torch.rand(1, 2, 6) > 0.3, (2, 3))
    block = stack.global_blocks[1].attn
    q, k, _ = block.heads(*guide._heard[0])
    weights = (q[:, 1] @ k[:, 1].transpose(-1, -2) / 4).softmax(-1)  # (1, 16, 16): frames of 2 special + 6 patches
    corners, shares = matches.corners()
    wanted = []
    for f in range(2):
        for p in range(6):
            if matches.valid[0, f, p]:
                around = [weights[0, 8 * f + 2 + p, 8 * (1 - f) + 2 + int(i)].log() for i in corners[0, f, p]]
                wanted.append(-sum(a * b for a, b in zip(around, shares[0, f, p], strict=True)))
    loss = guide.loss(matches, torch.tensor([1, 0]))
    torch.testing.assert_close(loss, torch.stack(wanted).mean())
    loss.backward()
    assert block.qkv.weight.grad is not None and float(block.qkv.weight.grad.abs().sum()) > 0


def test_guide_needs_a_forward_pass() -> None:
    guide = MatchingAttention(_stack())
    empty = Matches(torch.zeros(1, 2, 6, 2), torch.zeros(1, 2, 6, dtype=torch.bool), (2, 3))
    with pytest.raises(ValueError, match="has not run"):
        guide.loss(empty, torch.tensor([1, 0]))
