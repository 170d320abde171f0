"""Metric Depth Model: depth in metres from the shared encoder's own features (paper, section 3.2.2).

A DPT decoder of its own fuses four encoder layers; ordered metric bins (``metric_bins``) turn the four fused maps into
a distribution of depth at every place; its mean is the depth, its spread an uncertainty. With a canonical focal
length the bins see the scene as a camera of that focal length would, so that cameras of any zoom share them
(docs/method.md, section 5).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vidllm.model.configuration import MetricDepthConfig
from vidllm.model.dpt_head import DPTDecoder
from vidllm.model.metric_bins import MetricBins, resize
from vidllm.model.outputs import MetricDepthOutput


class MetricDepthModel(nn.Module):
    """Encoder features to metric depth. The bins are computed in float32, under autocast and in half precision too."""

    frames_chunk_size = 4  # frames at a time when no gradient is needed: bounds the memory of the bin maps

    def __init__(self, config: MetricDepthConfig, hidden_size: int, patch_size: int) -> None:
        super().__init__()
        self.config = config
        self.patch_size = patch_size
        self.decoder = DPTDecoder(hidden_size, config.features, config.out_channels)
        self.bins = MetricBins(config)

    def forward(
        self,
        features: Sequence[Float[Tensor, "B F P C"]],
        grid: tuple[int, int],
        image_size: tuple[int, int],
        focal: Float[Tensor, "B F"] | None = None,
    ) -> MetricDepthOutput:
        """Depth of every pixel.

        Args:
            features: patch tokens of four encoder layers, shallow to deep.
            grid: patch rows and columns.
            image_size: (H, W) in pixels; depth is computed at 8/14 of it and resized.
            focal: focal length in pixels; needed with ``config.canonical_focal``, unused without.

        Raises:
            ValueError: when grid and image size disagree, or a needed focal length is missing.
        """
        height, width = image_size
        if (grid[0] * self.patch_size, grid[1] * self.patch_size) != (height, width):
            raise ValueError(
                f"grid {grid} x patch {self.patch_size} is not the image size {image_size}: resize to multiples of it"
            )
        flat = [feature.flatten(0, 1) for feature in features]
        frames = len(flat[0])
        step = frames if torch.is_grad_enabled() else self.frames_chunk_size
        parts = [self._decode([t[i : i + step] for t in flat], grid, image_size) for i in range(0, frames, step)]
        depth, log_std = (torch.cat(maps).unflatten(0, features[0].shape[:2]) for maps in zip(*parts, strict=True))
        return MetricDepthOutput(depth * self._focal_ratio(focal, image_size), log_std)

    def _decode(
        self, features: list[Tensor], grid: tuple[int, int], image_size: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        depth, log_std = self.bins(self.decoder(features, grid))
        both = resize(torch.stack([depth, log_std], dim=1), image_size)
        return both[:, 0], both[:, 1]

    def _focal_ratio(self, focal: Tensor | None, image_size: tuple[int, int]) -> Tensor | float:
        """``(focal / min(H, W)) / canonical_focal``: from the canonical camera's depth to this camera's."""
        if self.config.canonical_focal is None:
            return 1.0
        if focal is None:
            raise ValueError(
                "this model predicts depth for a canonical focal length (config.canonical_focal "
                f"{self.config.canonical_focal}) and received no focal: pass the focal lengths (B, F) in pixels"
            )
        return (focal.float() / min(image_size) / self.config.canonical_focal)[..., None, None]
