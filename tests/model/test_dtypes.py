"""``auto``: bfloat16 where the hardware has it, float32 elsewhere, and a line that says which."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch

from vidllm.model.precision import cpu_has_bfloat16, describe_dtype, resolve_dtype
from vidllm.training.loop import autocast

X86 = "processor\t: 0\nflags\t\t: fpu sse2 avx2 avx512f{}\n\nprocessor\t: 1\nflags\t\t: fpu\n"


@pytest.fixture(autouse=True)
def forget():
    cpu_has_bfloat16.cache_clear()
    yield
    cpu_has_bfloat16.cache_clear()


@pytest.mark.parametrize(("told", "wanted"), [({"amx_bf16": True}, "bfloat16"), ({"avx512_f": True}, "float32")])
def test_auto_follows_what_torch_tells_of_the_cpu(monkeypatch, told, wanted):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: told, raising=False)
    assert resolve_dtype("auto", "cpu")[0] == wanted
    assert describe_dtype("auto", "cpu").startswith(f"computing in {wanted} (this cpu device has")


@pytest.mark.parametrize(("flags", "wanted"), [(" avx512_bf16", True), ("", False)])
def test_without_torchs_answer_the_flags_are_read(monkeypatch, tmp_path, flags, wanted):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    info = tmp_path / "cpuinfo"
    info.write_text(X86.format(flags))
    assert cpu_has_bfloat16(info) is wanted
    assert cpu_has_bfloat16(tmp_path / "missing") is False


def test_a_named_type_is_taken_as_it_is_and_others_are_refused(monkeypatch):
    monkeypatch.setattr("vidllm.model.precision.cpu_has_bfloat16", lambda: False)
    assert resolve_dtype("bfloat16", "cpu") == ("bfloat16", "as asked for")
    assert isinstance(autocast("auto", "cpu"), nullcontext)
    assert isinstance(autocast("bfloat16", "cpu"), torch.autocast)
    with pytest.raises(ValueError, match="unknown dtype 'half'; expected one of auto, float32"):
        resolve_dtype("half", "cpu")
