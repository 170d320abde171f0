"""Real-scale alignment: one factor per scene from relative depth to metres (paper, section 3.2.2).

Each sampled image gives an estimate, a weighted fit of its relative depth to its metric depth; the scene takes the
median. ``wls`` is the paper's least squares; ``log_huber`` the same fit of logarithms with robust weights
(docs/method.md, section 6). The scale has no gradient.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vidllm.geometry.alignment import huber_log_scale, wls_scale
from vidllm.model.configuration import ScaleConfig
from vidllm.model.outputs import Geometry, SceneScale

MIN_RELATIVE_DEPTH = 1e-3
CONFIDENCE_TO_STD = 0.2  # relative depth's standard deviation is about 0.2 / confidence (optimum of c e - 0.2 log c)
STD_FLOOR = 0.05  # relative error that even the best pixel is assumed to have


def unit_scale(depth: Float[Tensor, "B F H W"], unit_m: float = 1.0) -> SceneScale:
    """The same scale for every scene, if nothing determines it (no metric depth model, no alignment)."""
    batch, frames = depth.shape[:2]
    nothing = torch.full((batch, frames), float("nan"), device=depth.device)
    flag = torch.zeros(batch, dtype=torch.bool, device=depth.device)
    return SceneScale(torch.full((batch,), unit_m, device=depth.device), nothing, nothing[:, 0].clone(), flag)


def sample_frames(frames: int, config: ScaleConfig) -> Int[Tensor, " f"]:
    """Indices of the images that vote, sorted: all of them, or ``config.frames`` drawn by ``config.seed``."""
    if config.frames == "all" or frames <= config.frames:
        return torch.arange(frames)
    generator = torch.Generator().manual_seed(config.seed)
    return torch.randperm(frames, generator=generator)[: config.frames].sort().values


@torch.no_grad()
def align_scale(
    relative_depth: Float[Tensor, "B F H W"],
    metric_depth: Float[Tensor, "B F H W"],
    confidence: Float[Tensor, "B F H W"],
    config: ScaleConfig,
) -> SceneScale:
    """The scene's scale from relative and metric depth.

    Args:
        relative_depth: depth at the reconstruction's own scale.
        metric_depth: metres.
        confidence: of the relative depth, at least 0.
        config: estimator, number of images, seed.

    Whether the spread is too large (``config.warn_spread``) is for the caller to say: this also runs in training.
    """
    if config.estimator not in ("wls", "log_huber"):
        raise ValueError(f"unknown scale estimator {config.estimator!r}; expected 'wls' or 'log_huber'")
    chosen = sample_frames(relative_depth.shape[1], config).to(relative_depth.device)
    relative, metric, sure = (x[:, chosen].flatten(2).float() for x in (relative_depth, metric_depth, confidence))
    weights = vote_weights(relative, metric, sure, config)
    relative, metric = torch.where(weights > 0, relative, 1.0), torch.where(weights > 0, metric, 1.0)
    if config.estimator == "wls":
        votes = wls_scale(relative, metric, weights)
    else:
        votes = huber_log_scale(relative, metric, weights, config.huber_delta, config.huber_rounds)
    every = unit_scale(relative_depth).per_image
    every[:, chosen] = torch.where((weights > 0).any(-1) & (votes > 0), votes, torch.nan)
    scale = every.log().nanquantile(0.5, dim=1).exp()  # of an even count the geometric mean of the two middle ones
    spread = (every / scale[:, None] - 1).abs().nanquantile(0.5, dim=1)
    spread = torch.where(every.isfinite().sum(1) > 1, spread, torch.nan)
    return SceneScale(torch.where(scale.isfinite(), scale, 1.0), every, spread, scale.isfinite())


def vote_weights(
    relative: Float[Tensor, "B F N"],
    metric: Float[Tensor, "B F N"],
    confidence: Float[Tensor, "B F N"],
    config: ScaleConfig,
) -> Float[Tensor, "B F N"]:
    """Weight of every pixel, 0 where it does not vote.

    A pixel votes when both depths are finite, the metric one lies within the configured range and its confidence is
    at least the image's median. ``wls``: confidence / metric^2, which makes the fit one of relative errors.
    ``log_huber``: 1 / (sigma^2 + 0.05^2) with sigma = 0.2 / (confidence * relative), the relative error that a
    confidence stands for.
    """
    finite = relative.isfinite() & metric.isfinite() & confidence.isfinite()
    in_range = (metric > config.min_depth_m) & (metric < config.max_depth_m)
    valid = finite & in_range & (relative > MIN_RELATIVE_DEPTH) & (confidence > 0)
    middle = torch.where(valid, confidence, torch.nan).nanmedian(-1, keepdim=True).values
    valid = valid & (confidence >= middle)
    if config.estimator == "wls":
        return torch.where(valid, confidence / metric.clamp(min=config.min_depth_m) ** 2, 0.0)
    sigma = CONFIDENCE_TO_STD / (confidence * relative.clamp(min=MIN_RELATIVE_DEPTH)).clamp(min=1e-6)
    return torch.where(valid, 1 / (sigma**2 + STD_FLOOR**2), 0.0)


def rescaled(geometry: Geometry, scale: SceneScale) -> Geometry:
    """The same geometry at another scale instead of its own."""
    ratio = (scale.scale / geometry.scale.scale).float()
    extrinsics, level = geometry.extrinsics.clone(), geometry.scene_from_world.clone()
    extrinsics[..., :3, 3] *= ratio[:, None, None].to(extrinsics.dtype)
    level[..., :3, 3] *= ratio[:, None].to(level.dtype)
    depth = geometry.depth_m * ratio[:, None, None, None].to(geometry.depth_m.dtype)
    return replace(geometry, extrinsics=extrinsics, depth_m=depth, scale=scale, scene_from_world=level)


def measured_anew(geometry: Geometry, metric_depth: Float[Tensor, "B F H W"], config: ScaleConfig) -> Geometry:
    """The same geometry at the scale that ``metric_depth`` gives it, whatever its own is."""
    relative = geometry.depth_m.float() / geometry.scale.scale.float()[:, None, None, None]
    scale = align_scale(relative, metric_depth.float(), geometry.confidence.float(), config)
    return replace(rescaled(geometry, scale), metric_depth_m=metric_depth)


def spread_of_views(votes: Float[Tensor, " V"], views: Int[Tensor, " F"], of_images: float) -> float:
    """The relative spread of images' scales over the scene's, each view counting once; nan unless two views vote.

    ``votes``: each image's scale over the scene's, nan where it has none. ``views``: which view each shows.
    ``of_images``: the spread of all images, where no two show one view.
    """
    told, seen = votes.isfinite(), views.unique()
    if len(seen) < 2 or int(told.sum()) == 1:
        return math.nan
    if len(votes) != len(views) or len(views) == len(seen) or not bool(told.any()):
        return of_images
    each = torch.stack([votes[views == view].nanmedian() for view in seen])
    return float((each - 1).abs().nanquantile(0.5)) if int(each.isfinite().sum()) > 1 else math.nan
