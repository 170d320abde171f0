"""Global-frame attention (Figure 2): blocks within each frame alternate with blocks over all frames.

The form is VGGT's (docs/method.md, section 4). Camera and register tokens precede the patches; the first frame, which
defines the world frame, has its own. Only the outputs of layers that are used are kept in memory.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vidllm.model.configuration import AttentionConfig
from vidllm.model.outputs import GlobalFrameOutput
from vidllm.model.transformer import Block, RotaryPosition2D, grid_positions, init_linear


class GlobalFrameAttention(nn.Module):
    """Alternating attention over B scenes of F frames; ``eps`` is that of the blocks' norms."""

    def __init__(self, config: AttentionConfig, hidden_size: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.config = config
        self.gradient_checkpointing = False
        self.camera_token = nn.Parameter(torch.empty(1, 2, 1, hidden_size))
        self.register_token = nn.Parameter(torch.empty(1, 2, config.num_register_tokens, hidden_size))
        sizes = config.num_heads, config.mlp_ratio, config.layer_scale_init, config.qk_norm, eps
        self.frame_blocks, self.global_blocks = (
            nn.ModuleList(Block(hidden_size, *sizes) for _ in range(config.depth)) for _ in range(2)
        )
        rotates = config.rope_frequency > 0
        self.rotary = RotaryPosition2D(hidden_size // config.num_heads, config.rope_frequency) if rotates else None
        init_linear(self)
        nn.init.normal_(self.camera_token, std=1e-6)
        nn.init.normal_(self.register_token, std=1e-6)

    def forward(
        self,
        tokens: Float[Tensor, "B F P C"],
        grid: tuple[int, int],
        layers: Sequence[int],
        extra: Float[Tensor, "B F E C"] | None = None,
    ) -> GlobalFrameOutput:
        """Run all layers; keep those in ``layers`` (0-based).

        ``grid`` = patches down and across. ``extra`` tokens (the adapter's bridge tokens) join each frame's special
        tokens: [camera, registers, extra, patches].
        """
        if grid[0] * grid[1] != tokens.shape[2]:
            raise ValueError(f"grid {grid} has {grid[0] * grid[1]} patches, but the tokens have {tokens.shape[2]}")
        outside = [index for index in layers if not 0 <= index < self.config.depth]
        if outside:
            raise ValueError(f"tapped layers {outside} are outside 0..{self.config.depth - 1}")
        frames, special = tokens.shape[1], 1 + self.config.num_register_tokens
        x = self._sequence(tokens, extra)
        before = x.shape[2] - tokens.shape[2]
        within = across = None
        if self.rotary is not None:
            within = self.rotary(grid_positions(grid, before, x.device))
            across = within.repeat(1, frames, 1)  # no position in time
        kept: dict[int, Tensor] = {}
        last = x[:, :, :special].repeat(1, 1, 1, 2)
        for index, (frame_block, global_block) in enumerate(zip(self.frame_blocks, self.global_blocks, strict=True)):
            frame_out = self._run(frame_block, x.flatten(0, 1), within).view(x.shape)
            x = self._run(global_block, frame_out.flatten(1, 2), across).view(x.shape)
            if index in layers:
                kept[index] = torch.cat((frame_out[:, :, before:], x[:, :, before:]), dim=-1)
            if index == self.config.depth - 1:
                last = torch.cat((frame_out[:, :, :special], x[:, :, :special]), dim=-1)
        return GlobalFrameOutput({index: kept[index] for index in layers}, last)

    def _sequence(self, tokens: Tensor, extra: Tensor | None) -> Tensor:
        """[camera, registers, extra, patches] of every frame; the first frame has its own camera and registers."""
        batch, frames = tokens.shape[:2]
        own = torch.cat((self.camera_token, self.register_token), dim=2)  # (1, 2, 1 + R, C)
        own = torch.cat((own[:, :1], own[:, 1:].expand(-1, frames - 1, -1, -1)), dim=1)
        own = own.expand(batch, -1, -1, -1).to(tokens.dtype)
        return torch.cat((own, tokens) if extra is None else (own, extra, tokens), dim=2)

    def _run(self, block: nn.Module, x: Tensor, rotary: Tensor | None) -> Tensor:
        if self.gradient_checkpointing and self.training:
            return checkpoint(block, x, rotary, use_reentrant=False)
        return block(x, rotary)
