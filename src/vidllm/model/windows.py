"""A long video in windows: each reconstructed alone, chained by similarities, at memory that does not grow.

Global attention costs the square of the frames. Windows of W frames that share O with the one before cost F / (W - O)
times the square of W. Every frame keeps the camera and depth of the first window that saw it, in the first window's
world; one factor over all windows takes that world to metres, one direction is up (docs/long_video.md).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from vidllm.geometry.alignment import weighted_median
from vidllm.geometry.cameras import camera_centres
from vidllm.geometry.precision import full_precision
from vidllm.geometry.sim3 import Joint, Sim3, Views, join, mean_direction, nudge
from vidllm.model.configuration import WindowsConfig
from vidllm.model.known_cameras import KnownCameras
from vidllm.model.known_scale import KnownScale
from vidllm.model.modeling import Features, Geometry, VidLLMForConditionalGeneration, VisualPrefix
from vidllm.model.patch_map import PatchMap
from vidllm.model.scale_alignment import SceneScale

MIN_OVERLAP = 2  # shared frames; with one, a wrong camera or depth could not be told from a right one
PULL = 0.1  # share of a window's difference from the others' metres and up direction that is taken out at its joint
MOST_OFF = 0.2  # logarithm of the scale; a window that is further off pulls no harder
Item = TypeVar("Item")


def window_sizes(
    window: int | None, overlap: int | None, default_frames: int, config: WindowsConfig
) -> tuple[int, int]:
    """Window and overlap in frames, the configuration's where None; ValueError where they do not make a chain."""
    size = window if window is not None else config.size or default_frames
    shared = overlap if overlap is not None else config.overlap or max(MIN_OVERLAP, size // 4)
    if shared < MIN_OVERLAP:
        raise ValueError(f"windows must overlap by at least {MIN_OVERLAP} frames to be joined, received {shared}")
    if size <= shared:
        raise ValueError(f"a window of {size} frames cannot overlap by {shared}; take one of at least {shared + 1}")
    return size, shared


def windows_of(frames: Iterable[Item], size: int, overlap: int) -> Iterator[tuple[list[Item], int]]:
    """Windows in order, each with how many of its frames the one before had; frames are taken as they are needed.

    All have ``size`` frames (the last one shares more with its predecessor), but for a source with fewer in all.
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
    """Windows joined one to the next in the world of the first: its first camera, and its metres.

    ``joints`` tells how well each window after the first fitted; ``factor`` is what the first window's metres are to be
    multiplied by, ``up`` (3) the direction against gravity; both over all windows so far.
    """

    def __init__(self) -> None:
        self.first: Geometry | None = None
        self.joints: list[Joint] = []
        self._views: Views | None = None
        self._factors: list[Tensor] = []
        self._spreads: list[Tensor] = []
        self._ups: list[Tensor] = []

    @full_precision()
    def add(self, geometry: Geometry, shared: int, votes: bool = True) -> Geometry:
        """The next window's geometry (a batch of one), moved into the first one's world, in float32.

        Its first ``shared`` frames are the last ones of the window before. ``votes``: whether its metres count.
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
        self._vote(geometry.scale, place.scale, shared, votes)
        self.first = placed if self.first is None else self.first
        return placed

    def _place(self, views: Views, shared: int, up: Tensor, votes: bool) -> Sim3:
        """By the joint; then a little towards what all windows say of metres and of up, so that neither drifts away."""
        if self._views is None:
            return Sim3.identity()
        before = self._views[len(self._views) - shared :]
        self.joints.append(join(before, views[:shared]))
        place = self.joints[-1].transform
        off = -torch.log(place.scale * self.factor) if votes and self._factors else torch.zeros_like(place.scale)
        scale = (PULL * off.clamp(-MOST_OFF, MOST_OFF)).exp()
        about = camera_centres(before.extrinsics.double().cpu()).mean(0)
        return nudge(place, about, scale, place.rotation @ up, mean_direction(torch.stack(self._ups)), PULL)

    def _vote(self, scale: SceneScale, size: Tensor, shared: int, votes: bool) -> None:
        """A window says how many metres the first window's metre is; its images, how far they agree."""
        if votes:
            self._factors.append(1 / size)
            self._spreads.append((scale.per_image[0, shared:] / scale.scale[0]).cpu().double() / size)

    @property
    def factor(self) -> float:
        """Median over the windows that vote; 1 where none does."""
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
        """Metres a unit of the first window's relative depth; the spread is over the images of all windows."""
        assert self.first is not None
        found, device = self.first.scale, self.first.scale.scale.device
        if not self._factors:
            return found
        images = torch.cat(self._spreads)
        spread = (images / self.factor - 1).abs().nanquantile(0.5).float().to(device)[None]
        spread = torch.where(images.isnan().all(), found.spread, spread)
        valid = torch.ones_like(found.valid)
        return SceneScale(found.scale * self.factor, images.float().to(device)[None], spread, valid)


@dataclass(frozen=True)
class NewFrames:
    """What a window adds, on the CPU, in the first window's world and metres (times the factor of a later moment).

    extrinsics (n,3,4) camera-from-world; intrinsics (n,3,3) pixels; depth and confidence (n,H,W).
    """

    extrinsics: Tensor
    intrinsics: Tensor
    depth: Tensor
    confidence: Tensor


@dataclass(frozen=True)
class Snapshot:
    """All windows so far. ``factor`` takes the lengths of :class:`NewFrames` to metres; the other lengths are metres.

    extrinsics (F,3,4), intrinsics (F,3,3), up (3), scene_from_world (4,4); ``residuals``: how far the points of each
    pair of windows are apart at their joint, over their depth (median).
    """

    extrinsics: Tensor
    intrinsics: Tensor
    factor: float
    scale: SceneScale
    up: Tensor
    scene_from_world: Tensor
    prefix: VisualPrefix
    residuals: tuple[float, ...]

    def __len__(self) -> int:
        return len(self.extrinsics)


class WindowedReconstruction:
    """The model's stages window by window; what is kept of the past is cameras, and patches up to their cap.

    ``known``: metres from what is known of the video; the frame of a known length counts from the video's first.
    ``refined``: whether each window is adjusted by itself (docs/refinement.md); None: as configured.
    """

    def __init__(
        self, model: VidLLMForConditionalGeneration, known: KnownScale | None = None, refined: bool | None = None
    ) -> None:
        self.model, self.known, self.refined = model, known, refined
        self.chain = Chain()
        moves = model.position_embedding if model.config.patches.positions else None
        self.patches = PatchMap(model.config.patches, moves)
        self.frames = 0
        self._extrinsics: list[Tensor] = []
        self._intrinsics: list[Tensor] = []
        self._bridge: Tensor | None = None
        self._place = torch.eye(4)

    @torch.inference_mode()
    def add(
        self, pixel_values: Float[Tensor, "1 F 3 H W"], shared: int, cameras: KnownCameras | None = None
    ) -> NewFrames:
        """Reconstruct the next window, whose first ``shared`` frames the one before had, and join it."""
        features = replace(self.model.see(pixel_values), known=self._with_lens(cameras))
        known, votes = self._known_here(shared, pixel_values.shape[1])
        geometry = self.model.reconstruct(features, pixel_values, known, self.refined)
        placed = self.chain.add(geometry, shared, votes and (known is not None or bool(geometry.scale.valid[0])))
        self._remember(features, _part(placed, slice(shared, None)), shared)
        new = NewFrames(*(
            x[0, shared:].float().cpu()
            for x in (placed.extrinsics, placed.intrinsics, placed.depth_m, placed.confidence)
        ))  # fmt: skip
        self._extrinsics.append(new.extrinsics)
        self._intrinsics.append(new.intrinsics)
        self.frames += len(new.depth)
        return new

    def _with_lens(self, cameras: KnownCameras | None) -> KnownCameras | None:
        """Where one lens took the whole video, that of the first window is known in the later ones."""
        if cameras is None or not cameras.one_lens or cameras.intrinsics is not None or not self._intrinsics:
            return cameras
        lens = self._intrinsics[0][0].expand(*cameras.images.shape[:2], 3, 3)
        return replace(cameras, intrinsics=lens.to(cameras.images), one_lens=None)

    def _known_here(self, shared: int, frames: int) -> tuple[KnownScale | None, bool]:
        """What is known of a window, and whether its metres count for the whole."""
        known = self.known
        if known is None or known.camera_height_m is not None:
            return known, True
        if known.length is None:
            return known, self.frames == 0
        begin = self.frames - shared
        if not self.frames <= known.length.frame < begin + frames:
            return KnownScale(factor=1.0), False
        return KnownScale(length=replace(known.length, frame=known.length.frame - begin)), True

    def _remember(self, features: Features, new: Geometry, shared: int) -> None:
        """Lift the new frames' tokens into the scene frame as it now is, and merge them with the patches before."""
        place = _to_scene(self._scene_from_world(), self.chain.factor)
        if self.frames and not torch.equal(place, self._place):
            self.patches.move(place @ torch.linalg.inv(self._place))
        self._place = place
        flows = replace(features.flows, language=features.flows.language[:, shared:])
        self.patches.add(self.model.lift(replace(features, flows=flows), self._metric(new)))
        self._bridge = self._mean_bridge(features.flows.bridge)

    def _metric(self, geometry: Geometry) -> Geometry:
        """A placed geometry in metres and in the scene frame as they are now."""
        factor, extrinsics = self.chain.factor, geometry.extrinsics.clone()
        extrinsics[..., :3, 3] *= factor
        level = self._scene_from_world()[None].to(extrinsics)
        return replace(geometry, extrinsics=extrinsics, depth_m=geometry.depth_m * factor, scene_from_world=level)

    def _scene_from_world(self) -> Tensor:
        """Scene from world (4,4), metres, on the CPU."""
        assert self.chain.first is not None
        level = self.model.scene_frame(self.chain.up[None], self.chain.first)[0].float().cpu().clone()
        level[:3, 3] *= self.chain.factor
        return level

    def _mean_bridge(self, bridge: Tensor | None) -> Tensor | None:
        """Mean bridge tokens over the windows, each counting as one."""
        if bridge is None or self._bridge is None or bridge.shape != self._bridge.shape:
            return bridge if self._bridge is None else self._bridge
        return self._bridge + (bridge - self._bridge) / (len(self.chain.joints) + 1)

    @torch.inference_mode()
    def snapshot(self) -> Snapshot:
        """The scene as far as it has been seen; ValueError before the first window."""
        if self.patches.pooled is None:
            raise ValueError("no window has been added yet; add one before asking for the scene")
        extrinsics = torch.cat(self._extrinsics)
        extrinsics[..., 3] *= self.chain.factor
        return Snapshot(
            extrinsics, torch.cat(self._intrinsics), self.chain.factor, self.chain.scale, self.chain.up,
            self._scene_from_world(), self.model.present(self.patches.pooled, self._bridge),
            tuple(joint.residual for joint in self.chain.joints),
        )


def _part(geometry: Geometry, frames: slice) -> Geometry:
    """Some of the frames of a geometry."""
    return replace(
        geometry, extrinsics=geometry.extrinsics[:, frames], intrinsics=geometry.intrinsics[:, frames],
        depth_m=geometry.depth_m[:, frames], confidence=geometry.confidence[:, frames], metric_depth_m=None,
    )


def _to_scene(scene_from_world: Float[Tensor, "4 4"], factor: float) -> Float[Tensor, "4 4"]:
    """The similarity from the first window's world and metres into the scene frame, float64."""
    similarity = scene_from_world.double().clone()
    similarity[:3, :3] *= factor
    return similarity
