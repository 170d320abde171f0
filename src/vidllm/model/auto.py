"""Finding a checkpoint: registration with transformers' Auto classes, and loading that refuses what does not fit."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
    AutoProcessor,
    PreTrainedModel,
)
from transformers.utils import logging

from vidllm.io.files import check_regular_file, has_file, read_json_object
from vidllm.io.tensors import code_refused, reason_without_advice
from vidllm.io.weight_files import fetch, may_be_hub_id, open_checkpoint, settings_in, weights_of_model
from vidllm.model.configuration import VidLLMConfig
from vidllm.model.modeling import VidLLMForConditionalGeneration
from vidllm.model.processing import VidLLMProcessor, VidLLMVideoFrameProcessor
from vidllm.model.text import tokenizer_fault, try_tokenizer
from vidllm.model.weight_check import check_finite, check_weights

#: What would make transformers read other weights than those of the folder: fields of config.json, or files beside it.
_UNREAD = ("transformers_weights", "adapter_config", "quantization_config", "auto_map")

#: The kinds of model a folder may hold, by ``model_type``: a module with its configuration class and its model class.
_KINDS = {
    "vidllm": ("vidllm.model.modeling", "VidLLMConfig", "VidLLMForConditionalGeneration"),
    "vidllm_cascade": ("vidllm.baselines.cascade", "CascadeConfig", "CascadeForConditionalGeneration"),
}


def kind_of(model_type: str) -> tuple[type[VidLLMConfig], type[VidLLMForConditionalGeneration]]:
    """Configuration and model class of a ``model_type``."""
    module, config, model = _KINDS[model_type]
    home = import_module(module)
    return getattr(home, config), getattr(home, model)


def register() -> None:
    """Make the Auto classes know vidllm's checkpoints by their ``model_type``; calling it again changes nothing."""
    for model_type in _KINDS:
        config, model = kind_of(model_type)
        AutoConfig.register(model_type, config, exist_ok=True)
        AutoImageProcessor.register(config, image_processor_classes={"pil": VidLLMVideoFrameProcessor}, exist_ok=True)
        AutoProcessor.register(config, VidLLMProcessor, exist_ok=True)
        for auto in (AutoModel, AutoModelForImageTextToText, AutoModelForMultimodalLM):
            auto.register(config, model, exist_ok=True)


def load_pretrained(
    model: str | Path, dtype: torch.dtype | None = torch.float32, device: str | torch.device = "cpu"
) -> tuple[VidLLMForConditionalGeneration, VidLLMProcessor]:
    """Model (in evaluation mode) and processor from a folder or a hub id.

    The configuration is compared with the weights' headers before anything is allocated. ValueError, naming the file or
    the folder, when it is missing, holds another kind of model, is damaged, lacks weights or has some that are not
    finite: nothing is ever filled in at random, and no code that a file holds is run.
    """
    if not isinstance(dtype, torch.dtype):
        raise ValueError(f"expected a torch dtype such as torch.float32 or torch.bfloat16, received {dtype!r}")
    register()
    folder = _find(model)
    config = load_config(folder)
    kind = kind_of(config.model_type)[1]
    check_weights(weights_of_model(folder), config, kind)
    network: Any = _load_network(folder, config, kind, dtype)
    check_finite(network, str(folder))
    return network.to(device).eval(), _load_processor(folder)


def load_config(model: str | Path) -> VidLLMConfig:
    """The configuration alone, from a folder or a hub id; ValueError, naming the file, as :func:`load_pretrained`."""
    folder = _find(model)
    file = folder / "config.json"
    given = read_json_object(file)
    if given.get("model_type") not in _KINDS:
        expected = " or ".join(map(repr, _KINDS))
        raise ValueError(f"{folder}: holds a model of type {given.get('model_type')!r}, expected {expected}")
    if given.get("text_config") is None:
        raise ValueError(f"{file}: no text_config, the language model's configuration; fetch it again")
    for name in _UNREAD:
        if name in given or (folder / f"{name}.json").exists():
            raise ValueError(f"{folder}: {name} is not supported here; give the plain folder of a saved model")
    try:
        return kind_of(given["model_type"])[0].from_dict(given)
    except Exception as error:  # transformers and huggingface_hub have errors of their own
        raise ValueError(f"{file}: not a vidllm configuration ({_first_line(error)}); fetch it again") from error


def _load_network(
    folder: Path, config: VidLLMConfig, kind: type[VidLLMForConditionalGeneration], dtype: torch.dtype
) -> VidLLMForConditionalGeneration:
    network, report = load_with_report(kind, folder, config=config, dtype=dtype)
    _check_complete(str(folder), report)
    return network


def load_with_report(kind: Any, folder: Path, **options: Any) -> tuple[Any, dict[str, Any]]:
    """``kind.from_pretrained`` of a folder with its report; ValueError of one line, without torch's advice."""
    settings_in(folder, "generation_config.json")  # transformers leaves out one that is damaged
    try:
        with quiet():
            loaded: tuple[Any, dict[str, Any]] = kind.from_pretrained(
                folder, **{"dtype": torch.float32, **options}, output_loading_info=True
            )
            return loaded
    except Exception as error:  # torch, safetensors and transformers have errors of their own
        reason = code_refused(error) or _first_line(error)
        raise ValueError(f"{folder}: cannot be loaded as a {kind.__name__} ({reason})") from None


def load_causal_lm(folder: str | Path) -> PreTrainedModel:
    """A language model of transformers from a folder or a hub id, in float32; ValueError as :func:`load_pretrained`."""
    checkpoint = open_checkpoint(folder)
    if checkpoint.settings() is None:
        raise ValueError(f"{folder}: config.json is missing; give the folder of a saved language model")
    for _ in checkpoint.shapes():  # named where a shard is cut or holds code
        pass
    network, report = load_with_report(AutoModelForCausalLM, checkpoint.folder, trust_remote_code=False)
    _check_complete(str(folder), report)
    check_finite(network, str(folder))
    model: PreTrainedModel = network
    return model


def _load_processor(folder: Path) -> VidLLMProcessor:
    for name in ("processor_config.json", "tokenizer_config.json"):
        settings_in(folder, name)
    try:
        with quiet():
            processor = VidLLMProcessor.from_pretrained(folder, trust_remote_code=False)
            try_tokenizer(processor.tokenizer)
            return processor
    except Exception as error:  # the tokenizers' library raises Exception itself
        told = tokenizer_fault(folder) or f"{folder}: its processor cannot be loaded ({_first_line(error)})"
        raise ValueError(f"{told}; copy the files of tokenizer and processor again") from error


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


def _find(model: str | Path) -> Path:
    """The folder, or the hub's model of this id, fetched, where no such folder exists and the name can be one."""
    folder = Path(model)
    if not folder.exists():
        if not may_be_hub_id(model):
            raise ValueError(
                f"{model}: no such folder; give the folder of a saved model or a hub id such as owner/name"
            )
        folder = fetch(str(model))
    if not folder.is_dir():
        raise ValueError(f"{folder}: expected the folder of a saved model, received a file")
    if not has_file(folder / "config.json"):
        raise ValueError(f"{folder}: no checkpoint here (config.json is missing); give the folder of a saved model")
    for file in folder.iterdir():  # transformers passes over what is no file
        if file.exists() and not file.is_dir():
            check_regular_file(file)
    return folder


def _check_complete(place: str, report: dict[str, Any]) -> None:
    """ValueError when weights are missing or of another shape."""
    for kind in ("missing_keys", "mismatched_keys"):
        keys = report.get(kind) or ()
        names = sorted(str(k) for k in keys)
        if names:
            what = kind.replace("_keys", "")
            raise ValueError(f"{place}: {len(names)} {what} weights, such as {names[0]}; is the checkpoint complete?")


def _first_line(error: Exception) -> str:
    """The first line of an error, without torch's advice to let code run."""
    if "weights_only" in str(error):
        return reason_without_advice(error)
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
