"""Lengths and angles are not computed in half precision.

Under autocast a matrix product would use bfloat16, whose eight bits put a point 5 m away on a 3 cm grid. Products of
poses, points and boxes therefore switch autocast off.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def full_precision() -> Iterator[None]:
    """Switch autocast off: a context manager, or a decorator of a function."""
    with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
        yield
