"""MoGe-2 (arXiv 2507.02546): points of single pictures up to a shift of depth, and a factor to metres.

    picture, at about ``tokens`` patches -> DINOv2: four layers, projected and summed; with the view plane's coordinates
            -> a neck of five sizes, each twice the one before -> points head, mask head;  first token -> scale head

The shift is chosen so that the points project to their pixels; with a known focal length it is the only unknown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from vidllm.baselines.geometry import MetricNetwork
from vidllm.baselines.geometry.depth_anything_3 import CrossViewEncoder, DepthAnything3Config, carry_inputs
from vidllm.geometry.cameras import pixel_centres
from vidllm.model.dpt_head import ResidualConv

SHIFT_ROUNDS = 20
SHIFT_SIDE = 64  # pixels of the map on which the shift is found


@dataclass
class MoGe2Config:
    """The sizes of MoGe-2 ViT-L, unless others are given. widths: channels of the five sizes, coarse to fine."""

    hidden_size: int = 1024
    depth: int = 24
    num_heads: int = 16
    patch_size: int = 14
    image_size: int = 518
    tap_layers: tuple[int, int, int, int] = (5, 11, 17, 23)
    widths: tuple[int, int, int, int, int] = (1024, 256, 128, 64, 32)
    neck_blocks: tuple[int, int, int, int, int] = (0, 2, 2, 2, 0)
    head_blocks: tuple[int, int, int, int, int] = (0, 1, 1, 1, 0)
    scale_widths: tuple[int, ...] = (1024, 1024, 1024, 1)
    tokens: int = 3600


class ConvPyramid(nn.Module):
    """Convolutions from the coarsest of five maps to the finest, each with an input of its own."""

    def __init__(self, inputs: Sequence[int], widths: Sequence[int], blocks: Sequence[int], out: int = 0) -> None:
        super().__init__()
        self.inputs = nn.ModuleList(nn.Conv2d(a, b, 1) for a, b in zip(inputs, widths, strict=True))
        self.residuals = nn.ModuleList(
            nn.Sequential(*(ResidualConv(width) for _ in range(count)))
            for width, count in zip(widths, blocks, strict=True)
        )
        self.ups = nn.ModuleList(
            nn.Sequential(nn.ConvTranspose2d(a, b, 2, stride=2), nn.Conv2d(b, b, 3, padding=1))
            for a, b in pairwise(widths[:4])
        )
        self.ups.append(nn.Sequential(nn.Upsample(scale_factor=2, mode="bilinear"),
                                      nn.Conv2d(widths[3], widths[4], 3, padding=1)))  # fmt: skip
        self.out = nn.Conv2d(widths[4], out, 1) if out else nn.Identity()
        carry_inputs(self)
        for part in self.modules():
            if isinstance(part, nn.Conv2d):
                part.padding_mode = "replicate"

    def forward(self, maps: Sequence[Float[Tensor, "N _ _ _"]]) -> list[Float[Tensor, "N _ _ _"]]:
        """The five maps, coarse to fine."""
        x, found = torch.zeros_like(maps[0][:, :1]), []
        for level, (given, enter, residual) in enumerate(zip(maps, self.inputs, self.residuals, strict=True)):
            x = residual(x + enter(given))
            found.append(x)
            if level < 4:
                x = self.ups[level](x)
        return [*found[:-1], self.out(found[-1])]


class MoGe2(MetricNetwork):
    """Points up to a shift, a mask of what is there, and metres."""

    settings = MoGe2Config

    def __init__(self, config: MoGe2Config) -> None:
        super().__init__()
        c, widths = config, config.widths
        self.config = config
        self.encoder = CrossViewEncoder(DepthAnything3Config(
            c.hidden_size, c.depth, c.num_heads, c.patch_size, c.image_size, c.depth, c.tap_layers
        ))  # fmt: skip
        self.encoder.norm.eps = 1e-6
        self.projects = nn.ModuleList(nn.Conv2d(c.hidden_size, widths[0], 1) for _ in c.tap_layers)
        self.neck = ConvPyramid((widths[0] + 2, 2, 2, 2, 2), widths, c.neck_blocks)
        self.points = ConvPyramid(widths, widths, c.head_blocks, 3)
        self.mask = ConvPyramid(widths, widths, c.head_blocks, 1)
        pairs = [(nn.Linear(a, b), nn.ReLU()) for a, b in pairwise(c.scale_widths)]
        self.scale = nn.Sequential(*[part for pair in pairs for part in pair][:-1])

    def affine(
        self, images: Float[Tensor, "N 3 H W"]
    ) -> tuple[Float[Tensor, "N H W 3"], Float[Tensor, "N H W"], Float[Tensor, " N"]]:
        """Points up to a shift of depth, the probability that a pixel shows something, and metres a unit."""
        height, width = images.shape[-2:]
        aspect, patch = width / height, self.config.patch_size
        rows, columns = round((self.config.tokens / aspect) ** 0.5), round((self.config.tokens * aspect) ** 0.5)
        small = F.interpolate(images.float(), (rows * patch, columns * patch), mode="bilinear", antialias=True)
        layers, first = self.encoder(small[:, None].to(images.dtype))
        seen = torch.stack([
            project(layer[:, 0].transpose(1, 2).unflatten(-1, (rows, columns)))
            for project, layer in zip(self.projects, layers, strict=True)
        ]).sum(0)  # fmt: skip
        planes = [view_plane(rows * 2**level, columns * 2**level, aspect).to(seen) for level in range(5)]
        maps = [plane.permute(2, 0, 1).expand(len(images), -1, -1, -1) for plane in planes]
        shared = self.neck([torch.cat((seen, maps[0]), 1), *maps[1:]])
        points, mask = (
            F.interpolate(head(shared)[-1], (height, width), mode="bilinear").movedim(1, -1).float()
            for head in (self.points, self.mask)
        )
        z = points[..., 2:].exp()
        scale = self.scale(self.encoder.norm(first[:, 0]))[:, 0].float().exp()
        return torch.cat((points[..., :2] * z, z), -1), mask[..., 0].sigmoid(), scale

    def forward(self, images: Float[Tensor, "N 3 H W"], focal: Float[Tensor, "N 2"]) -> Float[Tensor, "N H W"]:
        """Depth in metres of images in [0, 1], inf outside the mask; ``focal``: fx and fy in pixels."""
        points, mask, scale = self.affine(images)
        depth = points[..., 2] + depth_shift(points, mask > 0.5, focal)[:, None, None]
        return torch.where((mask > 0.5) & (depth > 0), depth * scale[:, None, None], torch.inf)


def view_plane(height: int, width: int, aspect: float) -> Float[Tensor, "H W 2"]:
    """Pixel centres of an image of aspect ratio W/H whose half diagonal is 1, the middle being 0."""
    half = torch.tensor([aspect, 1.0]) / (aspect**2 + 1) ** 0.5
    return (2 * pixel_centres(height, width) / torch.tensor([width, height]) - 1) * half


def depth_shift(
    points: Float[Tensor, "N H W 3"], mask: Bool[Tensor, "N H W"], focal: Float[Tensor, "N 2"]
) -> Float[Tensor, " N"]:
    """The shift of depth with which points project to their pixels: least squares, on a map of 64 x 64."""
    height, width = points.shape[1:3]
    half = (height**2 + width**2) ** 0.5 / 2
    maps = (points, mask[..., None], view_plane(height, width, width / height).to(points).expand_as(points[..., :2]))
    small = F.interpolate(torch.cat(maps, -1).movedim(-1, 1), (SHIFT_SIDE, SHIFT_SIDE), mode="nearest").flatten(2)
    xy, z, seen, wanted = small.double().split((2, 1, 1, 2), 1)
    xy, wanted = xy * (focal.double() / half)[..., None] * seen, wanted * seen
    nearest = torch.where(seen > 0, z, torch.inf).amin((1, 2), keepdim=True)
    shift = torch.zeros_like(nearest)
    for _ in range(SHIFT_ROUNDS):  # Gauss-Newton; the nearest point stays in front of the camera
        inverse = 1 / torch.where(seen > 0, z + shift, 1.0)
        residual, slope = xy * inverse - wanted, -xy * inverse**2
        step = (slope * residual).sum((1, 2), keepdim=True) / slope.square().sum((1, 2), keepdim=True).clamp_min(1e-12)
        shift = torch.maximum(shift - step, -0.9 * nearest)
    return torch.where(nearest.isfinite(), shift, 0.0)[:, 0, 0].to(points.dtype)
