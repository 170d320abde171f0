"""Greedy answers to many prompts behind one cached prefix, decoded side by side."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import DynamicCache


@torch.inference_mode()
def greedy_after_prefix(
    language_model: nn.Module,
    cache: DynamicCache,
    suffixes: Sequence[Sequence[int]],
    eos_token_id: int,
    max_new_tokens: int,
    name: str | None = None,
) -> list[list[int]]:
    """New tokens (without the end token) of each suffix; ``cache`` holds the prefix of one row and is left as it was.

    Suffixes of different lengths are padded on the left; positions count on from the prefix for each row. ``name`` is
    how an error calls the model (:func:`check_logits`).
    """
    rows, length = len(suffixes), cache.get_seq_length()
    device = next(language_model.parameters()).device
    ids, alive = _pad_left(suffixes, device)
    own = copy.deepcopy(cache)
    own.batch_repeat_interleave(rows)
    mask = torch.cat([alive.new_ones(rows, length), alive], 1)
    positions = (mask.cumsum(1) - 1)[:, length:]
    answers: list[list[int]] = [[] for _ in range(rows)]
    running = [True] * rows
    for _ in range(max_new_tokens):
        embeddings: Float[Tensor, "N L D"] = language_model.get_input_embeddings()(ids)  # type: ignore[operator]
        out = language_model(
            inputs_embeds=embeddings, attention_mask=mask, position_ids=positions, past_key_values=own, use_cache=True,
            logits_to_keep=1,
        )
        check_logits(out.logits[:, -1], name)
        tokens = out.logits[:, -1].argmax(-1)
        for row, token in enumerate(tokens.tolist()):
            running[row] = running[row] and token != eos_token_id
            if running[row]:
                answers[row].append(token)
        if not any(running):
            break
        ids, positions = tokens[:, None], positions[:, -1:] + 1
        mask = torch.cat([mask, mask.new_ones(rows, 1)], 1)
    return answers


def check_logits(logits: Tensor, name: str | None) -> None:
    """ValueError, calling the model ``name`` (its folder), where logits are NaN or infinite: no answer follows."""
    # NaN and infinity go before every number: the largest shows them all
    if not bool(logits.amax(-1).isfinite().all()):
        raise ValueError(f"{name or 'the model'}: its logits are not finite in {str(logits.dtype)[6:]}; take "
                         "other weights, or --dtype float32")  # fmt: skip


def _pad_left(rows: Sequence[Sequence[int]], device: torch.device) -> tuple[Int[Tensor, "N L"], Int[Tensor, "N L"]]:
    longest = max(len(row) for row in rows)
    ids = torch.zeros(len(rows), longest, dtype=torch.long, device=device)
    alive = torch.zeros_like(ids)
    for n, row in enumerate(rows):
        ids[n, longest - len(row) :] = torch.tensor(row, device=device)
        alive[n, longest - len(row) :] = 1
    return ids, alive
