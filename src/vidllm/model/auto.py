"""Finding a checkpoint: registration with transformers' Auto classes, and loading that refuses what does not fit."""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
    AutoProcessor,
)
from transformers.utils import logging

from vidllm.model.cascade import CascadeConfig, CascadeForConditionalGeneration
from vidllm.model.configuration import VidLLMConfig
from vidllm.model.modeling import VidLLMForConditionalGeneration
from vidllm.model.processing import VidLLMProcessor, VidLLMVideoFrameProcessor

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


#: The kinds of model a folder may hold, by the ``model_type`` of their configuration.
KINDS: dict[str, tuple[type[VidLLMConfig], type[VidLLMForConditionalGeneration]]] = {
    VidLLMConfig.model_type: (VidLLMConfig, VidLLMForConditionalGeneration),
    CascadeConfig.model_type: (CascadeConfig, CascadeForConditionalGeneration),
}


def register() -> None:
    """Make the Auto classes know vidllm's checkpoints by their ``model_type``; calling it again changes nothing."""
    for kind, (config, model) in KINDS.items():
        AutoConfig.register(kind, config, exist_ok=True)
        AutoImageProcessor.register(config, image_processor_classes={"pil": VidLLMVideoFrameProcessor}, exist_ok=True)
        AutoProcessor.register(config, VidLLMProcessor, exist_ok=True)
        for auto in (AutoModel, AutoModelForImageTextToText, AutoModelForMultimodalLM):
            auto.register(config, model, exist_ok=True)


def load_pretrained(
    model: str | Path, dtype: torch.dtype | None = torch.float32, device: str | torch.device = "cpu"
) -> tuple[VidLLMForConditionalGeneration, VidLLMProcessor]:
    """Model (in evaluation mode) and processor from a folder or a hub id.

    ValueError, naming the place, when it is missing, holds another kind of model, is damaged, or lacks weights: nothing
    is ever filled in at random.
    """
    if not isinstance(dtype, torch.dtype):
        raise ValueError(f"expected a torch dtype such as torch.float32 or torch.bfloat16, received {dtype!r}")
    register()
    place = _find(model)
    kind = KINDS[_kind(place)][1]
    try:
        with quiet():
            loaded: Any = kind.from_pretrained(place, dtype=dtype, output_loading_info=True)
            processor = VidLLMProcessor.from_pretrained(place)
    except (OSError, RuntimeError, ValueError, SafetensorError, pickle.UnpicklingError) as error:
        reason = code_refused(error) or _first_line(error)
        raise ValueError(f"{place}: cannot be loaded as a vidllm checkpoint ({reason})") from error
    network, report = loaded
    _check_complete(place, report)
    return network.to(device).eval(), processor


def load_config(model: str | Path) -> VidLLMConfig:
    """The configuration alone, from a folder or a hub id; ValueError, naming the place, as :func:`load_pretrained`."""
    place = _find(model)
    kind = KINDS[_kind(place)][0]
    try:
        return kind.from_pretrained(place)
    except (OSError, TypeError, ValueError) as error:
        raise ValueError(f"{place}: not a vidllm configuration ({_first_line(error)})") from error


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bar and no report of transformers inside; what it would tell is in our errors."""
    verbosity, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bar:
            logging.enable_progress_bar()


def _find(model: str | Path) -> str:
    """The folder, or the hub id where no such folder exists and the name can be one."""
    folder = Path(model)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ValueError(f"{folder}: no checkpoint here (config.json is missing); give the folder of a saved model")
        return str(folder)
    if folder.exists():
        raise ValueError(f"{folder}: expected the folder of a saved model, received a file")
    if isinstance(model, Path) or not _HUB_ID.fullmatch(model):
        raise ValueError(f"{model}: no such folder; give the folder of a saved model or a hub id such as owner/name")
    return model


def _kind(place: str) -> str:
    """The kind of model there; ValueError unless it is one of vidllm's own."""
    try:
        found = VidLLMConfig.get_config_dict(place)[0].get("model_type")
    except OSError as error:
        raise ValueError(f"{place}: no readable configuration ({_first_line(error)})") from error
    if found not in KINDS:
        raise ValueError(f"{place}: holds a model of type {found!r}, expected {' or '.join(map(repr, KINDS))}")
    return str(found)


def _check_complete(place: str, report: dict[str, Any]) -> None:
    """ValueError when weights are missing or of another shape."""
    for kind in ("missing_keys", "mismatched_keys"):
        keys = report.get(kind) or ()
        names = sorted(str(k) for k in keys)
        if names:
            what = kind.replace("_keys", "")
            raise ValueError(f"{place}: {len(names)} {what} weights, such as {names[0]}; is the checkpoint complete?")


def code_refused(error: Exception) -> str | None:
    """Why weights in a pickle were refused, where it was for the code in it; None for another error."""
    named = re.search(r"GLOBAL (\S+)", str(error))
    if named is None:
        return None
    return (
        f"refused, it holds more than tensors: unpickling would call {named[1]}, which can run any code; only tensors "
        "are read, ask for safetensors"
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
