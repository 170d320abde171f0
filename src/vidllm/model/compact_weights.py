"""Weights in a quarter of single precision's space: int8 with a half-precision scale a row, dequantised at loading.

A matrix is kept as ``NAME`` (int8) and ``NAME.scale`` (float16, one a row: a row is all but the first dimension, or
the last one of what is small in the first). Vectors and small tensors are kept in half precision. The files are
safetensors, ``model.int8-00001-of-00003.safetensors``, in place of ``model.safetensors``; ``from_pretrained`` reads
either.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import GenerationConfig
from transformers.models.dinov2_with_registers import modeling_dinov2_with_registers

from vidllm.io.atomic import atomic_path
from vidllm.io.files import check_regular_file

STEM = "model.int8"
SCALE = ".scale"
LEAST = 4096  # numbers of a tensor that is worth a scale a row
LEVELS = 127
_NUMBERED = re.compile(rf"{re.escape(STEM)}-(\d{{5}})-of-(\d{{5}})\.safetensors")
MEBIBYTE = 2**20
Renames = tuple[tuple[str, str], ...]
_OLD_AND_NEW = (("attention.query", "q_proj"), ("attention.key", "k_proj"), ("attention.value", "v_proj"),
                ("output.dense", "o_proj"))  # fmt: skip
_TO_KEPT: Renames = tuple((rf"\.attention\.{re.escape(old)}\.", f".attention.{new}.") for old, new in _OLD_AND_NEW)
_TO_OLD: Renames = tuple((rf"\.attention\.{new}\.", f".attention.{old}.") for old, new in _OLD_AND_NEW)


def quantised(name: str, weight: Tensor) -> dict[str, Tensor]:
    """A tensor as it is kept: int8 and scales, or half precision (float32 where that has no such number)."""
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
    """The inverse of :func:`quantised`, in float32."""
    if scale is None:
        return levels.float() if levels.is_floating_point() else levels
    return (_rows(levels).float() * scale.float()[:, None]).view(levels.shape)


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
    kept: dict[str, Tensor] = {}
    for name, value in kept_names(state).items():
        kept |= {k: v.contiguous() for k, v in quantised(name, value.detach().cpu()).items()}
    shards = _shards(kept, largest_mib)
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for number, shard in enumerate(shards, 1):
        name = f"{STEM}-{number:05d}-of-{len(shards):05d}.safetensors"
        with atomic_path(folder / name) as temporary:
            save_file(shard, temporary, {"format": "pt", "packing": "int8 rows"})
        files.append(folder / name)
    return files


def _shards(kept: dict[str, Tensor], largest_mib: float | None) -> list[dict[str, Tensor]]:
    shards: list[dict[str, Tensor]] = [{}]
    size = 0
    for name, value in kept.items():
        if largest_mib is not None and shards[-1] and size + value.nbytes > largest_mib * MEBIBYTE - 65536:
            shards.append({})
            size = 0
        shards[-1][name] = value
        size += value.nbytes
    return shards


def is_compact(folder: Path) -> bool:
    """Whether a folder's weights are of this kind."""
    return folder.is_dir() and any(folder.glob(f"{STEM}-*.safetensors"))


def load_compact(folder: Path) -> dict[str, Tensor]:
    """The weights of a folder in float32; ValueError that names a file which is missing or damaged."""
    found: dict[str, Tensor] = {}
    for file in _files(folder):
        found.update(_read(file))
    weights = {
        name: dequantised(value, found.get(name + SCALE)) for name, value in found.items() if not _is_scale(name, found)
    }
    return renamed(weights, _TO_OLD) if _names_are_old() else weights


def kept_names(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights by the names under which they are kept: those of transformers from 5.20 on."""
    return renamed(weights, _TO_KEPT)


def renamed(weights: Mapping[str, Tensor], renames: Renames) -> dict[str, Tensor]:
    """Weights of the encoder's attention by transformers' other names for them, in the same order."""
    found = {}
    for name, value in weights.items():
        for pattern, other in renames if name.startswith("encoder.") else ():
            name = re.sub(pattern, other, name)
        found[name] = value
    return found


def _names_are_old() -> bool:
    """Whether the transformers that is installed has DINOv2's attention under its names of before 5.20."""
    return hasattr(modeling_dinov2_with_registers, "Dinov2WithRegistersSelfAttention")


class ReadsCompactWeights:
    """Lets a class of transformers' models load compact weights too."""

    @classmethod
    def from_pretrained(cls, place: Any, *args: Any, **kwargs: Any) -> Any:
        """As transformers' own, which it calls; ``place`` may be a folder with compact weights."""
        inherited: Any = super()
        folder = None if place is None else Path(place)
        if folder is None or kwargs.get("state_dict") is not None or not is_compact(folder):
            return inherited.from_pretrained(place, *args, **kwargs)
        if kwargs.get("config") is None:
            config_class: Any = cls.config_class  # type: ignore[attr-defined]
            kwargs["config"] = config_class.from_pretrained(folder)
        loaded = inherited.from_pretrained(None, *args, state_dict=load_compact(folder), **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        model.name_or_path = str(folder)
        if (folder / "generation_config.json").is_file():
            model.generation_config = GenerationConfig.from_pretrained(folder)
        return loaded


def _is_scale(name: str, found: Mapping[str, Tensor]) -> bool:
    return name.endswith(SCALE) and found.get(name.removesuffix(SCALE), torch.empty(0)).dtype == torch.int8


def _files(folder: Path) -> Iterator[Path]:
    names = {int(m[1]): (int(m[2]), p) for p in folder.iterdir() if (m := _NUMBERED.fullmatch(p.name))}
    counts = {count for count, _ in names.values()}
    if len(counts) != 1:
        raise ValueError(f"{folder}: {STEM} files of {sorted(counts)} parts lie side by side; keep those of one export")
    (count,) = counts
    missing = [n for n in range(1, count + 1) if n not in names]
    if missing:
        raise ValueError(f"{folder}: part {missing[0]} of {count} of {STEM} is missing; finish the download")
    return (path for _, (_, path) in sorted(names.items()))


def _read(file: Path) -> dict[str, Tensor]:
    try:
        with safe_open(str(check_regular_file(file)), "pt") as opened:
            return {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{file}: truncated or not safetensors ({error}); fetch it again") from error
