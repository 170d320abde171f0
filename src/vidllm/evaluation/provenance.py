"""Checksums of all that numbers rest on: annotation files, prompts and models, as ``sha256sum`` gives them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch import nn

from vidllm.scene import TINY, VidLLM

_MODEL_FILES = ("config.json", "tokenizer.json", "processor_config.json", "preprocessor_config.json")


def sha256_text(text: str) -> str:
    """Of a text's UTF-8 bytes."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def sha256_file(path: Path) -> str:
    """Of a file, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def files_record(paths: Iterable[Path], root: Path) -> dict[str, str]:
    """Checksums by path below ``root``."""
    return {path.relative_to(root).as_posix(): sha256_file(path) for path in sorted(paths)}


def model_record(model: str | Path | None, loaded: VidLLM) -> dict[str, Any]:
    """A model's name, checksums (of its configuration, tokenizer and weights, or of what was loaded) and use."""
    folder = TINY if model is None else Path(model)
    name = "tiny (shipped)" if model is None else folder.name
    parameter = next(loaded.model.parameters())
    use = {"dtype": str(parameter.dtype).removeprefix("torch."), "device": parameter.device.type,
           "refine": loaded.refine}  # fmt: skip
    if not folder.is_dir():
        return {"name": str(model), "files": {}, "sha256": _loaded(loaded.model), **use}
    return {"name": name, **folder_record(folder), **use}


def folder_record(folder: Path) -> dict[str, Any]:
    """Checksums of the files of a saved model, and one over them all."""
    paths = [folder / name for name in _MODEL_FILES if (folder / name).is_file()]
    files = files_record([*paths, *folder.glob("*.safetensors")], folder)
    return {"files": files, "sha256": sha256_text("".join(f"{digest}  {name}\n" for name, digest in files.items()))}


def _loaded(network: nn.Module) -> str:
    """Of the weights in memory, for a model that came from a hub."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().float().numpy().tobytes())
    return digest.hexdigest()
