"""Weights in a quarter of single precision's space: int8 with a half-precision scale per row, dequantised when loaded.

A matrix is stored as ``NAME`` (int8) and ``NAME.scale`` (float16, one per row; a row is all but the first dimension, or
the last one if the first is small). Vectors and small tensors are stored in half precision. The files are safetensors,
``model.int8-00001-of-00003.safetensors`` instead of ``model.safetensors``; ``from_pretrained`` reads both.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from vidllm.io.atomic import atomic_path
from vidllm.io.weight_files import Checkpoint, all_numbers, compact_files
from vidllm.model.encoder import newer_names

STEM = "model.int8"
SCALE = ".scale"
LEAST = 4096  # numbers of a tensor that is worth a scale a row
LEVELS = 127
MEBIBYTE = 2**20


def quantised(name: str, weight: Tensor) -> dict[str, Tensor]:
    """The stored tensors of a weight: int8 and scales, or half precision (float32 if that cannot represent it)."""
    if not weight.is_floating_point():
        return {name: weight}
    if weight.ndim < 2 or weight.numel() < LEAST:
        half = weight.half()
        exact_enough = bool(half.isfinite().all()) and bool(((weight == 0) | (weight.abs() > 6.2e-5)).all())
        return {name: half if exact_enough else weight.float()}
    rows = _rows(weight.float())
    largest = rows.abs().amax(1, keepdim=True)
    scale = (largest / LEVELS).clamp(min=2.0**-24).half()
    scale = torch.where(scale.float() * LEVELS < largest, scale.nextafter(torch.full_like(scale, torch.inf)), scale)
    levels = (rows / scale.float()).round().clamp(-LEVELS, LEVELS).to(torch.int8)
    return {name: levels.view(weight.shape), name + SCALE: scale[:, 0]}


def dequantised(levels: Tensor, scale: Tensor | None) -> Tensor:
    """The inverse of :func:`quantised`, in float32, in memory of its own."""
    if scale is None:
        return levels.to(torch.float32 if levels.is_floating_point() else levels.dtype, copy=True)
    return _rows(levels).float().mul_(scale.float()[:, None]).view(levels.shape)


def _rows(weight: Tensor) -> Tensor:
    """(rows, numbers of a row): along the first dimension, or the last where the first has fewer than 8."""
    return weight.reshape(len(weight), -1) if len(weight) >= 8 else weight.reshape(-1, weight.shape[-1])


def save_compact(state: Mapping[str, Tensor], folder: Path, largest_mib: float | None = None) -> list[Path]:
    """Write the weights into ``folder``, in files of at most ``largest_mib``; returns them.

    Raises ValueError for weights that are not finite.
    """
    bad = [name for name, value in state.items() if value.is_floating_point() and not bool(value.isfinite().all())]
    if bad:
        raise ValueError(f"{len(bad)} tensors hold numbers that are not finite, such as {bad[0]}; nothing was written")
    largest = math.inf if largest_mib is None else largest_mib * MEBIBYTE - 65536
    shards: list[dict[str, Tensor]] = [{}]
    size = 0
    for name, weight in newer_names(state).items():
        for key, value in quantised(name, weight.detach().cpu()).items():
            if shards[-1] and size + value.nbytes > largest:
                shards.append({})
                size = 0
            shards[-1][key] = value.contiguous()
            size += value.nbytes
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for number, shard in enumerate(shards, 1):
        name = f"{STEM}-{number:05d}-of-{len(shards):05d}.safetensors"
        with atomic_path(folder / name) as temporary:
            save_file(shard, temporary, {"format": "pt", "packing": "int8 rows"})
        files.append(folder / name)
    return files


def is_compact(folder: Path) -> bool:
    """Whether a folder has weights of this form."""
    return bool(compact_files(folder))


def load_compact(folder: Path) -> dict[str, Tensor]:
    """The weights of a folder in float32; ValueError that names a missing or damaged file."""
    found = dict(Checkpoint(str(folder), folder, tuple(all_numbers(compact_files(folder)))).tensors())
    scales = {name + SCALE for name, value in found.items() if value.dtype == torch.int8}
    return {name: dequantised(value, found.get(name + SCALE)) for name, value in found.items() if name not in scales}
