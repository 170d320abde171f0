"""Contrastive image-text training on rooms: a frame and what can be seen in it (the form of CLIP).

A frame's text lists the things at its patch centres, largest first, or is a caption of one of them. In a small world
two frames may well share a text: all frames with the text of a row are its positives.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPModel, PreTrainedTokenizerBase

from vidllm.datasets.language import language_from_record
from vidllm.datasets.shards import LabelSpace
from vidllm.datasets.words import listing, with_article
from vidllm.geometry.precision import full_precision
from vidllm.training.data import Batch, RoomsData
from vidllm.training.teachers import clip_pixels

END = 1  # <s> ends a caption: CLIP reads its summary there (transformers takes an end token of id 2 for an old form)
MOST_NAMED = 6  # things in a list
LIST_SHARE = 0.5
MAX_LOGIT_SCALE = 4.6052  # log 100, as CLIP

#: (category, colour) as the classes of a patch.
Look = tuple[int, int]


@dataclass
class FramePairs:
    """N frames with their texts: pixels (N,3,S,S) normalised for the tower; ids and mask (N,L); the texts."""

    pixels: Tensor
    ids: Tensor
    mask: Tensor
    texts: list[str]

    def to(self, device: torch.device) -> FramePairs:
        """The same pairs on a device."""
        return FramePairs(self.pixels.to(device), self.ids.to(device), self.mask.to(device), self.texts)


def draw_pairs(
    data: RoomsData,
    tokenizer: PreTrainedTokenizerBase,
    rng: np.random.Generator,
    shards: int,
    scenes: int,
    side: int,
    length: int,
) -> FramePairs:
    """One frame of each of ``scenes`` scenes from each of ``shards`` shards, with a text of at most ``length`` ids."""
    pixels, texts = [], []
    for _ in range(shards):
        batch = data.draw(rng, scenes, 1, window=True)
        pixels.append(clip_pixels(batch.images[:, 0], side))
        texts += [frame_text(batch, b, data.labels, rng) for b in range(scenes)]
    ids, mask = _encode(tokenizer, texts, length)
    return FramePairs(torch.cat(pixels), ids, mask, texts)


def frame_text(batch: Batch, scene: int, labels: LabelSpace, rng: np.random.Generator) -> str:
    """What is said of the first frame of a scene of the batch: a list of what it shows, or a thing's caption."""
    record = batch.records[scene]
    pairs = zip(batch.category[scene, 0].tolist(), batch.colour[scene, 0].tolist(), strict=True)
    seen = Counter(look for look in pairs if look[0] > 0)
    things = record["objects"]
    looks = {item["id"]: labels.classes(item)[:2] for item in things}
    told = language_from_record(record).captions
    captions = [c for c in told if c.object_id is not None and looks[c.object_id] in seen]
    if captions and rng.random() >= LIST_SHARE:
        chosen = captions[int(rng.integers(len(captions)))]
        return chosen.texts[int(rng.integers(len(chosen.texts)))]
    return list_text(record, seen, looks)


def list_text(record: dict[str, Any], seen: Counter[Look], looks: dict[int, Look]) -> str:
    """The things that fill most patches, largest first: "a red chair, a brown table and a white bed"."""
    named = {looks[item["id"]]: f"{item['colour']} {item['category'].replace('_', ' ')}" for item in record["objects"]}
    words = [with_article(named[look]) for look, _ in seen.most_common(MOST_NAMED) if look in named]
    return listing(words) if words else "an empty part of the room"


def _encode(
    tokenizer: PreTrainedTokenizerBase, texts: list[str], length: int
) -> tuple[Int[Tensor, "N L"], Int[Tensor, "N L"]]:
    rows = [[*tokenizer.encode(text, add_special_tokens=False)[: length - 1], END] for text in texts]
    longest = max(len(row) for row in rows)
    ids, mask = torch.zeros(2, len(rows), longest, dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, : len(row)], mask[i, : len(row)] = torch.tensor(row), 1
    return ids, mask


def contrastive_loss(clip: CLIPModel, pairs: FramePairs) -> tuple[Float[Tensor, ""], float]:
    """CLIP's loss, with every frame of the same text a positive; and the share of frames whose text is found."""
    out = clip(input_ids=pairs.ids, attention_mask=pairs.mask, pixel_values=pairs.pixels)
    with full_precision():
        image, text = (F.normalize(x.float(), dim=-1) for x in (out.image_embeds, out.text_embeds))
        logits = clip.logit_scale.clamp(max=MAX_LOGIT_SCALE).exp() * image @ text.T
    number = {said: i for i, said in enumerate(dict.fromkeys(pairs.texts))}
    which = torch.tensor([number[said] for said in pairs.texts], device=logits.device)
    same = which[:, None] == which[None, :]
    target = same / same.sum(1, keepdim=True)
    loss = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
    found = same.gather(1, logits.argmax(1, keepdim=True)).float().mean()
    return loss, float(found)
