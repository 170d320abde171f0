"""Twin words (ours): words that text alone cannot tell apart are set apart before a language model learns to see.

A small language model trained on words alone gives "red" and "blue", or "left" and "right", almost one embedding
(cosines of 0.9 and 0.98 here): in text each stands wherever the other does. With the table tied to the output, neither
the question's word nor the answer's can then say which of them is meant, and the gradient that would part them is
small. Each such embedding keeps half of itself and gets a random vector of its own.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

TWIN_COSINE = 0.6
KEPT = 0.5  # of a twin's own direction; the random part makes up its length


def part_twins(table: Float[Tensor, "V D"], seed: int = 0) -> int:
    """Change the table in place; returns how many rows were twins of another."""
    with torch.no_grad():
        directions = F.normalize(table.float(), dim=1)
        cosine = (directions @ directions.T).fill_diagonal_(-1)
        twins = (cosine > TWIN_COSINE).any(1)
        noise = torch.randn(table.shape, generator=torch.Generator().manual_seed(seed)).to(table.device)
        own = F.normalize(noise, dim=1) * table.float().norm(dim=1, keepdim=True)
        table[twins] = (KEPT * table.float() + (1 - KEPT**2) ** 0.5 * own)[twins].to(table.dtype)
    return int(twins.sum())
