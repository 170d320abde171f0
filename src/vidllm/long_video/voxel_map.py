"""3D patches of a growing scene: merged by voxel as windows arrive, so that their number stays under the cap.

What Eqs 3 and 4 and voxel pooling give for all frames at once is kept here as means with their counts. When the scene's
scale or its up direction is measured anew, the patches move, and the position embedding in their features with them.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vidllm.geometry.precision import full_precision
from vidllm.model.configuration import PatchesConfig
from vidllm.model.outputs import PooledPatches, VisualPrefix
from vidllm.model.patches_3d import voxel_pool

Embedding = Callable[[Tensor], Tensor]


class VoxelMap:
    """Pooled patches of one scene: features (N,C), positions (N,3) in metres of the scene frame, counts (N).

    ``embedding`` takes positions to what was added to the features for them; None where nothing was.
    """

    def __init__(self, config: PatchesConfig, embedding: Embedding | None) -> None:
        self.config, self.embedding = config, embedding
        self.voxel_size = config.voxel_size_m
        self.pooled: PooledPatches | None = None
        self.counts = torch.zeros(0)

    def __len__(self) -> int:
        return 0 if self.pooled is None else int(self.pooled.mask.sum())

    @full_precision()
    def move(self, similarity: Float[Tensor, "4 4"]) -> None:
        """Take all patches through a similarity of the scene frame."""
        if self.pooled is None:
            return
        before = self.pooled.positions
        moved = similarity.to(before)
        after = before @ moved[:3, :3].T + moved[:3, 3]
        features = self.pooled.features
        if self.embedding is not None:
            features = features + self.embedding(after.to(features.dtype)) - self.embedding(before.to(features.dtype))
        self.pooled = PooledPatches(
            features, after, self.pooled.mask, self.pooled.inverse, self.pooled.voxel_size
        )

    def add(self, window: VisualPrefix) -> None:
        """Merge the patches of a window (a batch of one); the first window's are kept as they are."""
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
        """Means over voxels, each row counting as often as patches went into it. A voxel grown once stays grown."""
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
    """How many of n rows were pooled into each of ``length`` places."""
    return torch.bincount(inverse[inverse >= 0], minlength=length).float()
