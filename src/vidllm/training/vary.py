"""Pictures varied as cameras vary them (ours): so that what is learned on renderings rests less on how they look.

The rooms are rendered with one kind of camera. A share of the scenes of a step is given another one: white balance,
gamma and vignetting for all frames alike, exposure, blur, fewer pixels and noise for each frame. Where things are stays
exactly true; colours stay what one would call them.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

CAST, GAMMA, EXPOSURE = 0.12, 0.3, 0.12  # of the logarithms: a channel's gain, gamma, a frame's gain
VIGNETTE, NOISE = 0.5, 0.04  # at most: darkening of the corners, standard deviation of the noise
BLURRED, COARSE = 0.3, 0.2  # shares of the frames


def vary(
    images: Float[Tensor, "B F 3 H W"], share: float, generator: torch.Generator
) -> Float[Tensor, "B F 3 H W"]:
    """``images`` in [0, 1] with a ``share`` of the scenes varied; random by a generator on the CPU."""
    chosen = torch.rand(len(images), generator=generator) < share
    scenes = [
        _scene(scene, generator) if varied else scene for scene, varied in zip(images, chosen.tolist(), strict=True)
    ]
    return torch.stack(scenes)


def _scene(frames: Float[Tensor, "F 3 H W"], generator: torch.Generator) -> Float[Tensor, "F 3 H W"]:
    def uniform(*size: int) -> Tensor:
        return torch.rand(*size, generator=generator).to(frames.device)

    def around(spread: float, *size: int) -> Tensor:
        return ((2 * uniform(*size) - 1) * spread).exp()

    count, _, height, width = frames.shape
    varied = frames.clamp(1e-4, 1) ** around(GAMMA, 1) * around(CAST, 3, 1, 1) * around(EXPOSURE, count, 1, 1, 1)
    rows, columns = (torch.linspace(-1, 1, n, device=frames.device).square() for n in (height, width))
    varied = varied * (1 - VIGNETTE * uniform(1) * (rows[:, None] + columns) / 2)
    blurred, coarse = (uniform(count) < share for share in (BLURRED, COARSE))
    if bool(blurred.any()):
        varied[blurred] = F.avg_pool2d(varied[blurred], 3, 1, 1, count_include_pad=False)
    if bool(coarse.any()):
        small = F.interpolate(varied[coarse], scale_factor=0.5, mode="area")
        varied[coarse] = F.interpolate(small, (height, width), mode="bilinear")
    noise = _noise(frames, generator)
    return (varied + NOISE * uniform(count, 1, 1, 1) * noise).clamp(0, 1)


def _noise(frames: Tensor, generator: torch.Generator) -> Tensor:
    """Normal numbers of the frames' shape; on a GPU they are drawn there, by a generator seeded from ``generator``."""
    if frames.device.type == "cpu":
        return torch.randn(frames.shape, generator=generator)
    there = torch.Generator(frames.device).manual_seed(int(torch.randint(2**62, (1,), generator=generator)))
    return torch.randn(frames.shape, generator=there, device=frames.device)
