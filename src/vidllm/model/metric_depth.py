"""Metric Depth Model: depth in metres from the features of the shared encoder (paper, section 3.2.2).

A DPT decoder fuses four encoder layers; ordered metric bins turn the four fused maps into a distribution of depth at
every pixel. Its mean is the depth, its standard deviation the uncertainty. With a canonical focal length the bins are
depths for a camera of that focal length, so that cameras of any focal length share them (docs/method.md, section 5).

Ordered metric bins: depth is the mean of a distribution over bin centres that adapt to the image (ZoeDepth's metric
bins, but always in order).

    d(i) = sum_k p_i(k) c_i(k),    c_i(k) = c_k + dc_i(k)

Bins are in normalised log-depth v in [0, 1], ``c(v) = d_min (d_max / d_min)^v``. Three properties keep them in order:
seeds are cumulative sums of positive widths; attractors pull by their *mean* (a sum could change the order); resizing
averages sorted vectors. The probabilities are log-binomial: one mode, and the expected depth increases with the
quantile q. With Stirling's ``log C(n, k)`` the distribution is ``exp(-n KL(k/n || q) / t)`` up to normalisation, n = N
- 1.

ZoeDepth's own bins ("normed", "softplus") are options of the same functions; a parity test compares them with ZoeDepth.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from vidllm.model.configuration import MetricDepthConfig
from vidllm.model.dpt_head import DPTDecoder
from vidllm.model.outputs import MetricDepthOutput

BinKind = Literal["ordered", "normed", "softplus"]
MIN_WIDTH = 1e-3  # of a bin, before normalisation
VARIANCE_FLOOR = 1e-6  # keeps the gradient of the standard deviation finite


def stirling_log_binomial(num_bins: int, device: torch.device | None = None) -> Float[Tensor, " N"]:
    """Stirling's ``log C(N-1, k)`` for k = 0 .. N-1: the entropy of k/(N-1), N-1 times."""
    n = num_bins - 1
    k = torch.arange(num_bins, device=device, dtype=torch.float32)
    return n * math.log(n) - torch.xlogy(k, k) - torch.xlogy(n - k, n - k)


def ordinal_probabilities(
    quantile_logit: Float[Tensor, "n 1 h w"], temperature: Float[Tensor, "n 1 h w"], num_bins: int
) -> Float[Tensor, "n N h w"]:
    """Log-binomial probabilities over N ordered bins, in float32.

    ``k log q + (N-1-k) log(1-q)`` is ``k logit(q)`` plus a term that the softmax does not see.
    """
    k = torch.arange(num_bins, device=quantile_logit.device, dtype=torch.float32)[:, None, None]
    log_binomial = stirling_log_binomial(num_bins, quantile_logit.device)[:, None, None]
    inverse = temperature.float().reciprocal()
    return torch.softmax(torch.addcmul(log_binomial * inverse, k, quantile_logit.float() * inverse), dim=1)


def seed_centres(raw: Float[Tensor, "n N h w"], kind: BinKind = "ordered") -> Float[Tensor, "n N h w"]:
    """First bin centres from the network's raw output, in float32.

    "ordered" (softplus widths) and "normed" (relu widths): sorted, in [0, 1]. "softplus": free positive numbers.
    """
    raw = raw.float()
    if kind == "softplus":
        return F.softplus(raw)
    widths = (F.softplus(raw) if kind == "ordered" else F.relu(raw)) + MIN_WIDTH
    widths = widths / widths.sum(1, keepdim=True)
    return widths.cumsum(1) - widths / 2


def attractor_points(raw: Float[Tensor, "n a h w"], kind: BinKind = "ordered") -> Float[Tensor, "n a2 h w"]:
    """Points that attract bin centres, in float32: sigmoid, ZoeDepth's relu (the first of each pair) or softplus."""
    raw = raw.float()
    if kind == "ordered":
        return raw.sigmoid()
    return F.softplus(raw) if kind == "softplus" else F.relu(raw[:, ::2]) + MIN_WIDTH


def attract(
    centres: Float[Tensor, "n N h w"],
    points: Float[Tensor, "n a h w"],
    alpha: float,
    reduction: Literal["mean", "sum"] = "mean",
) -> Float[Tensor, "n N h w"]:
    """Move every centre by the mean (or sum) over attractors of ``(a - c) / (1 + alpha (a - c)^2)``.

    The mean keeps the order for any alpha: ``dc'/dc = 1 - mean h`` with ``h <= 1``.
    """
    share = 1 / points.shape[1] if reduction == "mean" else 1.0
    moved = centres
    for point in points.split(1, dim=1):
        moved = _Pulled.apply(moved, centres, point, alpha, share)
    return moved


class _Pulled(torch.autograd.Function):
    """``moved + share g / (1 + alpha g^2)`` with g = point - centre, in three passes over maps of which one is saved:
    bin maps are the largest we have.

    With u = 1 / (1 + alpha g^2) the derivative of the pull in g is u (2 u - 1).
    """

    @staticmethod
    def forward(ctx: Any, moved: Tensor, centres: Tensor, point: Tensor, alpha: float, share: float) -> Tensor:
        """Pull of one attractor (n, 1, h, w) on every centre (n, N, h, w)."""
        gap = point - centres
        below = torch.addcmul(gap.new_ones(()), gap, gap, value=alpha)
        ctx.save_for_backward(below)
        ctx.share = share
        return torch.addcdiv(moved, gap, below, value=share, out=gap)  # which backward does not need

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        """Gradients of what was moved, of the centres and of the attractor."""
        u = ctx.saved_tensors[0].reciprocal()
        to_point = (2 * ctx.share * u).mul_(u - 0.5).mul_(gradient)
        return gradient, -to_point, to_point.sum(1, keepdim=True), None, None


def resize(maps: Float[Tensor, "n c h w"], size: Sequence[int]) -> Float[Tensor, "n c h2 w2"]:
    """Bilinear with aligned corners, as everywhere in a DPT decoder; sorted channels stay sorted."""
    if tuple(maps.shape[-2:]) == tuple(size):
        return maps
    return F.interpolate(maps, tuple(size), mode="bilinear", align_corners=True)


def log_temperature(raw: Float[Tensor, "n 1 h w"], low: float, high: float) -> Float[Tensor, "n 1 h w"]:
    """Temperature between ``low`` and ``high``, evenly in its logarithm, in float32."""
    return torch.exp(math.log(low) + (math.log(high) - math.log(low)) * raw.float().sigmoid())


def expected_depth(
    probabilities: Float[Tensor, "n N h w"], centres: Float[Tensor, "n N h w"], min_depth: float, max_depth: float
) -> tuple[Float[Tensor, "n h w"], Float[Tensor, "n h w"]]:
    """Mean depth (the unit of ``min_depth``) and standard deviation of log depth; centres in normalised log-depth."""
    span = math.log(max_depth / min_depth)
    depth = min_depth * (probabilities * torch.exp(span * centres)).sum(1)
    weighted = probabilities * centres
    mean = weighted.sum(1)
    variance = ((weighted * centres).sum(1) - mean.square()).clamp(min=0)
    return depth, span * (variance + VARIANCE_FLOOR).sqrt()


def pointwise(in_dim: int, hidden: int, out_dim: int, activation: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    """A two-layer perceptron at every pixel."""
    return nn.Sequential(nn.Conv2d(in_dim, hidden, 1), activation(), nn.Conv2d(hidden, out_dim, 1))


class MetricBins(nn.Module):
    """Bins seeded on the coarsest map, refined on every map, read out on the finest. Its mathematics is in float32."""

    def __init__(self, config: MetricDepthConfig) -> None:
        super().__init__()
        if not 0 < config.min_depth_m < config.max_depth_m or config.num_bins < 2:
            raise ValueError(
                f"expected 0 < min_depth_m < max_depth_m and num_bins >= 2, received {config.min_depth_m}, "
                f"{config.max_depth_m} and {config.num_bins}"
            )
        self.config = config
        width, embedding = config.features, config.bin_embedding
        self.seed = pointwise(width, embedding, config.num_bins)
        self.seed_embedding = pointwise(width, embedding, embedding)
        self.embeddings = nn.ModuleList(pointwise(width, embedding, embedding) for _ in config.attractors)
        self.attractors = nn.ModuleList(pointwise(embedding, embedding, count) for count in config.attractors)
        outputs = 2 if config.ordinal == "log_binomial" else config.num_bins
        self.distribution = pointwise(width + embedding, (width + embedding) // 2, outputs, nn.GELU)

    def forward(
        self, maps: Sequence[Float[Tensor, "n c _ _"]]
    ) -> tuple[Float[Tensor, "n h w"], Float[Tensor, "n h w"]]:
        """Depth in metres and standard deviation of log depth at the finest map's size.

        Args:
            maps: one feature map per entry of ``config.attractors``, coarse to fine.
        """
        centres, embedding = self.centres(maps)
        probabilities = self.probabilities(maps[-1], embedding)
        return expected_depth(probabilities, centres, self.config.min_depth_m, self.config.max_depth_m)

    def centres(
        self, maps: Sequence[Float[Tensor, "n c _ _"]]
    ) -> tuple[Float[Tensor, "n N h w"], Float[Tensor, "n e h w"]]:
        """Sorted centres in normalised log-depth at the finest map's size, and that map's bin embedding."""
        if len(maps) != len(self.attractors):
            raise ValueError(f"expected {len(self.attractors)} feature maps (one an attractor layer), got {len(maps)}")
        centres, previous = seed_centres(self.seed(maps[0])), self.seed_embedding(maps[0])
        for features, embed, attractor in zip(maps, self.embeddings, self.attractors, strict=True):
            size = features.shape[-2:]
            embedding = embed(features)
            points = attractor_points(attractor(embedding + resize(previous, size)))
            centres = attract(resize(centres, size), points, self.config.attractor_alpha)
            previous = embedding
        return centres, previous

    def probabilities(
        self, features: Float[Tensor, "n c h w"], embedding: Float[Tensor, "n e h w"]
    ) -> Float[Tensor, "n N h w"]:
        """Probability of every bin: log-binomial, or a plain softmax without any order."""
        raw = self.distribution(torch.cat([features, embedding], dim=1)).float()
        if self.config.ordinal == "softmax":
            return raw.softmax(1)
        temperature = log_temperature(raw[:, 1:], self.config.min_temperature, self.config.max_temperature)
        return ordinal_probabilities(raw[:, :1], temperature, self.config.num_bins)


class MetricDepthModel(nn.Module):
    """Encoder features to metric depth. The bins are computed in float32, under autocast and in half precision too."""

    frames_chunk_size = 2  # frames at a time when no gradient is needed: bin maps stay small, best within a cache

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
