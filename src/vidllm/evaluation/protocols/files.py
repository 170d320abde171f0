"""Files of references and of predictions: their entries, the checks of their fields, and who has no partner.

Identifiers are compared as text, so that ``"34"`` and ``34`` are the same object whichever file wrote them.
"""

from __future__ import annotations

import ast
import math
import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from vidllm.datasets.records import IDS, Entry, entries, list_of, made_by, whole

_SHOWN = 3


def rows(data: Any, what: str, ids: Sequence[str] = IDS) -> list[Entry]:
    """The entries of a file that is a list of objects and not empty; ``what`` names it in messages."""
    found = list(entries(data, what, "objects", ids))
    if not found:
        raise ValueError(f"{what}: the list is empty; there are no {what} to score")
    return found


def by_scene(data: Any, what: str) -> Iterator[tuple[str, Entry]]:
    """(scene, entry) of a file that maps each scene to its entries."""
    if not isinstance(data, Mapping):
        raise ValueError(f"{what} must map each scene to its entries, got {type(data).__name__}")
    for scene, found in data.items():
        for entry in entries(found, f"{what} of {scene}", "objects"):
            yield str(scene), entry


# -- checks of fields


as_is = made_by(lambda value: value)
as_text = made_by(str)


def identifier(entry: Entry, field: str, value: Any) -> str:
    """Text or a whole number, as text."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise entry.error(field, "text or a whole number", value)
    return str(value)


def number(entry: Entry, field: str, value: Any) -> float:
    """A number, also NaN."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise entry.error(field, "a number", value)
    return float(value)


def integer(entry: Entry, field: str, value: Any) -> int:
    """A whole number, as such, as text or as a float."""
    return whole(entry, field, int(value) if isinstance(value, float) and value.is_integer() else value)


def strings(entry: Entry, field: str, value: Any) -> list[str]:
    """A list of at least one string."""
    if not isinstance(value, list) or not value or not all(isinstance(text, str) for text in value):
        raise entry.error(field, "a list of at least one string", value)
    return value


def words(entry: Entry, field: str, value: Any) -> list[str]:
    """A list of words, or, as in a table, its text."""
    if isinstance(value, str):
        try:
            value = ast.literal_eval(value)
        except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):
            raise entry.error(field, "a list of words", value) from None
    return list(list_of(as_text)(entry, field, value))


def corners(entry: Entry, field: str, value: Any) -> np.ndarray:
    """A box as its corners, (8, 3) in float64, metres; NaN is kept for the evaluator to judge."""
    array = _numbers(entry, field, value)
    if array.shape != (8, 3):
        raise entry.error(field, f"8 corners of 3 coordinates (not of shape {array.shape})", value)
    return array


def corner_list(entry: Entry, field: str, value: Any) -> np.ndarray:
    """Boxes as corners (n, 8, 3), from a list that may be empty."""
    return np.array([corners(entry, field, box) for box in list_of(as_is)(entry, field, value)]).reshape(-1, 8, 3)


def bounds(entry: Entry, field: str, value: Any) -> np.ndarray:
    """Boxes as lower and upper corner, (n, 2, 3) in float64, from a list that may be empty."""
    array = _numbers(entry, field, value)
    if array.size == 0:
        return np.zeros((0, 2, 3))
    if array.ndim != 3 or array.shape[1:] != (2, 3):
        raise entry.error(field, f"n pairs of corners (n, 2, 3) (not of shape {array.shape})", value)
    return array


def _numbers(entry: Entry, field: str, value: Any) -> np.ndarray:
    try:
        return np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        raise entry.error(field, "a regular list of numbers", value) from None


# -- values and partners


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
