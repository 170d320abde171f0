"""Places kept readable (ours): where a thing is, written along fixed directions, while a small model trains.

A projector that learns from answers alone keeps what most answers need. In the rooms that was what a patch shows, how
far it is and how high; how far to the left, which few kinds of question ask for, was lost before the language model
could read it (docs/log.md), and left and right were never learned. Losses keep places, in metres, along the same fixed
directions of the language model's width, three for a place:

* of every visual token;
* of every noun, behind the layer whose head looks at what the noun means (:mod:`vidllm.training.supervision.words`);
* at the last token before an answer, of the things that it is about, each along three directions of its own: the first,
  second and third thing asked of; of a situation, where one is (in the third's place) and what one faces.

Nothing is added to the model.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from vidllm.model.outputs import VisualPrefix
from vidllm.training.losses import masked_mean

SEED = 11_26
THINGS = 4  # that an answer may be about
COSINE_A_METRE = 0.08  # of a token with the direction of an axis
FARTHEST_M = 7.5  # places are told no farther than this along an axis
ONE_PLACE_M = 1.0  # a noun whose patches spread more than this (standard deviation) has no one place


@lru_cache(maxsize=8)
def directions(width: int) -> Float[Tensor, "D 12"]:
    """Orthonormal directions of a stream of ``width``, the same for all runs: the axes of each of ``THINGS`` places."""
    generator = torch.Generator().manual_seed(SEED)
    drawn = [torch.randn(width, 6, generator=generator) for _ in range(THINGS // 2)]  # two things at a time
    return torch.linalg.qr(torch.cat(drawn, 1)).Q


def read_positions(stream: Float[Tensor, "*batch D"], thing: int = 0) -> Float[Tensor, "*batch 3"]:
    """The place of a thing, metres in the scene frame, that a stream tells along its three directions."""
    axes = directions(stream.shape[-1])[:, 3 * thing : 3 * thing + 3].to(stream.device)
    return F.normalize(stream.float(), dim=-1) @ axes / COSINE_A_METRE


def token_positions_loss(prefix: VisualPrefix) -> Tensor:
    """Mean distance (along the axes, metres) of the places that visual tokens tell from where their patches lie."""
    told = read_positions(prefix.tokens[:, -prefix.patch_mask.shape[1] :])
    return masked_mean(_error(told, prefix.patch_positions), prefix.patch_mask)


def text_positions_loss(
    stream: Float[Tensor, "B S D"],
    rows: Int[Tensor, " n"],
    places: Int[Tensor, " n"],
    meant: Bool[Tensor, "n T"],
    positions: Float[Tensor, "B T 3"],
    thing: int = 0,
) -> Tensor:
    """The same of text tokens at (row, place) of the language model's stream: each tells where what is ``meant`` lies.

    It is 0 where nothing that is meant has one place.
    """
    count = meant.sum(-1, keepdim=True)
    own = positions[rows].float()
    centre = (own * meant[..., None]).sum(1) / count.clamp(min=1)
    spread = ((own - centre[:, None]).square().sum(-1) * meant).sum(-1) / count[:, 0].clamp(min=1)
    known = (count[:, 0] > 0) & (spread.sqrt() < ONE_PLACE_M)
    return masked_mean(_error(read_positions(stream[rows, places], thing), centre), known)


def _error(told: Tensor, true: Tensor) -> Tensor:
    return (told - true.float().clamp(-FARTHEST_M, FARTHEST_M)).abs().sum(-1)
