"""Depth Anything 3 (arXiv 2511.10647): one DINOv2 over all pictures; depth and cameras in one unit.

    pictures -> DINOv2; from block ``cross_from`` on, odd blocks attend over all frames -> four layers of tokens
             -> DPT: depth and confidence; a small network on each frame's first token: camera

The first token of a frame becomes a learned camera token at block ``cross_from``: one for the reference frame, whose
camera is the world, one for the others. From there on queries and keys are normalised and have rotary positions within
a frame; in attention over frames all patches have the same position. Of each tapped layer the heads read the last
output of attention within frames concatenated with the layer's own output, normalised.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from vidllm.baselines.geometry import GeometryModel, MetricNetwork, Prediction
from vidllm.baselines.geometry.parts import dinov2_embeddings
from vidllm.geometry.rotations import quaternion_to_matrix
from vidllm.model.configuration import DenseHeadConfig
from vidllm.model.dpt_head import DPTHead, ResidualConv
from vidllm.model.encoder import normalise
from vidllm.model.transformer import Block, RotaryPosition2D, grid_positions

ROPE_FREQUENCY = 100.0
CHOICE_FRAMES = 3  # from so many frames on the reference is chosen; before, it is the first
CANONICAL_FOCAL = 300.0  # pixels, for which the metric network gives metres
SKY = 0.3  # from here on a pixel is sky


@dataclass
class DepthAnything3Config:
    """The sizes of DA3-Small, unless others are given.

    cross_from: the first block with camera tokens; the depth, and there are none. tap_layers: that the heads read.
    """

    hidden_size: int = 384
    depth: int = 12
    num_heads: int = 6
    patch_size: int = 14
    image_size: int = 518
    cross_from: int = 4
    tap_layers: tuple[int, int, int, int] = (5, 7, 9, 11)
    features: int = 64
    out_channels: tuple[int, int, int, int] = (48, 96, 192, 384)

    def __post_init__(self) -> None:
        taps, first = self.tap_layers, self.cross_from if self.crosses else 0
        if list(taps) != sorted(set(taps)) or not all(first <= layer < self.depth for layer in taps):
            raise ValueError(f"tap_layers: expected blocks from {first} to {self.depth - 1} in order, received {taps}")

    @property
    def crosses(self) -> bool:
        """Whether any block attends over frames."""
        return self.cross_from < self.depth


class CrossViewEncoder(nn.Module):
    """DINOv2 some of whose blocks attend over all frames of a scene."""

    def __init__(self, config: DepthAnything3Config) -> None:
        super().__init__()
        width = config.hidden_size
        self.config = config
        self.embeddings = dinov2_embeddings(width, config.patch_size, config.image_size)
        self.camera_token = nn.Parameter(torch.randn(1, 2, width)) if config.crosses else None
        self.blocks = nn.ModuleList(
            Block(width, config.num_heads, 4.0, 1.0, qk_norm=index >= config.cross_from, eps=1e-6)
            for index in range(config.depth)
        )
        self.norm = nn.LayerNorm(width)
        self.rotary = RotaryPosition2D(width // config.num_heads, ROPE_FREQUENCY)

    def forward(self, images: Float[Tensor, "B F 3 H W"]) -> tuple[list[Tensor], Tensor]:
        """Patch tokens of ``tap_layers`` (B,F,P,D) and the last layer's first tokens (B,F,D); D is 2C with blocks over
        frames.
        """
        batch, frames = images.shape[:2]
        grid = images.shape[-2] // self.config.patch_size, images.shape[-1] // self.config.patch_size
        x = within = self.embeddings(normalise(images).flatten(0, 1)).unflatten(0, (batch, frames))
        places = grid_positions(grid, 1, images.device)
        table, shared = self.rotary(places), self.rotary(places.clamp(max=1)).repeat(1, frames, 1)
        reference = torch.zeros(batch, dtype=torch.long, device=images.device)
        layers: list[Tensor] = []
        first = x[:, :, 0]
        for index, block in enumerate(self.blocks):
            if index == self.config.cross_from - 1 and frames >= CHOICE_FRAMES:
                reference = reference_frame(x[:, :, 0])
            if index == self.config.cross_from:
                x = torch.cat((self._cameras(reference, frames)[:, :, None], x[:, :, 1:]), 2)
            if index >= self.config.cross_from and index % 2:
                x = block(x.flatten(1, 2), shared).unflatten(1, (frames, -1))
            else:
                rotary = table if index >= self.config.cross_from else None
                within = x = block(x.flatten(0, 1), rotary).unflatten(0, (batch, frames))
            if index in self.config.tap_layers:
                parts = (within, self.norm(x)) if self.config.crosses else (self.norm(x),)
                layers.append(torch.cat([part[:, :, 1:] for part in parts], -1))
                first = torch.cat((within[:, :, 0], x[:, :, 0]), -1) if self.config.crosses else x[:, :, 0]
        return layers, first

    def _cameras(self, reference: Int[Tensor, " B"], frames: int) -> Float[Tensor, "B F C"]:
        """The camera token of each frame: attention over frames knows no order, so the reference stays in its place."""
        assert self.camera_token is not None
        own = F.one_hot(reference, frames).to(self.camera_token.dtype)[..., None]
        return own * self.camera_token[:, :1] + (1 - own) * self.camera_token[:, 1:]


def reference_frame(tokens: Float[Tensor, "B F C"]) -> Int[Tensor, " B"]:
    """The frame whose class token is nearest to the mid-range of similarity to the others, norm and variance."""
    length = tokens.norm(dim=-1)
    unit = tokens / length[..., None]
    likeness = (unit @ unit.transpose(1, 2)).sum(-1) - 1
    measures = torch.stack((likeness / (tokens.shape[1] - 1), length, unit.var(-1)))
    least, most = measures.amin(-1, keepdim=True), measures.amax(-1, keepdim=True)
    return ((measures - least) / (most - least + 1e-8) - 0.5).abs().sum(0).argmin(-1)


class CameraDecoder(nn.Module):
    """A camera from its token: world-from-camera translation and rotation, and fields of view."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
        self.translation, self.quaternion, self.fov = nn.Linear(width, 3), nn.Linear(width, 4), nn.Linear(width, 2)

    def forward(self, tokens: Float[Tensor, "B F D"]) -> Float[Tensor, "B F 9"]:
        """Pose encodings of camera-from-world, in float32 or better."""
        x = self.backbone(tokens)
        position, quaternion, fov = (
            head(x).to(torch.promote_types(x.dtype, torch.float32))
            for head in (self.translation, self.quaternion, self.fov)
        )
        inverse = quaternion * quaternion.new_tensor([-1, -1, -1, 1])
        translation = -(quaternion_to_matrix(inverse) @ position[..., None])[..., 0]
        return torch.cat((translation, inverse, fov.relu()), -1)


class DepthAnything3(GeometryModel):
    """Depth and cameras in one unit, which is not the metre."""

    settings = DepthAnything3Config

    def __init__(self, config: DepthAnything3Config) -> None:
        super().__init__()
        dense = DenseHeadConfig(config.features, config.out_channels, config.tap_layers)
        self.encoder = CrossViewEncoder(config)
        self.depth_head = DPTHead(dense, 2 * config.hidden_size, 2, "exp", config.patch_size)
        carry_inputs(self.depth_head)
        self.camera_head = CameraDecoder(2 * config.hidden_size)

    def forward(self, images: Float[Tensor, "B F 3 H W"]) -> Prediction:
        """Geometry of images in [0, 1]; H and W are multiples of the patch size."""
        layers, first = self.encoder(images)
        depth, confidence = self.depth_head(layers, (images.shape[-2], images.shape[-1]))
        return Prediction(self.camera_head(first), depth[..., 0], confidence)


class _Beside(nn.Module):
    """Depth and sky from the same features, as two channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depth, self.sky = (
            nn.Sequential(nn.Conv2d(channels, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 1, 1)) for _ in range(2)
        )

    def forward(self, x: Float[Tensor, "N C H W"]) -> Float[Tensor, "N 2 H W"]:
        """Before activation."""
        return torch.cat((self.depth(x), self.sky(x)), 1)


class DepthAnything3Metric(MetricNetwork):
    """Depth of single pictures for a focal length of 300 pixels, and where the sky is."""

    settings = DepthAnything3Config

    def __init__(self, config: DepthAnything3Config) -> None:
        super().__init__()
        dense = DenseHeadConfig(config.features, config.out_channels, config.tap_layers)
        self.encoder = CrossViewEncoder(config)
        self.depth_head = DPTHead(dense, config.hidden_size, 2, "exp", config.patch_size, False, "relu")
        self.depth_head.decoder.norm = nn.Identity()
        self.depth_head.out = _Beside(config.features // 2)
        carry_inputs(self.depth_head)

    def canonical(self, images: Float[Tensor, "N 3 H W"]) -> tuple[Float[Tensor, "N H W"], Float[Tensor, "N H W"]]:
        """Depth in metres of a camera of :data:`CANONICAL_FOCAL`, and the sky."""
        depth, sky = self.depth_head(self.encoder(images[:, None])[0], (images.shape[-2], images.shape[-1]))
        return depth[:, 0, ..., 0], sky[:, 0]

    def forward(self, images: Float[Tensor, "N 3 H W"], focal: Float[Tensor, "N 2"]) -> Float[Tensor, "N H W"]:
        """Depth in metres of images in [0, 1], inf in the sky; ``focal``: fx and fy in pixels."""
        depth, sky = self.canonical(images)
        return torch.where(sky < SKY, depth * (focal.mean(-1) / CANONICAL_FOCAL)[:, None, None], torch.inf)


def carry_inputs(head: nn.Module) -> None:
    """Make the skip paths of all residual blocks carry their inputs without rectification."""
    for part in head.modules():
        if isinstance(part, ResidualConv):
            part.rectified = False
