"""Named patches (ours): what a patch shows, written as a fixed vector, so that seeing and speaking are learned apart.

A small model that learns to see and to speak at once, from nothing, does neither: the language model has no use for
patches that mean nothing yet, and so gives them no gradient. The rooms know what each patch shows. Its category, colour
and material have fixed random vectors; their sum is the patch's *named* feature.

* Seeing: the semantic flow is drawn to the named features (:func:`naming_loss`), which makes it the expected name.
* Speaking: the language half (position embedding, projector, LM, grounding decoder) can be trained on the named
  features themselves, with no vision at all, in a fraction of a step's time and in another process.

Joint training then goes on with the features that the model sees.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

SEED = 20_26
BASE_WIDTH = 192  # of the first models; multiples of it repeat their vectors, so that a language half carries over
SHARES = (0.7, 0.5, 0.4)  # standard deviation of the vectors of categories, colours, materials
SHELL_WEIGHT = 0.15  # of a patch of the shell in the naming loss


class NamedPatches:
    """The fixed vectors: the same for all runs of one width and one set of names."""

    def __init__(self, width: int, categories: int, colours: int, materials: int) -> None:
        generator = torch.Generator().manual_seed(SEED)
        counts = (categories, colours, materials)
        times = width // BASE_WIDTH if width % BASE_WIDTH == 0 else 1
        drawn = [s * torch.randn(n, width // times, generator=generator) for n, s in zip(counts, SHARES, strict=True)]
        self.tables = [table.repeat(1, times) for table in drawn]

    def to(self, device: torch.device) -> NamedPatches:
        """The same vectors on a device (in place)."""
        self.tables = [table.to(device) for table in self.tables]
        return self

    def features(
        self, category: Int[Tensor, "B F P"], colour: Int[Tensor, "B F P"], material: Int[Tensor, "B F P"]
    ) -> Float[Tensor, "B F P C"]:
        """The named feature of every patch; class 0 is the shell."""
        return sum(t[i] for t, i in zip(self.tables, (category, colour, material), strict=True))  # type: ignore[return-value]


def naming_loss(
    language: Float[Tensor, "B F P C"], named: Float[Tensor, "B F P C"], category: Int[Tensor, "B F P"]
) -> Tensor:
    """Mean squared distance of the semantic flow from the named features; objects weigh more than the shell."""
    weight = torch.where(category > 0, 1.0, SHELL_WEIGHT)
    error = (language.float() - named).square().mean(-1)
    return (error * weight).sum() / weight.sum()
