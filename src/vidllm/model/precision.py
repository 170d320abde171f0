"""Floating-point types, and quantisation of the language model.

``auto`` is bfloat16 if the hardware supports it, else float32. A CPU without bfloat16 units emulates it: a training
step then takes four to five times as long as in float32.

Quantisation rounds weights to the nearest of 8 or 4 bits; activations keep their precision. 8 bits have one scale per
row (output channel), 4 bits a scale and an offset for every ``GROUP`` weights of a row: w = scale q + offset. Weights
are dequantised for every product, which saves memory but not time. Embeddings and head are not quantised.
"""

from __future__ import annotations

import math
import os
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

AUTO = "auto"
DTYPES = (AUTO, "float32", "bfloat16", "float16")
CPU_INFO = Path("/proc/cpuinfo")
BFLOAT16_FLAGS = frozenset(("avx512_bf16", "amx_bf16", "bf16"))  # x86 twice, ARM


def resolve_dtype(name: str, device: str | torch.device = "cpu") -> tuple[str, str]:
    """The type that ``name`` means on a device, and the reason.

    ValueError for a name that is not one of ``DTYPES``.
    """
    if name not in DTYPES:
        raise ValueError(f"unknown dtype {name!r}; expected one of {', '.join(DTYPES)}")
    if name != AUTO:
        return name, "as asked for"
    kind = torch.device(device).type
    if kind == "cuda" and not torch.cuda.is_available():  # an estimate for a GPU that is elsewhere
        return "bfloat16", "as GPUs of the last years do"
    if kind == "cuda":
        usable = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        usable = kind == "cpu" and cpu_has_bfloat16()
    return ("bfloat16", f"this {kind} device has it") if usable else ("float32", f"this {kind} device has no bfloat16")


@lru_cache
def cpu_has_bfloat16(cpu_info: Path = CPU_INFO) -> bool:
    """Whether this CPU supports bfloat16: from torch if it knows, else from the flags that Linux lists."""
    ask = getattr(torch.cpu, "get_capabilities", None)
    if ask is not None:
        told = ask()
        return any(bool(told.get(name)) for name in ("arm_bf16", *BFLOAT16_FLAGS))
    return bool(BFLOAT16_FLAGS & set(_flags(cpu_info)))


def _flags(cpu_info: Path) -> list[str]:
    """The first processor's flags (x86) or features (ARM); none where the file cannot be read."""
    if not os.access(cpu_info, os.R_OK):
        return []
    lines = (line.split(":", 1) for line in cpu_info.read_text().splitlines() if ":" in line)
    return next((value.split() for name, value in lines if name.strip() in ("flags", "Features")), [])


def describe_dtype(name: str, device: str | torch.device) -> str:
    """:func:`resolve_dtype` as one line for a log."""
    chosen, reason = resolve_dtype(name, device)
    if is_slow(name, device):
        reason += "; this cpu has no bfloat16: about 5 times the time of float32, in dense heads 35 times"
    return f"computing in {chosen} ({reason})"


def is_slow(name: str, device: str | torch.device) -> bool:
    """Whether ``name`` is a bfloat16 that the CPU must emulate."""
    return name == "bfloat16" and torch.device(device).type == "cpu" and not cpu_has_bfloat16()


GROUP = 64  # 4-bit weights that share a scale and an offset


class Int8Linear(nn.Module):
    """A linear layer with 8-bit weights and one scale per row, which is applied after the product.

    No weight changes by more than half its row's scale.
    """

    weight: Tensor
    scale: Tensor
    bias: Tensor | None

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight = linear.weight.detach()
        scale = (weight.float().abs().amax(1) / 127).clamp(min=torch.finfo(torch.float32).tiny)
        self.register_buffer("weight", (weight.float() / scale[:, None]).round().to(torch.int8))
        self.register_buffer("scale", scale.to(weight.dtype))
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach())

    def forward(self, x: Float[Tensor, "*batch i"]) -> Float[Tensor, "*batch o"]:
        """``scale * (W x) + b``."""
        out = F.linear(x, self.weight.to(x.dtype)) * self.scale.to(x.dtype)
        return out if self.bias is None else out + self.bias

    def dequantised(self) -> Float[Tensor, "o i"]:
        """The dequantised weight."""
        return self.weight.to(self.scale.dtype) * self.scale[:, None]


class Int4Linear(nn.Module):
    """A linear layer with 4-bit weights, two per byte: the first half of a row in the low bits, the second in the high
    bits; no weight changes by more than half its group's scale.

    If ``GROUP`` does not divide the row, the group is their greatest common divisor. ValueError for an odd row length.
    """

    packed: Tensor
    scale: Tensor
    offset: Tensor
    bias: Tensor | None

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight, columns = linear.weight.detach(), linear.in_features
        if columns % 2:
            raise ValueError(f"4-bit weights go in pairs: a row of {columns} cannot be packed; use int8")
        groups = weight.float().unflatten(1, (-1, math.gcd(columns, GROUP)))
        low, high = groups.amin(2), groups.amax(2)
        scale = ((high - low) / 15).clamp(min=torch.finfo(torch.float32).tiny)
        levels = ((groups - low[..., None]) / scale[..., None]).round().clamp(0, 15).to(torch.uint8).flatten(1)
        first, second = levels.chunk(2, dim=1)
        self.register_buffer("packed", first | (second << 4))
        self.register_buffer("scale", scale.to(weight.dtype))
        self.register_buffer("offset", low.to(weight.dtype))
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach())

    def forward(self, x: Float[Tensor, "*batch i"]) -> Float[Tensor, "*batch o"]:
        """``W x + b`` with a dequantised W."""
        return F.linear(x, self.dequantised().to(x.dtype), self.bias)

    def dequantised(self) -> Float[Tensor, "o i"]:
        """The dequantised weight."""
        levels = torch.cat([self.packed & 15, self.packed >> 4], dim=1).to(self.scale.dtype)
        groups = levels.unflatten(1, (self.scale.shape[1], -1))
        return groups.mul_(self.scale[..., None]).add_(self.offset[..., None]).flatten(1)


def quantise(language_model: nn.Module, dtype: str) -> int:
    """Quantise every linear layer of a causal LM except its head, in place; returns their number.

    ValueError for another ``dtype`` than "int8" and "int4". A quantised model is for inference: its weights have no
    gradients, and saved files would not load.
    """
    if dtype not in ("int8", "int4"):
        raise ValueError(f"unknown language dtype {dtype!r}; expected int8 or int4")
    head, replaced = language_model.get_output_embeddings(), 0  # type: ignore[operator]
    for parent in list(language_model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Linear) and child is not head:
                setattr(parent, name, Int8Linear(child) if dtype == "int8" else Int4Linear(child))
                replaced += 1
    return replaced


def place(
    model: nn.Module, device: torch.device, language_dtype: str | None = None, offload: str | None = None
) -> nn.Module:
    """Move a model from host memory to ``device``, with its ``language_model`` quantised or offloaded.

    Layers are quantised before they are moved. ValueError for an unknown choice.
    """
    if offload not in (None, "cpu"):
        raise ValueError(f"unknown offload {offload!r}; expected cpu")
    language_model = model.language_model
    assert isinstance(language_model, nn.Module)
    if language_dtype is not None:
        quantise(language_model, language_dtype)
    if offload is None:
        return model.to(device)
    for part in (part for part in model.children() if part is not language_model):
        part.to(device)
    offload_layers(language_model, device)
    return model


def check_offload() -> None:
    """ValueError if accelerate is not installed."""
    if find_spec("accelerate") is None:
        raise ValueError("offloading needs accelerate: pip install vidllm[train]")


def offload_layers(language_model: nn.Module, device: torch.device) -> None:
    """Keep the layers' weights in host memory; each is copied to ``device`` while it runs (accelerate's hooks).

    Embeddings, head and the last norm are moved to ``device``. ValueError without accelerate.
    """
    check_offload()
    from accelerate import cpu_offload

    layers = language_model.get_decoder().layers  # type: ignore[operator]
    for layer in layers:
        cpu_offload(layer.cpu(), execution_device=device, offload_buffers=True)
    waiting = {id(tensor) for layer in layers for tensor in (*layer.parameters(), *layer.buffers())}
    for tensor in (*language_model.parameters(), *language_model.buffers()):
        if id(tensor) not in waiting:
            tensor.data = tensor.data.to(device)
