"""3DRS's loss (Huang et al. 2025) as a baseline: visual tokens predict the features of a geometry model.

3DRS gives a language model frames with known depth and poses (a position embedding at each patch); a small perceptron
predicts VGGT's features from the last hidden states of the visual tokens. Here the same is applied to our geometry: a
model without exchange between the branches (``--adapter none``), positions by Eqs 3 and 4, and this loss. The target of
a token is the mean of the features of its patches.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from vidllm.training.data import Batch
from vidllm.training.losses import masked_mean
from vidllm.training.supervision.base import LanguageOutputs, Parts, Supervision, Terms
from vidllm.training.teachers import load_geometry_teacher


def pooled_mean(features: Float[Tensor, "B N C"], index: Int[Tensor, "B N"], count: int) -> Float[Tensor, "B T C"]:
    """Mean of the rows with each index of 0 .. count - 1 (-1: left out); 0 where there is none."""
    places = torch.where(index < 0, count, index)
    total = features.new_zeros(len(features), count + 1, features.shape[-1])
    total.scatter_add_(1, places[..., None].expand_as(features), features)
    rows = features.new_zeros(len(features), count + 1).scatter_add_(1, places, torch.ones_like(features[..., 0]))
    return (total / rows[..., None].clamp(min=1))[:, :-1]


class Representation(Supervision[LanguageOutputs]):
    """Mean of 1 - cos between the predicted features of each visual token and the teacher's."""

    name = "represent"
    reads = LanguageOutputs

    def __init__(self, parts: Parts) -> None:
        super().__init__(parts)
        place = parts.weights.represent_from
        if place is None:
            raise ValueError("--represent-weight needs --represent-from, a geometry model")
        device, width = parts.heads.norm.weight.device, parts.model.config.text_config.hidden_size
        self.teacher = load_geometry_teacher(place, "attention").to(device)
        self.heads.represent = nn.Sequential(
            nn.Linear(width, width), nn.GELU(), nn.Linear(width, self.teacher.width)
        ).to(device)

    def loss(self, outputs: LanguageOutputs, batch: Batch) -> Terms:
        """The loss on the pictures of a batch; the teacher has no gradient."""
        prefix, size = outputs.prefix, outputs.model.config.encoder.patch_size
        grid = batch.images.shape[-2] // size, batch.images.shape[-1] // size
        wanted = self.teacher.on_grid(batch, grid).flatten(1, 2)
        count = prefix.patch_mask.shape[1]
        wanted = pooled_mean(wanted, prefix.patch_index, count)
        told = self.heads.represent(outputs.seen[:, outputs.start[0] : outputs.start[0] + count].float())
        cosine = F.cosine_similarity(told.float(), wanted, dim=-1)
        found = masked_mean(1 - cosine, prefix.patch_mask)
        return {"represent": self.weight * found}, {"represent_cos": 1 - float(found.detach())}
