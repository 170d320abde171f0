"""Auxiliary heads of small-scale training (ours): dense supervision that the rooms give for nothing.

They read the adapter's tokens, are trained with the model and are left behind when it is saved: a per-patch category,
colour and material on the semantic stream, a projection for the correspondence loss on the geometric stream, the 3D
point of each patch read straight from the last layer of global-frame attention that is kept, for all frames at next to
no cost.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from vidllm.training.losses.targets import masked_mean

LABEL_HEADS = ("category", "colour", "material")
NEAR = 0.4  # normalised length below which directions are not told apart


class AuxiliaryHeads(nn.Module):
    """``categories``, ``colours`` and ``materials`` count the shell or background as class 0."""

    def __init__(self, width: int, categories: int, colours: int, materials: int, match_dim: int = 64) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.category = nn.Linear(width, categories)
        self.colour = nn.Linear(width, colours)
        self.material = nn.Linear(width, materials)
        self.match = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, match_dim))
        self.point = nn.Sequential(nn.LayerNorm(2 * width), nn.Linear(2 * width, 3))

    def point_loss(
        self,
        attended: Float[Tensor, "B F P D"],
        points: Float[Tensor, "B F P 3"],
        valid: Bool[Tensor, "B F P"],
        bearing_weight: float = 0.0,
    ) -> Tensor:
        """Mean distance of each patch's point (first camera's frame, normalised lengths).

        ``bearing_weight`` adds the distance of its direction from the first camera (unit vectors, shorter for points
        nearer than ``NEAR``): what is seen of a camera's motion is much finer than the depth, whose error drowns it.
        """
        told = self.point(attended.float()).float()
        error = (told - points).norm(dim=-1)
        if bearing_weight > 0:
            reach = [x / x.norm(dim=-1, keepdim=True).clamp(min=NEAR) for x in (told, points)]
            error = error + bearing_weight * (reach[0] - reach[1]).norm(dim=-1)
        return masked_mean(error, valid)

    def semantic_loss(
        self,
        language: Float[Tensor, "B F P C"],
        category: Int[Tensor, "B F P"],
        colour: Int[Tensor, "B F P"],
        material: Int[Tensor, "B F P"],
    ) -> tuple[Tensor, dict[str, float]]:
        """Summed cross-entropies of each patch's names; objects outweigh the shell. Accuracies are on objects."""
        tokens = self.norm(language.float())
        thing = category.flatten() > 0
        weight = torch.where(thing, 1.0, 0.15)
        terms, figures = [], {}
        for name, target in (("category", category), ("colour", colour), ("material", material)):
            head: nn.Linear = getattr(self, name)
            logits, classes = head(tokens).flatten(0, 2).float(), target.flatten()
            terms.append((F.cross_entropy(logits, classes, reduction="none") * weight).sum() / weight.sum())
            right = (logits.detach().argmax(-1) == classes) & thing
            figures[f"patch_{name}"] = right.sum().item() / max(1, int(thing.sum()))
        return torch.stack(terms).sum(), figures
