"""The files of a saved scene: ``vidllm_scene.safetensors`` holds the tensors, ``vidllm_scene.json`` everything else.

It also has the checksums of both and the fingerprint of the model: the tensors are useless for another model.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from vidllm.export.geometry import release
from vidllm.io.atomic import atomic_folder, atomic_path, write_json
from vidllm.io.files import check_regular_file, read_json_object
from vidllm.model.configuration import TINY
from vidllm.model.modeling import Network
from vidllm.model.outputs import SceneScale, VisualPrefix
from vidllm.model.precision import Int4Linear, Int8Linear

SAVED = "scene"  # the format of a saved scene, in addition to those of the exporters
VALUES, TENSORS = "vidllm_scene.json", "vidllm_scene.safetensors"
FORM, VERSION = "vidllm scene", 1
SHIPPED = "shipped"  # the place of the model inside the package
_NESTED: dict[str, type[Any]] = {"scale": SceneScale, "prefix": VisualPrefix}
_TEXT = ("model_type", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim",
         "hidden_act", "rms_norm_eps", "sliding_window")  # fmt: skip
_ROPE = ("rope_type", "rope_theta", "factor")
_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_FILE_TYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
    torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip
_TYPES_OF_MAPS = {"uint8": torch.uint8, "float16": torch.float16, "float32": torch.float32}
_SURROGATE = re.compile("[\ud800-\udfff]")
_ITEMS = 2**20  # items written at a time
_SAMPLES = 256  # elements of each weight in a fingerprint
_T = TypeVar("_T")


def write_formats(
    scene: Any, model: Network, folder: Path, formats: Sequence[str], shown: Sequence[dict[str, Any]],
    page: tuple[str, Sequence[tuple[str, str]]],
) -> list[Path]:
    """Write a ``Scene`` in formats of ``vidllm.export`` and as a saved scene ("scene"), atomically; returns the paths.

    ``shown``: the boxes for ``export_scene``; ``page``: title, questions with answers. Raises OutputError (an OSError)
    if the folder cannot be written, ValueError for an unknown format.
    """
    from vidllm.export import EXPORTERS, export_scene
    from vidllm.export.page import PageTexts

    unknown = sorted(set(formats) - {*EXPORTERS, SAVED})
    if unknown:
        raise ValueError(f"unknown export format {', '.join(unknown)}; choose from {', '.join(EXPORTERS)}, {SAVED}")
    exports = [name for name in formats if name != SAVED]
    texts = PageTexts(page[0], scene.warnings, page[1], scene.scale.length_spread)
    with atomic_folder(folder) as part:
        paths = export_scene(part, scene.data, exports, shown, texts) if exports else []
        if SAVED in formats:
            paths += write_scene(part, model, *scene.saved())
    return [folder / path.relative_to(part) for path in paths]


# ---- the model a scene came from --------------------------------------------------------------------------------


def fingerprint(model: Network) -> str:
    """32 hexadecimal digits of a model's configuration and weights, which also depend on dtype and quantisation.

    Of each weight, the sum over all elements (as integers) and the bits of ``_SAMPLES`` elements are hashed.
    """
    digest = hashlib.sha256(json.dumps(_settings(model.config), sort_keys=True).encode())
    for name, weight in sorted(_weights(model).items()):
        bits = weight.detach().reshape(-1).view(_BITS[weight.element_size()])
        told = f"{name} {weight.dtype} {list(weight.shape)} {int(bits.sum(dtype=torch.int64))}"
        digest.update(told.encode())
        digest.update(bits[:: max(1, len(bits) // _SAMPLES)].cpu().numpy().tobytes())
    return digest.hexdigest()[:32]


def _settings(config: Any) -> dict[str, Any]:
    """The settings of the model that differ from defaults, so that new settings do not change the fingerprint."""
    left_out = ("windows", "text_config", "vision_config", "metric_model")
    parts = {name: part for name, part in vars(config).items() if is_dataclass(part) and name not in left_out}
    told: dict[str, Any] = {name: _changed(part) for name, part in parts.items()}
    rope = getattr(config.text_config, "rope_parameters", None) or {}
    told["text"] = {name: getattr(config.text_config, name, None) for name in _TEXT}
    told["rope"] = {name: rope.get(name) for name in _ROPE}
    told["tokens"] = [config.video_token_id, config.loc_token_id, config.coord_token_id]
    return {**told, "model_type": config.model_type}


def _changed(part: Any) -> dict[str, Any]:
    values = {field: getattr(part, field.name) for field in fields(part)}
    return {f.name: value for f, value in values.items() if f.default is MISSING or value != f.default}


def _weights(model: nn.Module) -> dict[str, Tensor]:
    """The state dict, including weights that are offloaded to host memory."""
    found: dict[str, Tensor] = model.state_dict()
    if any(weight.is_meta for weight in found.values()):
        from accelerate.utils.modeling import get_state_dict_offloaded_model

        found = get_state_dict_offloaded_model(model)
    return found


def origin_of(model: Network) -> dict[str, Any]:
    """The model's entry in a saved scene: place, fingerprint, dtypes."""
    place = str(model.name_or_path or "")
    if place and Path(place).is_dir():
        place = SHIPPED if Path(place).resolve() == TINY.resolve() else str(Path(place).resolve())
    kinds = {type(module) for module in model.language_model.modules()}
    language = "int8" if Int8Linear in kinds else "int4" if Int4Linear in kinds else None
    dtype = str(next(model.parameters()).dtype).removeprefix("torch.")
    return {"place": place, "fingerprint": fingerprint(model), "dtype": dtype, "language_dtype": language}


def in_words(origin: dict[str, Any]) -> str:
    """A model in words."""
    place = "the shipped model" if origin["place"] == SHIPPED else origin["place"] or "a model without a folder"
    language = "" if origin["language_dtype"] is None else f", language {origin['language_dtype']}"
    return f"{place} ({origin['dtype']}{language}, {origin['fingerprint'][:8]})"


# ---- writing ------------------------------------------------------------------------------------------------------


def write_scene(
    folder: Path, model: Network, kind: str, values: dict[str, Any], tensors: dict[str, Tensor | np.ndarray]
) -> list[Path]:
    """Write a scene to a folder, created if missing; returns the two paths. OutputError if that fails."""
    with atomic_path(folder / TENSORS) as part:
        _save(tensors, part)
        digest = _sha256(part)
    whole = {"format": FORM, "version": VERSION, "model": origin_of(model), "tensors": digest, "kind": kind,
             "values": values}  # fmt: skip
    whole["checksum"] = _checksum(whole)
    write_json(folder / VALUES, whole)
    return [folder / VALUES, folder / TENSORS]


def _save(tensors: dict[str, Tensor | np.ndarray], path: Path) -> None:
    """Write a safetensors file in pieces: the maps of a long scene are on disk and may not fit in memory."""
    named: dict[str, tuple[str, np.ndarray]] = {}
    for name, value in tensors.items():
        tensor = torch.empty(0, dtype=_TYPES_OF_MAPS[value.dtype.name]) if isinstance(value, np.ndarray) else value
        bits = value if isinstance(value, np.ndarray) else _bits(value.detach().cpu().contiguous())
        named[name] = _FILE_TYPES[tensor.dtype], bits
    order = sorted(named, key=lambda name: -named[name][1].itemsize)  # each begins at a multiple of its item
    header, at = {}, 0
    for name in order:
        kind, bits = named[name]
        header[name] = {"dtype": kind, "shape": list(bits.shape), "data_offsets": [at, at + bits.nbytes]}
        at += bits.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in order:
            bits = named[name][1].reshape(-1)
            for begin in range(0, bits.size, _ITEMS):
                file.write(np.ascontiguousarray(bits[begin : begin + _ITEMS]).tobytes())
                release(bits)


def _bits(tensor: Tensor) -> np.ndarray:
    return (tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor).numpy()


def flat(**parts: Any) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """JSON values and tensors of dataclasses, named by their paths, such as ``geometry.scale.spread``."""
    values: dict[str, Any] = {}
    tensors: dict[str, Tensor] = {}
    for name, part in parts.items():
        for field in fields(part):
            key, value = f"{name}.{field.name}", getattr(part, field.name)
            if isinstance(value, Tensor | np.ndarray):
                tensors[key] = torch.as_tensor(value)
            elif is_dataclass(value):
                more_values, more_tensors = flat(**{key: value})
                values, tensors = values | more_values, tensors | more_tensors
            else:
                values[key] = texts(value) if isinstance(value, tuple) else texts([value])[0]
    return values, tensors


def texts(values: Iterable[Any]) -> list[Any]:
    """Values for JSON; a text that is not valid Unicode (such as a file name) becomes its bytes."""
    return [{"bytes": v.encode("utf-8", "surrogatepass").hex()} if isinstance(v, str) and _SURROGATE.search(v) else v
            for v in values]  # fmt: skip


def as_bytes(images: Tensor) -> Tensor:
    """Pictures in 8 bits if that is lossless."""
    rounded = (images * 255).round().to(torch.uint8)
    return rounded if torch.equal(rounded.to(images.dtype) / 255, images) else images


def _checksum(values: dict[str, Any]) -> str:
    kept = {name: value for name, value in values.items() if name != "checksum"}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


# ---- reading ------------------------------------------------------------------------------------------------------


def is_saved_scene(place: str | Path) -> bool:
    """Whether a folder contains a saved scene, intact or damaged."""
    folder = Path(place).expanduser()
    return any((folder / name).exists() for name in (VALUES, TENSORS))


@dataclass(frozen=True)
class SceneFile:
    """The content of a saved scene, before a model is loaded for it."""

    folder: Path
    values: dict[str, Any]
    tensors: dict[str, Tensor]

    @classmethod
    def read(cls, folder: str | Path) -> SceneFile:
        """Read and check; ValueError of one line that names the file."""
        folder = Path(folder).expanduser()
        if not is_saved_scene(folder):
            raise ValueError(f"{folder}: contains no saved scene ({VALUES} is missing); "
                             "scene.save(folder) and vidllm reconstruct --format scene write one")  # fmt: skip
        values = read_json_object(folder / VALUES)
        if values.get("format") != FORM:
            raise ValueError(f"{folder / VALUES}: is not a saved scene of vidllm; give the folder of one")
        if values.get("version") != VERSION:
            raise ValueError(f"{folder / VALUES}: has version {values.get('version')!r}, this vidllm reads {VERSION}; "
                             "save the scene again, or use the vidllm that wrote it")  # fmt: skip
        if values.get("checksum") != _checksum(values):
            raise ValueError(f"{folder / VALUES}: damaged, its checksum is wrong; save the scene again")
        return cls(folder, values, _read_tensors(folder / TENSORS, values["tensors"]))

    @property
    def origin(self) -> dict[str, Any]:
        """The model that the scene came from: place, fingerprint, dtype, language_dtype."""
        origin: dict[str, Any] = self.values["model"]
        return origin

    def place(self) -> Path | None:
        """The folder of the scene's model, None for the shipped one; ValueError if it is not on this machine."""
        place = self.origin["place"]
        if place == SHIPPED:
            return None
        if not place or not Path(place).is_dir():
            raise ValueError(f"{self.folder / VALUES}: the scene's model is not here: {in_words(self.origin)}; "
                             "say where it is (model=, --model)")  # fmt: skip
        return Path(place)

    def build(self, kind: type[_T], name: str, device: torch.device | str = "cpu") -> _T:
        """A dataclass from its values and tensors, which are copied to ``device``."""
        found: dict[str, Any] = {}
        for field in fields(kind):  # type: ignore[arg-type]
            key = f"{name}.{field.name}"
            if key in self.tensors:
                tensor = self.tensors[key].clone().to(device)
                found[field.name] = tensor / 255 if field.name == "images" and tensor.dtype == torch.uint8 else tensor
            elif field.name in _NESTED:
                found[field.name] = self.build(_NESTED[field.name], key, device)
            elif key in self.values["values"] or field.default is MISSING:
                value = self.values["values"][key]
                found[field.name] = from_texts(value) if isinstance(value, list) else from_texts([value])[0]
        return kind(**found)


@dataclass(frozen=True)
class SavedMaps:
    """Maps of a long scene, memory-mapped from its file."""

    tensors: dict[str, Tensor]

    def has(self, name: str) -> bool:
        """Whether the file holds a map."""
        return f"maps.{name}" in self.tensors

    def read(self, name: str, frames: int) -> np.ndarray:
        """The first ``frames`` frames."""
        return self.tensors[f"maps.{name}"].numpy()[:frames]


def from_texts(values: Iterable[Any]) -> tuple[Any, ...]:
    """The inverse of :func:`texts`."""
    return tuple(
        bytes.fromhex(v["bytes"]).decode("utf-8", "surrogatepass") if isinstance(v, dict) else v for v in values
    )


def _read_tensors(file: Path, digest: str) -> dict[str, Tensor]:
    if _sha256(check_regular_file(file)) != digest:
        raise ValueError(f"{file}: damaged, or not the one that {VALUES} was written with; save the scene again")
    try:
        with safe_open(file, "pt") as opened:
            return {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{file}: truncated or not safetensors ({error}); save the scene again") from error
