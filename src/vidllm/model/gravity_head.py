"""Gravity (ours): which way is up in the first camera's frame, so that language and boxes live in a level frame."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


class GravityHead(nn.Module):
    """A unit "up" vector from the first frame's camera token. Trained by ``1 - cos`` (docs/method.md, section 0)."""

    def __init__(self, dim_in: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim_in)
        self.fc1 = nn.Linear(dim_in, dim_in // 4)
        self.fc2 = nn.Linear(dim_in // 4, 3)
        nn.init.trunc_normal_(self.fc2.weight, std=0.02)
        with torch.no_grad():  # a level camera: up is -y (OpenCV axes)
            self.fc2.bias.copy_(torch.tensor([0.0, -1.0, 0.0]))

    def forward(self, camera_token: Float[Tensor, "B C"]) -> Float[Tensor, "B 3"]:
        """Up in the first camera's (= world) frame, unit length."""
        hidden = F.gelu(self.fc1(self.norm(camera_token)))
        return F.normalize(self.fc2(hidden).float(), dim=-1)
