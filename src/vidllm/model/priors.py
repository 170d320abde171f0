"""Known cameras and known scales, used instead of predicted ones (docs/known_cameras.md).

Known intrinsics are used to unproject, and as focal length of the metric depth model. Known poses replace predicted
ones; the unit of the relative depth relative to them is found by photometric alignment. Poses in metres make it the
scene's scale; poses of unknown scale are scaled to the scale that is estimated otherwise.

A known scale is a factor, the height of the camera, or the length of something visible. It replaces the estimated scale
of section 3.2.2; the relative geometry is unchanged.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vidllm.geometry.alignment import weighted_median
from vidllm.geometry.cameras import (
    camera_centres,
    one_lens,
    relative_to_first,
    to_homogeneous,
    unproject,
    unproject_pixels,
)
from vidllm.geometry.gravity import floor_height
from vidllm.geometry.photometric import find_units
from vidllm.io.cameras.given import GivenCameras, pixel_aspect
from vidllm.io.frames import Frames
from vidllm.model.outputs import Geometry, SceneScale
from vidllm.model.scale_alignment import unit_scale


@dataclass(frozen=True)
class KnownCameras:
    """What is known of the cameras of processed frames ``images`` (B,F,3,H,W) in [0, 1].

    intrinsics (B,F,3,3) in their pixels; extrinsics (B,F,4,4) camera-from-world of any world, in metres where
    ``metric``; up (B,3) against gravity in the first camera's frame; depth (B,F,H,W) metres, 0 = none. None:
    not known. ``one_lens``: whether one lens with square pixels took all frames (None: only refinement supposes so);
    ``pixel_aspect``: its fx over fy, not 1 where resizing stretched the images. ``lens`` (B,F,3,3): intrinsics in place
    of predicted ones which refinement may move, with ``lens_weight`` times the usual penalty. ValueError for other
    shapes.
    """

    images: Tensor
    intrinsics: Tensor | None = None
    extrinsics: Tensor | None = None
    metric: bool = False
    up: Tensor | None = None
    one_lens: bool | None = None
    pixel_aspect: float = 1.0
    lens: Tensor | None = None
    lens_weight: float = 1.0
    depth: Tensor | None = None

    def __post_init__(self) -> None:
        batch, frames, _, height, width = self.images.shape
        wanted = {"intrinsics": (batch, frames, 3, 3), "extrinsics": (batch, frames, 4, 4), "up": (batch, 3),
                  "lens": (batch, frames, 3, 3), "depth": (batch, frames, height, width)}  # fmt: skip
        for name, shape in wanted.items():
            given = getattr(self, name)
            if given is not None and tuple(given.shape) != shape:
                raise ValueError(f"known {name}: expected shape {shape}, received {tuple(given.shape)}")

    @property
    def gives_metres(self) -> bool:
        """Whether the scale follows from poses or depth."""
        return self.depth is not None or (self.extrinsics is not None and self.metric)

    def fit(
        self,
        extrinsics: Float[Tensor, "B F _ 4"],
        intrinsics: Float[Tensor, "B F 3 3"],
        depth: Float[Tensor, "B F H W"],
    ) -> FittedCameras:
        """What is known in place of what was predicted, with the unit of ``depth`` where poses are known."""
        given = self.lens if self.intrinsics is None else self.intrinsics
        found = intrinsics if given is None else given.to(intrinsics)
        if self.one_lens and self.intrinsics is None:
            found = one_lens(found, self.pixel_aspect)
        if self.extrinsics is None:
            return FittedCameras(self, to_homogeneous(extrinsics), found, None, None)
        given = relative_to_first(self.extrinsics.to(extrinsics))
        views = zip(self.images.to(depth.device), depth.float(), found.float(), given.float(), strict=True)
        units = [find_units(*view, find_focal=self.intrinsics is None) for view in views]
        focal = torch.stack([unit.focal for unit in units]).to(found)
        found = found.clone()
        found[..., (0, 1), (0, 1)] *= focal[:, None, None]
        ratio = torch.stack([unit.scale for unit in units])
        fitted = FittedCameras(self, given, found, ratio, torch.stack([unit.per_frame for unit in units]))
        return replace(fitted, predicted=relative_to_first(extrinsics))

    def filled(
        self, depth_m: Float[Tensor, "B F H W"], scale: SceneScale
    ) -> tuple[Float[Tensor, "B F H W"], SceneScale]:
        """Known depth, with gaps filled by ``depth_m`` times a factor per frame; the scale has no spread."""
        assert self.depth is not None
        sensed = self.depth.to(depth_m)
        told = scale.per_image.isfinite() & (sensed > 0).flatten(2).any(-1)
        own = torch.where(told, scale.per_image / scale.scale[:, None], 1.0).to(depth_m)
        found = torch.where(sensed > 0, sensed, depth_m * own[..., None, None])
        sure = torch.where(told, scale.scale[:, None], torch.nan)
        return found, replace(scale, per_image=sure, spread=torch.where(scale.valid, 0.0, scale.spread))


@dataclass(frozen=True)
class FittedCameras:
    """Known cameras beside a predicted reconstruction.

    extrinsics (B,F,4,4) in their own unit; intrinsics (B,F,3,3); unit (B,) and votes (B,F): units of relative depth a
    unit of translation, NaN where the pictures do not tell, None without known poses; predicted: the model's own poses.
    """

    known: KnownCameras
    extrinsics: Tensor
    intrinsics: Tensor
    unit: Tensor | None
    votes: Tensor | None
    predicted: Tensor | None = None

    def place(self, scale: SceneScale) -> tuple[Float[Tensor, "B F 4 4"], SceneScale]:
        """Extrinsics in units of the relative depth, and the scene's scale: the poses' own where they are in metres."""
        if self.unit is None or self.votes is None:
            return self.extrinsics, scale
        metric = self.known.metric
        if metric and self.known.depth is not None and bool(scale.valid.all()):  # both are in metres
            return _in_unit(self.extrinsics, 1 / scale.scale), scale
        unit, told = self.unit, self.unit.isfinite()
        measured = scale.valid & metric
        unit = torch.where(told, unit, torch.where(measured, 1 / scale.scale, self._by_path()))
        if metric:
            spread = (unit[:, None] / self.votes - 1).abs().nanquantile(0.5, dim=1)
            own = SceneScale(1 / unit, 1 / self.votes, spread, torch.ones_like(told))  # each frame's unit is a vote
            use = told | ~scale.valid
            pairs = zip(vars(own).values(), vars(scale).values(), strict=True)
            scale = SceneScale(*(torch.where(use.view(-1, *[1] * (a.ndim - 1)), a, b) for a, b in pairs))
        return _in_unit(self.extrinsics, unit), scale

    def _by_path(self) -> Float[Tensor, " B"]:
        """Length of the predicted path over the known one (weighted median over pairs of frames); 1 without travel."""
        assert self.predicted is not None and self.unit is not None
        if bool(self.unit.isfinite().all()):
            return torch.ones_like(self.unit)
        frames = self.extrinsics.shape[1]
        here, there = torch.triu_indices(frames, frames, 1).unbind(0)
        centres = camera_centres(self.extrinsics), camera_centres(self.predicted)
        known, ours = ((c[:, here] - c[:, there]).norm(dim=-1) for c in centres)
        weights = torch.where(known > 1e-9, known, 0.0)
        ratio = weighted_median(ours / known.clamp_min(1e-9), weights) if len(here) else self.unit
        if bool((weights > 0).any()):
            warnings.warn("the pictures do not determine the factor between depth and the known poses; "
                          "it is that of the predicted camera path, or measured", stacklevel=2)  # fmt: skip
        return torch.where(ratio.isfinite() & (ratio > 0), ratio, torch.ones_like(ratio))


def _in_unit(extrinsics: Float[Tensor, "B F 4 4"], unit: Float[Tensor, " B"]) -> Float[Tensor, "B F 4 4"]:
    placed = extrinsics.clone()
    placed[..., :3, 3] *= unit[:, None, None]
    return placed


@dataclass(frozen=True)
class KnownLength:
    """Two pixels (u, v) of one processed frame, pixel centres at +0.5, and the metres between what they show."""

    frame: int
    start: tuple[float, float]
    end: tuple[float, float]
    metres: float

    def mapped(self, affine: Any) -> KnownLength:
        """The same length with its pixels mapped (3,3) from the original pictures to the processed frames."""
        pixels = np.array([[*self.start, 1.0], [*self.end, 1.0]]) @ np.asarray(affine, dtype=np.float64).T
        start, end = ((float(u / w), float(v / w)) for u, v, w in pixels)
        return replace(self, start=start, end=end)


@dataclass(frozen=True)
class KnownScale:
    """Exactly one of: ``factor`` (metres per unit of the reconstruction), ``camera_height_m`` above the floor,
    ``length``.

    ValueError for none or several, and for values that are not positive.
    """

    factor: float | None = None
    camera_height_m: float | None = None
    length: KnownLength | None = None

    def __post_init__(self) -> None:
        given = {name: value for name, value in vars(self).items() if value is not None}
        if len(given) != 1:
            raise ValueError(f"give one of scale, camera height and known length, received {list(given) or 'none'}")
        (metres,) = given.values() if self.length is None else (self.length.metres,)
        if not (math.isfinite(metres) and metres > 0):
            raise ValueError(f"a scale, height or length must be a positive number, received {metres}")

    def metres_per_unit(
        self,
        depth: Float[Tensor, "B F H W"],
        intrinsics: Float[Tensor, "B F 3 3"],
        extrinsics: Float[Tensor, "B F _ 4"],
        up: Float[Tensor, "B 3"],
    ) -> Float[Tensor, " B"]:
        """The factor from the reconstruction to metres; ValueError if the reconstruction does not determine it."""
        if self.factor is not None:
            return depth.new_full((len(depth),), self.factor, dtype=torch.float32)
        if self.length is not None:
            return torch.stack([_measured(self.length, d, k) for d, k in zip(depth, intrinsics, strict=True)])
        points = unproject(depth.float(), intrinsics.float(), extrinsics.float()).flatten(1, 3)
        scenes = zip(points, extrinsics.float(), up.float(), strict=True)
        heights = torch.stack([(camera_centres(e) @ u).median() - floor_height(p, u) for p, e, u in scenes])
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


def _measured(known: KnownLength, depth: Tensor, intrinsics: Tensor) -> Tensor:
    """Metres a unit of one scene from its known length."""
    if not 0 <= known.frame < len(depth):
        raise ValueError(f"the known length is in frame {known.frame}, but frames are 0 to {len(depth) - 1}")
    (height, width), ends = depth.shape[1:], (known.start, known.end)
    for u, v in ends:
        if not (0 <= u <= width and 0 <= v <= height):
            raise ValueError(f"pixel ({u:g}, {v:g}) of the known length lies outside the frame of {width}x{height}")
    z = torch.stack([depth[known.frame, min(int(v), height - 1), min(int(u), width - 1)] for u, v in ends]).float()
    start, end = unproject_pixels(z.new_tensor(ends), z, intrinsics[known.frame].float())
    apart = (start - end).norm()
    if not bool(apart.isfinite() & (apart > 0)):
        raise ValueError("the two ends of the known length coincide in the reconstruction; choose others")
    return known.metres / apart


def known_of(cameras: GivenCameras | None, frames: Frames, begin: int | None = None) -> KnownCameras | None:
    """What is known of the used frames: ``cameras``, and that pixels are not square where resizing made them so."""
    aspect = pixel_aspect(frames)
    if cameras is not None:
        return KnownCameras(frames.images[None], **vars(cameras.for_frames(frames, begin)), pixel_aspect=aspect)
    return None if abs(aspect - 1) < 0.005 else KnownCameras(frames.images[None], pixel_aspect=aspect)
