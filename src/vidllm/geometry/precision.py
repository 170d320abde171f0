"""Lengths and angles are never computed in half precision.

Under autocast a matrix product takes bfloat16, whose eight bits put a point 5 m away on a 3 cm grid and a rotation on
one of about a degree. Every product of poses, points and boxes switches autocast off.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def full_precision() -> Iterator[None]:
    """Products inside keep their arguments' precision; as ``with full_precision():`` or ``@full_precision()``."""
    with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
        yield
