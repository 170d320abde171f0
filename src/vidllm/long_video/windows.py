"""A long video in windows: each is reconstructed alone and registered to the previous one, with bounded memory.

The cost of global attention grows with the square of the number of frames. Windows of W frames with an overlap of O
cost F / (W - O) times the square of W. Every frame keeps the camera and depth of its first window, in the world of the
first window; one factor over all windows converts lengths to metres, and one direction is up (docs/long_video.md).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from vidllm.geometry.alignment import weighted_median
from vidllm.geometry.cameras import invert_extrinsics
from vidllm.geometry.pose_graph import scale_and_rotation
from vidllm.geometry.precision import full_precision
from vidllm.geometry.sim3 import Registration, Sim3, Views, mean_direction, nudge, register
from vidllm.model.configuration import WindowsConfig
from vidllm.model.outputs import Geometry, SceneScale

MIN_OVERLAP = 2  # shared frames; with one, a wrong camera or depth could not be told from a right one
PULL = 0.1  # share of a window's difference from the others' metres and up direction that its registration takes out
MOST_OFF = 0.2  # logarithm of the scale; a window that is further off pulls no harder
Item = TypeVar("Item")


def window_sizes(
    window: int | None, overlap: int | None, default_frames: int, config: WindowsConfig
) -> tuple[int, int]:
    """Window and overlap in frames, by default those of the configuration; ValueError if the overlap is too large."""
    size = window if window is not None else config.size or default_frames
    shared = overlap if overlap is not None else config.overlap or max(MIN_OVERLAP, size // 4)
    if shared < MIN_OVERLAP:
        raise ValueError(f"windows must overlap by at least {MIN_OVERLAP} frames to be joined, received {shared}")
    if size <= shared:
        raise ValueError(f"a window of {size} frames cannot overlap by {shared}; take one of at least {shared + 1}")
    return size, shared


def windows_of(frames: Iterable[Item], size: int, overlap: int) -> Iterator[tuple[list[Item], int]]:
    """Windows in order, each with the number of frames shared with the previous one; frames are read lazily.

    All have ``size`` frames (the last one has a larger overlap), except for a source with fewer frames.
    """
    held: list[Item] = []
    new, wanted = 0, size
    for frame in frames:
        held, new = [*held, frame][-size:], new + 1
        if new == wanted:
            yield held, len(held) - new
            new, wanted = 0, size - overlap
    if new:
        yield held, len(held) - new


class Chain:
    """Registered windows in the world of the first one: its first camera, and its metres.

    ``registrations``: residuals of each window after the first; ``factor`` converts the first window's metres to those
    of all windows so far; ``up`` (3) is the up direction over all of them.
    """

    def __init__(self) -> None:
        self.first: Geometry | None = None
        self.registrations: list[Registration] = []
        self._views: Views | None = None
        self._factors: list[Tensor] = []
        self._spreads: list[Tensor] = []
        self._ups: list[Tensor] = []

    @full_precision()
    def add(self, geometry: Geometry, shared: int, votes: bool = True) -> Geometry:
        """The next window's geometry (a batch of one), transformed to the first one's world, in float32.

        Its first ``shared`` frames are the last ones of the previous window. ``votes``: whether its metric scale
        counts.
        """
        views = Views(
            geometry.depth_m[0].float(), geometry.confidence[0].float(), geometry.intrinsics[0], geometry.extrinsics[0]
        )
        up = geometry.up[0].double().cpu()
        place = self._place(views, shared, up, votes)
        moved = place.move_cameras(geometry.extrinsics[0].cpu())[None].to(geometry.extrinsics.device, torch.float32)
        placed = replace(geometry, extrinsics=moved, depth_m=geometry.depth_m.float() * float(place.scale))
        self._views = Views(placed.depth_m[0], views.confidence, views.intrinsics, moved[0])
        self._ups.append(place.rotation @ up)
        if votes:
            relative = geometry.scale.per_image[0, shared:] / geometry.scale.scale[0]
            self._factors.append(1 / place.scale)
            self._spreads.append(relative.cpu().double() / place.scale)
        self.first = placed if self.first is None else self.first
        return placed

    def _place(self, views: Views, shared: int, up: Tensor, votes: bool) -> Sim3:
        """Registered, then corrected slightly towards the metric scale and up direction of all windows."""
        if self._views is None:
            return Sim3.identity()
        before = self._views[len(self._views) - shared :]
        self.registrations.append(register(before, views[:shared]))
        place = self.registrations[-1].transform
        off = -torch.log(place.scale * self.factor) if votes and self._factors else torch.zeros_like(place.scale)
        scale = (PULL * off.clamp(-MOST_OFF, MOST_OFF)).exp()
        about = invert_extrinsics(before.extrinsics.double().cpu())[:, :3, 3].mean(0)
        return nudge(place, about, scale, place.rotation @ up, mean_direction(torch.stack(self._ups)), PULL)

    def move(self, similarities: Float[Tensor, "w 4 4"]) -> None:
        """Transform the windows' up directions and scales by a similarity of the world per window."""
        scales, turns = scale_and_rotation(similarities)
        self._ups = [turn @ up for turn, up in zip(turns, self._ups, strict=True)]
        if len(self._factors) == len(scales):
            self._factors = [factor / scale for factor, scale in zip(self._factors, scales, strict=True)]

    @property
    def factor(self) -> float:
        """Median over the windows that count; 1 without any."""
        if not self._factors:
            return 1.0
        logs = torch.stack(self._factors).log()
        return float(weighted_median(logs, torch.ones_like(logs)).exp())

    @property
    def up(self) -> Float[Tensor, " 3"]:
        """Median direction of the windows' up directions, float32."""
        return mean_direction(torch.stack(self._ups)).float()

    @property
    def scale(self) -> SceneScale:
        """Metres per unit of the first window's relative depth; the spread is over the images of all windows."""
        assert self.first is not None
        found, device = self.first.scale, self.first.scale.scale.device
        if not self._factors:
            return found
        images = torch.cat(self._spreads)
        spread = (images / self.factor - 1).abs().nanquantile(0.5).float().to(device)[None]
        spread = torch.where(images.isnan().all(), found.spread, spread)
        valid = torch.ones_like(found.valid)
        return SceneScale(found.scale * self.factor, images.float().to(device)[None], spread, valid)
