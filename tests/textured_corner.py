"""Six views of two textured walls that meet, with the truth of all that a reconstruction tells."""

from __future__ import annotations

import torch
from torch import Tensor

from vidllm.geometry.cameras import pixel_centres

SIZE, FOCAL = (48, 64), 50.0


def turned(pitch: float, yaw: float) -> Tensor:
    return torch.linalg.matrix_exp(torch.tensor([[0.0, 0, yaw], [0, 0, -pitch], [-yaw, pitch, 0]]))


def corner(steps: float = 0.12, turn_by: float = 1.0, detail: float = 0.0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Six views of two textured walls that meet: images, true depth (m), K, extrinsics (m).

    ``detail``: share of a texture of a few pixels in one of 15.
    """
    height, width = SIZE
    k = torch.tensor([[FOCAL, 0, width / 2], [0, FOCAL, height / 2], [0, 0, 1.0]])
    rays = torch.cat([(pixel_centres(height, width) - k[:2, 2]) / FOCAL, torch.ones(height, width, 1)], -1)
    images, depths, extrinsics = [], [], []
    for number in range(6):
        turn = turned(0.01 * turn_by * number, 0.03 * turn_by * number)
        centre = torch.tensor([steps, 0.02, 0.05]) * number
        directions = rays @ turn  # camera-from-world rotation, so rows times R are world directions
        walls = torch.tensor([[0.5, 0.1, 1.0], [-0.6, 0.0, 1.0]])
        distance = ((2.5 - walls @ centre) / (directions @ walls.T)).amin(-1)
        points = centre + directions * distance[..., None]
        phases = [f * points @ torch.tensor(a) for f, a in (
            (7.0, [1.0, 0.4, 0.2]), (5.0, [0.1, 1.0, 0.5]), (9.0, [0.6, -0.7, 0.3]))]  # fmt: skip
        images.append(torch.stack([
            0.5 + 0.4 * ((1 - detail) * torch.sin(p) + detail * torch.sin(3 * p + q))
            for p, q in zip(phases, (phases[1], phases[2], phases[0]), strict=True)
        ]))  # fmt: skip
        depths.append(distance)  # directions have z = 1 in the camera
        pose = torch.eye(4)
        pose[:3, :3], pose[:3, 3] = turn, -turn @ centre
        extrinsics.append(pose)
    return torch.stack(images), torch.stack(depths), k.expand(6, 3, 3), torch.stack(extrinsics)
