"""A model folder written while it is read: tensors gather until a shard is full, then go to disk."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

SHARD_BYTES = 2 * 10**9


class ShardWriter:
    """Writes ``model-0000k-of-0000n.safetensors`` and their index; holds at most one shard in memory."""

    def __init__(self, folder: Path, shard_bytes: int = SHARD_BYTES, dtype: torch.dtype | None = None) -> None:
        self.folder, self.shard_bytes, self.dtype = folder, shard_bytes, dtype
        self._waiting: dict[str, Tensor] = {}
        self._bytes = self._total = 0
        self._shards: list[list[str]] = []

    def add(self, name: str, tensor: Tensor) -> None:
        """Take a tensor (in ``dtype`` if that is set and the tensor is floating); a full shard is written."""
        wanted = self.dtype if self.dtype is not None and tensor.is_floating_point() else tensor.dtype
        size = tensor.numel() * wanted.itemsize
        if self._waiting and self._bytes + size > self.shard_bytes:
            self._flush()
        self._waiting[name] = tensor.detach().to(wanted, copy=True).contiguous()
        self._bytes += size
        self._total += size

    def finish(self) -> list[Path]:
        """Write what waits, give the shards their final names and write the index; returns the shards."""
        if self._waiting or not self._shards:
            self._flush()
        count = len(self._shards)
        files, index = [], {}
        for number, names in enumerate(self._shards, 1):
            final = "model.safetensors" if count == 1 else f"model-{number:05d}-of-{count:05d}.safetensors"
            files.append(self._part(number).rename(self.folder / final))
            index.update(dict.fromkeys(names, final))
        if count > 1:
            table = {"metadata": {"total_size": self._total}, "weight_map": dict(sorted(index.items()))}
            (self.folder / "model.safetensors.index.json").write_text(json.dumps(table, indent=1))
        return files

    def _flush(self) -> None:
        self._shards.append(list(self._waiting))
        save_file(self._waiting, self._part(len(self._shards)), metadata={"format": "pt"})
        self._waiting, self._bytes = {}, 0

    def _part(self, number: int) -> Path:
        return self.folder / f"model-{number:05d}.part"
