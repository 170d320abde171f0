"""LoRA: small matrices beside the language model's linear layers are trained, the layers are frozen (arXiv 2106.09685).

The layers are peft's, injected in place, so that the rest of the model is unchanged. A trained model is written with
the matrices merged into its weights, and the matrices separately in peft's format.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor, nn

from vidllm.io.atomic import atomic_folder

ADAPTER = "default"  # peft's name for an only one


def apply_lora(model: nn.Module, rank: int, alpha: float) -> None:
    """Add LoRA of ``rank`` to every linear layer of ``model.language_model`` except its head, and freeze its other
    weights.

    The added term is scaled by ``alpha / rank`` and initially zero.

    Raises:
        ValueError: peft is not installed, or ``rank`` is below 1.
    """
    check_peft()
    if rank < 1:
        raise ValueError(f"the rank of LoRA must be at least 1, received {rank}")
    import peft

    language: Any = model.language_model
    head = language.get_output_embeddings()
    names = [name for name, part in language.named_modules() if isinstance(part, nn.Linear) and part is not head]
    language.requires_grad_(False)
    settings: Any = peft.LoraConfig
    peft.inject_adapter_in_model(settings(r=rank, lora_alpha=alpha, target_modules=names), language, ADAPTER)


def check_peft() -> None:
    """ValueError if peft is not installed."""
    if find_spec("peft") is None:
        raise ValueError("LoRA needs peft; install it: pip install 'vidllm[train]'")


def lora_layers(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Name and module of every layer with LoRA."""
    for name, module in model.named_modules():
        if hasattr(module, "lora_A") and hasattr(module, "base_layer"):
            yield name, module


def lora_matrices(model: nn.Module) -> nn.ModuleList:
    """The LoRA matrices in the order of the layers."""
    return nn.ModuleList(part for _, layer in lora_layers(model) for part in (layer.lora_A, layer.lora_B))


def weight_of(layer: Any) -> Tensor:
    """The effective weight of a linear layer, with or without LoRA; differentiable."""
    if not hasattr(layer, "lora_A"):
        weight: Tensor = layer.weight
        return weight
    low, high = layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight
    return _merged(layer.base_layer.weight, low, high, layer.scaling[ADAPTER])


def merged_state(model: nn.Module, state: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """``state`` (the weights of ``model``, or averages of them) with LoRA merged into the layers."""
    layers = dict(lora_layers(model))
    for key, value in state.items():
        layer = key.removesuffix(".base_layer.weight")
        if key.endswith(".base_layer.weight") and layer in layers:
            low, high = (state[f"{layer}.{part}.{ADAPTER}.weight"] for part in ("lora_A", "lora_B"))
            value = _merged(value, low, high, layers[layer].scaling[ADAPTER])
        if ".lora_" not in key:
            yield key.replace(".base_layer.", "."), value


def _merged(weight: Tensor, low: Tensor, high: Tensor, scaling: float) -> Tensor:
    return (weight.float() + scaling * high.float() @ low.float()).to(weight.dtype)


def save_adapter(model: nn.Module, folder: Path, base: str) -> Path:
    """Write the matrices in peft's format, for ``PeftModel.from_pretrained(model, folder)``; ``base``: the initial
    model.
    """
    import peft

    tensors, kinds = {}, set()
    for name, layer in lora_layers(model):
        kinds.add(name.rsplit(".", 1)[-1])
        for part in ("lora_A", "lora_B"):
            weight: Tensor = getattr(layer, part)[ADAPTER].weight
            tensors[f"base_model.model.{name}.{part}.weight"] = weight.detach().float().cpu().contiguous()
        rank, scaling = int(layer.r[ADAPTER]), float(layer.scaling[ADAPTER])
    if not tensors:
        raise ValueError("this model has no LoRA to write; train it with --lora")
    target = rf".*language_model\..*\.({'|'.join(sorted(kinds))})"
    settings: Any = peft.LoraConfig
    config = settings(
        r=rank, lora_alpha=scaling * rank, target_modules=target, base_model_name_or_path=base, inference_mode=True
    )
    with atomic_folder(folder) as part_folder:
        config.save_pretrained(str(part_folder))
        save_file(tensors, part_folder / "adapter_model.safetensors", metadata={"format": "pt"})
    return folder


def trained_share(model: nn.Module) -> tuple[int, int]:
    """Number of trained and of all parameters."""
    counts = [(p.numel(), p.requires_grad) for p in model.parameters()]
    return sum(n for n, learns in counts if learns), sum(n for n, _ in counts)
