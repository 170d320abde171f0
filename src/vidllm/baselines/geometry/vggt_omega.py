"""VGGT-Omega (arXiv 2605.15195): VGGT's form on a DINOv3 encoder, with fewer blocks over all frames.

    pictures -> DINOv3 -> blocks within frames alternate with blocks over frames; in some of the latter the camera and
    register tokens alone take part -> DPT at a quarter of the size, then pixels of a cell: depth, confidence
                                    -> blocks over all camera and register tokens: cameras

Rotary positions within a frame: patch centres in [-1, 1] of the longer side. Written from the formulas of
the authors' code, whose weights and whose own licence allow research only; the text head is not computed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from vidllm.baselines.geometry import GeometryModel, Prediction
from vidllm.baselines.geometry.depth_anything_3 import carry_inputs
from vidllm.model.dpt_head import DPTDecoder, Fusion, add_position
from vidllm.model.encoder import normalise
from vidllm.model.transformer import Block

HEAD = 64  # width of a head of attention
_FREQUENCY = 100.0
_LEAST_FOV = 0.01
_CHUNK = 8  # frames that the depth head reads at a time


@dataclass
class VGGTOmegaSettings:
    """The sizes of the published model. ``register_blocks``: blocks over frames in which patches take no part."""

    patch_size: int = 16
    hidden_size: int = 1024
    encoder_depth: int = 24
    storage_tokens: int = 4
    depth: int = 24  # pairs of blocks
    register_tokens: int = 16
    register_blocks: tuple[int, ...] = (2, 6, 9, 14, 20)
    tap_layers: tuple[int, int, int, int] = (4, 11, 17, 23)
    camera_depth: int = 4
    features: int = 256
    out_channels: tuple[int, int, int, int] = (256, 512, 1024, 1024)


def rotary_table(grid: tuple[int, int], front: int, device: torch.device | None = None) -> Float[Tensor, "2 T D"]:
    """Cosines and sines for :func:`vidllm.model.transformer.apply_rotary`; ``front`` tokens before the patches are not
    rotated.
    """
    rows, columns = ((torch.arange(n, device=device) + 0.5) / max(grid) * 2 - 1 for n in grid)
    frequencies = 2 * math.pi / _FREQUENCY ** (torch.arange(HEAD // 4, device=device) * 4 / HEAD)
    places = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), -1).flatten(0, 1)
    angles = places[..., None] * frequencies  # (P, 2, D/4)
    angles = torch.cat((angles, angles), -1).flatten(1)
    angles = F.pad(angles, (0, 0, front, 0))
    return torch.stack((angles.cos(), angles.sin()))


def _blocks(width: int, count: int, qk_norm: bool) -> nn.ModuleList:
    return nn.ModuleList(Block(width, width // HEAD, layer_scale_init=1e-5, qk_norm=qk_norm) for _ in range(count))


class _Encoder(nn.Module):
    """DINOv3: rotary positions in every block, no table of positions."""

    def __init__(self, settings: VGGTOmegaSettings) -> None:
        super().__init__()
        width, patch = settings.hidden_size, settings.patch_size
        self.patches = nn.Conv2d(3, width, patch, stride=patch)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.storage_tokens = nn.Parameter(torch.zeros(1, settings.storage_tokens, width))
        self.blocks = _blocks(width, settings.encoder_depth, qk_norm=False)
        self.norm = nn.LayerNorm(width)

    def forward(self, images: Float[Tensor, "N 3 H W"]) -> Float[Tensor, "N P C"]:
        """Patch tokens of normalised images."""
        maps = self.patches(images)
        own = torch.cat((self.cls_token, self.storage_tokens), 1)
        x = torch.cat((own.expand(len(maps), -1, -1), maps.flatten(2).transpose(1, 2)), 1)
        table = rotary_table((maps.shape[-2], maps.shape[-1]), own.shape[1], x.device)
        for block in self.blocks:
            x = block(x, table)
        return self.norm(x[:, own.shape[1] :])


class _Attention(nn.Module):
    """Blocks within frames and over frames in turn; the latter have no positions."""

    def __init__(self, settings: VGGTOmegaSettings) -> None:
        super().__init__()
        self.register_blocks, width = settings.register_blocks, settings.hidden_size
        self.camera_token = nn.Parameter(torch.zeros(1, 2, 1, width))
        self.register_token = nn.Parameter(torch.zeros(1, 2, settings.register_tokens, width))
        self.frame_blocks = _blocks(width, settings.depth, qk_norm=True)
        self.inter_frame_blocks = _blocks(width, settings.depth, qk_norm=True)

    def forward(
        self, patches: Float[Tensor, "B F P C"], grid: tuple[int, int], layers: tuple[int, ...]
    ) -> tuple[list[Float[Tensor, "B F P D"]], Float[Tensor, "B F S D"]]:
        """Patch tokens of ``layers`` and the last layer's special tokens: frame block beside block over frames."""
        batch, frames = patches.shape[:2]
        own = torch.cat((self.camera_token, self.register_token), 2)
        own = torch.cat((own[:, :1], own[:, 1:].expand(-1, frames - 1, -1, -1)), 1)
        front = own.shape[2]
        x = torch.cat((own.expand(batch, -1, -1, -1), patches), 2)
        table = rotary_table(grid, front, x.device)
        kept, both = [], x.repeat(1, 1, 1, 2)
        for index, (frame_block, over_frames) in enumerate(
            zip(self.frame_blocks, self.inter_frame_blocks, strict=True)
        ):
            within = frame_block(x.flatten(0, 1), table).view(x.shape)
            part = within[:, :, :front] if index in self.register_blocks else within
            seen = over_frames(part.flatten(1, 2)).view(part.shape)
            x = torch.cat((seen, within[:, :, seen.shape[2] :]), 2)
            both = torch.cat((within, x), -1)
            if index in layers:
                kept.append(both[:, :, front:])
        return kept, both[:, :, :front]


class _Cameras(nn.Module):
    def __init__(self, width: int, heads: int, depth: int) -> None:
        super().__init__()
        self.token_norm, self.trunk_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.trunk = nn.ModuleList(Block(width, heads, layer_scale_init=1e-5) for _ in range(depth))
        self.camera_branch = nn.Sequential(nn.Linear(width, width // 2), nn.GELU(), nn.Linear(width // 2, 9))

    def forward(self, special: Float[Tensor, "B F S D"]) -> Float[Tensor, "B F 9"]:
        """Pose encodings, in float32 or better."""
        x = self.token_norm(special).flatten(1, 2)
        for block in self.trunk:
            x = block(x)
        raw = self.camera_branch(self.trunk_norm(x.view(special.shape)[:, :, 0]))
        raw = raw.to(torch.promote_types(raw.dtype, torch.float32))
        return torch.cat((raw[..., :7], raw[..., 7:].relu() + _LEAST_FOV), -1)


class _KeptSize(Fusion):
    """The finest fusion, without enlarging."""

    def forward(self, x: Tensor, finer: Tensor | None, size: tuple[int, int]) -> Tensor:
        return super().forward(x, finer, (x.shape[-2], x.shape[-1]))


class _Depth(nn.Module):
    def __init__(self, settings: VGGTOmegaSettings) -> None:
        super().__init__()
        self.cell = settings.patch_size // 4  # pixels of a side
        self.decoder = DPTDecoder(2 * settings.hidden_size, settings.features, settings.out_channels)
        self.decoder.fusions[0] = _KeptSize(settings.features)
        carry_inputs(self.decoder)
        self.proj, self.proj_conf = (nn.Conv2d(settings.features, self.cell**2, 1) for _ in range(2))

    def forward(self, layers: list[Float[Tensor, "N P D"]], grid: tuple[int, int]) -> Float[Tensor, "N 2 H W"]:
        """Logarithms of depth, and of confidence - 1."""
        x = add_position(self.decoder(layers, grid)[-1], grid[1] / grid[0])
        return torch.cat([F.pixel_shuffle(head(x), self.cell) for head in (self.proj, self.proj_conf)], 1)


class VGGTOmega(GeometryModel):
    """Cameras and depth in one unit, which is not the metre."""

    settings: ClassVar[type] = VGGTOmegaSettings

    def __init__(self, settings: VGGTOmegaSettings) -> None:
        super().__init__()
        self.sizes = settings
        self.encoder, self.attention = _Encoder(settings), _Attention(settings)
        width = settings.hidden_size
        self.camera_head = _Cameras(2 * width, width // HEAD, settings.camera_depth)
        self.dense_head = _Depth(settings)

    def forward(self, images: Float[Tensor, "B F 3 H W"]) -> Prediction:
        """Geometry of images in [0, 1]; H and W are multiples of the patch size."""
        batch = images.shape[:2]
        grid = images.shape[-2] // self.sizes.patch_size, images.shape[-1] // self.sizes.patch_size
        patches = self.encoder(normalise(images).flatten(0, 1)).unflatten(0, batch)
        layers, special = self.attention(patches, grid, self.sizes.tap_layers)
        chunks = zip(*(tokens.flatten(0, 1).split(_CHUNK) for tokens in layers), strict=True)
        raw = torch.cat([self.dense_head(list(part), grid).float() for part in chunks]).unflatten(0, batch)
        return Prediction(self.camera_head(special), raw[:, :, 0].exp(), 1 + raw[:, :, 1].exp())
