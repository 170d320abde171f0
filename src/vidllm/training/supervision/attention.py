"""Attention guide (ours): a head of some global blocks is shown where to look, while a small model trains from nothing.

Relative pose is read from matches between frames, and finding that circuit by chance takes a small model most of its
training. The rooms know every match: the guided head's attention from a patch, over the tokens of its own frame and of
its partner's, is trained to lie on the patches that see the same point (cross-entropy; the four patches around it
share it bilinearly, so that a match is known more finely than a patch). Nothing is added to the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from vidllm.model.global_frame_attention import GlobalFrameAttention
from vidllm.model.transformer import Attention
from vidllm.training.losses.correspondence import Matches


class MatchingAttention:
    """Listens to some global blocks of an attention stack and scores one head of each."""

    def __init__(self, attention: GlobalFrameAttention, layers: Sequence[int] = (1,), head: int = 0) -> None:
        self._head = head
        self._heard: dict[int, tuple[Tensor, Tensor | None]] = {}
        blocks = [attention.global_blocks[layer].attn for layer in layers]
        self._modules = [block for block in blocks if isinstance(block, Attention)]
        for order, module in enumerate(self._modules):
            module.register_forward_pre_hook(partial(self._listen, order), with_kwargs=True)

    def _listen(self, order: int, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._heard[order] = args[0], args[1] if len(args) > 1 else kwargs.get("rotary")

    def loss(self, matches: Matches, other: Int[Tensor, " F"]) -> Tensor:
        """Mean cross-entropy with the matching patches, over patches that have them, for the last forward pass."""
        if not self._heard:
            raise ValueError("the guided block has not run yet; call the model first")
        target, share = matches.corners()
        _, frames, patches = matches.valid.shape
        weight = matches.valid.float()
        terms = []
        for order, module in enumerate(self._modules):
            q, k, _ = module.heads(*self._heard[order])
            query, key = (x[:, self._head].unflatten(1, (frames, -1)) for x in (q, k))
            logs = supervised_logits(query, key, patches, other).log_softmax(-1)
            each = -(logs.gather(-1, 2 * key.shape[2] - patches + target) * share).sum(-1)
            terms.append((each * weight).sum() / weight.sum().clamp(min=1))
        self._heard.clear()
        return torch.stack(terms).mean()


def supervised_logits(
    query: Float[Tensor, "B F T D"], key: Float[Tensor, "B F T D"], patches: int, other: Int[Tensor, " F"]
) -> Float[Tensor, "B F P S"]:
    """Attention logits of each patch over its own frame's tokens, then its partner's (S = 2T)."""
    asked = query[:, :, -patches:].float() * query.shape[-1] ** -0.5
    both = torch.cat([key, key[:, other]], 2).float()
    return torch.einsum("bfpd,bfsd->bfps", asked, both)
