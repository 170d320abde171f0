"""Alternating attention as VGGT's published code writes it, on our weights: global-frame attention is timed beside it.

As there, every layer's tokens are kept, and rotations are looked up by position in a table.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from vidllm.model.global_frame_attention import GlobalFrameAttention
from vidllm.model.transformer import Attention, Block


def attend_as_vggt(ours: GlobalFrameAttention, tokens: Tensor, grid: tuple[int, int]) -> list[Tensor]:
    """[frame, global] tokens (B,F,T,2C) of every layer, of patch tokens (B,F,P,C) on a grid of P patches."""
    batch, frames = tokens.shape[:2]
    own = torch.cat((ours.camera_token, ours.register_token), dim=2)
    own = torch.cat((own[:, :1], own[:, 1:].expand(-1, frames - 1, -1, -1)), dim=1).expand(batch, -1, -1, -1)
    x = torch.cat((own, tokens), dim=2)
    patches = torch.cartesian_prod(*(torch.arange(1, n + 1, device=x.device) for n in grid))
    at = torch.cat((patches.new_zeros(own.shape[2], 2), patches))
    head, frequency = x.shape[-1] // ours.config.num_heads, ours.config.rope_frequency
    table = _table(head // 2, max(grid) + 1, frequency, x)
    kept = []
    for frame_block, global_block in zip(ours.frame_blocks, ours.global_blocks, strict=True):
        within = _block(frame_block, x.flatten(0, 1), at.expand(batch * frames, -1, -1), table).view(x.shape)
        x = _block(global_block, within.flatten(1, 2), at.repeat(1, frames, 1).expand(batch, -1, -1), table)
        x = x.view(within.shape)
        kept.append(torch.cat((within, x), dim=-1))
    return kept


def _block(block: Block, x: Tensor, at: Tensor, table: tuple[Tensor, Tensor]) -> Tensor:
    x = x + block.ls1(_attention(block.attn, block.norm1(x), at, table))
    mlp = block.mlp
    return x + block.ls2(mlp.fc2(F.gelu(mlp.fc1(block.norm2(x)))))


def _attention(part: Attention, x: Tensor, at: Tensor, table: tuple[Tensor, Tensor]) -> Tensor:
    n, t, c = x.shape
    q, k, v = part.qkv(x).reshape(n, t, 3, part.num_heads, c // part.num_heads).permute(2, 0, 3, 1, 4).unbind(0)
    q, k = (_turned(norm(each), at, table) for norm, each in ((part.q_norm, q), (part.k_norm, k)))
    return part.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, t, c))


def _table(width: int, length: int, frequency: float, like: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines and sines (length, width) of every position along one axis."""
    inverse = frequency ** -(torch.arange(0, width, 2, device=like.device).float() / width)
    angles = torch.arange(length, device=like.device).float()[:, None] * inverse
    angles = torch.cat((angles, angles), dim=-1).to(like.dtype)
    return angles.cos(), angles.sin()


def _turned(x: Tensor, at: Tensor, table: tuple[Tensor, Tensor]) -> Tensor:
    """The first half of each head by the row, the second by the column."""
    turned = []
    for part, place in zip(x.chunk(2, dim=-1), at.unbind(-1), strict=True):
        cosine, sine = (F.embedding(place, each)[:, None] for each in table)
        first, second = part.chunk(2, dim=-1)
        turned.append(part * cosine + torch.cat((-second, first), dim=-1) * sine)
    return torch.cat(turned, dim=-1)
