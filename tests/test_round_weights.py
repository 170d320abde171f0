"""Rounded weights: fewer bits, to nearest, matrices only."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

SCRIPT = Path(__file__).parents[1] / "scripts" / "round_weights.py"


def test_matrices_are_rounded_to_nearest_and_all_else_is_kept(tmp_path, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(32, 48, generator=generator).half()
    vector = torch.randn(48, generator=generator).half()
    source, target = tmp_path / "a", tmp_path / "b"
    source.mkdir()
    save_file({"matrix": matrix, "vector": vector}, source / "model.safetensors", {"format": "pt"})
    (source / "config.json").write_text("{}")
    monkeypatch.setattr(sys, "argv", ["round_weights.py", str(source), str(target), "--bits", "7"])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    made = load_file(target / "model.safetensors")
    assert torch.equal(made["vector"], vector) and (target / "config.json").exists()
    kept, exponent = torch.frexp(made["matrix"].float())
    assert torch.equal((kept * 2**8).round(), kept * 2**8)  # eight significant bits
    step = 2.0 ** (exponent.float() - 8)
    error = (made["matrix"].float() - matrix.float()).abs()
    assert (error <= step / 2 + 1e-9).all() and error.max() > 0
    assert float(error.mean()) == pytest.approx(float(step.mean()) / 4, rel=0.2)
