"""Camera head: nine numbers per frame, refined in several iterations of one small transformer (VGGT's form;
docs/method.md, section 4).

The current estimate, embedded, modulates the camera tokens (adaptive LayerNorm); the trunk attends over the frames; a
branch predicts a correction. The estimate has no gradient. The gravity head (ours) predicts the up direction, for the
level scene frame of language and boxes.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from vidllm.model.configuration import CameraHeadConfig
from vidllm.model.transformer import Block, Mlp, init_linear

POSE_SIZE = 9
#: No translation, no rotation, fields of view of one radian: where training from scratch starts.
IDENTITY_POSE = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0)


class CameraHead(nn.Module):
    """Pose encodings of all frames from their camera tokens.

    ``base_pose`` is added to the first estimate: the identity when training from random weights; zero with VGGT's
    weights.
    """

    base_pose: Tensor

    def __init__(self, config: CameraHeadConfig, dim_in: int) -> None:
        super().__init__()
        if config.iterations < 1:
            raise ValueError(f"the camera head needs at least one iteration, got {config.iterations}")
        self.config = config
        self.token_norm = nn.LayerNorm(dim_in)
        self.empty_pose = nn.Parameter(torch.zeros(1, 1, POSE_SIZE))
        self.embed_pose = nn.Linear(POSE_SIZE, dim_in)
        self.modulation = nn.Linear(dim_in, 3 * dim_in)
        self.modulation_norm = nn.LayerNorm(dim_in, eps=1e-6, elementwise_affine=False)
        self.trunk = nn.ModuleList(
            Block(dim_in, config.num_heads, config.mlp_ratio, config.layer_scale_init)
            for _ in range(config.trunk_depth)
        )
        self.trunk_norm = nn.LayerNorm(dim_in)
        self.pose_branch = Mlp(dim_in, dim_in // 2, POSE_SIZE)
        self.register_buffer("base_pose", torch.tensor(IDENTITY_POSE))
        init_linear(self)
        nn.init.trunc_normal_(self.pose_branch.fc2.weight, std=1e-3)

    def forward(self, camera_tokens: Float[Tensor, "B F D"]) -> list[Float[Tensor, "B F 9"]]:
        """Pose encodings (translation, quaternion xyzw, fields of view), one an iteration, the last is best.

        ``camera_tokens`` are the last layer's, width 2C. The estimate is summed up in float32 or better.
        """
        tokens = self.token_norm(camera_tokens)
        pose = self.base_pose.to(torch.promote_types(tokens.dtype, torch.float32)).expand(*tokens.shape[:2], POSE_SIZE)
        source = self.empty_pose.expand_as(pose)
        estimates: list[Tensor] = []
        for _ in range(self.config.iterations):
            shift, scale, gate = self.modulation(F.silu(self.embed_pose(source.to(tokens.dtype)))).chunk(3, dim=-1)
            x = tokens + gate * (self.modulation_norm(tokens) * (1 + scale) + shift)
            for block in self.trunk:
                x = block(x)
            pose = pose + self.pose_branch(self.trunk_norm(x))
            estimates.append(torch.cat((pose[..., :7], F.relu(pose[..., 7:])), dim=-1))
            source = pose = pose.detach()
        return estimates


class GravityHead(nn.Module):
    """A unit "up" vector from the first frame's camera token. Trained by ``1 - cos`` (docs/method.md, section 0)."""

    def __init__(self, dim_in: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim_in)
        self.fc1 = nn.Linear(dim_in, dim_in // 4)
        self.fc2 = nn.Linear(dim_in // 4, 3)
        nn.init.trunc_normal_(self.fc2.weight, std=0.02)
        with torch.no_grad():  # a level camera: up is -y (OpenCV axes)
            self.fc2.bias.copy_(torch.tensor([0.0, -1.0, 0.0]))

    def forward(self, camera_token: Float[Tensor, "B C"]) -> Float[Tensor, "B 3"]:
        """Up in the first camera's (= world) frame, unit length."""
        hidden = F.gelu(self.fc1(self.norm(camera_token)))
        return F.normalize(self.fc2(hidden).float(), dim=-1)
