"""Which steps are not taken: those that are not finite, and those far above what steps of their kind have been.

A run's losses differ by the kind of step (geometry, language), so every kind has its own running median. The memory is
part of a checkpoint: a resumed run judges as the unbroken one.
"""

from __future__ import annotations

import math
from collections import deque
from statistics import median
from typing import Any

RECENT = 100  # steps over which the skipped ones are counted
KNOWN = 20  # steps of a kind before it is judged


class Watch:
    """Remembers the losses and gradient norms of the steps taken, and how many were skipped of late."""

    def __init__(self, factor: float = 10.0, window: int = 100) -> None:
        self.factor, self.window = factor, window
        self._seen: dict[str, deque[tuple[float, float]]] = {}
        self._skipped: deque[bool] = deque(maxlen=RECENT)
        self.reason: str | None = None  # of the last step that was not taken

    def judge(self, kind: str, loss: float, norm: float) -> str | None:
        """Why a step of that kind is not to be taken, or None; a step that is taken is remembered."""
        reason = self._reason(kind, loss, norm)
        self.reason = reason or self.reason
        if reason is None:
            self._seen.setdefault(kind, deque(maxlen=self.window)).append((loss, norm))
        self._skipped.append(reason is not None)
        return reason

    def skipped(self) -> int:
        """How many of the last hundred steps were skipped."""
        return sum(self._skipped)

    def _reason(self, kind: str, loss: float, norm: float) -> str | None:
        if not (math.isfinite(loss) and math.isfinite(norm)):
            return f"loss {loss} or gradient norm {norm} is not finite"
        seen = self._seen.get(kind, ())
        for name, value, past in zip(("loss", "gradient norm"), (loss, norm), zip(*seen, strict=True), strict=False):
            if self.factor > 0 and len(seen) >= KNOWN and value > self.factor * median(past):
                return f"{name} {value:.3g} is over {self.factor:g} times the median {median(past):.3g}"
        return None

    def state(self) -> dict[str, Any]:
        """As plain values."""
        return {"seen": {k: [list(pair) for pair in v] for k, v in self._seen.items()}, "skipped": list(self._skipped)}

    def load(self, state: dict[str, Any]) -> None:
        """The inverse of :meth:`state`."""
        self._seen = {k: deque(((a, b) for a, b in v), maxlen=self.window) for k, v in state["seen"].items()}
        self._skipped = deque(state["skipped"], maxlen=RECENT)
