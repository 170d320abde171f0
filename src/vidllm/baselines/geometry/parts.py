"""Parts shared by several networks: DINOv2's embeddings, a camera from the mean of patches, intrinsics and geometry
from local points.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vidllm.baselines.geometry import Prediction
from vidllm.geometry.cameras import encode_pose, invert_extrinsics, pixel_centres
from vidllm.model.configuration import EncoderConfig
from vidllm.model.encoder import Embeddings


def dinov2_embeddings(width: int, patch_size: int, image_size: int) -> Embeddings:
    """Embeddings of DINOv2 without registers; its position table is resized as the authors' code does."""
    made = Embeddings(EncoderConfig(
        width, patch_size=patch_size, image_size=image_size, num_register_tokens=0, position_antialias=False
    ))  # fmt: skip
    made.offset = 0.1
    nn.init.trunc_normal_(made.position_embeddings, std=0.02)
    return made


class _ResidualMlp(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.res_conv1, self.res_conv2, self.res_conv3 = (nn.Linear(width, width) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        inner = x
        for layer in (self.res_conv1, self.res_conv2, self.res_conv3):
            inner = layer(inner).relu()
        return x + inner


class MeanCamera(nn.Module):
    """A pose from the mean of a frame's patches: translation and ``rotation_dim`` numbers of a rotation."""

    def __init__(self, width: int, rotation_dim: int) -> None:
        super().__init__()
        self.res_conv = nn.ModuleList(_ResidualMlp(width) for _ in range(2))
        self.more_mlps = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
        self.fc_t, self.fc_rot = nn.Linear(width, 3), nn.Linear(width, rotation_dim)

    def forward(
        self, tokens: Float[Tensor, "*batch P C"]
    ) -> tuple[Float[Tensor, "*batch 3"], Float[Tensor, "*batch r"]]:
        """Translation, and the numbers of the rotation, as the layers give them."""
        for block in self.res_conv:
            tokens = block(tokens)
        seen = self.more_mlps(tokens.mean(-2))
        return self.fc_t(seen), self.fc_rot(seen)


def central_intrinsics(points: Float[Tensor, "*batch H W 3"]) -> Float[Tensor, "*batch 3 3"]:
    """Intrinsics that project local points onto their own pixels, by least squares, about the middle."""
    height, width = points.shape[-3:-1]
    middle = points.new_tensor((width / 2, height / 2))
    there = pixel_centres(height, width, device=points.device) - middle
    slope = points[..., :2] / points[..., 2:]
    focal = (slope * there).sum((-3, -2)) / slope.square().sum((-3, -2)).clamp_min(torch.finfo(slope.dtype).tiny)
    k = torch.eye(3, device=points.device).repeat(*points.shape[:-3], 1, 1)
    k[..., (0, 1), (0, 1)], k[..., :2, 2] = focal, middle
    return k


def from_local_points(
    points: Float[Tensor, "B F H W 3"],
    world_from_camera: Float[Tensor, "B F 4 4"],
    metres: Float[Tensor, " B"],
    confidence: Float[Tensor, "B F H W"],
) -> Prediction:
    """Geometry in metres of points in the cameras' frames, ``metres`` a unit; the principal point is the middle."""
    extrinsics = invert_extrinsics(world_from_camera)
    extrinsics[..., :3, 3] *= metres[:, None, None]
    encoding = encode_pose(extrinsics, central_intrinsics(points), (points.shape[2], points.shape[3]))
    return Prediction(encoding, points[..., 2] * metres[:, None, None, None], confidence)
