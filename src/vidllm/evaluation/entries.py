"""Reading the entries of reference and prediction files: every complaint names the entry and the remedy."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterable
from typing import Any

__all__ = ["field", "listed", "refuse_missing", "refuse_unknown", "warn_missing"]

_SHOWN = 3


def listed(data: Any, what: str) -> list[dict[str, Any]]:
    """``data`` as a list of objects; ``what`` names the file in the message of the ``ValueError``."""
    if not isinstance(data, list) or not all(isinstance(entry, dict) for entry in data):
        raise ValueError(f"{what}: expected a list of objects, got {_kind(data)}; see the task's schema")
    if not data:
        raise ValueError(f"{what}: the list is empty; nothing to score")
    return data


def field(entry: dict[str, Any], key: str, kind: type | tuple[type, ...], what: str) -> Any:
    """``entry[key]``, checked to be of ``kind``."""
    value = entry.get(key)
    if key not in entry or not isinstance(value, kind) or isinstance(value, bool):
        kinds = kind if isinstance(kind, tuple) else (kind,)
        wanted = " or ".join(k.__name__ for k in kinds)
        got = "nothing" if key not in entry else _kind(value)
        raise ValueError(f"{what}: needs {key!r} as {wanted}, got {got}")
    return value


def refuse_missing(wanted: Iterable[str], given: Collection[str], script: str) -> None:
    """``ValueError`` when a reference has no prediction, as the evaluator itself would stop."""
    missing = [key for key in wanted if key not in given]
    if missing:
        raise ValueError(f"no prediction for {_some(missing)}; {script} needs one for every question")


def refuse_unknown(given: Iterable[str], known: Collection[str], script: str) -> None:
    """``ValueError`` when a prediction answers a question that is not in the references."""
    unknown = [key for key in given if key not in known]
    if unknown:
        raise ValueError(f"predictions for unknown ids {_some(unknown)}; {script} stops at them, take them out")


def warn_missing(wanted: Iterable[str], given: Collection[str], script: str) -> None:
    """A warning where the evaluator leaves questions without a prediction out of its denominator."""
    missing = [key for key in wanted if key not in given]
    if missing:
        warnings.warn(f"no prediction for {_some(missing)}; {script} leaves them out of its denominator", stacklevel=3)


def _some(keys: list[str]) -> str:
    shown = ", ".join(keys[:_SHOWN])
    return shown if len(keys) <= _SHOWN else f"{shown} and {len(keys) - _SHOWN} more"


def _kind(value: Any) -> str:
    return f"{type(value).__name__} {str(value)[:40]!r}"
