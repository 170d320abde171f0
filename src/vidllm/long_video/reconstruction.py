"""Window-wise reconstruction: windows are reconstructed, registered to the previous one, and their patches merged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from vidllm.geometry.precision import full_precision
from vidllm.long_video.loops import Chained, Maps, close_loops, moved_cameras
from vidllm.long_video.windows import Chain
from vidllm.model.configuration import PatchesConfig
from vidllm.model.modeling import Network
from vidllm.model.outputs import Features, Geometry, PooledPatches, SceneScale, VisualPrefix
from vidllm.model.patches_3d import voxel_pool
from vidllm.model.priors import KnownCameras, KnownScale

RELIFTED = 16  # frames whose patches are placed at once, after loops were closed
LENS_WEIGHT = 5.0  # penalty on leaving the lens of a refined window before, over that on leaving the predicted one


@dataclass(frozen=True)
class NewFrames:
    """The new frames of a window, on the CPU, in the first window's world and metres (before the final factor).

    extrinsics (n,3,4) camera-from-world; intrinsics (n,3,3) pixels; depth, confidence and log_std (n,H,W);
    tokens (n,P,C) of the language stream, half precision.
    """

    extrinsics: Tensor
    intrinsics: Tensor
    depth: Tensor
    confidence: Tensor
    tokens: Tensor
    log_std: Tensor | None = None


@dataclass(frozen=True)
class Snapshot:
    """All windows so far. ``factor`` converts lengths of :class:`NewFrames` to metres; other lengths are in metres.

    extrinsics (F,3,4), intrinsics (F,3,3), up (3), scene_from_world (4,4); ``residuals``: median distance of the points
    of neighbouring windows after registration, relative to their depth; ``agrees``: for each refined window, whether
    its frames agree (docs/refinement.md); ``loops``: number of closed loops; ``registration``: see
    :class:`vidllm.model.outputs.Geometry`.
    """

    extrinsics: Tensor
    intrinsics: Tensor
    factor: float
    scale: SceneScale
    up: Tensor
    scene_from_world: Tensor
    prefix: VisualPrefix
    residuals: tuple[float, ...]
    agrees: tuple[bool, ...] = ()
    loops: int = 0
    registration: str = "learned"

    def __len__(self) -> int:
        return len(self.extrinsics)

    def cameras(self) -> Geometry:
        """The reconstruction as the model returns it, with empty maps of depth and confidence."""
        nothing = torch.empty(1, len(self), 0, 0)
        return Geometry(
            extrinsics=self.extrinsics[None], intrinsics=self.intrinsics[None], depth_m=nothing, confidence=nothing,
            metric_depth_m=None, scale=self.scale, up=self.up[None], scene_from_world=self.scene_from_world[None],
            agrees=torch.tensor(self.agrees) if self.agrees else None, registration=self.registration,
        )  # fmt: skip


class WindowedReconstruction:
    """The model's stages window by window; of former windows only the cameras and a limited number of patches are kept.

    ``known``: known scale of the video; a frame number in it counts from the start of the video. ``refined``: whether
    each window is refined (docs/refinement.md); None: as configured.
    """

    def __init__(self, model: Network, known: KnownScale | None = None, refined: bool | None = None) -> None:
        self.model, self.known, self.refined = model, known, refined
        self.chain = Chain()
        moves = model.position_embedding if model.config.patches.positions else None
        self.patches = VoxelMap(model.config.patches, moves)
        self.frames = 0
        self._extrinsics: list[Tensor] = []
        self._intrinsics: list[Tensor] = []
        self._agrees: list[bool] = []
        self._lenses: list[Tensor] = []
        self._begins: list[int] = []
        self._features: list[Tensor] = []
        self._contrast: list[Tensor] = []
        self._grid = (0, 0)
        self._loops = 0
        self._registration = "learned"
        self._bridge: Tensor | None = None
        self._place = torch.eye(4)

    @torch.inference_mode()
    def add(
        self, pixel_values: Float[Tensor, "1 F 3 H W"], shared: int, cameras: KnownCameras | None = None
    ) -> NewFrames:
        """Reconstruct the next window and register it; its first ``shared`` frames are those of the previous one."""
        known, votes = self._known_here(shared, pixel_values.shape[1])
        found = self.model.encode_scene(pixel_values, known, self._with_lens(pixel_values, cameras), self.refined)
        features, geometry = found.features, found.geometry
        placed = self.chain.add(geometry, shared, votes and (known is not None or bool(geometry.scale.valid[0])))
        self._remember(features, placed, shared)
        extrinsics, intrinsics, depth, confidence = (
            x[0, shared:].float().cpu()
            for x in (placed.extrinsics, placed.intrinsics, placed.depth_m, placed.confidence)
        )
        tokens = features.streams.language[0, shared:].half().cpu()
        log_std = None if placed.log_std is None else placed.log_std[0, shared:].float().cpu()
        self._extrinsics.append(extrinsics)
        self._intrinsics.append(intrinsics)
        self._begins.append(self.frames - shared)
        self._features.append(features.encoder.tokens[0, shared:].float().mean(1).cpu())
        contrast = torch.full((1, pixel_values.shape[1] - 1), torch.nan)
        contrast = contrast if geometry.contrast is None else geometry.contrast
        self._registration = geometry.registration
        self._contrast.append(contrast[0, max(shared - 1, 0) :].float().cpu())
        self._grid = features.encoder.grid
        if geometry.agrees is not None:
            self._agrees += geometry.agrees.tolist()
            self._lenses += [geometry.intrinsics[0, 0].float().cpu()] if self._agrees[-1] else []
        self.frames += len(depth)
        return NewFrames(extrinsics, intrinsics, depth, confidence, tokens, log_std)

    def _with_lens(self, pixel_values: Tensor, cameras: KnownCameras | None) -> KnownCameras | None:
        """With one lens for the whole video, the focal length of the first window is used in later ones.

        Refined windows start from the median focal length of the windows that agree; the more there are, the less it
        may change.
        """
        if self._lenses and (cameras is None or (cameras.intrinsics is None and cameras.one_lens is not False)):
            cameras = KnownCameras(pixel_values) if cameras is None else cameras
            lens = torch.stack(self._lenses).median(0).values.expand(*pixel_values.shape[:2], 3, 3)
            return replace(cameras, lens=lens.to(pixel_values), lens_weight=1 + LENS_WEIGHT * len(self._lenses))
        if cameras is None or not cameras.one_lens or cameras.intrinsics is not None or not self._intrinsics:
            return cameras
        lens = self._intrinsics[0][0].expand(*cameras.images.shape[:2], 3, 3)
        return replace(cameras, intrinsics=lens.to(cameras.images), one_lens=None)

    def _known_here(self, shared: int, frames: int) -> tuple[KnownScale | None, bool]:
        """The known scale of a window, and whether it contributes to the scale of the whole."""
        known = self.known
        if known is None or known.camera_height_m is not None:
            return known, True
        if known.length is None:
            return known, self.frames == 0
        begin = self.frames - shared
        if not self.frames <= known.length.frame < begin + frames:
            return KnownScale(factor=1.0), False
        return KnownScale(length=replace(known.length, frame=known.length.frame - begin)), True

    def _remember(self, features: Features, placed: Geometry, shared: int) -> None:
        """Lift the new frames' tokens into the current scene frame, and merge them with the previous patches."""
        place = _to_scene(self._scene_from_world(), self.chain.factor)
        if self.frames and not torch.equal(place, self._place):
            self.patches.move(place @ torch.linalg.inv(self._place))
        self._place = place
        streams = replace(features.streams, language=features.streams.language[:, shared:])
        new = self._metric(placed, shared)
        self.patches.add(self.model.build_visual_tokens(replace(features, streams=streams), new))
        self._bridge = self._mean_bridge(features.streams.bridge)

    def _metric(self, placed: Geometry, shared: int) -> Geometry:
        """The new frames of a placed geometry with the current metric factor and scene frame."""
        factor, extrinsics = self.chain.factor, placed.extrinsics[:, shared:].clone()
        extrinsics[..., :3, 3] *= factor
        return replace(
            placed, extrinsics=extrinsics, intrinsics=placed.intrinsics[:, shared:],
            depth_m=placed.depth_m[:, shared:] * factor, confidence=placed.confidence[:, shared:],
            metric_depth_m=None, log_std=None, scene_from_world=self._scene_from_world()[None].to(extrinsics),
        )  # fmt: skip

    def _scene_from_world(self) -> Tensor:
        """Scene from world (4,4), metres, on the CPU."""
        assert self.chain.first is not None
        level = self.model.scene_frame(self.chain.up[None], self.chain.first)[0].float().cpu().clone()
        level[:3, 3] *= self.chain.factor
        return level

    def _mean_bridge(self, bridge: Tensor | None) -> Tensor | None:
        """Mean bridge tokens over the windows, with equal weights."""
        if bridge is None or self._bridge is None or bridge.shape != self._bridge.shape:
            return bridge if self._bridge is None else self._bridge
        return self._bridge + (bridge - self._bridge) / (len(self.chain.registrations) + 1)

    @torch.inference_mode()
    def close_loops(self, maps: Maps, depths: Tensor, apart: int) -> Tensor | None:
        """Close loops (:mod:`vidllm.long_video.loops`) after the last window.

        ``maps``: rgb, depth and tokens of all frames, with unscaled depth; ``depths`` (F,): its medians. Returns the
        factors (F,) of the depth, or None without loops.
        """
        frames = Chained(torch.cat(self._extrinsics), torch.cat(self._intrinsics), depths, torch.cat(self._features),
                         torch.cat(self._contrast))  # fmt: skip
        similarities, self._loops = close_loops(frames, maps, apart)
        if similarities is None:
            return None
        extrinsics, factors = moved_cameras(frames.extrinsics, similarities)
        self._extrinsics = [extrinsics]
        self.chain.move(similarities[self._begins])
        self.patches = VoxelMap(self.patches.config, self.patches.embedding)
        self._place = _to_scene(self._scene_from_world(), self.chain.factor)
        level, count = self._scene_from_world()[None], len(depths)
        depth, tokens = (maps.read(name, count) for name in ("depth", "tokens"))
        device = next(self.model.parameters()).device
        for begin in range(0, count, RELIFTED):
            part = slice(begin, begin + RELIFTED)
            metres = torch.from_numpy(np.array(depth[part])) * (factors[part, None, None] * self.chain.factor)
            poses = extrinsics[part].clone()
            poses[..., 3] *= self.chain.factor
            geometry = Geometry(
                extrinsics=poses[None], intrinsics=frames.intrinsics[None, part], depth_m=metres[None],
                confidence=torch.ones_like(metres)[None], metric_depth_m=None, scale=self.chain.scale,
                up=self.chain.up[None], scene_from_world=level,
            )  # fmt: skip
            positions, valid = (x.to(device) for x in self.model.patch_positions(geometry, self._grid))
            language = torch.from_numpy(np.array(tokens[part]))[None].to(device, next(self.model.parameters()).dtype)
            self.patches.add(self.model.pool_patches(language, None, positions, valid))
        return factors

    @torch.inference_mode()
    def snapshot(self) -> Snapshot:
        """The scene so far; ValueError before the first window."""
        if self.patches.pooled is None:
            raise ValueError("no window has been added yet; add one before asking for the scene")
        extrinsics = torch.cat(self._extrinsics)
        extrinsics[..., 3] *= self.chain.factor
        return Snapshot(
            extrinsics, torch.cat(self._intrinsics), self.chain.factor, self.chain.scale, self.chain.up,
            self._scene_from_world(), self.model.project_tokens(self.patches.pooled, self._bridge),
            tuple(r.residual for r in self.chain.registrations), tuple(self._agrees), self._loops,
            self._registration,
        )


def _to_scene(scene_from_world: Float[Tensor, "4 4"], factor: float) -> Float[Tensor, "4 4"]:
    """The similarity from the first window's world and metres to the scene frame, float64."""
    similarity = scene_from_world.double().clone()
    similarity[:3, :3] *= factor
    return similarity


# ---- 3D patches of a growing scene ---------------------------------------------------------------------------------
#
# Merged by voxel as windows arrive, so that their number stays under the cap. What Eqs 3 and 4 and voxel pooling give
# for all frames at once is kept here as means with their counts. When the scene's scale or its up direction is measured
# anew, the patches move, and the position embedding in their features with them.


class VoxelMap:
    """Pooled patches of one scene: features (N,C), positions (N,3) in metres of the scene frame, counts (N).

    ``embedding`` gives the position embedding that is part of the features; None without one.
    """

    def __init__(self, config: PatchesConfig, embedding: Callable[[Tensor], Tensor] | None) -> None:
        self.config, self.embedding = config, embedding
        self.voxel_size = config.voxel_size_m
        self.pooled: PooledPatches | None = None
        self.counts = torch.zeros(0)

    def __len__(self) -> int:
        return 0 if self.pooled is None else int(self.pooled.mask.sum())

    @full_precision()
    def move(self, similarity: Float[Tensor, "4 4"]) -> None:
        """Transform all patches by a similarity of the scene frame."""
        if self.pooled is None:
            return
        before, features = self.pooled.positions, self.pooled.features
        moved = similarity.to(before)
        after = before @ moved[:3, :3].T + moved[:3, 3]
        if self.embedding is not None:
            features = features + self.embedding(after.to(features.dtype)) - self.embedding(before.to(features.dtype))
        self.pooled = replace(self.pooled, features=features, positions=after)

    def add(self, window: VisualPrefix) -> None:
        """Merge the patches of a window (a batch of one); the patches of the first window are kept unchanged."""
        counts = _counts(window.patch_index[0], window.patches.shape[1])
        if self.pooled is None:
            size = counts.new_tensor([self.voxel_size])
            self.pooled = PooledPatches(
                window.patches, window.patch_positions, window.patch_mask, window.patch_index, size
            )
            self.counts = counts
            return
        features, positions, mask = (
            torch.cat([held[0], new[0]])
            for held, new in (
                (self.pooled.features, window.patches),
                (self.pooled.positions, window.patch_positions),
                (self.pooled.mask, window.patch_mask),
            )
        )
        self._merge(features, positions, mask, torch.cat([self.counts, counts]))

    def _merge(self, features: Tensor, positions: Tensor, mask: Tensor, counts: Tensor) -> None:
        """Means over voxels, weighted by the number of patches in each row. The voxel size never decreases."""
        n = counts[:, None]
        rows = torch.cat([features.float() * n, positions.float() * n, n], -1)
        found = voxel_pool(rows[None], positions[None].float(), mask[None], self.voxel_size, self.config.max_patches)
        members = _counts(found.inverse[0], found.features.shape[1])
        total, width = found.features[0], features.shape[-1]
        means = total[:, :-1] / total[:, -1:].clamp(min=1e-6)
        self.counts = total[:, -1] * members
        self.voxel_size = float(found.voxel_size[0])
        self.pooled = PooledPatches(
            means[None, :, :width].to(features.dtype), means[None, :, width:], found.mask,
            found.inverse.new_zeros(1, 0), found.voxel_size,
        )


def _counts(inverse: Int[Tensor, " n"], length: int) -> Float[Tensor, " m"]:
    """Number of the n rows pooled into each of ``length`` voxels."""
    return torch.bincount(inverse[inverse >= 0], minlength=length).float()
