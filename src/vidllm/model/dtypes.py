"""The floating-point type to compute in: ``auto`` is bfloat16 where the hardware computes in it, else float32.

A CPU without bfloat16 units emulates it: a training step then takes four to five times as long as in float32.
"""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

import torch

AUTO = "auto"
DTYPES = (AUTO, "float32", "bfloat16", "float16")
CPU_INFO = Path("/proc/cpuinfo")
BFLOAT16_FLAGS = frozenset(("avx512_bf16", "amx_bf16", "bf16"))  # x86 twice, ARM


def resolve_dtype(name: str, device: str | torch.device = "cpu") -> tuple[str, str]:
    """The type that ``name`` means on a device, and the reason in words.

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
    """Whether this CPU multiplies in bfloat16: torch's answer where it has one, else the flags that Linux lists."""
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
    return f"computing in {chosen} ({reason})"
