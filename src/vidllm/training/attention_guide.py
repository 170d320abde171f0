"""Attention guide (ours): one head of one global block is shown where to look, while a small model trains from nothing.

Relative pose is read from matches between frames, and finding that circuit by chance takes a small model most of its
training. The rooms know every match: the guided head's attention from a patch, over the tokens of its own frame and of
its partner's, is trained to lie on the patches that see the same point (cross-entropy; the four patches around the point
share it bilinearly, so that a match is known more finely than a patch). Nothing is added to the model.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from vidllm.model.global_frame_attention import GlobalFrameAttention
from vidllm.model.transformer import Attention
from vidllm.training.losses.correspondence import Matches


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

    def loss(self, matches: Matches, other: Int[Tensor, " F"]) -> Tensor:
        """Mean cross-entropy with the matching patches, over patches that have them, for the last forward pass."""
        if self._heard is None:
            raise ValueError("the guided block has not run yet; call the model first")
        _, frames, patches = matches.valid.shape
        q, k, _ = self._module.heads(*self._heard)
        self._heard = None
        query, key = (x[:, self._head].unflatten(1, (frames, -1)) for x in (q, k))
        logits = guided_logits(query, key, patches, other)
        tokens = key.shape[2]
        target, share = matches.corners()
        each = -(logits.log_softmax(-1).gather(-1, 2 * tokens - patches + target) * share).sum(-1)
        weight = matches.valid.float()
        return (each * weight).sum() / weight.sum().clamp(min=1)


def guided_logits(
    query: Float[Tensor, "B F T D"], key: Float[Tensor, "B F T D"], patches: int, other: Int[Tensor, " F"]
) -> Float[Tensor, "B F P S"]:
    """Attention logits of each patch over its own frame's tokens, then its partner's (S = 2T)."""
    asked = query[:, :, -patches:].float() * query.shape[-1] ** -0.5
    both = torch.cat([key, key[:, other]], 2).float()
    return torch.einsum("bfpd,bfsd->bfps", asked, both)
