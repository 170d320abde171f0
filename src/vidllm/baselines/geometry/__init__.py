"""Reconstruction networks in VGGT's place in the cascade (docs/geometry_models.md).

Each is one file here, written from its formulas, and an entry of :data:`KINDS`; where its published weights are, how
their keys are called and what their terms say is in :mod:`vidllm.pretrained.geometry_models`.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from vidllm.model.configuration import build_part

#: A network's module and class by the ``kind`` of its settings.
KINDS = {
    "depth_anything_3": ("vidllm.baselines.geometry.depth_anything_3", "DepthAnything3"),
    "map_anything": ("vidllm.baselines.geometry.map_anything", "MapAnything"),
    "pi3": ("vidllm.baselines.geometry.pi3", "Pi3"),
    "pi3x": ("vidllm.baselines.geometry.pi3", "Pi3X"),
    "vggt_omega": ("vidllm.baselines.geometry.vggt_omega", "VGGTOmega"),
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


def read_settings(given: dict[str, Any]) -> tuple[type[GeometryModel], Any]:
    """A network's class and its configuration from their dict, ``kind`` with the fields; ValueError for others."""
    fields = dict(given)
    kind = fields.pop("kind", None)
    if kind not in KINDS:
        raise ValueError(f"geometry_model: expected kind to be one of {', '.join(KINDS)}, received {kind!r:.60}")
    module, name = KINDS[kind]
    network: type[GeometryModel] = getattr(import_module(module), name)
    return network, build_part("geometry_model", network.settings, fields)


def build_geometry(given: dict[str, Any]) -> GeometryModel:
    """The network of its settings, with initial weights."""
    network, settings = read_settings(given)
    return network(settings)
