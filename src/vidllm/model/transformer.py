"""Transformer parts that the reconstruction branch shares: pre-norm blocks with LayerScale, 2D rotary positions.

The form is VGGT's: fused qkv, optional LayerNorm of queries and keys per head before the rotation, GELU (erf),
biases everywhere, LayerNorm eps 1e-5.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

EAGER_TOKENS = 1024  # up to here, attention under autograd on a CPU is written out


def init_linear(module: nn.Module) -> None:
    """ViT's initialisation of every linear layer below ``module``: truncated normal 0.02, zero bias."""
    for child in module.modules():
        if isinstance(child, nn.Linear):
            nn.init.trunc_normal_(child.weight, std=0.02)
            if child.bias is not None:
                nn.init.zeros_(child.bias)


class RotaryPosition2D(nn.Module):
    """Rotary position embedding of (row, column): half of a head turns with the row, half with the column.

    Pairs are (j, j + D/2) within a half of D channels, angle ``position * frequency^(-2j/D)``. No parameters.
    """

    def __init__(self, head_dim: int, frequency: float = 100.0) -> None:
        super().__init__()
        if head_dim % 4:
            raise ValueError(f"rotary 2D positions need a head width divisible by 4, got {head_dim}")
        self.half_dim = head_dim // 2
        self.frequency = frequency

    def forward(self, positions: Int[Tensor, "T 2"]) -> Float[Tensor, "2 T D"]:
        """Cosines and sines of every token's angles, float32."""
        exponents = torch.arange(0, self.half_dim, 2, device=positions.device).float() / self.half_dim
        inverse = 1.0 / self.frequency**exponents
        angles = positions.float()[..., None] * inverse  # (T, 2, D/4)
        angles = torch.cat((angles, angles), dim=-1).flatten(-2)
        return torch.stack((angles.cos(), angles.sin()))


def apply_rotary(x: Float[Tensor, "N heads T D"], table: Float[Tensor, "2 T D"]) -> Float[Tensor, "N heads T D"]:
    """Queries or keys turned by their tokens' positions."""
    cosine, sine = table.to(x.dtype).unbind(0)
    first, second = x.unflatten(-1, (2, 2, -1)).unbind(-2)
    turned = torch.stack((-second, first), dim=-2).flatten(-3)
    return x * cosine + turned * sine


def grid_positions(grid: tuple[int, int], num_special: int, device: torch.device | None = None) -> Int[Tensor, "T 2"]:
    """Positions of one frame's sequence: (0, 0) for special tokens, (row + 1, column + 1) for patches."""
    rows = torch.arange(1, grid[0] + 1, device=device)
    columns = torch.arange(1, grid[1] + 1, device=device)
    patches = torch.cartesian_prod(rows, columns)
    return torch.cat((patches.new_zeros(num_special, 2), patches))


def attend(
    q: Float[Tensor, "N heads T D"], k: Float[Tensor, "N heads S D"], v: Float[Tensor, "N heads S D"]
) -> Float[Tensor, "N heads T D"]:
    """Scaled dot-product attention; in training on a CPU, short sequences take plain matrix products.

    There the fused kernel's backward pass is the slower one (benchmarks/cpu_attention.py).
    """
    if q.device.type == "cpu" and torch.is_grad_enabled() and k.shape[-2] <= EAGER_TOKENS:
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
        return scores.softmax(-1) @ v
    return F.scaled_dot_product_attention(q, k, v)


class Attention(nn.Module):
    """Multi-head self-attention."""

    def __init__(self, dim: int, num_heads: int, qk_norm: bool = False) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"width {dim} is not divisible by {num_heads} heads")
        self.num_heads = num_heads
        head_dim = dim // num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.q_norm = nn.LayerNorm(head_dim) if qk_norm else nn.Identity()
        self.k_norm = nn.LayerNorm(head_dim) if qk_norm else nn.Identity()
        self.proj = nn.Linear(dim, dim)

    def heads(
        self, x: Float[Tensor, "N T C"], rotary: Float[Tensor, "2 T D"] | None = None
    ) -> tuple[Float[Tensor, "N heads T E"], Float[Tensor, "N heads T E"], Float[Tensor, "N heads T E"]]:
        """Queries, keys (normalised and turned) and values of every head."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        q, k = self.q_norm(q), self.k_norm(k)
        if rotary is not None:
            q, k = apply_rotary(q, rotary), apply_rotary(k, rotary)
        return q.to(v.dtype), k.to(v.dtype), v

    def forward(
        self, x: Float[Tensor, "N T C"], rotary: Float[Tensor, "2 T D"] | None = None
    ) -> Float[Tensor, "N T C"]:
        """Attention over the T tokens of each of N sequences."""
        return self.proj(attend(*self.heads(x, rotary)).transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    """Linear, GELU, linear."""

    def __init__(self, dim: int, hidden: int, out: int | None = None) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim if out is None else out)

    def forward(self, x: Float[Tensor, "*batch C"]) -> Float[Tensor, "*batch D"]:
        """Applied to the last dimension."""
        return self.fc2(F.gelu(self.fc1(x)))


class LayerScale(nn.Module):
    """A learnable factor per channel on a residual branch."""

    def __init__(self, dim: int, init: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((dim,), float(init)))

    def forward(self, x: Float[Tensor, "*batch C"]) -> Float[Tensor, "*batch C"]:
        """``gamma * x``."""
        return x * self.gamma


class Block(nn.Module):
    """Pre-norm transformer block: ``x += g1 Attention(LN x)``, ``x += g2 MLP(LN x)``.

    ``layer_scale_init`` None: without the factors g.
    """

    def __init__(
        self, dim: int, num_heads: int, mlp_ratio: float = 4.0, layer_scale_init: float | None = 0.01,
        qk_norm: bool = False, eps: float = 1e-5,
    ) -> None:  # fmt: skip
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps)
        self.attn = Attention(dim, num_heads, qk_norm)
        self.ls1 = nn.Identity() if layer_scale_init is None else LayerScale(dim, layer_scale_init)
        self.norm2 = nn.LayerNorm(dim, eps)
        self.mlp: nn.Module = Mlp(dim, int(dim * mlp_ratio))
        self.ls2 = nn.Identity() if layer_scale_init is None else LayerScale(dim, layer_scale_init)

    def forward(
        self, x: Float[Tensor, "N T C"], rotary: Float[Tensor, "2 T D"] | None = None
    ) -> Float[Tensor, "N T C"]:
        """N sequences of T tokens."""
        x = x + self.ls1(self.attn(self.norm1(x), rotary))
        return x + self.ls2(self.mlp(self.norm2(x)))
