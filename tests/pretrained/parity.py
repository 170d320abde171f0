"""Our numbers beside a reference's, told as they are compared: ``pytest tests/pretrained -k parity -s``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from vidllm.baselines.geometry import build_geometry
from vidllm.pretrained.geometry_models import PREFIX, find_geometry_model
from vidllm.pretrained.parts import find_part

TOLERANCE = 1e-5


def assert_parity(ours: Tensor, theirs: Tensor, name: str) -> None:
    """The largest difference over the largest reference value is at most the tolerance; printed under a name."""
    assert ours.shape == theirs.shape
    apart = ((ours - theirs).abs().max() / theirs.abs().max()).item()
    print(f"parity  {name:40s} {apart:.1e}")
    assert apart <= TOLERANCE


def geometry_network(name: str, place: Path) -> Any:
    """A published network by the name of --geometry, by itself."""
    settings, source, _ = find_geometry_model(name, place)
    return find_part(lambda: build_geometry(settings), source, PREFIX).load()
