"""Reading the entries of grounding files: a missing or unusable field is an error that names the entry.

Identifiers are compared as text, so that ``"34"`` and ``34`` are the same object whichever file wrote them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

__all__ = ["bounds", "corners", "described", "field", "finite", "identifier", "listed"]


def described(what: str, index: int, entry: Any, keys: Sequence[str] = ()) -> str:
    """The name of an entry in messages: ``prediction 3 (scene0011_00, 4)``."""
    known = [str(entry[key]) for key in keys if isinstance(entry, Mapping) and key in entry]
    return f"{what} {index}" + (f" ({', '.join(known)})" if known else "")


def listed(value: Any, what: str) -> list[Any]:
    """``value`` if it is a list of dictionaries; ``ValueError`` otherwise."""
    if not isinstance(value, list):
        raise ValueError(f"{what} must be a list of entries, got {type(value).__name__}; give the file as distributed")
    for index, entry in enumerate(value):
        if not isinstance(entry, Mapping):
            raise ValueError(f"{what}: entry {index} is {type(entry).__name__}, not a dictionary of fields")
    return value


def field(entry: Mapping[str, Any], name: str, where: str) -> Any:
    """The field ``name`` of an entry; ``ValueError`` naming the entry where it is missing."""
    if name not in entry:
        raise ValueError(f"{where} has no {name!r}; its fields are {', '.join(map(str, entry)) or 'none'}")
    return entry[name]


def identifier(entry: Mapping[str, Any], names: Sequence[str], where: str) -> tuple[str, ...]:
    """The fields ``names`` of an entry as text."""
    return tuple(str(field(entry, name, where)) for name in names)


def corners(value: Any, where: str) -> np.ndarray:
    """A box as its corners, (8, 3) in float64, metres; NaN is kept for the evaluator to judge."""
    array = _numbers(value, where)
    if array.shape != (8, 3):
        raise ValueError(f"{where}: a box is 8 corners of 3 coordinates, got shape {array.shape}; give the corners")
    return array


def bounds(value: Any, where: str) -> np.ndarray:
    """Boxes as lower and upper corner, (n, 2, 3) in float64, from a list that may be empty."""
    array = _numbers(value, where)
    if array.size == 0:
        return np.zeros((0, 2, 3))
    if array.ndim != 3 or array.shape[1:] != (2, 3):
        raise ValueError(f"{where}: boxes are n pairs of corners, got shape {array.shape}; expected (n, 2, 3)")
    return array


def _numbers(value: Any, where: str) -> np.ndarray:
    try:
        return np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"{where}: a box must be a regular list of numbers, got {str(value)[:80]!r}") from None


def finite(value: float) -> float | None:
    """``value`` as a plain float; None (null in JSON) where it is not a finite number, such as a mean of nothing."""
    return float(value) if math.isfinite(value) else None
