"""Many texts of one scene, packed after one visual prefix and separated by a block mask.

A scene is encoded once, and all its texts follow in one row. Each text attends to the prefix and itself, and its
positions continue from the prefix, so the result equals that of single texts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any, Self

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

from vidllm.model.generation import run_backbone
from vidllm.model.text import IGNORE_INDEX


@dataclass
class Text:
    """One text of a scene: token ids, which of them are scored, and scene points of its ``<coord>`` tokens.

    ``boxes`` (G,7) are the targets of its ``<loc>`` token; None if it has none.
    """

    ids: list[int]
    scored: list[bool]
    kind: str
    coordinates: list[tuple[float, float, float]]
    boxes: list[list[float]] | None = None


@dataclass
class Tensors:
    """A batch: a dataclass with tensors and other fields."""

    def to(self, device: torch.device) -> Self:
        """The batch on a device; asynchronous from pinned memory."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> Self:
        """The batch in pinned memory."""
        return self._each(Tensor.pin_memory)

    def _each(self, change: Callable[[Tensor], Tensor]) -> Self:
        return replace(self, **{k: change(v) for k, v in vars(self).items() if isinstance(v, Tensor)})


@dataclass
class PackedTexts(Tensors):
    """Texts of B scenes: ids, labels, segment (1.. , 0 = padding) and position (B,L); coordinates (B,N,3).

    ``loc`` (B,E) index of each ``<loc>`` in its row, ``loc_mask`` (B,E), ``boxes`` (B,E,G,7), ``box_mask`` (B,E,G).
    """

    input_ids: Tensor
    labels: Tensor
    segment: Tensor
    position: Tensor
    coordinates: Tensor
    loc: Tensor
    loc_mask: Tensor
    boxes: Tensor
    box_mask: Tensor


def pack(scenes: Sequence[Sequence[Text]], loc_token_id: int, max_tokens: int) -> PackedTexts:
    """Pack each scene's texts into a row, dropping those that would pass ``max_tokens``."""
    kept = [_fit(texts, max_tokens) for texts in scenes]
    grounds: list[list[tuple[int, list[list[float]]]]] = []  # place of each <loc> in its row, and its boxes
    for texts in kept:
        starts = accumulate((len(text.ids) for text in texts), initial=0)
        parts = zip(starts, texts, strict=False)
        grounds.append([(at + t.ids.index(loc_token_id), t.boxes) for at, t in parts if t.boxes is not None])
    labels = [
        [i if scored else IGNORE_INDEX for t in texts for i, scored in zip(t.ids, t.scored, strict=True)]
        for texts in kept
    ]
    number, no, most = torch.tensor(0), torch.tensor(False), max([1, *(len(b) for row in grounds for _, b in row)])
    boxes = [[[*b, *[[0.0] * 7] * (most - len(b))] for _, b in row] for row in grounds]
    return PackedTexts(
        input_ids=_padded([[i for t in texts for i in t.ids] for texts in kept], number),
        labels=_padded(labels, number, IGNORE_INDEX),
        segment=_padded([[n for n, t in enumerate(texts, 1) for _ in t.ids] for texts in kept], number),
        position=_padded([[p for t in texts for p in range(len(t.ids))] for texts in kept], number),
        coordinates=_padded([[p for t in texts for p in t.coordinates] for texts in kept], torch.zeros(3)),
        loc=_padded([[at for at, _ in row] for row in grounds], number),
        loc_mask=_padded([[True for _ in row] for row in grounds], no),
        boxes=_padded(boxes, torch.zeros(most, 7)),
        box_mask=_padded([[[n < len(b) for n in range(most)] for _, b in row] for row in grounds], no.expand(most)),
    )


def _padded(rows: Sequence[Sequence[Any]], entry: Tensor, fill: int = 0) -> Tensor:
    """Rows of entries (of the type and shape of ``entry``) as one tensor, padded to at least one entry."""
    given = [torch.tensor(row, dtype=entry.dtype).reshape(-1, *entry.shape) for row in rows]
    return pad_sequence([*given, entry[None]], batch_first=True, padding_value=fill)[:-1]


def _fit(texts: Sequence[Text], max_tokens: int) -> list[Text]:
    kept, used = [], 0
    for text in texts:
        if used + len(text.ids) <= max_tokens:
            kept.append(text)
            used += len(text.ids)
    return kept


def packed_mask(prefix_mask: Bool[Tensor, "B T"], segment: Int[Tensor, "B L"]) -> Bool[Tensor, "B 1 S S"]:
    """Attention mask: the prefix is causal; a text attends to the prefix and its own past; every token attends to
    itself.
    """
    batch, prefix = prefix_mask.shape
    length = segment.shape[1]
    total = prefix + length
    group = torch.cat([segment.new_zeros(batch, prefix), segment], 1)
    alive = torch.cat([prefix_mask, segment > 0], 1)
    causal = torch.ones(total, total, dtype=torch.bool, device=segment.device).tril()
    same = group[:, :, None] == group[:, None, :]
    to_prefix = (torch.arange(total, device=segment.device) < prefix)[None, None, :]
    seen = causal & (same | to_prefix) & alive[:, None, :]
    return (seen | torch.eye(total, dtype=torch.bool, device=segment.device))[:, None]


def packed_positions(prefix_mask: Bool[Tensor, "B T"], position: Int[Tensor, "B L"]) -> Int[Tensor, "B S"]:
    """Positions of the prefix (without padding) and of each text, which continue from it."""
    first = (prefix_mask.long().cumsum(1) - 1).clamp(min=0)
    return torch.cat([first, prefix_mask.sum(1, keepdim=True) + position], 1)


def packed_hidden(
    language_model: nn.Module,
    prefix: Float[Tensor, "B T D"],
    prefix_mask: Bool[Tensor, "B T"],
    text: Float[Tensor, "B L D"],
    packed: PackedTexts,
) -> tuple[Float[Tensor, "B T D"], Float[Tensor, "B L D"]]:
    """Last hidden states of the prefix and of the packed texts."""
    mask = packed_mask(prefix_mask, packed.segment)
    positions = packed_positions(prefix_mask, packed.position)
    whole = torch.cat([prefix.to(text.dtype), text], 1)
    bias = torch.zeros(mask.shape, dtype=whole.dtype, device=whole.device)
    bias = bias.masked_fill(~mask, torch.finfo(whole.dtype).min)
    states = run_backbone(
        language_model, inputs_embeds=whole, attention_mask=bias, position_ids=positions,
        packed=(prefix.shape[1], int(packed.position.max())),
    )
    return states[:, : prefix.shape[1]], states[:, prefix.shape[1] :]


def packed_cross_entropy(
    head: nn.Module, hidden: Float[Tensor, "B L D"], packed: PackedTexts
) -> tuple[Tensor, Float[Tensor, ""]]:
    """Mean next-token cross-entropy over scored tokens, and the accuracy."""
    labels = packed.labels[:, 1:]
    scored = labels != IGNORE_INDEX
    logits = head(hidden[:, :-1][scored]).float()
    wanted = labels[scored]
    if len(wanted) == 0:
        return hidden.sum() * 0, hidden.new_zeros(())
    right = (logits.argmax(-1) == wanted).float().mean()
    return F.cross_entropy(logits, wanted), right.detach()


PACKED_ATTENTION = "packed_texts"
CHUNK = 96  # text tokens a block


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    packed: tuple[int, int] = (0, 0),
    **_: Any,
) -> tuple[Tensor, None]:
    """The attention interface of transformers: query (B,H,S,d), key and value (B,G,S,d), additive mask (B,1,S,S).

    ``packed``: how many tokens of the prefix come first, and the length of the longest text. Returns (B,S,H,d).
    """
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = (x.repeat_interleave(groups, dim=1) for x in (key, value))
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    length = query.shape[2]
    first, reach = packed
    if first == 0 or attention_mask is None or length == 1:
        return _attend(query, key, value, attention_mask, scale).transpose(1, 2).contiguous(), None
    blocks = [_attend(query[:, :, :first], key[:, :, :first], value[:, :, :first],
                      attention_mask[:, :, :first, :first], scale)]  # fmt: skip
    for start in range(first, length, CHUNK):
        end, back = min(length, start + CHUNK), max(first, start - reach)
        k, v, mask = (
            torch.cat([x.narrow(d, 0, first), x.narrow(d, back, end - back)], d)
            for x, d in ((key, 2), (value, 2), (attention_mask[:, :, start:end], 3))
        )
        blocks.append(_attend(query[:, :, start:end], k, v, mask, scale))
    return torch.cat(blocks, 2).transpose(1, 2).contiguous(), None


def _attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    logits = query @ key.transpose(2, 3) * scale
    if mask is not None:
        logits = logits + mask
    return logits.softmax(-1, dtype=torch.float32).to(value.dtype) @ value


AttentionInterface.register(PACKED_ATTENTION, packed_attention)
AttentionMaskInterface.register(PACKED_ATTENTION, eager_mask)
