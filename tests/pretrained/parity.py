"""Our numbers beside a reference's, told as they are compared: ``pytest tests/pretrained -k parity -s``."""

from __future__ import annotations

from torch import Tensor

TOLERANCE = 1e-5


def assert_parity(ours: Tensor, theirs: Tensor, name: str) -> None:
    """The largest difference over the largest reference value is at most the tolerance; printed under a name."""
    assert ours.shape == theirs.shape
    apart = ((ours - theirs).abs().max() / theirs.abs().max()).item()
    print(f"parity  {name:40s} {apart:.1e}")
    assert apart <= TOLERANCE
