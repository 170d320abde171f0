"""Weights compared with a configuration before anything is allocated, and looked at for numbers that are not finite."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import nn

from vidllm.io.weight_files import Checkpoint
from vidllm.model.configuration import VidLLMConfig
from vidllm.model.modeling import VidLLMForConditionalGeneration

_SUMMED = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def expected_weights(model: nn.Module) -> dict[str, torch.Size]:
    """Names and shapes a saved model holds; of weights that are tied, the one they are tied to."""
    tied = set(getattr(model, "all_tied_weights_keys", None) or {})
    return {name: tensor.shape for name, tensor in model.state_dict().items() if name not in tied}


def check_weights(
    checkpoint: Checkpoint, settings: VidLLMConfig, kind: type[VidLLMForConditionalGeneration]
) -> None:
    """ValueError where files lack weights of the model that a configuration describes, or have them in another shape.

    Only headers are read and nothing is allocated. transformers saves some parts under other names: a part of which
    names are missing is compared by how many numbers it has.
    """
    found = {name: tensor.shape for name, tensor in checkpoint.shapes()}
    _check_layers(settings, len(found), checkpoint.place)
    try:
        with torch.device("meta"):
            expected = expected_weights(kind(copy.deepcopy(settings)))
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
        have, want = (_numbers(table, part) for table in (found, expected))
        if have < want:
            raise ValueError(f"{checkpoint.place}: {part} has {have:,} numbers in the weights, {want:,} in "
                             f"config.json ({first} is missing); is the checkpoint complete?")  # fmt: skip


def check_finite(model: nn.Module, place: str) -> None:
    """ValueError, naming the place, for a weight that is NaN or infinite."""
    for name, tensor in model.state_dict().items():
        # a sum takes a fraction of the time of a test of each number, and can be infinite without reason
        if tensor.dtype in _SUMMED and not bool(tensor.sum().isfinite()) and not bool(tensor.isfinite().all()):
            raise ValueError(f"{place}: {name} holds numbers that are not finite in {str(tensor.dtype)[6:]}; the "
                             "weights are damaged, or their training diverged: take others")  # fmt: skip


def _check_layers(settings: VidLLMConfig, weights: int, place: str) -> None:
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


def _numbers(shapes: Mapping[str, torch.Size], part: str) -> int:
    return sum(shape.numel() for name, shape in shapes.items() if name.split(".")[0] == part)
