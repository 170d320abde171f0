"""The scene frame: gravity aligned, z up, origin at the first camera, x along its view (docs/method.md, section 0).

The world frame is the first camera's (x right, y down, z forward). Language and every benchmark's boxes speak of up and
down, so one rotation, found from the up direction alone, takes the world into the scene frame.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

#: Below this sine of the angle between optical axis and vertical, the optical axis no longer gives a heading.
_VERTICAL = 1e-3


def _unit(vector: Tensor) -> Tensor:
    return vector / vector.norm(dim=-1, keepdim=True).clamp_min(1e-12)


def scene_from_world(up: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 4 4"]:
    """Rigid transform from the world (first camera's) frame into the scene frame.

    ``up`` points against gravity, in the world frame, of any non-zero length. x follows the horizontal projection of
    the optical axis; for a camera that looks straight down it follows the image's up direction, straight up the
    image's down direction (the limits of tilting a level camera).
    """
    z = _unit(up)
    forward = z.new_tensor([0.0, 0.0, 1.0]).expand_as(z)
    image_down = z.new_tensor([0.0, 1.0, 0.0]).expand_as(z)
    horizontal = forward - (forward * z).sum(-1, keepdim=True) * z
    heading = torch.where(z[..., 2:] > 0, image_down, -image_down)
    fallback = heading - (heading * z).sum(-1, keepdim=True) * z
    vertical = horizontal.detach().norm(dim=-1, keepdim=True) < _VERTICAL
    x = _unit(torch.where(vertical, fallback, horizontal))
    y = torch.linalg.cross(z, x, dim=-1)
    rotation = torch.stack((x, y, z), dim=-2)
    transform = torch.eye(4, dtype=up.dtype, device=up.device).repeat(*up.shape[:-1], 1, 1)
    transform[..., :3, :3] = rotation
    return transform
