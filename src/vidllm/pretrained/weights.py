"""Reading published weights: one file, a folder of shards or a state dict in memory, never with pickled code."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

#: (pattern, replacement) pairs; the first pattern that matches a whole key renames it.
Renames = Sequence[tuple[str, str]]

_FOLDER_NAMES = ("model.safetensors", "model.pt", "pytorch_model.bin", "model.pth")


def read_state_dict(weights: str | Path | Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors by name of a .safetensors or .pt file, a folder holding one or its shards, or a state dict itself.

    A training checkpoint that wraps the tensors in "model" or "state_dict" is unwrapped.
    """
    if isinstance(weights, Mapping):
        return dict(weights)
    path = Path(weights)
    tensors: dict[str, Tensor] = {}
    for file in _files(path):
        tensors.update(_read_file(file))
    return tensors


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise ValueError(f"no weights at {path}: expected a .safetensors or .pt file, or a folder with one")
    for name in _FOLDER_NAMES:
        if (path / name).is_file():
            return [path / name]
    for pattern in ("model-*.safetensors", "pytorch_model-*.bin"):
        shards = sorted(path.glob(pattern))
        if shards:
            return shards
    raise ValueError(f"no weights in {path}: expected one of {list(_FOLDER_NAMES)} or shards model-*.safetensors")


def _read_file(file: Path) -> dict[str, Tensor]:
    if file.suffix == ".safetensors":
        return load_file(file)
    if file.suffix not in (".pt", ".pth", ".bin"):
        raise ValueError(f"cannot read weights from {file.name}: expected .safetensors, .pt, .pth or .bin")
    loaded = torch.load(file, map_location="cpu", weights_only=True)
    for name in ("model", "state_dict"):
        if isinstance(loaded.get(name), Mapping):
            loaded = loaded[name]
    return dict(loaded)


def rename(tensors: Mapping[str, Tensor], renames: Renames) -> tuple[dict[str, Tensor], list[str]]:
    """Tensors under their new names, and the keys no pattern knows. An empty new name drops the tensor."""
    compiled = [(re.compile(pattern), replacement) for pattern, replacement in renames]
    renamed: dict[str, Tensor] = {}
    unknown: list[str] = []
    for key, tensor in tensors.items():
        for pattern, replacement in compiled:
            match = pattern.fullmatch(key)
            if match is not None:
                renamed[match.expand(replacement)] = tensor
                break
        else:
            unknown.append(key)
    renamed.pop("", None)
    return renamed, unknown


def load_strictly(module: nn.Module, tensors: Mapping[str, Tensor], source: str, unknown: Sequence[str] = ()) -> None:
    """Put float32 copies of ``tensors`` into ``module`` (which may be on the meta device).

    One ValueError names every key of ``source`` that is missing, unexpected (``unknown`` adds to these) or of another
    shape.
    """
    expected = {key: tuple(tensor.shape) for key, tensor in module.state_dict().items()}
    problems = [f"missing: {key} {shape}" for key, shape in expected.items() if key not in tensors]
    problems += [f"unexpected: {key}" for key in (*unknown, *(key for key in tensors if key not in expected))]
    problems += [
        f"shape: {key} is {tuple(tensor.shape)}, expected {expected[key]}"
        for key, tensor in tensors.items()
        if key in expected and tuple(tensor.shape) != expected[key]
    ]
    if problems:
        raise ValueError(f"{source} weights do not fit the configuration:\n  " + "\n  ".join(problems))
    copies = {key: tensor.to(torch.float32, copy=True).contiguous() for key, tensor in tensors.items()}
    module.load_state_dict(copies, assign=True)
