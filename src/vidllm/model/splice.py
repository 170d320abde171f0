"""Put the scene into the sentence: replace ``<video>`` by the visual prefix, left-padded (for generation)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

IGNORE = -100


@dataclass
class SplicedInputs:
    """One sequence of embeddings (B,S,D), its mask, positions, labels and token ids (-1 at visual tokens)."""

    embeddings: Tensor
    attention_mask: Tensor
    position_ids: Tensor
    labels: Tensor | None
    token_ids: Tensor


def splice(
    input_ids: Int[Tensor, "B L"],
    embeddings: Float[Tensor, "B L D"],
    attention_mask: Int[Tensor, "B L"],
    labels: Int[Tensor, "B L"] | None,
    visual: tuple[Tensor, Tensor] | None,
    video_token_id: int,
) -> SplicedInputs:
    """Rows of text with their scene. ``visual`` = tokens (B,T,D) and mask (B,T); padding goes to the left.

    Raises ValueError when a row has no ``<video>`` but a scene is given, has several, or has one without a scene.
    """
    rows = []
    for b in range(len(input_ids)):
        keep = attention_mask[b].bool()
        ids, text = input_ids[b][keep], embeddings[b][keep]
        marks = labels[b][keep] if labels is not None else torch.full_like(ids, IGNORE)
        rows.append(_join(ids, text, marks, None if visual is None else visual[0][b][visual[1][b]], video_token_id))
    return _pad_left(rows, with_labels=labels is not None)


def _join(
    ids: Tensor, text: Tensor, labels: Tensor, scene: Tensor | None, video_token_id: int
) -> tuple[Tensor, Tensor, Tensor]:
    places = (ids == video_token_id).nonzero()[:, 0].tolist()
    if scene is None:
        if places:
            raise ValueError("the text has a <video> token but no video was given; pass pixel_values or a prefix")
        return text, labels, ids
    if len(places) != 1:
        raise ValueError(f"expected exactly one <video> token a row, received {len(places)}")
    at = places[0]
    blank = torch.full((len(scene),), IGNORE, dtype=labels.dtype, device=labels.device)
    return (
        torch.cat([text[:at], scene, text[at + 1 :]]),
        torch.cat([labels[:at], blank, labels[at + 1 :]]),
        torch.cat([ids[:at], torch.full_like(blank, -1), ids[at + 1 :]]),
    )


def _pad_left(rows: list[tuple[Tensor, Tensor, Tensor]], *, with_labels: bool) -> SplicedInputs:
    longest = max(len(text) for text, _, _ in rows)
    size = (len(rows), longest)
    first = rows[0][0]
    mask = torch.zeros(size, dtype=torch.long, device=first.device)
    labels = torch.full(size, IGNORE, dtype=torch.long, device=first.device)
    ids = torch.full(size, -1, dtype=torch.long, device=first.device)
    parts = []
    for b, (text, marks, tokens) in enumerate(rows):
        pad = longest - len(text)
        mask[b, pad:], labels[b, pad:], ids[b, pad:] = 1, marks, tokens
        parts.append(torch.nn.functional.pad(text, (0, 0, pad, 0)))
    embeddings = torch.stack(parts)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    return SplicedInputs(embeddings, mask, positions, labels if with_labels else None, ids)
