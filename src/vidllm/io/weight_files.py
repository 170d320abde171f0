"""Published weights: finding their files, and reading one tensor at a time, without running pickled code.

A checkpoint is a file, a folder (one file, an index with its shards, numbered shards) or a hub id. Names and shapes are
read first, from headers; then tensors are read one by one, so that the peak memory is about one shard.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from vidllm.io.files import has_file, read_json_object
from vidllm.io.tensors import load_pickled_tensors

_SINGLE = ("model.safetensors", "model.pt", "pytorch_model.bin", "model.pth")
_INDEX = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_NUMBERED = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.(safetensors|bin)")
_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")
#: What torch's wrappers put into names: compiled and sharded modules, and modules whose activations are checkpointed.
_WRAPPED = re.compile(r"(?:^|(?<=\.))(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
_PARALLEL = "module."  # DataParallel and DistributedDataParallel: before every name


@dataclass(frozen=True)
class Checkpoint:
    """A published checkpoint: the place as given by the user, its folder, and its files of weights in order."""

    place: str
    folder: Path
    shards: tuple[Path, ...]

    def tensors(self, wanted: Collection[str] | None = None) -> Iterator[tuple[str, Tensor]]:
        """Names and tensors, one at a time; at most one shard is open. ``wanted``: only these are read."""
        for shard in self.shards:
            yield from _read_shard(shard, wanted)

    def rows(self, wanted: Mapping[str, slice]) -> Iterator[tuple[str, Tensor]]:
        """As :meth:`tensors`, but only these rows of each tensor."""
        for shard in self.shards:
            if shard.suffix == ".safetensors":
                with _safetensors(shard) as opened:
                    for key, name in _plain_names(opened.keys(), shard).items():
                        if name in wanted:
                            part = opened.get_slice(key)
                            yield name, part[wanted[name]] if part.get_shape() else opened.get_tensor(key)
            else:
                for name, tensor in _read_shard(shard, wanted):
                    yield name, tensor[wanted[name]] if tensor.ndim else tensor

    def shapes(self) -> Iterator[tuple[str, Tensor]]:
        """Names and empty tensors (on the meta device): shapes and dtypes without the numbers."""
        for shard in self.shards:
            yield from _read_shapes(shard)

    def settings(self, name: str = "config.json") -> dict[str, Any] | None:
        """A JSON file next to the weights, None if it does not exist; ValueError if it is not JSON."""
        return settings_in(self.folder, name)


@dataclass(frozen=True)
class LoadedCheckpoint(Checkpoint):
    """A small checkpoint with tensors in memory, under other names than in its files."""

    state: dict[str, Tensor] = field(default_factory=dict)

    def tensors(self, wanted: Collection[str] | None = None) -> Iterator[tuple[str, Tensor]]:
        """Names and tensors."""
        yield from ((name, tensor) for name, tensor in self.state.items() if wanted is None or name in wanted)

    def shapes(self) -> Iterator[tuple[str, Tensor]]:
        """Names and tensors."""
        yield from self.state.items()


def model_of_run(folder: str | Path) -> Path:
    """``folder/model`` if ``folder`` is the folder of a training run with a model; otherwise the folder itself."""
    made = Path(folder) / "model"
    return made if (made / "config.json").is_file() else Path(folder)


def settings_in(folder: str | Path, name: str = "config.json") -> dict[str, Any] | None:
    """A JSON object in a folder, None if there is no such file; ValueError if it cannot be read."""
    file = Path(folder) / name
    return read_json_object(file) if has_file(file) else None


def open_checkpoint(place: str | Path) -> Checkpoint:
    """Find the weights of a file, a folder or a hub id; ValueError of one line on failure."""
    path = Path(place).expanduser()
    if path.is_file():
        if path.suffix not in _SUFFIXES:
            raise ValueError(f"cannot read weights from {path.name}: expected .safetensors, .pt, .pth or .bin")
        return Checkpoint(str(place), path.parent, (path,))
    if path.is_dir():
        return Checkpoint(str(place), path, tuple(_weights_in(path)))
    if not may_be_hub_id(place):
        raise ValueError(
            f"no weights at {place}: expected a .safetensors or .pt file, a folder with one, or a hub id owner/name"
        )
    folder = fetch(str(place))
    return Checkpoint(str(place), folder, tuple(_weights_in(folder)))


def weights_of_model(folder: Path) -> Checkpoint:
    """The weights that transformers reads from the folder of a saved model; ValueError if there are none."""
    named = _named(folder, (_SINGLE[0], _INDEX[0], "pytorch_model.bin", _INDEX[1]))
    shards = named or (all_numbers(compact) if (compact := compact_files(folder)) else [])
    if shards:
        return Checkpoint(str(folder), folder, tuple(shards))
    raise ValueError(f"{folder}: no weights here (model.safetensors is missing); finish the download, or save the "
                     "model again")  # fmt: skip


def compact_files(folder: Path) -> list[Path]:
    """The files of :mod:`vidllm.model.compact_weights` in a folder."""
    return [file for file in sorted(folder.glob("model.int8-*.safetensors")) if _NUMBERED.fullmatch(file.name)]


def _weights_in(folder: Path) -> list[Path]:
    """The files of weights of a folder, all of them there."""
    if named := _named(folder, (_SINGLE[0], _INDEX[0], *_SINGLE[1:], _INDEX[1])):
        return named
    numbered = sorted(file for file in folder.iterdir() if _NUMBERED.fullmatch(file.name))
    if numbered:
        return all_numbers(numbered)
    single = sorted(file for file in folder.iterdir() if file.suffix in _SUFFIXES and file.is_file())
    if len(single) == 1:
        return single
    found = f"{len(single)} files of weights there" if single else f"expected {', '.join((*_SINGLE, *_INDEX))}"
    raise ValueError(f"no weights in {folder}: {found}; give the file itself")


def _named(folder: Path, names: Iterable[str]) -> list[Path]:
    """The files of the first of these names that exists; none without one."""
    name = next((name for name in names if has_file(folder / name)), None)
    return [] if name is None else _indexed(folder, name) if name in _INDEX else [folder / name]


def _indexed(folder: Path, name: str) -> list[Path]:
    index = read_json_object(folder / name).get("weight_map")
    if not isinstance(index, dict) or not index or not all(isinstance(file, str) for file in index.values()):
        raise ValueError(f"{folder / name}: no weight_map in this index; fetch it again")
    names = sorted(set(index.values()))
    outside = [file for file in names if Path(file).name != file]
    if outside:
        raise ValueError(f"{folder / name}: names {outside[0]!r}, a file outside its folder")
    return _all_there([folder / file for file in names])


def all_numbers(files: list[Path]) -> list[Path]:
    """Shards numbered 00001-of-N; ValueError for a missing one, and for shards of two exports."""
    first, *others = (match for file in files if (match := _NUMBERED.fullmatch(file.name)))
    stem, count, suffix = first[1], int(first[3]), first[4]
    if any((other[1], other[4]) == (stem, suffix) and int(other[3]) != count for other in others):
        raise ValueError(f"{files[0].parent}: {stem} files of several exports lie side by side; keep those of one")
    wanted = [files[0].with_name(f"{stem}-{n:05d}-of-{count:05d}.{suffix}") for n in range(1, count + 1)]
    return _all_there(wanted)


def _all_there(shards: list[Path]) -> list[Path]:
    missing = [file for file in shards if not file.is_file()]
    if missing:
        raise ValueError(f"{missing[0].parent}: {len(missing)} of {len(shards)} shards missing, such as "
                         f"{missing[0].name}; finish the download")  # fmt: skip
    return shards


def _read_shard(file: Path, wanted: Collection[str] | None = None) -> Iterator[tuple[str, Tensor]]:
    if file.suffix == ".safetensors":
        with _safetensors(file) as opened:
            for key, name in _plain_names(opened.keys(), file).items():
                if wanted is None or name in wanted:
                    yield name, opened.get_tensor(key)
    else:
        loaded = load_pickled_tensors(file)
        for key, name in _plain_names(loaded, file).items():
            tensor = loaded.pop(key)
            if wanted is None or name in wanted:
                yield name, tensor


def _read_shapes(file: Path) -> Iterator[tuple[str, Tensor]]:
    if file.suffix == ".safetensors":
        with _safetensors(file) as opened:
            for key, name in _plain_names(opened.keys(), file).items():
                yield name, torch.empty(opened.get_slice(key).get_shape(), device="meta")
    else:
        loaded = load_pickled_tensors(file)
        names = _plain_names(loaded, file)
        yield from ((names[key], torch.empty(t.shape, device="meta")) for key, t in loaded.items())


def _plain_names(keys: Iterable[str], file: Path) -> dict[str, str]:
    """Each key of a file without what torch's wrappers (``module.``, ``_orig_mod.``, ...) put into it."""
    plain = {key: _WRAPPED.sub("", key) for key in keys}
    while plain and all(name.startswith(_PARALLEL) for name in plain.values()):
        plain = {key: _WRAPPED.sub("", name.removeprefix(_PARALLEL)) for key, name in plain.items()}
    if len(set(plain.values())) < len(plain):
        raise ValueError(f"{file}: some weights are there twice, with and without a wrapper's name; write it again "
                         "from the unwrapped model")  # fmt: skip
    return plain


def _safetensors(file: Path) -> Any:
    try:
        return safe_open(file, "pt")
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{file}: truncated or not safetensors ({error}); fetch it again") from error


# ---- models of the Hugging Face hub --------------------------------------------------------------------------------

_ID = re.compile(r"[\w.-]+/[\w.-]+")
_BESIDE = ["*.json", "tokenizer*", "*.model", "*.jinja", "*.txt"]  # fetched in addition to weights
TIMEOUT_S = 10


def may_be_hub_id(place: str | Path) -> bool:
    """Whether a name that is not a file or folder here can be a hub id: owner/name without a folder "owner" here."""
    return isinstance(place, str) and _ID.fullmatch(place) is not None and not Path(place).parent.is_dir()


def fetch(hub_id: str) -> Path:
    """A local copy of a hub's model: safetensors if there are any, else .bin or .pt.

    The hub is asked once, for at most :data:`TIMEOUT_S` seconds; if it does not answer, an earlier copy is used.

    Raises:
        ValueError: there is no such model, or it cannot be downloaded.
    """
    from huggingface_hub import HfApi, snapshot_download

    try:
        HfApi().model_info(hub_id, timeout=TIMEOUT_S)
        folder = Path(snapshot_download(hub_id, allow_patterns=[*_BESIDE, "*.safetensors"]))
        if not any(folder.glob("*.safetensors")):
            folder = Path(snapshot_download(hub_id, allow_patterns=[*_BESIDE, "*.bin", "*.pt", "*.pth"]))
    except Exception as error:  # the hub and its network libraries have many error classes
        folder_before = _fetched_before(hub_id)
        if folder_before is not None:
            return folder_before
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"{hub_id}: no such folder, and it cannot be fetched from the hub ({type(error).__name__}: "
            f"{reason[:160]}); give the folder of a model, or connect to the network"
        ) from error
    return folder


def _fetched_before(hub_id: str) -> Path | None:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(hub_id, local_files_only=True))
    except Exception:  # as above
        return None
