"""A reconstruction refined before it is used: bundle adjustment, then metres measured anew (docs/refinement.md).

What is known of the cameras stays as it is. The metric depth model is asked again for the adjusted focal length: what
it gives is proportional to that (``metric_depth.canonical_focal``).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from vidllm.geometry.bundle_adjustment import adjust
from vidllm.geometry.cameras import to_homogeneous
from vidllm.model.scale_alignment import measured_anew

if TYPE_CHECKING:
    from vidllm.model.modeling import Features, Geometry, VidLLMForConditionalGeneration


def refine(
    model: VidLLMForConditionalGeneration, features: Features, geometry: Geometry,
    pixel_values: Float[Tensor, "B F 3 H W"],
) -> Geometry:  # fmt: skip
    """``geometry`` of ``features``, adjusted to its frames, whose values lie in [0, 1]."""
    known = features.known
    poses = known is not None and known.extrinsics is not None
    intrinsics = known is not None and known.intrinsics is not None
    rows = geometry.extrinsics.shape[-2]
    scenes = zip(pixel_values, geometry.depth_m, geometry.intrinsics, to_homogeneous(geometry.extrinsics), strict=True)
    lens = None if intrinsics or (known is not None and known.one_lens is False) else 1.0
    if lens is not None and known is not None:
        lens = known.pixel_aspect
    found = [adjust(*scene, move_cameras=not poses, move_focal=not intrinsics, lens_aspect=lens) for scene in scenes]
    adjusted = replace(
        geometry,
        depth_m=torch.stack([one.depth for one in found]),
        intrinsics=torch.stack([one.intrinsics for one in found]),
        extrinsics=torch.stack([one.extrinsics for one in found])[..., :rows, :],
    )
    measured = geometry.metric_depth_m is not None and model.config.scale.estimator != "none"
    if not measured or (known is not None and known.gives_metres):
        return adjusted
    metric, _ = model.predict_metric_depth(features, adjusted.intrinsics)
    return measured_anew(adjusted, metric, model.config.scale)
