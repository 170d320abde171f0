"""The two frozen teachers of stage 1 (docs/method.md, section 8): VGGT's encoder, and the CLIP tower of LLaVA-3D.

A teacher turns images into patch tokens and nothing else. Its grid may differ from the student's; what reads the
tokens resamples them. Teachers at the paper's size are released checkpoints; at ``tiny`` they are our own, trained by
``vidllm train teacher geometry`` and ``vidllm train teacher language``.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPVisionConfig, CLIPVisionModel

from vidllm.baselines.llava_3d import CLIP_MEAN, CLIP_STD
from vidllm.datasets.shards import Shard
from vidllm.geometry.precision import full_precision
from vidllm.io.atomic import atomic_path, clear_leftovers
from vidllm.io.files import has_file
from vidllm.io.weight_files import open_checkpoint, settings_in
from vidllm.model.huggingface import VidLLMForConditionalGeneration
from vidllm.model.loading import check_finite, load_pretrained, load_with_report
from vidllm.pretrained.clip import CLIP_L_336
from vidllm.pretrained.vggt import VGGTReconstruction, load_vggt
from vidllm.training.data import Batch, RoomsData
from vidllm.training.distillation import resample_grid

CLIP_LAYER = -2  # LLaVA's: the tokens before the last block
_LLAVA_TOWER = "vision_tower.vision_tower.vision_model."


class Teacher(ABC):
    """A frozen network that gives patch tokens; no gradient enters it. ``width`` is that of a token.

    ``per_frame``: whether a frame's tokens depend on that frame alone, so that they can be computed once and kept.
    """

    model: nn.Module
    width: int
    per_frame: bool

    @abstractmethod
    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Patches down and across of the tokens of images of ``height`` x ``width`` pixels."""

    @abstractmethod
    def _tokens(self, images: Tensor) -> Tensor:
        """Tokens (B,F,P,C) of images (B,F,3,H,W)."""

    def features(self, images: Float[Tensor, "B F 3 H W"]) -> Float[Tensor, "B F P C"]:
        """Patch tokens of images in [0, 1], in float32 and without gradient, row by row of :meth:`grid`."""
        with torch.no_grad():
            return self._tokens(images).float()

    def on_grid(self, images: Float[Tensor, "B F 3 H W"], grid: tuple[int, int]) -> Float[Tensor, "B F P C"]:
        """:meth:`features` resampled to another grid over the same pictures."""
        return resample_grid(self.features(images), self.grid(images.shape[-2], images.shape[-1]), grid)

    def to(self, device: torch.device) -> Teacher:
        """The same teacher on a device (in place)."""
        self.model.to(device)
        return self

    def fingerprint(self) -> str:
        """A name for these weights and settings, for features kept on disk."""
        return weights_name(self.model.state_dict(), f"{type(self).__name__} {self._settings()}")

    def _settings(self) -> str:
        return ""


def weights_name(state: Mapping[str, Tensor], about: str) -> str:
    """A short name for weights, and for what else is told ``about`` them: other weights, another name."""
    digest = hashlib.sha256(about.encode())
    for name, tensor in sorted(state.items()):
        numbers = tensor.double()
        digest.update(f"{name} {tuple(tensor.shape)} {numbers.sum():.9g} {numbers.abs().sum():.9g}".encode())
    return digest.hexdigest()[:16]


def _frozen(model: nn.Module) -> nn.Module:
    return model.eval().requires_grad_(False)


class GeometryTeacher(Teacher):
    """VGGT, or the geometric half of one of our models.

    ``source``: "encoder" (the paper's) gives the tokens that enter global-frame attention; "attention" those that leave
    its last tapped block, twice as wide and different in other company.
    """

    def __init__(self, model: VGGTReconstruction | VidLLMForConditionalGeneration, source: str = "encoder") -> None:
        if source not in ("encoder", "attention"):
            raise ValueError(f"source must be 'encoder' or 'attention', received {source!r}")
        self.model, self.source = _frozen(model), source
        self.width = model.encoder.config.hidden_size * (1 if source == "encoder" else 2)
        mixes = isinstance(model, VidLLMForConditionalGeneration) and model.config.adapter.variant != "none"
        self.per_frame = source == "encoder" and not mixes

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Patches down and across, as the encoder cuts them."""
        encoder: Any = self.model.encoder
        return encoder.grid(height, width)

    def _tokens(self, images: Tensor) -> Tensor:
        if isinstance(self.model, VidLLMForConditionalGeneration):
            features = self.model.encode(images)
            if self.source == "encoder":
                return features.streams.geometry
            layers = self.model.predict_cameras(features).attended.intermediate_features
            return layers[max(layers)]
        assert isinstance(self.model, VGGTReconstruction)
        seen = self.model.encoder(images)
        if self.source == "encoder":
            return seen.tokens
        last = self.model.parts.attention.depth - 1
        return self.model.attention(seen.tokens, seen.grid, [last]).intermediate_features[last]

    def _settings(self) -> str:
        return self.source


class LanguageTeacher(Teacher):
    """A CLIP vision tower's patch tokens before its last block, as LLaVA reads them.

    The whole frame is resized to the tower's square, so that its grid covers what the student's grid covers (LLaVA-3D
    crops the middle instead and would leave the sides without a teacher).
    """

    per_frame = True

    def __init__(self, model: CLIPVisionModel, layer: int = CLIP_LAYER, chunk: int = 32) -> None:
        self.model, self.layer, self.chunk = _frozen(model), layer, chunk
        self.width = model.config.hidden_size

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """The tower's own square grid, whatever the images' size."""
        settings: Any = self.model.config
        side = settings.image_size // settings.patch_size
        return side, side

    def _tokens(self, images: Tensor) -> Tensor:
        flat = images.flatten(0, 1)
        tokens = [clip_tokens(self.model, part, self.layer) for part in flat.split(self.chunk)]
        return torch.cat(tokens).unflatten(0, images.shape[:2])

    def _settings(self) -> str:
        return str(self.layer)


def clip_pixels(images: Float[Tensor, "N 3 H W"], side: int) -> Float[Tensor, "N 3 S S"]:
    """Images in [0, 1] as a CLIP tower wants them: resized to its square (bicubic) and normalised."""
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


def load_geometry_teacher(place: str, source: str = "encoder") -> GeometryTeacher:
    """One of our model folders, or VGGT-1B's weights (a file, or a folder that holds one)."""
    if _kind(place) == "vidllm":
        return GeometryTeacher(load_pretrained(place)[0], source)
    return GeometryTeacher(load_vggt(place), source)


def load_language_teacher(place: str, layer: int = CLIP_LAYER) -> LanguageTeacher:
    """A CLIP checkpoint (folder or hub id), or the tower inside a LLaVA(-3D) folder.

    ValueError, naming the place, for another kind of model or weights that are not complete.
    """
    kind = _kind(place)
    if kind is not None and kind.startswith("llava"):
        return LanguageTeacher(_llava_tower(Path(place)), layer)
    if kind not in ("clip", "clip_vision_model", None):
        raise ValueError(f"{place}: holds a model of type {kind!r}; expected CLIP, or LLaVA-3D with its tower")
    return LanguageTeacher(_clip_tower(place), layer)


def _kind(place: str) -> str | None:
    """``model_type`` of a folder's configuration; None where there is none to read."""
    found = (settings_in(place) or {}).get("model_type")
    return None if found is None else str(found)


def _clip_tower(place: str) -> CLIPVisionModel:
    """A CLIP's vision tower from a folder or a hub id; ValueError, naming the place, where weights are missing."""
    folder = open_checkpoint(place).folder
    tower, report = load_with_report(CLIPVisionModel, folder)
    missing = sorted(map(str, (*report["missing_keys"], *report["mismatched_keys"])))
    if missing:
        raise ValueError(f"{place}: {len(missing)} weights of a CLIP vision tower are missing, such as {missing[0]}")
    check_finite(tower, place)
    return tower


def _llava_tower(folder: Path) -> CLIPVisionModel:
    """The vision tower of a LLaVA checkpoint, or the CLIP that its configuration names where it has none of its own."""
    tensors: dict[str, Tensor] = {}
    for name, tensor in open_checkpoint(folder).tensors():
        if _LLAVA_TOWER in name:
            tensors[name.split(_LLAVA_TOWER, 1)[1]] = tensor.float()
    named = (settings_in(folder) or {}).get("mm_vision_tower")
    if not tensors:
        if not named:
            raise ValueError(f"{folder}: no vision tower in its weights, and its configuration names none")
        return _clip_tower(_beside(folder, named))
    own = _beside(folder, named or "clip")
    settings = CLIPVisionConfig.from_pretrained(own) if Path(own).is_dir() else CLIPVisionConfig(**CLIP_L_336)
    tower = CLIPVisionModel(settings)
    missing, unexpected = tower.load_state_dict(tensors, strict=False)
    if [name for name in missing if "position_ids" not in name] or unexpected:
        raise ValueError(f"{folder}: the vision tower does not fit; missing {missing[:3]}, unexpected {unexpected[:3]}")
    return tower


def _beside(folder: Path, name: str) -> str:
    return str(folder / name) if (folder / name).is_dir() else name


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
