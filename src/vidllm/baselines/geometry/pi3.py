"""Pi3 and Pi3X (arXiv 2507.13347): cameras and local points of every frame, independent of the order of the frames.

    frames -> DINOv2 -> alternating attention, no frame the first -> | points: (x/z, y/z, log z) a pixel
                                                                      | confidence a pixel
                                                                      | camera: nearest rotation, translation
                                                                      | metres a unit (Pi3X), one a scene

The parts are those of the reconstruction branch: our encoder and global-frame attention, whose special tokens are the
same in all frames here. Pi3 reads pixels off tokens by one linear layer, Pi3X by convolutions. Written from the
formulas of the authors' code (BSD-3-Clause); conditioning on known cameras or depth is not computed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from vidllm.baselines.geometry import GeometryModel, Prediction
from vidllm.baselines.geometry.moge_2 import view_plane
from vidllm.baselines.geometry.parts import MeanCamera, from_local_points
from vidllm.geometry.cameras import to_homogeneous
from vidllm.model.configuration import AttentionConfig, EncoderConfig
from vidllm.model.encoder import DinoEncoder
from vidllm.model.global_frame_attention import GlobalFrameAttention
from vidllm.model.transformer import Block, Mlp, RotaryPosition2D, apply_rotary, attend, grid_positions

_HEAD = 64  # width of a head of attention
_EPS = 1e-6
_MAX_LOG_DEPTH = 15.0
_CHUNK = 8  # frames that the heads of pixels read at a time


@dataclass
class Pi3Settings:
    """Widths of tokens and numbers of blocks; heads of attention are 64 wide throughout."""

    patch_size: int = 14
    image_size: int = 518  # side of the encoder's position table
    hidden_size: int = 1024  # of the encoder and of global-frame attention
    encoder_depth: int = 24
    encoder_registers: int = 4
    depth: int = 18  # pairs of (frame, global) blocks
    special_tokens: int = 5
    decoder_width: int = 1024  # of the decoders of points, confidence and cameras
    decoder_depth: int = 5
    point_width: int = 1024  # of what they give to the heads
    camera_width: int = 512
    metric_width: int = 512
    upsampling: tuple[int, ...] = (256, 128, 64)
    last_channels: int = 32


class TokenDecoder(nn.Module):
    """A few blocks of attention within each frame."""

    def __init__(self, dim_in: int, width: int, depth: int, dim_out: int) -> None:
        super().__init__()
        self.projects = nn.Linear(dim_in, width)
        self.blocks = nn.ModuleList(
            Block(width, width // _HEAD, layer_scale_init=None, eps=_EPS) for _ in range(depth)
        )
        self.linear_out = nn.Linear(width, dim_out)

    def forward(self, tokens: Float[Tensor, "N T D"], rotary: Float[Tensor, "2 T E"]) -> Float[Tensor, "N T O"]:
        """Tokens of N frames."""
        hidden = self.projects(tokens)
        for block in self.blocks:
            hidden = block(hidden, rotary)
        return self.linear_out(hidden)


class _CrossAttention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.num_heads = width // _HEAD
        self.q_proj, self.k_proj, self.v_proj, self.proj = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor, context: Tensor, rotary: Tensor) -> Tensor:
        """Queries have position zero: only keys are rotated."""
        q, k, v = (
            project(seen).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for project, seen in ((self.q_proj, x), (self.k_proj, context), (self.v_proj, context))
        )
        return self.proj(attend(q, apply_rotary(k, rotary), v).transpose(1, 2).flatten(2))


class _ReadingBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm2, self.norm_y, self.norm3 = (nn.LayerNorm(width, eps=_EPS) for _ in range(3))
        self.cross_attn = _CrossAttention(width)
        self.mlp = Mlp(width, 4 * width)

    def forward(self, x: Tensor, context: Tensor, rotary: Tensor) -> Tensor:
        x = x + self.cross_attn(self.norm2(x), self.norm_y(context), rotary)
        return x + self.mlp(self.norm3(x))


class SceneReader(nn.Module):
    """Cross-attention from queries to all tokens of a scene."""

    def __init__(self, dim_in: int, width: int, depth: int) -> None:
        super().__init__()
        self.projects_x, self.projects_y = nn.Linear(dim_in, width), nn.Linear(dim_in, width)
        self.blocks = nn.ModuleList(_ReadingBlock(width) for _ in range(depth))
        self.linear_out = nn.Linear(width, width)

    def forward(
        self, query: Float[Tensor, "B Q D"], tokens: Float[Tensor, "B T D"], rotary: Float[Tensor, "2 T E"]
    ) -> Float[Tensor, "B Q W"]:
        """The output for each query."""
        x, context = self.projects_x(query), self.projects_y(tokens)
        for block in self.blocks:
            x = block(x, context, rotary)
        return self.linear_out(x)


class _ResidualConv(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = 2 * channels
        self.layers = nn.Sequential(
            nn.GroupNorm(1, channels), nn.ReLU(), _conv(channels, hidden),
            nn.GroupNorm(hidden // 32, hidden), nn.ReLU(), _conv(hidden, channels),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


def _conv(channels: int, out: int) -> nn.Conv2d:
    return nn.Conv2d(channels, out, 3, padding=1, padding_mode="replicate")


class ConvolutionalPixels(nn.Module):
    """From tokens to pixels: three times twice as large, then to the image's size (MoGe's head).

    Every stage has the coordinates of its cells in the image as input.
    """

    def __init__(self, dim_in: int, upsampling: tuple[int, ...], last: int, dims_out: tuple[int, ...]) -> None:
        super().__init__()
        self.upsample_blocks = nn.ModuleList(
            nn.Sequential(
                nn.Sequential(nn.ConvTranspose2d(before + 2, after, 2, stride=2), _conv(after, after)),
                _ResidualConv(after), _ResidualConv(after),
            )
            for before, after in zip((dim_in, *upsampling[:-1]), upsampling, strict=True)
        )  # fmt: skip
        self.output_block = nn.ModuleList(
            nn.Sequential(_conv(upsampling[-1] + 2, last), nn.ReLU(), nn.Conv2d(last, out, 1)) for out in dims_out
        )

    def forward(self, tokens: Float[Tensor, "N P C"], grid: tuple[int, int], patch: int) -> Float[Tensor, "N H W out"]:
        """Channels of all outputs, one after another."""
        size = grid[0] * patch, grid[1] * patch
        x = tokens.transpose(1, 2).unflatten(2, grid)
        for block in self.upsample_blocks:
            x = block(_with_places(x, size))
        x = _with_places(F.interpolate(x, size, mode="bilinear", align_corners=False), size)
        return torch.cat([block(x) for block in self.output_block], 1).movedim(1, -1)


def _with_places(x: Tensor, image_size: tuple[int, int]) -> Tensor:
    """Two more channels: the coordinates of the cells in the image."""
    places = view_plane(x.shape[-2], x.shape[-1], image_size[1] / image_size[0]).to(x).movedim(-1, 0)
    return torch.cat((x, places.expand(len(x), -1, -1, -1)), 1)


class LinearPixels(nn.Module):
    """From a token to the pixels of its patch."""

    def __init__(self, dim_in: int, patch: int, out: int) -> None:
        super().__init__()
        self.proj = nn.Linear(dim_in, out * patch**2)

    def forward(self, tokens: Float[Tensor, "N P C"], grid: tuple[int, int], patch: int) -> Float[Tensor, "N H W out"]:
        """As :class:`ConvolutionalPixels`."""
        return F.pixel_shuffle(self.proj(tokens).transpose(1, 2).unflatten(2, grid), patch).movedim(1, -1)


def nearest_rotation(matrix: Float[Tensor, "*batch 9"]) -> Float[Tensor, "*batch 3 3"]:
    """The rotation nearest to nine numbers as rows, each row at length one."""
    u, _, v = torch.linalg.svd(F.normalize(matrix.float().unflatten(-1, (3, 3)), dim=-1))
    turn = torch.ones_like(u[..., 0])
    turn[..., 2] = torch.det(u @ v)
    return u * turn[..., None, :] @ v


class Pi3(GeometryModel):
    """Pi3: points of each patch by one linear layer, at a scale of their own."""

    settings: ClassVar[type] = Pi3Settings

    def __init__(self, settings: Pi3Settings) -> None:
        super().__init__()
        s = settings
        self.encoder = DinoEncoder(EncoderConfig(
            s.hidden_size, s.encoder_depth, s.hidden_size // _HEAD, patch_size=s.patch_size, image_size=s.image_size,
            num_register_tokens=s.encoder_registers, tap_layers=(),
        ))  # fmt: skip
        self.attention = GlobalFrameAttention(AttentionConfig(
            s.depth, s.hidden_size // _HEAD, num_register_tokens=s.special_tokens - 1,
        ), s.hidden_size, _EPS)  # fmt: skip
        both = 2 * s.hidden_size
        self.rotary = RotaryPosition2D(_HEAD)
        self.point_decoder, self.conf_decoder, self.camera_decoder = (
            TokenDecoder(both, s.decoder_width, s.decoder_depth, out)
            for out in (s.point_width, s.point_width, s.camera_width)
        )
        self.point_head, self.conf_head = self._pixels(s, (2, 1)), self._pixels(s, (1,))
        self.camera_head = MeanCamera(s.camera_width, 9)

    def _pixels(self, settings: Pi3Settings, dims: tuple[int, ...]) -> nn.Module:
        return LinearPixels(settings.point_width, settings.patch_size, sum(dims))

    def forward(self, images: Float[Tensor, "B F 3 H W"]) -> Prediction:
        """Geometry; the focal lengths are those of the local points, the principal point lies in the middle.

        Confidence is 1 + the odds that a point is good, of which the authors' code gives the logarithm.
        """
        points, logits, pose, metres = self.predict(images)
        return from_local_points(points, pose, metres, 1 + logits.exp())

    def predict(
        self, images: Float[Tensor, "B F 3 H W"]
    ) -> tuple[Float[Tensor, "B F H W 3"], Float[Tensor, "B F H W"], Float[Tensor, "B F 4 4"], Float[Tensor, " B"]]:
        """Local points, logits of their confidence, world-from-camera, and metres a unit of these (1 for Pi3)."""
        seen = self.encoder(images)
        last, frames = len(self.attention.frame_blocks) - 1, images.shape[:2]
        attended = self.attention(seen.tokens, seen.grid, [last])
        tokens = torch.cat((attended.special, attended.intermediate_features[last]), 2)
        front = attended.special.shape[2]
        table = self.rotary(grid_positions(seen.grid, front, tokens.device))

        def decoded(decoder: nn.Module) -> Tensor:
            return decoder(tokens.flatten(0, 1), table)[:, front:]

        xyz = self._read(self.point_head, decoded(self.point_decoder), seen.grid)
        logits = self._read(self.conf_head, decoded(self.conf_decoder), seen.grid)[..., 0]
        translation, nine = self.camera_head(decoded(self.camera_decoder))
        pose = to_homogeneous(torch.cat((nearest_rotation(nine), translation.float()[..., None]), -1))
        depth = xyz[..., 2:].clamp(max=_MAX_LOG_DEPTH).exp()
        points = torch.cat((xyz[..., :2] * depth, depth), -1)
        found = (part.unflatten(0, frames) for part in (points, logits, pose))
        return *found, self._metres(tokens, table)

    def _metres(self, tokens: Float[Tensor, "B F T D"], table: Float[Tensor, "2 T E"]) -> Float[Tensor, " B"]:
        return tokens.new_ones(len(tokens), dtype=torch.float32)

    def _read(self, head: nn.Module, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """Pixels in float32, a few frames at a time."""
        patch = self.encoder.config.patch_size
        return torch.cat([head(part, grid, patch).float() for part in tokens.split(_CHUNK)])


class Pi3X(Pi3):
    """Pi3X: smoother points, and metres."""

    metric: ClassVar[bool] = True

    def __init__(self, settings: Pi3Settings) -> None:
        super().__init__(settings)
        both = 2 * settings.hidden_size
        self.metric_token = nn.Parameter(torch.zeros(1, 1, both))
        self.metric_decoder = SceneReader(both, settings.metric_width, settings.decoder_depth)
        self.metric_head = nn.Linear(settings.metric_width, 1)

    def _pixels(self, settings: Pi3Settings, dims: tuple[int, ...]) -> nn.Module:
        return ConvolutionalPixels(settings.point_width, settings.upsampling, settings.last_channels, dims)

    def _metres(self, tokens: Float[Tensor, "B F T D"], table: Float[Tensor, "2 T E"]) -> Float[Tensor, " B"]:
        query = self.metric_token.expand(len(tokens), -1, -1)
        found = self.metric_decoder(query, tokens.flatten(1, 2), table.repeat(1, tokens.shape[1], 1))
        return self.metric_head(found)[:, 0, 0].float().exp()
