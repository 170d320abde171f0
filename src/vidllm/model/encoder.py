"""The shared encoder: DINOv2 with registers (docs/method.md, section 2), whose patch tokens feed every branch.

The names of the weights are those of transformers' ``Dinov2WithRegistersModel``, to whose outputs a test holds them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from vidllm.model.configuration import EncoderConfig
from vidllm.model.outputs import EncoderOutput
from vidllm.model.transformer import Mlp, attend

IMAGE_MEAN = (0.485, 0.456, 0.406)
IMAGE_STD = (0.229, 0.224, 0.225)
#: Older names of attention's weights, which checkpoints may have, and their names here.
OLDER_NAMES = {
    r"\.attention\.attention\.query\.": ".attention.q_proj.",
    r"\.attention\.attention\.key\.": ".attention.k_proj.",
    r"\.attention\.attention\.value\.": ".attention.v_proj.",
    r"\.attention\.output\.dense\.": ".attention.o_proj.",
}


class Embeddings(nn.Module):
    """Images as tokens: class token, registers, patches; all but the registers with their place in the image.

    ``offset``: added to the patches of each side where the position table is resized (0.1 in DINOv2's older code).
    """

    offset = 0.0

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        width, side = config.hidden_size, config.image_size // config.patch_size
        self.antialias = config.position_antialias
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.mask_token = nn.Parameter(torch.zeros(1, width))  # of DINOv2's own training; not used
        self.register_tokens = nn.Parameter(torch.zeros(1, config.num_register_tokens, width))
        self.position_embeddings = nn.Parameter(torch.empty(1, side**2 + 1, width))
        self.patch_embeddings = nn.ModuleDict(
            {"projection": nn.Conv2d(3, width, config.patch_size, stride=config.patch_size)}
        )

    def forward(self, images: Float[Tensor, "N 3 H W"]) -> Float[Tensor, "N T C"]:
        """T = 1 + registers + patches."""
        patches = self.patch_embeddings["projection"](images)
        places = self._places(patches.shape[-2:])
        count, tokens = len(images), patches.flatten(2).transpose(1, 2)
        tokens = torch.cat((self.cls_token.expand(count, -1, -1), tokens), dim=1) + places
        return torch.cat((tokens[:, :1], self.register_tokens.expand(count, -1, -1), tokens[:, 1:]), dim=1)

    def _places(self, grid: torch.Size) -> Tensor:
        """The position table as it is for its own square grid, else resized (bicubic, in float32)."""
        table = self.position_embeddings
        side = int((table.shape[1] - 1) ** 0.5)
        if tuple(grid) == (side, side):
            return table
        square = table[:, 1:].unflatten(1, (side, side)).permute(0, 3, 1, 2).float()
        to: dict[str, Any] = {"size": tuple(grid)}
        if self.offset:
            to = {"scale_factor": tuple((n + self.offset) / side for n in grid)}
        resized = F.interpolate(square, mode="bicubic", align_corners=False, antialias=self.antialias, **to)
        return torch.cat((table[:, :1], resized.to(table.dtype).flatten(2).transpose(1, 2)), dim=1)


class _Attention(nn.Module):
    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Float[Tensor, "N T C"]) -> Float[Tensor, "N T C"]:
        """Attention over the T tokens of each of N images."""
        q, k, v = (
            project(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        return self.o_proj(attend(q, k, v).transpose(1, 2).flatten(2))


class _LayerScale(nn.Module):
    def __init__(self, width: int, init: float) -> None:
        super().__init__()
        self.lambda1 = nn.Parameter(torch.full((width,), float(init)))

    def forward(self, x: Float[Tensor, "N T C"]) -> Float[Tensor, "N T C"]:
        """A factor a channel."""
        return x * self.lambda1


class EncoderBlock(nn.Module):
    """Pre-norm transformer block with LayerScale."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        width, eps = config.hidden_size, config.layer_norm_eps
        self.norm1 = nn.LayerNorm(width, eps=eps)
        self.attention = _Attention(width, config.num_heads)
        self.layer_scale1 = _LayerScale(width, config.layer_scale_init)
        self.norm2 = nn.LayerNorm(width, eps=eps)
        self.mlp = Mlp(width, int(width * config.mlp_ratio))
        self.layer_scale2 = _LayerScale(width, config.layer_scale_init)

    def forward(self, x: Float[Tensor, "N T C"]) -> Float[Tensor, "N T C"]:
        """N images of T tokens."""
        x = self.layer_scale1(self.attention(self.norm1(x))) + x
        return self.layer_scale2(self.mlp(self.norm2(x))) + x


class _Backbone(nn.Module):
    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.embeddings = Embeddings(config)
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList(EncoderBlock(config) for _ in range(config.depth))})
        self.layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                nn.init.trunc_normal_(module.weight, std=0.02)
                assert module.bias is not None
                nn.init.zeros_(module.bias)
        for table in (self.embeddings.position_embeddings, self.embeddings.cls_token):
            nn.init.trunc_normal_(table, std=0.02)


class DinoEncoder(nn.Module):
    """DINOv2 with registers on every frame; ImageNet normalisation happens inside.

    The position table is used as it is for square inputs of its own grid, else resized (bicubic; antialiased unless
    ``config.position_antialias`` is off).
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        _check(config)
        self.config = config
        self.gradient_checkpointing = False
        self.backbone = _Backbone(config)

    @property
    def blocks(self) -> nn.ModuleList:
        """The transformer blocks in order."""
        return self.backbone.encoder["layer"]  # type: ignore[return-value]

    def forward(self, images: Float[Tensor, "B F 3 H W"]) -> EncoderOutput:
        """Encode images in [0, 1]; ValueError when H or W is not a multiple of the patch size."""
        batch, frames = images.shape[:2]
        grid = self.grid(images.shape[-2], images.shape[-1])
        hidden = self.backbone.embeddings(normalise(images).flatten(0, 1))
        kept: dict[int, Tensor] = {}
        for index, block in enumerate(self.blocks):
            if self.gradient_checkpointing and self.training:
                hidden = checkpoint(block, hidden, use_reentrant=False)
            else:
                hidden = block(hidden)
            if index in self.config.tap_layers:
                kept[index] = self._patches(hidden, batch, frames)
        tokens = self._patches(self.backbone.layernorm(hidden), batch, frames)
        return EncoderOutput(tokens, [kept[index] for index in self.config.tap_layers], grid)

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Patches down and across an image of ``height`` x ``width`` pixels."""
        patch = self.config.patch_size
        if height % patch or width % patch or min(height, width) < patch:
            raise ValueError(
                f"image height and width must be positive multiples of the patch size {patch}, got {height} x {width}; "
                "resize or crop the frames first"
            )
        return height // patch, width // patch

    def _patches(self, hidden: Tensor, batch: int, frames: int) -> Tensor:
        """Patch tokens alone: the class token and the registers stand before them."""
        return hidden[:, 1 + self.config.num_register_tokens :].unflatten(0, (batch, frames))


def normalise(images: Float[Tensor, "*batch 3 H W"]) -> Float[Tensor, "*batch 3 H W"]:
    """Images in [0, 1] with ImageNet's channel means and deviations taken out."""
    mean = images.new_tensor(IMAGE_MEAN)[:, None, None]
    std = images.new_tensor(IMAGE_STD)[:, None, None]
    return (images - mean) / std


def newer_names(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A model's weights with the encoder's under their names here (:data:`OLDER_NAMES`), in the same order."""
    found = {}
    for name, value in weights.items():
        for pattern, ours in OLDER_NAMES.items() if "encoder.backbone." in name else ():
            name = re.sub(pattern, ours, name)
        found[name] = value
    return found


def _check(config: EncoderConfig) -> None:
    if config.mlp_ratio != int(config.mlp_ratio):
        raise ValueError(f"encoder mlp_ratio must be a whole number, got {config.mlp_ratio}")
    if config.hidden_size % config.num_heads:
        raise ValueError(f"encoder width {config.hidden_size} is not divisible by {config.num_heads} heads")
    outside = [index for index in config.tap_layers if not 0 <= index < config.depth]
    if outside:
        raise ValueError(f"encoder tap_layers {outside} are outside 0..{config.depth - 1}")
