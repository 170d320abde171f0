"""Finding and loading checkpoints. A checkpoint that does not fit is refused; no weight is initialised at random.

:func:`load_network` loads the plain network where it can, without transformers; :func:`load_pretrained` always loads
the model of transformers, for training and saving.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from vidllm.io.files import check_regular_file, has_file, read_json_object
from vidllm.io.tensors import code_refused, reason_without_advice
from vidllm.io.weight_files import Checkpoint, fetch, may_be_hub_id, open_checkpoint, settings_in, weights_of_model
from vidllm.model.compact_weights import is_compact, load_compact
from vidllm.model.configuration import ModelConfig
from vidllm.model.encoder import newer_names
from vidllm.model.language_model import CausalLM, is_llama_form
from vidllm.model.modeling import Network
from vidllm.model.processing import FrameProcessor, Processor
from vidllm.model.text import PlainTokenizer, tokenizer_fault, try_tokenizer

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor
    from transformers import PreTrainedModel

    from vidllm.model.huggingface import VidLLMConfig, VidLLMForConditionalGeneration, VidLLMProcessor

#: What would make transformers read other weights than those of the folder: fields of config.json, or files beside it.
_UNREAD = ("transformers_weights", "adapter_config", "quantization_config", "auto_map")
_Model = TypeVar("_Model", bound=Network)
_DRAWN = frozenset(("normal_", "uniform_", "kaiming_uniform_", "trunc_normal_", "xavier_uniform_"))
_SUMMED = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

#: The kinds of model a folder may hold, by ``model_type``: a module with its configuration class and its model class.
_KINDS = {
    "vidllm": ("vidllm.model.huggingface", "VidLLMConfig", "VidLLMForConditionalGeneration"),
    "vidllm_cascade": ("vidllm.baselines.cascade", "CascadeConfig", "CascadeForConditionalGeneration"),
    "vidllm_reconstruction": ("vidllm.baselines.reconstruction_only", "ReconstructionOnlyConfig", "ReconstructionOnly"),
}


def kind_of(model_type: str) -> tuple[type[VidLLMConfig], type[VidLLMForConditionalGeneration]]:
    """Configuration and model class of a ``model_type``."""
    module, config, model = _KINDS[model_type]
    home = import_module(module)
    return getattr(home, config), getattr(home, model)


def register() -> None:
    """Register the Auto classes of vidllm's checkpoints by their ``model_type``; calling it again has no effect."""
    from vidllm.model.huggingface import register

    for model_type in _KINDS:
        register(*kind_of(model_type))


# ---- models -------------------------------------------------------------------------------------------------------


def load_network(model: str | Path, dtype: torch.dtype = torch.float32) -> tuple[Network, Processor]:
    """Network (in evaluation mode, on the CPU) and processor from a folder or a hub id, for inference.

    The plain classes if they support the model; otherwise :func:`load_pretrained`. Errors as there.
    """
    folder = _find(model)
    given = _settings(folder)
    if given["model_type"] != "vidllm" or not is_llama_form(given["text_config"]):
        return load_pretrained(folder, dtype)
    config = _configuration(folder, given, ModelConfig.from_json)
    checkpoint = weights_of_model(folder)
    network = check_weights(checkpoint, config, Network)
    mapped = not is_compact(folder)  # weights that would change with their file, so they are copied
    weights = dict(checkpoint.tensors()) if mapped else load_compact(folder)
    ours = network.state_dict()
    weights = {name: weight for name, weight in newer_names(weights).items() if name in ours}
    weights = {n: w.to(dtype, copy=mapped) if w.is_floating_point() else w for n, w in weights.items()}
    assert isinstance(network.language_model, CausalLM)
    tied = {f"language_model.{name}" for name in network.language_model.all_tied_weights_keys}
    lacking = set(ours) - set(weights) - tied
    check_complete(str(folder), {"missing_keys": lacking})
    network.load_state_dict(weights, strict=False, assign=True)
    network.language_model.tie_weights()
    network.name_or_path = str(folder)
    check_finite(network, str(folder))
    return network.eval(), _processor(folder)


def load_pretrained(
    model: str | Path, dtype: torch.dtype | None = torch.float32, device: str | torch.device = "cpu"
) -> tuple[VidLLMForConditionalGeneration, VidLLMProcessor]:
    """Model of transformers (in evaluation mode) and processor from a folder or a hub id.

    The configuration is compared with the headers of the weights before anything is allocated. ValueError, naming the
    file or folder, if it is missing, damaged, contains another kind of model, or if weights are missing or not finite.
    No code in a file is run.
    """
    if not isinstance(dtype, torch.dtype):
        raise ValueError(f"expected a torch dtype such as torch.float32 or torch.bfloat16, received {dtype!r}")
    register()
    folder = _find(model)
    config = load_config(folder)
    kind = kind_of(config.model_type)[1]
    check_weights(weights_of_model(folder), config, kind)
    processor = load_processor(folder)  # before the weights, which may take minutes
    network, report = load_with_report(kind, folder, config=config, dtype=dtype)
    check_complete(str(folder), report)
    check_finite(network, str(folder))
    return network.to(device).eval(), processor


def unread_model(folder: str | Path) -> VidLLMForConditionalGeneration:
    """The model of a folder, checked against the headers of its weights, without the weights.

    It takes no memory for them (:func:`weightless`), so it may be sharded first or read in part (:func:`read_weights`).
    ValueError as :func:`load_pretrained`.
    """
    found = _find(folder)
    config = load_config(found)
    kind = kind_of(config.model_type)[1]
    check_weights(weights_of_model(found), config, kind)
    with weightless():
        return kind(copy.deepcopy(config)).eval()


@torch.no_grad()
def read_weights(model: VidLLMForConditionalGeneration, folder: str | Path, device: torch.device,
                 parts: tuple[str, ...] = ()) -> None:  # fmt: skip
    """Read the weights of a folder into a model of :func:`unread_model`; of sharded tensors only the rows of this
    process.

    ``parts``: children that are read and moved to ``device``; all by default. LoRA matrices are initialised as in peft.
    ValueError, naming the folder, for weights that are missing or not finite.
    """
    for name, part in model.named_children():
        if not parts or name in parts:
            buffers = {key: buffer.clone() for key, buffer in part.named_buffers()}
            part.to_empty(device=device)
            for key, buffer in part.named_buffers():
                buffer.copy_(buffers[key])
    model.language_model.tie_weights()
    checkpoint, tied = weights_of_model(_find(folder)), tied_weights(model)
    state = {name: home for name, home in model.state_dict().items() if not parts or name.split(".")[0] in parts}
    homes = {name.replace(".base_layer.", "."): home for name, home in state.items() if ".lora_" not in name}
    names = {key: next(iter(newer_names({key: shape}))) for key, shape in checkpoint.shapes()}
    check_complete(str(folder), {"missing_keys": set(homes) - set(names.values()) - tied})
    wanted = {key: local_rows(homes[name]) for key, name in names.items() if name in homes}
    for key, rows in checkpoint.rows(wanted):
        if not bool(rows.isfinite().all()):
            raise ValueError(f"{folder}: {key} holds numbers that are not finite; take other weights")
        local_part(homes[names[key]]).copy_(rows)
    for name, home in state.items():
        if ".lora_" in name:
            whole = torch.empty(home.shape).uniform_(-1, 1) * home.shape[-1] ** -0.5 * (".lora_A." in name)
            local_part(home).copy_(whole[local_rows(home)])


def _is_sharded(tensor: Tensor) -> TypeGuard[DTensor]:
    """Without the module of DTensor, which takes a second to import and is there where there is one."""
    return hasattr(tensor, "device_mesh")


def local_part(tensor: Tensor) -> Tensor:
    """The part of a sharded tensor on this process; other tensors unchanged."""
    return tensor.to_local() if _is_sharded(tensor) else tensor


def local_rows(tensor: Tensor) -> slice:
    """The rows of a whole tensor that this process holds: its part of a sharded one (split as ``chunk`` does)."""
    if not _is_sharded(tensor):
        return slice(None)
    each = -(-len(tensor) // tensor.device_mesh.size())
    start = min(each * tensor.device_mesh.get_local_rank(), len(tensor))
    return slice(start, min(start + each, len(tensor)))


def load_config(model: str | Path) -> VidLLMConfig:
    """The configuration alone, from a folder or a hub id; ValueError, naming the file, as :func:`load_pretrained`."""
    folder = _find(model)
    given = _settings(folder)
    config: VidLLMConfig = _configuration(folder, given, kind_of(given["model_type"])[0].from_dict)
    return config


def _settings(folder: Path) -> dict[str, Any]:
    """A folder's config.json; ValueError where it is not that of a model of ours, or would read files of others."""
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
    return given


def _configuration(folder: Path, given: dict[str, Any], read: Any) -> Any:
    try:
        return read(given)
    except Exception as error:  # transformers and huggingface_hub have errors of their own
        raise ValueError(f"{folder / 'config.json'}: not a vidllm configuration ({_first_line(error)}); fetch it again"
                         ) from error  # fmt: skip


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
    from transformers import AutoModelForCausalLM

    return load_published(AutoModelForCausalLM, open_checkpoint(folder))


def load_published(kind: Any, checkpoint: Checkpoint, **options: Any) -> PreTrainedModel:
    """A model of transformers, whole and finite, by one of its Auto classes; ValueError as :func:`load_pretrained`."""
    if checkpoint.settings() is None:
        raise ValueError(f"{checkpoint.place}: config.json is missing; give the folder of a saved model")
    for _ in checkpoint.shapes():  # named where a shard is cut or holds code
        pass
    model: PreTrainedModel
    model, report = load_with_report(kind, checkpoint.folder, trust_remote_code=False, **options)
    check_complete(checkpoint.place, report)
    check_finite(model, checkpoint.place)
    return model


@contextmanager
def quiet() -> Iterator[None]:
    """Without progress bars and reports of transformers."""
    from transformers.utils import logging

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


# ---- processors ---------------------------------------------------------------------------------------------------


def _processor(folder: Path) -> Processor:
    """The processor of a folder without transformers, where its files say nothing that only transformers knows."""
    _check_tokenizer(folder)
    try:
        tokenizer = PlainTokenizer.read(folder)
        frames = read_json_object(folder / "processor_config.json")["image_processor"]
        names = ("num_frames", "shorter_side", "resize_mode", "patch_size")
        if tokenizer is not None:
            try_tokenizer(tokenizer)
            return Processor(FrameProcessor(**{name: frames[name] for name in names}), tokenizer)
    except Exception:  # told by the usual way, in its words
        pass
    return load_processor(folder)


def _check_tokenizer(folder: Path) -> None:
    """ValueError for settings of a wrong type, which transformers takes as they are, and for a damaged file of them."""
    settings = settings_in(folder, "tokenizer_config.json") or {}
    for name, kinds in (("clean_up_tokenization_spaces", bool), ("model_max_length", int | float)):
        if name in settings and not isinstance(settings[name], kinds | None):
            raise ValueError(f"{folder / 'tokenizer_config.json'}: {name} is {settings[name]!r:.60}, of a wrong type; "
                             "fetch the file again")  # fmt: skip


def load_processor(model: str | Path) -> VidLLMProcessor:
    """The processor alone, from a folder or a hub id; ValueError, naming the file, where it cannot be loaded."""
    from vidllm.model.huggingface import VidLLMProcessor

    register()
    folder = _find(model)
    settings_in(folder, "processor_config.json")
    _check_tokenizer(folder)
    try:
        with quiet():
            processor = VidLLMProcessor.from_pretrained(folder, trust_remote_code=False)
            try_tokenizer(processor.tokenizer)
            return processor
    except Exception as error:  # the tokenizers' library raises Exception itself
        told = tokenizer_fault(folder) or f"{folder}: its processor cannot be loaded ({_first_line(error)})"
        raise ValueError(f"{told}; copy the files of tokenizer and processor again") from error


# ---- checks -------------------------------------------------------------------------------------------------------


def expected_weights(model: nn.Module) -> dict[str, torch.Size]:
    """Names and shapes a saved model holds; of weights that are tied, the one they are tied to."""
    tied = tied_weights(model)
    return {name: tensor.shape for name, tensor in model.state_dict().items() if name not in tied}


def tied_weights(model: nn.Module) -> set[str]:
    """Names of weights that are others under a second name."""
    parts = (("", model), *((f"{name}.", part) for name, part in model.named_children()))
    return {start + name for start, part in parts for name in getattr(part, "all_tied_weights_keys", None) or ()}


class Unfilled(TorchFunctionMode):
    """Weights on the meta device are not initialised: drawing random numbers there would import half of torch's
    compiler.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """A tensor that is to be filled at random stays empty."""
        if getattr(func, "__name__", "") in _DRAWN:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **(kwargs or {}))


@contextmanager
def weightless() -> Iterator[None]:
    """Context in which modules are built with buffers, and with weights on the meta device."""
    honest = nn.Module.register_parameter

    def register(module: nn.Module, name: str, weight: nn.Parameter | None) -> None:
        kept = None if weight is None else nn.Parameter(weight.to("meta"), weight.requires_grad)
        honest(module, name, kept)

    nn.Module.register_parameter = register  # type: ignore[method-assign,assignment]
    try:
        with Unfilled():
            yield
    finally:
        nn.Module.register_parameter = honest  # type: ignore[method-assign]


def check_weights(checkpoint: Checkpoint, settings: ModelConfig, kind: type[_Model]) -> _Model:
    """The model of a configuration, on the meta device, if the files contain its weights.

    ValueError if weights are missing or have another shape. Only headers are read and nothing is allocated.
    transformers saves some parts under other names: a part with missing names is compared by its number of parameters.
    """
    found = {name: tensor.shape for name, tensor in newer_names(dict(checkpoint.shapes())).items()}
    _check_layers(settings, len(found), checkpoint.place)
    try:
        with torch.device("meta"), Unfilled():
            model = kind(copy.deepcopy(settings))
        expected = expected_weights(model)
    except Exception as error:  # a module's own, of sizes that do not go together
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ValueError(f"{checkpoint.place}/config.json: no model can be built of it ({reason}); is it the "
                         "configuration of these weights?") from error  # fmt: skip
    renamed: dict[str, str] = {}
    for name, shape in expected.items():
        if name not in found:
            renamed.setdefault(name.split(".")[0], name)
        elif found[name] != shape:
            raise ValueError(f"{checkpoint.place}: {name} is {tuple(found[name])} in the weights, "
                             f"{tuple(shape)} in config.json; is it the configuration of these weights?")  # fmt: skip
    for part, first in renamed.items():
        have, want = (
            sum(shape.numel() for name, shape in shapes.items() if name.split(".")[0] == part)
            for shapes in (found, expected)
        )
        if have < want:
            raise ValueError(f"{checkpoint.place}: {part} has {have:,} numbers in the weights, {want:,} in "
                             f"config.json ({first} is missing); is the checkpoint complete?")  # fmt: skip
    return model


def check_finite(model: nn.Module, place: str) -> None:
    """ValueError, naming the place, for a weight that is NaN or infinite."""
    for name, tensor in model.state_dict().items():
        # a sum takes a fraction of the time of a test of each number, and can be infinite without reason
        if tensor.dtype in _SUMMED and not bool(tensor.sum().isfinite()) and not bool(tensor.isfinite().all()):
            raise ValueError(f"{place}: {name} holds numbers that are not finite in {str(tensor.dtype)[6:]}; the "
                             "weights are damaged, or their training diverged: take others")  # fmt: skip


def _check_layers(settings: ModelConfig, weights: int, place: str) -> None:
    """ValueError where more blocks are asked for than there are weights: building them would take very long."""
    counts = {
        "encoder.depth": settings.encoder.depth,
        "attention.depth": settings.attention.depth,
        "camera_head.trunk_depth": settings.camera_head.trunk_depth,
        "grounding.num_layers": settings.grounding.num_layers,
        "text_config.num_hidden_layers": getattr(settings.text_config, "num_hidden_layers", 0),
    }
    for name, count in counts.items():
        if count > weights:
            raise ValueError(f"{place}/config.json: {name} is {count}, and there are {weights} weights; is it the "
                             "configuration of these weights?")  # fmt: skip


def check_complete(place: str, report: dict[str, Any]) -> None:
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
