"""What distillation has to close: the losses of stage 1 before its first step (docs/method.md, section 8).

A Vid-LLM initialised from VGGT and LLaVA-3D passes the encoder's tokens through its adapter. Its geometric stream is
the geometry teacher's; its language stream holds DINOv2's tokens where LLaVA-3D's projector was trained on CLIP's.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from vidllm.baselines.cascade import CascadeForConditionalGeneration
from vidllm.model.modeling import Network
from vidllm.training.distillation import Streams, distillation_losses, resample_grid
from vidllm.training.teachers import clip_tokens


@torch.no_grad()
def start_of_distillation(
    start: Network,
    cascade: CascadeForConditionalGeneration,
    images: Float[Tensor, "B F 3 H W"],
) -> dict[str, float]:
    """"geo", "lang" (Eq 6) and "structure" (Eq 7) of ``start`` against the cascade's encoder and CLIP, unweighted.

    Images in [0, 1]. ValueError where the two models' widths differ: then projections stand between them, which are
    random before training.
    """
    features, taught = start.encode(images), cascade.encoder(images)
    clip = clip_tokens(cascade.clip, images.flatten(0, 1), cascade.config.vision_layer)
    side = cascade.clip_side // cascade.clip_patch
    clip = resample_grid(clip.unflatten(0, images.shape[:2]), (side, side), features.encoder.grid)
    student = Streams(features.streams.geometry, features.streams.language)
    losses = distillation_losses(student, Streams(taught.tokens, clip))
    return {name: float(value) for name, value in losses.items()}
