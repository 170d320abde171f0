"""Stored benchmark sets with the numbers of the published evaluators, and how two nested results are compared."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any


def load(golden: Path, task: str) -> Any:
    """The stored set of ``task``: references, predictions, scores and per-item values."""
    return json.loads(gzip.decompress((golden / "eval" / f"{task}.json.gz").read_bytes()))


def corners(low: float, high: float) -> list[list[float]]:
    """The corners of a cube."""
    return [[x, y, z] for x in (low, high) for y in (low, high) for z in (low, high)]


def differences(found: Any, expected: Any, path: str = "", tolerance: float = 1e-6) -> list[str]:
    """Where two nested results differ; METEOR may be "n/a"."""
    if isinstance(expected, dict):
        if not isinstance(found, dict) or set(found) != set(expected):
            return [f"{path}: keys {found}"]
        return [d for key in expected for d in differences(found[key], expected[key], f"{path}/{key}", tolerance)]
    if isinstance(expected, list):
        if len(found) != len(expected):
            return [f"{path}: {len(found)} entries, expected {len(expected)}"]
        pairs = enumerate(zip(found, expected, strict=True))
        return [d for i, (f, e) in pairs for d in differences(f, e, f"{path}/{i}", tolerance)]
    if (found == "n/a" and "meteor" in path.lower()) or found == "[METEOR] n/a":
        return []
    if isinstance(expected, int | float):
        close = isinstance(found, int | float) and abs(found - expected) <= tolerance * max(1.0, abs(expected))
        return [] if close else [f"{path}: {found}, expected {expected}"]
    return [] if found == expected else [f"{path}: {found!r}, expected {expected!r}"]
