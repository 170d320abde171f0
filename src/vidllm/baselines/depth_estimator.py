"""A depth estimator that gives metres, as the cascade's metric depth model (docs/method.md, section 6): one of
transformers, or one of :data:`~vidllm.baselines.geometry.METRIC_KINDS`.

Each frame is processed alone, at the estimator's training size; its depth is resized to the frame's grid. The cascade's
frames are whole pictures (both sides resized, nothing cropped), so the map between the two is a scale of each axis.
Which estimators of transformers are metric is data: :data:`METRIC`, :data:`REFUSED`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModelForDepthEstimation, PretrainedConfig

from vidllm.baselines.geometry import METRIC_KINDS, MetricNetwork, build_metric

_LEFT_OUT = ("architectures", "transformers_version", "_name_or_path", "torch_dtype", "dtype", "model_type")
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
MIN_INVERSE, MAX_INVERSE = 1e-4, 1e4  # 1/m, within which inverse depth is believed


@dataclass(frozen=True)
class DepthInput:
    """Preprocessing of an estimator.

    height, width: pixels, 0 for those of the frame; keep_aspect: both sides by the factor that changes least;
    multiple: of both sides; mean, std of colours in [0, 1]; pad: reflect the borders outwards before (ZoeDepth).
    """

    height: int
    width: int
    keep_aspect: bool
    multiple: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    pad: bool = False

    def size(self, height: int, width: int) -> tuple[int, int]:
        """(rows, columns) of the picture that a frame of (height, width) becomes."""
        scale_v, scale_h = (self.height or height) / height, (self.width or width) / width
        if self.keep_aspect:
            scale_v = scale_h = scale_h if abs(1 - scale_h) < abs(1 - scale_v) else scale_v
        rows, columns = (max(self.multiple, round(s * n / self.multiple) * self.multiple)
                         for s, n in ((scale_v, height), (scale_h, width)))  # fmt: skip
        return rows, columns


#: Metric estimators, and their preprocessing without a ``preprocessor_config.json`` (transformers' defaults).
METRIC: dict[str, DepthInput] = {
    "zoedepth": DepthInput(384, 512, True, 32, *_HALF, pad=True),
    "depth_anything": DepthInput(518, 518, True, 14, *_IMAGENET),
    "depth_pro": DepthInput(1536, 1536, False, 1, *_HALF),
    "glpn": DepthInput(0, 0, False, 32, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}
#: Kinds of depth estimators that cannot serve, and why.
REFUSED = {
    "dpt": "its depth is relative (inverse depth up to scale and shift), or its configuration does not say metres",
    "prompt_depth_anything": "it needs measured depth as a prompt",
    "chmv2": "it measures canopies from above",
}


def metric_config(settings: dict[str, Any] | None, place: str) -> PretrainedConfig:
    """The configuration of an estimator that gives metres; ValueError for another one, with the reason."""
    kind = None if settings is None else settings.get("model_type")
    if settings is None or kind is None:
        raise ValueError(f"{place}: config.json is missing or names no model_type; give a Hugging Face depth estimator")
    if kind not in METRIC:
        why = REFUSED.get(str(kind), "it is no depth estimator that is known to give metres")
        raise ValueError(f"{place}: a {kind} model cannot give metres: {why}; expected one of {', '.join(METRIC)}")
    if kind == "depth_anything" and settings.get("depth_estimation_type", "relative") != "metric":
        raise ValueError(f"{place}: this Depth Anything gives relative depth; take one of its metric models "
                         "(depth_estimation_type metric in config.json)")  # fmt: skip
    fields = {name: value for name, value in settings.items() if name not in _LEFT_OUT}
    if kind == "depth_pro":
        fields["use_fov_model"] = False  # the reconstruction knows the focal length
    try:
        return AutoConfig.for_model(str(kind), **fields)
    except (TypeError, ValueError, KeyError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
        raise ValueError(f"{place}: config.json is none of a {kind} model ({reason})") from error


def depth_input(kind: str, settings: dict[str, Any] | None, config: PretrainedConfig) -> DepthInput:
    """The preprocessing of an estimator, from its ``preprocessor_config.json`` if there is one."""
    usual, told = METRIC[kind], settings or {}
    given = told.get("size")
    size: dict[str, Any] = given if isinstance(given, dict) else {}
    height, width = size.get("height", usual.height), size.get("width", usual.width)
    if kind == "depth_pro":  # the smallest of its scaled pictures must be one patch
        height = width = round(config.patch_size / min(config.scaled_images_ratios))
    return DepthInput(
        int(height), int(width), bool(told.get("keep_aspect_ratio", usual.keep_aspect)),
        int(told.get("size_divisor" if kind == "glpn" else "ensure_multiple_of") or usual.multiple),
        tuple(told.get("image_mean") or usual.mean), tuple(told.get("image_std") or usual.std),
        bool(told.get("do_pad", usual.pad)) and kind == "zoedepth",
    )  # fmt: skip


class DepthEstimator(nn.Module):
    """An estimator as the cascade's metric depth model."""

    def __init__(self, config: dict[str, Any], wants: dict[str, Any]) -> None:
        super().__init__()
        self.kind = str(config["model_type"])
        fields = {name: value for name, value in config.items() if name not in _LEFT_OUT}
        if self.kind in METRIC_KINDS:
            self.network: nn.Module = build_metric({"kind": self.kind, **fields})
        else:
            self.network = AutoModelForDepthEstimation.from_config(AutoConfig.for_model(self.kind, **fields))
        told: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in wants.items()}
        self.wants = DepthInput(**told)

    def forward(
        self, images: Float[Tensor, "B F 3 H W"], intrinsics: Float[Tensor, "B F 3 3"]
    ) -> Float[Tensor, "B F H W"]:
        """Depth in metres of images in [0, 1], one frame at a time."""
        size = intrinsics.new_tensor([images.shape[-1], images.shape[-2]]).float()
        focal = (intrinsics[..., (0, 1), (0, 1)].float() / size).flatten(0, 1)
        depths = [self._one(image[None], f) for image, f in zip(images.flatten(0, 1), focal, strict=True)]
        return torch.cat(depths).unflatten(0, images.shape[:2])

    def _one(self, image: Tensor, focal: Float[Tensor, " 2"]) -> Float[Tensor, "1 H W"]:
        """Depth of one frame; ``focal`` in widths and in heights of the picture."""
        height, width = image.shape[-2:]
        rows, columns = (int(math.sqrt(n / 2) * 3) if self.wants.pad else 0 for n in (height, width))
        mean, std = (image.new_tensor(v)[:, None, None].float() for v in (self.wants.mean, self.wants.std))
        wide = F.pad(image.float(), (columns, columns, rows, rows), mode="reflect")
        size = self.wants.size(*wide.shape[-2:])
        small = F.interpolate((wide - mean) / std, size, mode="bicubic", antialias=True, align_corners=False)
        small = small.to(image.dtype)
        if isinstance(self.network, MetricNetwork):
            found = self.network(small, (focal * focal.new_tensor([size[1], size[0]]))[None])[:, None].float()
        else:
            found = self.network(small).predicted_depth.float()[:, None]
        whole = F.interpolate(found, wide.shape[-2:], mode="bilinear", align_corners=False)
        if self.kind == "depth_pro":  # inverse depth of a camera whose focal length is the picture's width
            whole = (whole / focal[0]).clamp(MIN_INVERSE, MAX_INVERSE).reciprocal()
        return whole[:, 0, rows : rows + height, columns : columns + width]
