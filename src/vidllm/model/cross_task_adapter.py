"""Cross-Task Adapter: encoder tokens become a geometric and a semantic stream, which exchange information through a few
learnable bridge tokens (Eqs 1 and 2, Table 6).

Eq 1 and all write-backs are residuals, ``T + gamma * phi(norm(T))``. With gamma = 0 at the start (``layer_scale_init``)
both streams initially equal the encoder's tokens in all variants; gamma has a gradient from the first step.
``config.residual = False`` is Eq 1 as printed. Eq 2 is literal: the sum of two attentions, without a residual.

The cost is linear in the number of patches, because the streams meet only in the K bridge tokens.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vidllm.model.configuration import AdapterConfig
from vidllm.model.outputs import AdapterOutput
from vidllm.model.transformer import attend


class MultiHeadAttention(nn.Module):
    """Standard multi-head attention of ``queries`` over ``memory``; never forms the attention matrix itself."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        if width % num_heads:
            raise ValueError(f"width {width} is not a multiple of num_heads {num_heads}: choose a divisor of the width")
        self.num_heads = num_heads
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.output = nn.Linear(width, width)

    def forward(self, queries: Float[Tensor, "N M C"], memory: Float[Tensor, "N S C"]) -> Float[Tensor, "N M C"]:
        """Attend from M queries to S memory tokens."""
        q = self._heads(self.query(queries))
        k, v = (self._heads(part) for part in self.key_value(memory).chunk(2, dim=-1))
        mixed = attend(q, k, v)
        return self.output(mixed.transpose(1, 2).flatten(2))

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


class StreamProjection(nn.Module):
    """phi of Eq 1: ``T + gamma * Linear(GELU(Linear(norm(T))))`` with the hidden width ``expansion * C``.

    Without ``residual`` it is as printed in the paper: ``Linear(GELU(Linear(T)))``.
    """

    def __init__(self, width: int, expansion: int, layer_scale_init: float, residual: bool = True) -> None:
        super().__init__()
        self.residual = residual
        self.norm = nn.LayerNorm(width) if residual else nn.Identity()
        self.expand = nn.Linear(width, expansion * width)
        self.contract = nn.Linear(expansion * width, width)
        if residual:
            self.gamma = nn.Parameter(torch.full((width,), layer_scale_init))

    def forward(self, tokens: Float[Tensor, "*batch C"]) -> Float[Tensor, "*batch C"]:
        """Project every token by itself."""
        projected = self.contract(F.gelu(self.expand(self.norm(tokens))))
        return tokens + self.gamma * projected if self.residual else projected


class ResidualAttention(nn.Module):
    """``x + gamma * Attn(norm(x), norm(memory))``, self-attention when no memory is given."""

    def __init__(self, width: int, num_heads: int, layer_scale_init: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.norm_memory = nn.LayerNorm(width)
        self.attention = MultiHeadAttention(width, num_heads)
        self.gamma = nn.Parameter(torch.full((width,), layer_scale_init))

    def forward(self, x: Float[Tensor, "N M C"], memory: Float[Tensor, "N S C"]) -> Float[Tensor, "N M C"]:
        """``x`` plus its attention to ``memory``."""
        return x + self.gamma * self.attention(self.norm(x), self.norm_memory(memory))


class Bridge(nn.Module):
    """Eq 2 and the write-back: K learnable tokens read both streams, then both streams read them."""

    def __init__(self, config: AdapterConfig, width: int) -> None:
        super().__init__()
        heads, start = config.num_heads, config.layer_scale_init
        self.tokens = nn.Parameter(torch.empty(config.bridge_tokens, width))
        nn.init.normal_(self.tokens, std=width**-0.5)
        self.norm = nn.LayerNorm(width)
        self.norm_geometry = nn.LayerNorm(width)
        self.norm_language = nn.LayerNorm(width)
        self.read_geometry = MultiHeadAttention(width, heads)
        self.read_language = MultiHeadAttention(width, heads)
        self.write_geometry = ResidualAttention(width, heads, start)
        self.write_language = ResidualAttention(width, heads, start)
        self.fuse_geometry = ResidualAttention(width, heads, start) if config.fuse_streams else None
        self.fuse_language = ResidualAttention(width, heads, start) if config.fuse_streams else None

    def forward(
        self, geometry: Float[Tensor, "N M C"], language: Float[Tensor, "N M C"]
    ) -> tuple[Float[Tensor, "N M C"], Float[Tensor, "N M C"], Float[Tensor, "N K C"]]:
        """Both streams after the exchange, and the bridge T'_bridge."""
        read = geometry, language
        if self.fuse_geometry is not None and self.fuse_language is not None:  # T^fused, read by the bridge only
            read = self.fuse_geometry(geometry, geometry), self.fuse_language(language, language)
        queries = self.norm(self.tokens).expand(geometry.shape[0], -1, -1)
        bridge = self.read_geometry(queries, self.norm_geometry(read[0]))
        bridge = bridge + self.read_language(queries, self.norm_language(read[1]))
        return self.write_geometry(geometry, bridge), self.write_language(language, bridge), bridge


class ConcatSelfAttention(nn.Module):
    """Ablation: both streams concatenated, distinguished by a learned embedding, in one self-attention."""

    def __init__(self, config: AdapterConfig, width: int) -> None:
        super().__init__()
        self.stream = nn.Parameter(torch.zeros(2, width))
        self.mix = ResidualAttention(width, config.num_heads, config.layer_scale_init)

    def forward(
        self, geometry: Float[Tensor, "N M C"], language: Float[Tensor, "N M C"]
    ) -> tuple[Float[Tensor, "N M C"], Float[Tensor, "N M C"], None]:
        """Both streams after one joint self-attention."""
        both = torch.cat([geometry, language], dim=1)
        marked = torch.cat([geometry + self.stream[0], language + self.stream[1]], dim=1)
        mixed = both + self.mix.gamma * self.mix.attention(self.mix.norm(marked), self.mix.norm_memory(marked))
        out_geometry, out_language = mixed.chunk(2, dim=1)
        return out_geometry, out_language, None


class CrossAttention(nn.Module):
    """Ablation: each stream attends to the other directly, without a bridge."""

    def __init__(self, config: AdapterConfig, width: int) -> None:
        super().__init__()
        self.geometry_reads = ResidualAttention(width, config.num_heads, config.layer_scale_init)
        self.language_reads = ResidualAttention(width, config.num_heads, config.layer_scale_init)

    def forward(
        self, geometry: Float[Tensor, "N M C"], language: Float[Tensor, "N M C"]
    ) -> tuple[Float[Tensor, "N M C"], Float[Tensor, "N M C"], None]:
        """Both streams after reading each other."""
        return self.geometry_reads(geometry, language), self.language_reads(language, geometry), None


#: How the streams exchange, by ``variant``.
EXCHANGES: dict[str, type[Bridge | ConcatSelfAttention | CrossAttention] | None] = {
    "none": None, "concat_self_attention": ConcatSelfAttention, "cross_attention": CrossAttention, "bridge": Bridge
}  # fmt: skip


class CrossTaskAdapter(nn.Module):
    """Encoder tokens in, geometric tokens, semantic tokens and bridge tokens out.

    The exchange covers all frames of a scene, as in Eq 2, or each frame with ``config.bridge_per_frame`` (all
    variants).

    Raises:
        ValueError: for an unknown variant, or a width that is not a multiple of the number of heads.
    """

    def __init__(self, config: AdapterConfig, hidden_size: int) -> None:
        super().__init__()
        if config.variant not in EXCHANGES:
            raise ValueError(f"unknown adapter variant {config.variant!r}; expected one of {', '.join(EXCHANGES)}")
        self.config = config
        phi = hidden_size, config.expansion, config.layer_scale_init, config.residual
        self.phi_geometry, self.phi_language = StreamProjection(*phi), StreamProjection(*phi)
        kind = EXCHANGES[config.variant]
        self.exchange = None if kind is None else kind(config, hidden_size)

    def forward(self, tokens: Float[Tensor, "B F P C"]) -> AdapterOutput:
        """Eq 1, Eq 2 and the write-back."""
        geometry, language = self.phi_geometry(tokens), self.phi_language(tokens)
        if self.exchange is None:
            return AdapterOutput(geometry, language, None)
        span = (0, 1) if self.config.bridge_per_frame else (1, 2)  # a frame is one sequence, or the scene is
        geometry, language, bridge = self.exchange(geometry.flatten(*span), language.flatten(*span))
        if bridge is not None and self.config.bridge_per_frame:
            bridge = bridge.unflatten(0, tokens.shape[:2])
        return AdapterOutput(geometry.reshape(tokens.shape), language.reshape(tokens.shape), bridge)
