"""Attention guide (ours): one head of one global block is shown where to look, while a small model trains from nothing.

Relative pose is read from matches between frames, and finding that circuit by chance takes a small model most of its
training. The rooms know every match: the guided head's attention from a patch, over the tokens of its own frame and of
its partner's, is trained to lie on the patch that sees the same point (cross-entropy). Nothing is added to the model.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from vidllm.model.global_frame_attention import GlobalFrameAttention
from vidllm.model.transformer import Attention


class AttentionGuide:
    """Listens to global block ``layer`` of an attention stack and scores its head ``head``."""

    def __init__(self, attention: GlobalFrameAttention, layer: int = 1, head: int = 0) -> None:
        module = attention.global_blocks[layer].attn
        assert isinstance(module, Attention)
        self._module, self._head = module, head
        self._heard: tuple[Tensor, Tensor | None] | None = None
        module.register_forward_pre_hook(self._listen, with_kwargs=True)

    def _listen(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._heard = (args[0], args[1] if len(args) > 1 else kwargs.get("rotary"))

    def loss(self, target: Int[Tensor, "B F P"], valid: Bool[Tensor, "B F P"], other: Int[Tensor, " F"]) -> Tensor:
        """Mean ``-log attention`` to the matching patch, over patches that have one, for the last forward pass."""
        if self._heard is None:
            raise ValueError("the guided block has not run yet; call the model first")
        _, frames, patches = target.shape
        q, k, _ = self._module.heads(*self._heard)
        self._heard = None
        query, key = (x[:, self._head].unflatten(1, (frames, -1)) for x in (q, k))
        logits = guided_logits(query, key, patches, other)
        tokens = key.shape[2]
        at = (tokens + tokens - patches + target)[..., None]
        each = -logits.log_softmax(-1).gather(-1, at)[..., 0]
        weight = valid.float()
        return (each * weight).sum() / weight.sum().clamp(min=1)


def guided_logits(
    query: Float[Tensor, "B F T D"], key: Float[Tensor, "B F T D"], patches: int, other: Int[Tensor, " F"]
) -> Float[Tensor, "B F P S"]:
    """Attention logits of each patch over its own frame's tokens, then its partner's (S = 2T)."""
    asked = query[:, :, -patches:].float() * query.shape[-1] ** -0.5
    both = torch.cat([key, key[:, other]], 2).float()
    return torch.einsum("bfpd,bfsd->bfps", asked, both)
