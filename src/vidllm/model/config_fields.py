"""Checks of the values of a config.json against the types and bounds of its fields, before anything is built.

A number that is too large would otherwise take minutes or all memory before a weight is compared.
"""

from __future__ import annotations

import math
from dataclasses import fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

MAX_LAYERS = 1000  # blocks, or rounds of a loop; models have at most a few hundred
MAX_WHOLE = 2**31 - 1
_LOOPS = ("depth", "trunk_depth", "num_layers", "iterations", "huber_rounds")
_LOOP_WORDS = ("layer", "depth", "expert", "block")  # in names of other people's configurations
_UNBOUNDED = ("seed",)
_POSITIVE = ("hidden_size", "num_heads", "patch_size", "image_size", "features", "num_bins", "bin_embedding",
             "num_queries", "iterations", "max_patches", "frames_chunk_size", "default_frames",
             "shorter_side", "metric_side")  # fmt: skip


def flat(config: Any) -> dict[str, Any]:
    """The fields of a dataclass (or any object) and of nested dataclasses by name; its own fields take precedence."""
    own = vars(config)
    nested = [flat(value) for value in own.values() if is_dataclass(value)]
    plain = {name: value for name, value in own.items() if not is_dataclass(value)}
    return {name: value for values in (*nested, plain) for name, value in values.items()}


def read_fields(kind: type, given: dict[str, Any], name: str) -> dict[str, Any]:
    """A JSON object as the fields of a dataclass: lists become tuples, and whole numbers floats where required.

    ValueError, naming ``name``.FIELD, for an unknown field, a value of another type, or one out of bounds.
    """
    hints = get_type_hints(kind)
    known = {field.name for field in fields(kind)}
    unknown = sorted(set(given) - known)
    if unknown:
        raise ValueError(f"{name}: no field {unknown[0]!r}; expected some of {', '.join(sorted(known))}")
    for field, value in given.items():
        check_value(f"{name}.{field}", value, hints[field])
    found: dict[str, Any] = {}
    for field, value in given.items():
        hint = hints[field]
        choices = (hint, *get_args(hint)) if get_origin(hint) in (None, Union, UnionType) else ()
        whole = type(value) is int and float in choices and int not in choices
        found[field] = tuple(value) if isinstance(value, list) else float(value) if whole else value
    return found


def check_value(name: str, value: Any, hint: Any) -> None:
    """ValueError if a value does not fit a type hint (numbers, bool, str, tuples, literals, unions of them)."""
    if not _fits(value, hint):
        raise ValueError(f"{name}: expected {_told(hint)}, received {value!r:.60}")
    last = name.rsplit(".", 1)[-1]
    least = -MAX_LAYERS if last == "vision_layer" else int(last in _POSITIVE)  # a layer is counted from the end
    for number in value if isinstance(value, list | tuple) else [value]:
        if isinstance(number, int) and last not in _UNBOUNDED:
            most = MAX_LAYERS if last in _LOOPS else MAX_WHOLE
            if not least <= number <= most:
                raise ValueError(f"{name}: expected {least} to {most}, received {number}")


def check_loops(given: dict[Any, Any], name: str) -> None:
    """ValueError if the configuration of another library has an absurd number of layers or experts."""
    for field, value in given.items():
        if any(word in str(field) for word in _LOOP_WORDS) and type(value) is int and value > MAX_LAYERS:
            raise ValueError(f"{name}.{field}: expected at most {MAX_LAYERS}, received {value}")
        if isinstance(value, dict):
            check_loops(value, f"{name}.{field}")


def _fits(value: Any, hint: Any) -> bool:
    if get_origin(hint) in (Union, UnionType):
        return any(_fits(value, choice) for choice in get_args(hint))
    if get_origin(hint) is Literal:
        return value in get_args(hint) if isinstance(value, str) else False
    if get_origin(hint) is tuple and isinstance(value, list | tuple):
        kinds = get_args(hint)
        kinds = (kinds[0],) * len(value) if kinds[-1] is Ellipsis else kinds
        return len(value) == len(kinds) and all(_fits(v, kind) for v, kind in zip(value, kinds, strict=True))
    if hint in (None, NoneType):
        return value is None
    if hint is float:
        return type(value) in (int, float) and math.isfinite(value)
    return type(value) is hint


def _told(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) and get_origin(hint) is None else str(hint).replace("typing.", "")
