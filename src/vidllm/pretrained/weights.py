"""Reading published weights: one file, a folder of shards or a state dict in memory, never with pickled code."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from vidllm.io.weight_files import open_checkpoint

#: (pattern, replacement) pairs; the first pattern that matches a whole key renames it.
Renames = Sequence[tuple[str, str]]


def read_state_dict(weights: str | Path | Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors by name of a .safetensors or .pt file, a folder holding one or its shards, or a state dict itself.

    A training checkpoint that wraps the tensors in "model" or "state_dict" is unwrapped.
    """
    if isinstance(weights, Mapping):
        return dict(weights)
    return dict(open_checkpoint(weights).tensors())


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
