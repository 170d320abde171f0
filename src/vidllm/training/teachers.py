"""The two frozen teachers of stage 1 (docs/method.md, section 8): VGGT's encoder, and the CLIP tower of LLaVA-3D.

A teacher computes patch tokens of images. Its grid may differ from the student's; tokens are resampled. Teachers of the
paper's size are published checkpoints; for ``tiny`` they are trained by ``vidllm train teacher geometry`` and ``vidllm
train teacher language``.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from vidllm.baselines.llava_3d import CLIP_MEAN, CLIP_STD
from vidllm.datasets.shards import Shard
from vidllm.geometry.precision import full_precision
from vidllm.io.atomic import atomic_path, clear_leftovers
from vidllm.io.files import has_file
from vidllm.pretrained.parts import Part, find_geometry, find_tower
from vidllm.training.data import Batch
from vidllm.training.distillation import check_structure, resample_grid

CLIP_LAYER = -2  # LLaVA's: the tokens before the last block


class Teacher(ABC):
    """A frozen network that computes patch tokens of ``width`` channels.

    ``per_frame``: whether a frame's tokens depend on that frame alone, so that they can be cached.
    """

    model: nn.Module
    width: int
    per_frame: bool
    settings: str  # what its tokens depend on beside the weights

    @abstractmethod
    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Patches down and across of the tokens of images of ``height`` x ``width`` pixels."""

    @abstractmethod
    def _tokens(self, images: Tensor) -> Tensor:
        """Tokens (B,F,P,C) of images (B,F,3,H,W)."""

    def features(self, images: Float[Tensor, "B F 3 H W"]) -> Float[Tensor, "B F P C"]:
        """Patch tokens of images in [0, 1], in float32 and without gradient, in the row order of :meth:`grid`."""
        with torch.no_grad():
            return self._tokens(images).float()

    def on_grid(self, batch: Batch, grid: tuple[int, int]) -> Float[Tensor, "B F P C"]:
        """:meth:`features` of a batch's frames, resampled to the student's grid."""
        return resample_grid(self.features(batch.images), self.grid(*batch.images.shape[-2:]), grid)

    def to(self, device: torch.device) -> Teacher:
        """The same teacher on a device (in place)."""
        self.model.to(device)
        return self

    def fingerprint(self) -> str:
        """A name for these weights and settings, for cached tokens."""
        return weights_name(self.model.state_dict(), f"{type(self).__name__} {self.settings}")


def weights_name(state: Mapping[str, Tensor], about: str) -> str:
    """A checksum of weights and of a text."""
    digest = hashlib.sha256(about.encode())
    for name, tensor in sorted(state.items()):
        numbers = tensor.double()
        digest.update(f"{name} {tuple(tensor.shape)} {numbers.sum():.9g} {numbers.abs().sum():.9g}".encode())
    return digest.hexdigest()[:16]


class GeometryTeacher(Teacher):
    """The geometric half of VGGT or of a model of vidllm: ``model.encoder``, ``adapter`` (or none), ``attention``.

    ``source``: "encoder" (the paper's) gives the inputs of global-frame attention; "attention" the outputs of its last
    block, which are twice as wide and depend on all frames.
    """

    def __init__(self, model: nn.Module, source: str = "encoder") -> None:
        if source not in ("encoder", "attention"):
            raise ValueError(f"source must be 'encoder' or 'attention', received {source!r}")
        self.model, self.source = model.eval().requires_grad_(False), source
        self.settings = source
        self._adapter: Any = getattr(model, "adapter", None)
        encoder: Any = model.encoder
        self.width = encoder.config.hidden_size * (1 if source == "encoder" else 2)
        mixes = self._adapter is not None and self._adapter.config.variant != "none"
        self.per_frame = source == "encoder" and not mixes

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Patches down and across, as the encoder cuts them."""
        encoder: Any = self.model.encoder
        return encoder.grid(height, width)

    def _tokens(self, images: Tensor) -> Tensor:
        parts: Any = self.model
        seen = parts.encoder(images)
        tokens, bridge = seen.tokens, None
        if self._adapter is not None:
            streams = self._adapter(tokens)
            tokens = streams.geometry
            bridge = streams.frame_bridge() if self._adapter.config.geometry_rider else None
        if self.source == "encoder":
            return tokens
        last = parts.attention.config.depth - 1
        return parts.attention(tokens, seen.grid, [last], bridge).intermediate_features[last]


class LanguageTeacher(Teacher):
    """A CLIP vision tower's patch tokens before its last block, as in LLaVA.

    The whole frame is resized to the tower's square, so that its grid covers the student's grid (LLaVA-3D crops the
    middle).
    """

    per_frame = True

    def __init__(self, model: nn.Module, layer: int = CLIP_LAYER, chunk: int = 32) -> None:
        self.model, self.layer, self.chunk = model.eval().requires_grad_(False), layer, chunk
        self.settings = str(layer)
        settings: Any = model.config
        self.width = settings.hidden_size

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """The tower's own square grid, whatever the images' size."""
        settings: Any = self.model.config
        side = settings.image_size // settings.patch_size
        return side, side

    def _tokens(self, images: Tensor) -> Tensor:
        flat = images.flatten(0, 1)
        tokens = [clip_tokens(self.model, part, self.layer) for part in flat.split(self.chunk)]
        return torch.cat(tokens).unflatten(0, images.shape[:2])


def clip_pixels(images: Float[Tensor, "N 3 H W"], side: int) -> Float[Tensor, "N 3 S S"]:
    """Images in [0, 1] resized to CLIP's square input (bicubic) and normalised."""
    if images.shape[-2:] != (side, side):
        resized = F.interpolate(images, (side, side), mode="bicubic", align_corners=False, antialias=True)
        images = resized.clamp(0, 1)
    mean, std = (images.new_tensor(v)[:, None, None] for v in (CLIP_MEAN, CLIP_STD))
    return (images - mean) / std


def clip_tokens(tower: nn.Module, images: Float[Tensor, "N 3 H W"], layer: int = CLIP_LAYER) -> Float[Tensor, "N P C"]:
    """Patch tokens of a CLIP vision tower after ``layer`` (negative: from the end), without the class token."""
    settings: Any = tower.config
    out = tower(pixel_values=clip_pixels(images, settings.image_size), output_hidden_states=True)
    return out.hidden_states[layer][:, 1:]


# ---- loading --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FoundTeachers:
    """Both teachers without their weights: widths and memory are known."""

    geometry: GeometryTeacher
    language: LanguageTeacher
    parts: tuple[Part, Part]

    def load(self) -> tuple[GeometryTeacher, LanguageTeacher]:
        """The teachers with their weights; ValueError for weights that are not finite."""
        for part in self.parts:
            part.load()
        return self.geometry, self.language


def find_teachers(geometry: str, language: str, source: str = "encoder", structure: str | None = None) -> FoundTeachers:
    """The teachers of stage 1, from headers alone (:mod:`vidllm.pretrained.parts`).

    ``structure``: the form of Eq 7, None without it. ValueError for a teacher that is missing, of another kind or
    damaged, and for widths that ``structure`` cannot compare.
    """
    for option, place in (("geometry", geometry), ("language", language)):
        if not place:
            raise ValueError(f"stage 1 needs both teachers; give --teacher-{option} MODEL")
    parts = find_geometry(geometry, source != "encoder"), find_tower(language)
    found = FoundTeachers(GeometryTeacher(parts[0].module, source), LanguageTeacher(parts[1].module), parts)
    if structure is not None:
        check_structure(structure, found.geometry.width, found.language.width)
    return found


def load_geometry_teacher(place: str, source: str = "encoder") -> GeometryTeacher:
    """VGGT's encoder, DINOv2, or the encoder of a model of vidllm or a cascade; ValueError as :func:`find_teachers`."""
    return GeometryTeacher(find_geometry(place, source != "encoder").load(), source)


def load_language_teacher(place: str) -> LanguageTeacher:
    """CLIP's vision tower, of CLIP, LLaVA(-3D) or a cascade; ValueError as :func:`find_teachers`."""
    return LanguageTeacher(find_tower(place).load())


OPEN_FILES = 64


class CachedTeacher:
    """A teacher whose tokens of shards are read from ``folder``, and computed and stored there if missing."""

    def __init__(self, teacher: Teacher, folder: Path) -> None:
        if not teacher.per_frame:
            raise ValueError(
                "this teacher's tokens depend on the frames seen together and cannot be kept; "
                "take its encoder's tokens, or leave the cache out"
            )
        self.teacher, self.name = teacher, teacher.fingerprint()
        self.folder = folder / self.name
        clear_leftovers(self.folder)
        self._file = lru_cache(maxsize=OPEN_FILES)(self._open)

    def on_grid(self, batch: Batch, grid: tuple[int, int]) -> Float[Tensor, "B F P C"]:
        """As :meth:`Teacher.on_grid`."""
        rows = [
            self._file(shard).get_slice("features")[scene][torch.tensor(frames)].float()
            for shard, scene, frames in batch.places
        ]
        own = self.teacher.grid(*batch.images.shape[-2:])
        return resample_grid(torch.stack(rows).to(batch.images.device), own, grid)

    def path(self, shard: Path) -> Path:
        """Where the tokens of a shard lie."""
        return self.folder / f"{shard.stem}.safetensors"

    def _open(self, shard: Path) -> Any:
        """The open file of a shard's tokens, which are computed where there is none or it is damaged."""
        found = self._read(shard)
        if found is None:
            self._write(shard)
            found = self._read(shard)
        if found is None:
            raise ValueError(f"{self.path(shard)}: cannot be read after it was written; leave the cache out")
        return found

    def _read(self, shard: Path) -> Any:
        if has_file(self.path(shard)):
            with suppress(SafetensorError, OSError):
                file = safe_open(str(self.path(shard)), framework="pt")
                file.get_slice("features").get_shape()
                return file
        return None

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
        with atomic_path(self.path(shard)) as temporary:
            save_file({"features": torch.stack(scenes).contiguous()}, temporary, metadata={"teacher": self.name})
