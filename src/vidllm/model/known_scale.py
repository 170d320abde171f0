"""Metres from what the user knows: a factor, the height the camera is held at, or the length of something seen.

Each replaces the measured scale of section 3.2.2; the relative geometry stays as it is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vidllm.geometry.cameras import camera_centres, unproject, unproject_pixels
from vidllm.geometry.gravity import floor_height
from vidllm.model.outputs import Geometry, SceneScale
from vidllm.model.scale_alignment import unit_scale


@dataclass(frozen=True)
class KnownLength:
    """Two pixels (u, v) of one processed frame, pixel centres at +0.5, and the metres between what they show."""

    frame: int
    start: tuple[float, float]
    end: tuple[float, float]
    metres: float

    def mapped(self, affine: Any) -> KnownLength:
        """The same length with its pixels mapped (3,3): from the original pictures to the processed frames."""
        matrix = np.asarray(affine, dtype=np.float64)

        def moved(uv: tuple[float, float]) -> tuple[float, float]:
            u, v, w = (float(x) for x in matrix @ np.array([*uv, 1.0]))
            return u / w, v / w

        return replace(self, start=moved(self.start), end=moved(self.end))


@dataclass(frozen=True)
class KnownScale:
    """Exactly one of: ``factor`` (metres a unit of the reconstruction), ``camera_height_m`` over the floor, ``length``.

    Raises ValueError for none or several, and for values that are not positive.
    """

    factor: float | None = None
    camera_height_m: float | None = None
    length: KnownLength | None = None

    def __post_init__(self) -> None:
        given = [name for name in ("factor", "camera_height_m", "length") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give one of scale, camera height and known length, received {given or 'none'}")
        value = self.factor if self.factor is not None else self.camera_height_m
        metres = self.length.metres if self.length is not None else value
        if metres is None or not (math.isfinite(metres) and metres > 0):
            raise ValueError(f"a scale, height or length must be a positive number, received {metres}")

    def metres_per_unit(
        self,
        depth: Float[Tensor, "B F H W"],
        intrinsics: Float[Tensor, "B F 3 3"],
        extrinsics: Float[Tensor, "B F _ 4"],
        up: Float[Tensor, "B 3"],
    ) -> Float[Tensor, " B"]:
        """What the reconstruction must be multiplied by; ValueError where it does not show what is known."""
        if self.factor is not None:
            return depth.new_full((len(depth),), self.factor, dtype=torch.float32)
        if self.length is not None:
            return torch.stack([_measured(self.length, d, k) for d, k in zip(depth, intrinsics, strict=True)])
        points = unproject(depth.float(), intrinsics.float(), extrinsics.float()).flatten(1, 3)
        scenes = zip(points, extrinsics.float(), up.float(), strict=True)
        heights = torch.stack([_height(p, e, u) for p, e, u in scenes])
        if not bool((heights > 0).all()):
            raise ValueError("the cameras are not above the floor of this reconstruction; give a scale or a length")
        assert self.camera_height_m is not None
        return self.camera_height_m / heights

    def scene_scale(self, geometry: Geometry) -> SceneScale:
        """What is known as metres a unit of the relative reconstruction: no votes, no spread."""
        already = geometry.scale.scale.float()
        ratio = self.metres_per_unit(geometry.depth_m, geometry.intrinsics, geometry.extrinsics, geometry.up)
        nothing = unit_scale(geometry.depth_m)
        factor = ratio if self.factor is not None else ratio * already
        return SceneScale(factor, nothing.per_image, nothing.spread, torch.ones_like(nothing.valid))


def _height(points: Tensor, extrinsics: Tensor, up: Tensor) -> Tensor:
    """Median height of the cameras over the floor."""
    return (camera_centres(extrinsics) @ up).median() - floor_height(points, up)


def _measured(known: KnownLength, depth: Tensor, intrinsics: Tensor) -> Tensor:
    """Metres a unit of one scene from its known length."""
    if not 0 <= known.frame < len(depth):
        raise ValueError(f"the known length is in frame {known.frame}, but frames are 0 to {len(depth) - 1}")
    ends = [_point(uv, depth[known.frame].float(), intrinsics[known.frame].float()) for uv in (known.start, known.end)]
    apart = (ends[0] - ends[1]).norm()
    if not bool(apart.isfinite() & (apart > 0)):
        raise ValueError("the two ends of the known length coincide in the reconstruction; choose others")
    return known.metres / apart


def _point(uv: tuple[float, float], depth: Tensor, intrinsics: Tensor) -> Tensor:
    """The point in the camera's frame that a pixel shows, at the depth of the pixel it falls into."""
    u, v = uv
    height, width = depth.shape
    if not (0 <= u <= width and 0 <= v <= height):
        raise ValueError(f"pixel ({u:g}, {v:g}) of the known length lies outside the frame of {width}x{height}")
    z = depth[min(int(v), height - 1), min(int(u), width - 1)]
    return unproject_pixels(z.new_tensor([uv]), z[None], intrinsics)[0]
