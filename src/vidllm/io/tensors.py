"""Reading pickled tensors (.pt, .pth, .bin) without running code in the pickle.

All calls of torch.load are here. torch's own errors advise to switch its protection off, so they are not shown.
"""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vidllm.io.files import check_regular_file

_WRAPPERS = ("model", "state_dict")  # under which training checkpoints keep their tensors


def load_pickled(path: str | Path, mapped: bool = False) -> Any:
    """Tensors and plain values that torch.save wrote, on the CPU; code in the file is never run.

    ``mapped``: tensors are memory-mapped if the file's format allows it.

    Raises:
        ValueError: the file is missing, not a regular file, damaged, or contains more than tensors and plain values.
    """
    path = check_regular_file(path)
    _refuse_compressed(path)
    try:
        if mapped:
            with suppress(RuntimeError):  # the old form, not a zip, cannot be mapped
                return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch has no own error class: zip, pickle, struct, EOF, attribute, ...
        raise ValueError(f"{path}: {reason_without_advice(error)}; fetch it again") from None


def load_pickled_tensors(path: str | Path) -> dict[str, Tensor]:
    """Tensors by name of a file, memory-mapped if its format allows it.

    A training checkpoint with tensors in "model" or "state_dict" is unwrapped; other values are left out.

    Raises:
        ValueError: as :func:`load_pickled`; also if there is no tensor.
    """
    loaded = load_pickled(path, mapped=True)
    for name in _WRAPPERS:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(name), Mapping):
            loaded = loaded[name]
    if not isinstance(loaded, Mapping):
        raise ValueError(f"{path}: expected tensors by name, received {type(loaded).__name__}; give a file of weights")
    found = {str(key): value for key, value in loaded.items() if isinstance(value, Tensor)}
    if not found:
        raise ValueError(f"{path}: it contains no tensor; give a file of weights")
    odd = next((name for name, value in found.items() if not _is_plain(value)), None)
    if odd is not None:
        raise ValueError(f"{path}: {odd} is not stored in full (it is sparse, or one number stands for many); write it "
                         "again from plain tensors")  # fmt: skip
    return found


def _is_plain(tensor: Tensor) -> bool:
    """Whether every number of a tensor is stored in the file, so that copying it takes no more memory than the file."""
    if tensor.layout != torch.strided or tensor.is_quantized:
        return False
    return tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()


def code_refused(error: BaseException) -> str | None:
    """The message for a pickle that was refused because of code in it; None for another error."""
    named = re.search(r"GLOBAL (\S+)", str(error))
    if named is None:
        return None
    return (
        f"refused, it holds more than tensors: unpickling would call {named[1]}, which can run any code; only tensors "
        "are read, ask for safetensors"
    )


def reason_without_advice(error: BaseException) -> str:
    """The first line of an error of torch.load, without torch's advice to allow code."""
    refused = code_refused(error)
    if refused is not None:
        return refused
    if isinstance(error, pickle.UnpicklingError) or "weights_only" in str(error):
        return "truncated, damaged, or not tensors in PyTorch's form"
    first = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
    return f"truncated or not a PyTorch file ({first})"


def _refuse_compressed(path: Path) -> None:
    """ValueError for a zip that torch did not write: its members are stored as they are, and fit in the file."""
    try:
        with zipfile.ZipFile(path) as file:
            members = file.infolist()
    except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile):
        return  # the old format, or damaged, which torch.load distinguishes
    if any(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise ValueError(f"{path}: not a PyTorch file (a zip with compressed members); fetch it again")
    if sum(member.file_size for member in members) > path.stat().st_size:
        raise ValueError(f"{path}: damaged, its members are larger than the file; fetch it again")
