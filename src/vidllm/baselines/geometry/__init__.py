"""Published networks in the cascade: reconstruction instead of VGGT, and metric depth (docs/geometry_models.md).

Each is one file here, written from its formulas, and an entry of :data:`KINDS` or :data:`METRIC_KINDS`; the hub ids,
key maps and licences of the published weights are in :mod:`vidllm.pretrained.geometry_models` and
:mod:`vidllm.pretrained.depth_estimators`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from vidllm.model.configuration import build_part

_HERE = "vidllm.baselines.geometry"
#: A reconstruction network's module and class by the ``kind`` of its settings.
KINDS = {
    "depth_anything_3": (f"{_HERE}.depth_anything_3", "DepthAnything3"),
    "map_anything": (f"{_HERE}.map_anything", "MapAnything"),
    "pi3": (f"{_HERE}.pi3", "Pi3"),
    "pi3x": (f"{_HERE}.pi3", "Pi3X"),
    "vggt_omega": (f"{_HERE}.vggt_omega", "VGGTOmega"),
}
#: The same for metric depth of single pictures.
METRIC_KINDS = {
    "depth_anything_3_metric": (f"{_HERE}.depth_anything_3", "DepthAnything3Metric"),
    "moge_2": (f"{_HERE}.moge_2", "MoGe2"),
}


@dataclass(frozen=True)
class Prediction:
    """Geometry of B scenes of F frames of H x W pixels, in one unit.

    pose_encoding (B,F,9) of cameras in one world (:mod:`vidllm.geometry.cameras`); depth (B,F,H,W) along the optical
    axis; confidence (B,F,H,W), positive.
    """

    pose_encoding: Tensor
    depth: Tensor
    confidence: Tensor


class GeometryModel(nn.Module):
    """A network from pictures to geometry. ``settings``: its configuration class, whose ``patch_size`` divides frames;
    ``metric``: whether its unit is the metre.
    """

    settings: ClassVar[type]
    metric: ClassVar[bool] = False

    def forward(self, images: Float[Tensor, "B F 3 H W"]) -> Prediction:
        """Geometry of images in [0, 1]; H and W are multiples of the patch size."""
        raise NotImplementedError


class MetricNetwork(nn.Module):
    """A network from single pictures to metres. ``settings``: its configuration class."""

    settings: ClassVar[type]

    def forward(self, images: Float[Tensor, "N 3 H W"], focal: Float[Tensor, "N 2"]) -> Float[Tensor, "N H W"]:
        """Depth in metres of images in [0, 1], inf where there is none (sky); ``focal``: fx and fy in pixels."""
        raise NotImplementedError


def read_settings(given: dict[str, Any], kinds: Mapping[str, tuple[str, str]] = KINDS) -> tuple[Any, Any]:
    """A network's class and its configuration from their dict, ``kind`` with the fields; ValueError for others."""
    fields = dict(given)
    kind = fields.pop("kind", None)
    if kind not in kinds:
        raise ValueError(f"expected kind to be one of {', '.join(kinds)}, received {kind!r:.60}")
    module, name = kinds[kind]
    network = getattr(import_module(module), name)
    return network, build_part(kind, network.settings, fields)


def build_geometry(given: dict[str, Any]) -> GeometryModel:
    """A reconstruction network of these settings, with initial weights."""
    network, settings = read_settings(given)
    made: GeometryModel = network(settings)
    return made


def build_metric(given: dict[str, Any]) -> MetricNetwork:
    """A metric depth network of these settings, with initial weights."""
    network, settings = read_settings(given, METRIC_KINDS)
    made: MetricNetwork = network(settings)
    return made
