"""Refinement of a reconstruction: cameras, focal length and depth are adjusted until the frames agree
(docs/refinement.md). Known cameras and depth are not changed.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from vidllm.geometry.bundle_adjustment import OneLens, adjust
from vidllm.geometry.cameras import to_homogeneous
from vidllm.model.outputs import Geometry
from vidllm.model.priors import KnownCameras


def adjusted(
    geometry: Geometry, pixel_values: Float[Tensor, "B F 3 H W"], known: KnownCameras | None = None
) -> Geometry:
    """``geometry`` after bundle adjustment to its frames, whose values lie in [0, 1]; what is ``known`` stays."""
    given = {} if known is None else {"cameras": known.extrinsics, "focal": known.intrinsics, "depth": known.depth}
    keep = [name for name, value in given.items() if value is not None]
    rows = geometry.extrinsics.shape[-2]
    scenes = zip(pixel_values, geometry.depth_m, geometry.intrinsics, to_homogeneous(geometry.extrinsics), strict=True)
    lens = None if known is not None and known.one_lens is False else OneLens()
    if lens is not None and known is not None:
        lens = OneLens(known.pixel_aspect, known.lens_weight)
    found = [adjust(*scene, keep=keep, lens=lens) for scene in scenes]
    return replace(
        geometry,
        depth_m=torch.stack([one.depth for one in found]),
        intrinsics=torch.stack([one.intrinsics for one in found]),
        extrinsics=torch.stack([one.extrinsics for one in found])[..., :rows, :],
        agrees=torch.tensor([one.agrees for one in found]),
        contrast=torch.stack([one.contrast for one in found]),
    )
