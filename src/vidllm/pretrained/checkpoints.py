"""Where published weights lie and how they are read: one tensor at a time, shard by shard, never with pickled code.

A checkpoint is a file, a folder (one file, an index with its shards, numbered shards) or a hub id. Its names and shapes
are read first and cost nothing; then its tensors pass by one by one, so that the peak memory is near one shard.
"""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from vidllm.model.auto import code_refused

_SINGLE = ("model.safetensors", "model.pt", "pytorch_model.bin", "model.pth")
_INDEX = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_NUMBERED = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.(safetensors|bin)")
_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")
_WRAPPERS = ("model", "state_dict")  # under which training checkpoints keep their tensors
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_BESIDE = ["*.json", "tokenizer*", "*.model", "*.jinja", "*.txt"]  # what is fetched beside weights


@dataclass(frozen=True)
class Checkpoint:
    """A published checkpoint: the place as the user gave it, its folder, and its files of weights in order."""

    place: str
    folder: Path
    shards: tuple[Path, ...]

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Names and tensors, one at a time; at most one shard is open."""
        for shard in self.shards:
            yield from _read_shard(shard)

    def shapes(self) -> Iterator[tuple[str, Tensor]]:
        """Names and empty tensors (on the meta device): shapes and dtypes without the numbers."""
        for shard in self.shards:
            yield from _read_shapes(shard)

    def settings(self, name: str = "config.json") -> dict[str, Any] | None:
        """A JSON file beside the weights, None where there is none; ValueError where it is not JSON."""
        return read_json(self.folder / name)


def read_json(file: Path) -> dict[str, Any] | None:
    """A JSON object from a file, None where there is no such file; ValueError where it cannot be read."""
    if not file.is_file():
        return None
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise ValueError(f"{file}: cannot be read as JSON ({error}); fetch it again") from error
    if not isinstance(found, dict):
        raise ValueError(f"{file}: expected a JSON object, received {type(found).__name__}")
    return found


def open_checkpoint(place: str | Path) -> Checkpoint:
    """Find the weights of a file, a folder or a hub id; ValueError of one line where that fails."""
    path = Path(place).expanduser()
    if path.is_file():
        if path.suffix not in _SUFFIXES:
            raise ValueError(f"cannot read weights from {path.name}: expected .safetensors, .pt, .pth or .bin")
        return Checkpoint(str(place), path.parent, (path,))
    if path.is_dir():
        return Checkpoint(str(place), path, tuple(_weights_in(path)))
    in_a_folder = path.parent.is_dir() and path.parent != Path()
    if isinstance(place, Path) or in_a_folder or not _HUB_ID.fullmatch(str(place)):
        raise ValueError(
            f"no weights at {place}: expected a .safetensors or .pt file, a folder with one, or a hub id owner/name"
        )
    folder = _fetch(str(place))
    return Checkpoint(str(place), folder, tuple(_weights_in(folder)))


def _weights_in(folder: Path) -> list[Path]:
    """The files of weights of a folder, all of them there."""
    for name in (_SINGLE[0], _INDEX[0], *_SINGLE[1:], _INDEX[1]):
        if (folder / name).is_file():
            return _indexed(folder, name) if name in _INDEX else [folder / name]
    numbered = sorted(file for file in folder.iterdir() if _NUMBERED.fullmatch(file.name))
    if numbered:
        return _all_numbers(numbered)
    single = sorted(file for file in folder.iterdir() if file.suffix in _SUFFIXES and file.is_file())
    if len(single) == 1:
        return single
    found = f"{len(single)} files of weights there" if single else f"expected {', '.join((*_SINGLE, *_INDEX))}"
    raise ValueError(f"no weights in {folder}: {found}; give the file itself")


def _indexed(folder: Path, name: str) -> list[Path]:
    index = (read_json(folder / name) or {}).get("weight_map")
    if not isinstance(index, dict) or not index or not all(isinstance(file, str) for file in index.values()):
        raise ValueError(f"{folder / name}: no weight_map in this index; fetch it again")
    names = sorted(set(index.values()))
    outside = [file for file in names if Path(file).name != file]
    if outside:
        raise ValueError(f"{folder / name}: names {outside[0]!r}, a file outside its folder")
    missing = [file for file in names if not (folder / file).is_file()]
    if missing:
        raise ValueError(
            f"{folder}: {len(missing)} of {len(names)} shards missing, such as {missing[0]}; finish the download"
        )
    return [folder / file for file in names]


def _all_numbers(files: list[Path]) -> list[Path]:
    """Shards numbered 00001-of-N; ValueError names the first that is missing."""
    first = _NUMBERED.fullmatch(files[0].name)
    assert first is not None
    stem, count, suffix = first[1], int(first[3]), first[4]
    wanted = [files[0].with_name(f"{stem}-{n:05d}-of-{count:05d}.{suffix}") for n in range(1, count + 1)]
    missing = [file.name for file in wanted if file not in files]
    if missing:
        raise ValueError(
            f"{files[0].parent}: {len(missing)} of {count} shards missing, such as {missing[0]}; finish the download"
        )
    return wanted


def _fetch(hub_id: str) -> Path:
    """A copy of a hub's checkpoint on this machine: safetensors where there are some, else .bin or .pt."""
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(hub_id, allow_patterns=[*_BESIDE, "*.safetensors"]))
        if not any(folder.glob("*.safetensors")):
            folder = Path(snapshot_download(hub_id, allow_patterns=[*_BESIDE, "*.bin", "*.pt", "*.pth"]))
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"{hub_id}: no such folder, and it cannot be fetched ({type(error).__name__}: {reason[:160]}); "
            "give a folder, or connect to the network"
        ) from error
    return folder


def _read_shard(file: Path) -> Iterator[tuple[str, Tensor]]:
    if file.suffix == ".safetensors":
        with _safetensors(file) as opened:
            for key in opened.keys():  # noqa: SIM118 (not a mapping)
                yield key, opened.get_tensor(key)
    else:
        loaded = _read_pickle(file)
        for key in list(loaded):
            yield key, loaded.pop(key)


def _read_shapes(file: Path) -> Iterator[tuple[str, Tensor]]:
    if file.suffix == ".safetensors":
        with _safetensors(file) as opened:
            for key in opened.keys():  # noqa: SIM118
                yield key, torch.empty(opened.get_slice(key).get_shape(), device="meta")
    else:
        yield from ((key, torch.empty(t.shape, device="meta")) for key, t in _read_pickle(file).items())


def _safetensors(file: Path) -> Any:
    try:
        return safe_open(file, "pt")
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{file}: truncated or not safetensors ({error}); fetch it again") from error


def _read_pickle(file: Path) -> dict[str, Tensor]:
    """Tensors of a .pt, .pth or .bin file, mapped from disk where its form allows; code in it is never run."""
    try:
        loaded = _load_pickle(file)
    except pickle.UnpicklingError as error:
        raise ValueError(f"{file}: {code_refused(error) or 'damaged or not a PyTorch file; fetch it again'}") from error
    except (RuntimeError, EOFError, ValueError, KeyError, OSError) as error:
        raise ValueError(f"{file}: truncated or not a PyTorch file ({_first_line(error)}); fetch it again") from error
    for name in _WRAPPERS:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(name), Mapping):
            loaded = loaded[name]
    if not isinstance(loaded, Mapping):
        raise ValueError(f"{file}: expected tensors by name, received {type(loaded).__name__}")
    return {str(key): value for key, value in loaded.items() if isinstance(value, Tensor)}


def _load_pickle(file: Path) -> Any:
    with suppress(RuntimeError):  # the old form, not a zip, cannot be mapped
        return torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    return torch.load(file, map_location="cpu", weights_only=True)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
