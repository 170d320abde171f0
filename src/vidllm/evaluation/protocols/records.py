"""The checker of reference and prediction files: every complaint names the entry and the remedy.

Identifiers are compared as text, so that ``"34"`` and ``34`` are the same object whichever file wrote them.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

__all__ = [
    "bounds", "by_scene", "corners", "described", "field", "finite", "identifier", "listed", "refuse_missing",
    "refuse_unknown", "warn_missing",
]  # fmt: skip

_SHOWN = 3


def listed(data: Any, what: str, may_be_empty: bool = False) -> list[dict[str, Any]]:
    """``data`` as a list of objects; ``what`` names the file in the message of the ``ValueError``."""
    if not isinstance(data, list):
        raise ValueError(f"{what}: expected a list of objects, got {_kind(data)}; it must be a list, as distributed")
    for index, entry in enumerate(data):
        if not isinstance(entry, dict):
            raise ValueError(f"{what}: expected a list of objects, got {_kind(entry)} as entry {index}")
    if not data and not may_be_empty:
        raise ValueError(f"{what}: the list is empty; there are no {what} to score")
    return data


def by_scene(data: Any, what: str) -> Iterable[tuple[str, int, dict[str, Any]]]:
    """(scene, index, entry) of a file that maps each scene to its entries."""
    if not isinstance(data, Mapping):
        raise ValueError(f"{what} must map each scene to its entries, got {type(data).__name__}")
    for scene, entries in data.items():
        for index, entry in enumerate(listed(entries, f"{what} of {scene}", may_be_empty=True)):
            yield str(scene), index, entry


def described(what: str, index: int, entry: Mapping[str, Any], keys: Sequence[str] = ()) -> str:
    """The name of an entry in messages: ``prediction 3 (scene0011_00, 4)``."""
    known = [str(entry[key]) for key in keys if key in entry]
    return f"{what} {index}" + (f" ({', '.join(known)})" if known else "")


def field(entry: Mapping[str, Any], key: str, where: str, kind: type | tuple[type, ...] = object) -> Any:
    """``entry[key]``, checked to be of ``kind`` where one is given."""
    kinds = " or ".join(k.__name__ for k in (kind if isinstance(kind, tuple) else (kind,)))
    needs = f"{where}: needs {key!r}" + ("" if kind is object else f" as {kinds}")
    if key not in entry:
        raise ValueError(f"{needs}; there is no {key!r} among its fields {', '.join(map(str, entry)) or '(none)'}")
    value = entry[key]
    if not isinstance(value, kind) or (kind is not object and isinstance(value, bool)):
        raise ValueError(f"{needs}, got {_kind(value)}")
    return value


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


def refuse_missing(wanted: Iterable[str], given: Collection[str], script: str) -> None:
    """``ValueError`` when a reference has no prediction, as the evaluator itself would stop."""
    if missing := [key for key in wanted if key not in given]:
        raise ValueError(f"no prediction for {_some(missing)}; {script} needs one for every question")


def refuse_unknown(given: Iterable[str], known: Collection[str], script: str) -> None:
    """``ValueError`` when a prediction answers a question that is not in the references."""
    if unknown := [key for key in given if key not in known]:
        raise ValueError(f"predictions for unknown ids {_some(unknown)}; {script} stops at them, take them out")


def warn_missing(wanted: Iterable[str], given: Collection[str], script: str) -> None:
    """A warning where the evaluator leaves questions without a prediction out of its denominator."""
    if missing := [key for key in wanted if key not in given]:
        warnings.warn(f"no prediction for {_some(missing)}; {script} leaves them out of its denominator", stacklevel=3)


def _some(keys: list[str]) -> str:
    shown = ", ".join(keys[:_SHOWN])
    return shown if len(keys) <= _SHOWN else f"{shown} and {len(keys) - _SHOWN} more"


def _kind(value: Any) -> str:
    return f"{type(value).__name__} {str(value)[:40]!r}"
