"""Batches drawn ahead of the step that needs them, by threads: a GPU then waits for none.

A batch is a function of (step, seed), so what is drawn is the same with and without; the generator goes along as the
draw has left it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

Drawn = tuple[Any, np.random.Generator]
Wanted = tuple[int, list[int]]  # step and what its random numbers are drawn from


class Ahead:
    """Draws by ``draw(step, rng)``, in ``threads`` threads; with none, when a batch is taken."""

    def __init__(self, draw: Callable[[int, np.random.Generator], Any], threads: int) -> None:
        self._draw = draw
        self._pool = ThreadPoolExecutor(threads, "batches") if threads > 0 else None
        self._drawn: dict[tuple[int, ...], Future[Drawn]] = {}

    def want(self, wanted: Sequence[Wanted]) -> None:
        """Begin to draw what is not being drawn yet; what is not wanted any more is forgotten."""
        if self._pool is None:
            return
        keys = {(step, *seed): (step, seed) for step, seed in wanted}
        self._drawn = {key: future for key, future in self._drawn.items() if key in keys}
        for key, (step, seed) in keys.items():
            if key not in self._drawn:
                self._drawn[key] = self._pool.submit(self._make, step, seed)

    def take(self, step: int, seed: list[int]) -> Drawn:
        """The batch of a step and its generator; an error of the draw is raised here."""
        future = self._drawn.pop((step, *seed), None)
        return self._make(step, seed) if future is None else future.result()

    def _make(self, step: int, seed: list[int]) -> Drawn:
        rng = np.random.default_rng(seed)
        return self._draw(step, rng), rng
