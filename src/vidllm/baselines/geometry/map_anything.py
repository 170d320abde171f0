"""MapAnything (arXiv 2509.13414, version 1.1) from pictures alone: rays, depths, cameras and metres.

    pictures -> the first 24 blocks of DINOv2-giant; patches normalised -> 16 of its form that attend over all frames
    and within frames in turn; a scale token takes part over frames, the class tokens in both
             -> DPT on the encoder's patches and three layers: ray, depth along it, confidence, mask a pixel
             -> mean of patches: camera; scale token: metres a unit

A fixed embedding marks the first frame, whose camera is about the world frame. Written from the formulas of the
authors' code (Apache-2.0) and of the library UniCeption (BSD-3-Clause); inputs other than pictures are not computed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from vidllm.baselines.geometry import GeometryModel, Prediction
from vidllm.baselines.geometry.depth_anything_3 import carry_inputs
from vidllm.baselines.geometry.parts import MeanCamera, dinov2_embeddings, from_local_points
from vidllm.geometry.cameras import to_homogeneous
from vidllm.geometry.rotations import quaternion_to_matrix
from vidllm.model.dpt_head import DPTDecoder, Fusion
from vidllm.model.encoder import normalise
from vidllm.model.transformer import Block

_HEAD = 64  # width of a head of attention
_EPS = 1e-6
_CHUNK = 8  # frames that the head of pixels reads at a time


@dataclass
class MapAnythingSettings:
    """The sizes of the published model. ``taps``: shared blocks that the head of pixels reads beside the last."""

    patch_size: int = 14
    image_size: int = 518  # side of the encoder's position table
    hidden_size: int = 1536
    encoder_depth: int = 24
    depth: int = 16
    taps: tuple[int, int] = (7, 11)
    features: int = 256
    out_channels: tuple[int, int, int, int] = (96, 192, 384, 768)
    camera_width: int = 784
    scale_width: int = 196


class _GatedMlp(nn.Module):
    """``w3(silu(a) * b)`` of ``(a, b) = w12(x)``, as wide as DINOv2-giant makes it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        hidden = (4 * width * 2 // 3 + 7) // 8 * 8
        self.w12, self.w3 = nn.Linear(width, 2 * hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.w12(x).chunk(2, -1)
        return self.w3(F.silu(a) * b)


def _blocks(width: int, count: int) -> nn.ModuleList:
    blocks = nn.ModuleList(Block(width, width // _HEAD, layer_scale_init=1.0, eps=_EPS) for _ in range(count))
    for block in blocks:
        block.mlp = _GatedMlp(width)
    return blocks


class _CroppedFusion(Fusion):
    """Twice as large, then cut to size: of an odd number of rows the coarsest map has half of one too many."""

    def forward(self, x: Tensor, finer: Tensor | None, size: tuple[int, int]) -> Tensor:
        return super().forward(x, finer, (2 * x.shape[-2], 2 * x.shape[-1]))[..., : size[0], : size[1]]


class _Pixels(nn.Module):
    """DPT without norms; six channels a pixel."""

    def __init__(self, width: int, features: int, out_channels: tuple[int, int, int, int]) -> None:
        super().__init__()
        self.decoder = DPTDecoder((width,) * 4, features, out_channels, position_embedding=False)
        self.decoder.norm = nn.ModuleList(nn.Identity() for _ in range(4))
        self.decoder.fusions[3] = _CroppedFusion(features, coarsest=True)
        carry_inputs(self.decoder)
        half = features // 2
        self.narrow = nn.Conv2d(features, half, 3, padding=1)
        self.out = nn.Sequential(nn.Conv2d(half, half, 3, padding=1), nn.ReLU(), nn.Conv2d(half, 6, 1))

    def forward(self, layers: list[Tensor], grid: tuple[int, int], size: tuple[int, int]) -> Tensor:
        x = self.narrow(self.decoder(layers, grid)[-1])
        return self.out(F.interpolate(x, size, mode="bilinear", align_corners=True)).movedim(1, -1)


class _Scale(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.proj = nn.Linear(width, hidden)
        self.mlp = nn.ModuleList(nn.Sequential(nn.Linear(hidden, hidden), nn.ReLU()) for _ in range(2))
        self.output_proj = nn.Linear(hidden, 1)

    def forward(self, token: Float[Tensor, "B C"]) -> Float[Tensor, " B"]:
        """Metres a unit, from the scale token."""
        x = self.proj(token)
        for layer in self.mlp:
            x = layer(x)
        return self.output_proj(x)[:, 0].float().exp().clamp_min(1e-8)


class MapAnything(GeometryModel):
    """MapAnything without its optional inputs."""

    settings: ClassVar[type] = MapAnythingSettings
    metric: ClassVar[bool] = True

    def __init__(self, settings: MapAnythingSettings) -> None:
        super().__init__()
        s, width = settings, settings.hidden_size
        self.sizes = settings
        self.embeddings = dinov2_embeddings(width, s.patch_size, s.image_size)
        self.encoder_blocks = _blocks(width, s.encoder_depth)
        self.fusion_norm = nn.LayerNorm(width, eps=_EPS)
        self.scale_token = nn.Parameter(torch.zeros(width))
        self.shared_blocks = _blocks(width, s.depth)
        self.norm = nn.LayerNorm(width, eps=_EPS)
        self.pixels = _Pixels(width, s.features, s.out_channels)
        self.camera_proj = nn.Linear(width, s.camera_width)
        self.camera = MeanCamera(s.camera_width, 4)
        self.scale = _Scale(width, s.scale_width)

    def forward(self, images: Float[Tensor, "B F 3 H W"]) -> Prediction:
        """Geometry in metres; the focal lengths are those of the rays, the principal point lies in the middle.

        Confidence is that of the authors' code, times the probability that the pixel's depth is told apart at all.
        """
        points, confidence, mask, pose, metres = self.predict(images)
        return from_local_points(points, pose, metres, confidence * mask)

    def predict(self, images: Float[Tensor, "B F 3 H W"]) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Local points (B,F,H,W,3), their confidence and the probability of the mask (B,F,H,W), world-from-camera
        (B,F,4,4), and metres a unit of these (B).
        """
        size, frames = (images.shape[-2], images.shape[-1]), images.shape[:2]
        grid = size[0] // self.sizes.patch_size, size[1] // self.sizes.patch_size
        layers, token = self._tokens(images)
        flat = [tokens.flatten(0, 1).split(_CHUNK) for tokens in layers]
        raw = torch.cat([self.pixels(list(part), grid, size).float() for part in zip(*flat, strict=True)])
        ray, depth, sure, mask = raw.unflatten(0, frames).split((3, 1, 1, 1), -1)
        points = F.normalize(ray, dim=-1, eps=1e-8) * depth.exp()
        translation, quaternion = (part.float() for part in self.camera(self.camera_proj(layers[-1])))
        rotation = quaternion_to_matrix(quaternion)
        pose = to_homogeneous(torch.cat((rotation, translation[..., None]), -1))
        return points, 1 + sure[..., 0].exp(), mask[..., 0].sigmoid(), pose, self.scale(token)

    def _tokens(self, images: Tensor) -> tuple[list[Float[Tensor, "B F P C"]], Float[Tensor, "B C"]]:
        """Patches of the encoder and of three layers, and the scale token."""
        frames = images.shape[1]
        x = self.embeddings(normalise(images).flatten(0, 1))
        for block in self.encoder_blocks:
            x = block(x)
        x = torch.cat((x[:, :1], self.fusion_norm(x[:, 1:])), 1).unflatten(0, images.shape[:2])
        layers = [x[:, :, 1:]]
        mark = torch.arange(x.shape[-1], device=x.device) % 2  # the sinusoidal encoding of position 0
        first = torch.arange(frames, device=x.device) == 0
        x = x + (first[:, None, None] * mark).to(x.dtype)
        scale = self.scale_token.expand(len(x), 1, -1)
        for index, block in enumerate(self.shared_blocks):
            if index % 2:
                x = block(x.flatten(0, 1)).view(x.shape)
            else:
                both = block(torch.cat((x.flatten(1, 2), scale), 1))
                x, scale = both[:, :-1].unflatten(1, (frames, -1)), both[:, -1:]
            if index in self.sizes.taps:
                layers.append(self.norm(x[:, :, 1:]))
        return [*layers, self.norm(x[:, :, 1:])], self.norm(scale[:, 0])
