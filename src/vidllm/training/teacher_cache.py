"""Teacher tokens kept on disk: computed once a shard, read by every step after that.

One safetensors file a shard and teacher, float16, written to a temporary name and moved into place: filling can be
stopped at any moment and goes on with the next shard. A file of another teacher, or one that is damaged, is replaced.
Only teachers that look at one frame at a time can be kept: other tokens change with the frames beside them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from vidllm.datasets.shards import Shard
from vidllm.geometry.precision import full_precision
from vidllm.io.atomic import atomic_path, clear_leftovers
from vidllm.io.files import has_file
from vidllm.training.data import Batch, RoomsData
from vidllm.training.losses.distillation import resample_grid
from vidllm.training.teachers import Teacher

OPEN_FILES = 64


class CachedTeacher:
    """A teacher whose tokens of a folder of shards are read from ``folder``, and computed and kept where missing."""

    def __init__(self, teacher: Teacher, data: RoomsData, folder: Path) -> None:
        if not teacher.per_frame:
            raise ValueError(
                "this teacher's tokens depend on the frames seen together and cannot be kept; "
                "take its encoder's tokens, or leave the cache out"
            )
        self.teacher, self.data = teacher, data
        self.name = teacher.fingerprint()
        self.folder = folder / self.name
        clear_leftovers(self.folder)
        self._open: OrderedDict[Path, Any] = OrderedDict()

    def on_grid(self, batch: Batch, grid: tuple[int, int]) -> Float[Tensor, "B F P C"]:
        """Tokens of a batch's frames on the student's grid."""
        rows = []
        for shard, scene, frames in batch.places:
            rows.append(self._file(shard).get_slice("features")[scene][torch.tensor(frames)].float())
        own = self.teacher.grid(batch.images.shape[-2], batch.images.shape[-1])
        return resample_grid(torch.stack(rows).to(batch.images.device), own, grid)

    def fill(self, say: Callable[[str], None] | None = None) -> int:
        """Compute what is missing for every shard; returns for how many that was."""
        missing = [path for path in self.data.paths if self._read(path) is None]
        for done, path in enumerate(missing):
            self._write(path)
            if say is not None:
                say(f"{self.folder}: {done + 1} of {len(missing)} shards")
        return len(missing)

    def path(self, shard: Path) -> Path:
        """Where the tokens of a shard lie."""
        return self.folder / f"{shard.stem}.safetensors"

    def _file(self, shard: Path) -> Any:
        if shard not in self._open:
            found = self._read(shard)
            if found is None:
                self._write(shard)
                found = self._read(shard)
            self._open[shard] = found
            if len(self._open) > OPEN_FILES:
                self._open.popitem(last=False)
        return self._open[shard]

    def _read(self, shard: Path) -> Any:
        """The open file, or None where there is none or it is damaged."""
        path = self.path(shard)
        if not has_file(path):
            return None
        try:
            file = safe_open(str(path), framework="pt")
            file.get_slice("features").get_shape()
        except (SafetensorError, OSError):
            return None
        return file

    @full_precision()
    def _write(self, shard: Path) -> None:
        content = Shard(shard)
        device = next(self.teacher.model.parameters()).device
        scenes = []
        for index in range(len(content)):
            images = content.tensors(index)["rgb"].permute(0, 3, 1, 2).float().to(device) / 255
            scenes.append(self.teacher.features(images[None])[0].half().cpu())
        if not all(bool(tokens.isfinite().all()) for tokens in scenes):
            raise ValueError(f"the teacher's tokens of {shard} do not fit half precision; leave the cache out")
        path = self.path(shard)
        with atomic_path(path) as temporary:
            save_file({"features": torch.stack(scenes).contiguous()}, temporary, metadata={"teacher": self.name})


class LiveTeacher:
    """The same face for a teacher that looks at every batch anew."""

    def __init__(self, teacher: Teacher) -> None:
        self.teacher = teacher

    def on_grid(self, batch: Batch, grid: tuple[int, int]) -> Float[Tensor, "B F P C"]:
        """Tokens of a batch's frames on the student's grid."""
        return self.teacher.on_grid(batch.images, grid)
