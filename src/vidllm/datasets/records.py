"""Records whose fields are checked against a table; errors name the file, the entry and the field.

A table has the check of each field: (entry, field, value) to the value as used, or ValueError. A pair (check, default)
is of a field that may be missing. Ids are written as numbers in some files and as text in others ("34").
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vidllm.io.files import check_regular_file
from vidllm.model.prompts import check_text

MOST = 10**18  # whole numbers stay below it, so that they fit 64 bits
IDS = ("scene_id", "scan_id", "question_id", "object_id", "ann_id", "assignmentid", "stimulus_id")
_WHOLE = re.compile(r"-?\d{1,18}")

Check = Callable[["Entry", str, Any], Any]
Table = Mapping[str, Check | tuple[Check, Any]]


@dataclass(frozen=True)
class Entry:
    """One record; ``where`` is how messages call it."""

    where: str
    values: Mapping[str, Any]

    def get(self, field: str, check: Check | None = None) -> Any:
        """A field that must be there, checked."""
        if field not in self.values:
            names = sorted(map(str, self.values))
            raise ValueError(f"{self.where}: needs {field!r}; there is no {field!r} among its fields {names}")
        value = self.values[field]
        return value if check is None else check(self, field, value)

    def read(self, table: Table) -> dict[str, Any]:
        """Every field of the table, checked."""
        found = {}
        for field, given in table.items():
            check, *default = given if isinstance(given, tuple) else (given,)
            found[field] = default[0] if default and field not in self.values else self.get(field, check)
        return found

    def error(self, field: str, expected: str, value: Any) -> ValueError:
        """The error of a field that is not what it should be."""
        shown = f"{value!r:.77}" + ("..." if len(repr(value)) > 77 else "")
        return ValueError(f"{self.where}: expected {field!r} to be {expected}, got {shown}")


def entries(values: Any, file: str | Path, what: str, ids: Sequence[str] = IDS) -> Iterator[Entry]:
    """The records of a JSON list, named by their number and ids; ValueError when it is no list of objects."""
    if not isinstance(values, list):
        shown = f"{type(values).__name__} {values!r:.40}"
        raise ValueError(f"{file}: expected a list of {what}, got {shown}; it must be a list, as distributed")
    for index, value in enumerate(values):
        if not isinstance(value, dict):
            raise ValueError(f"{file}: entry {index}: expected an object, got {value!r:.60}; fetch the file again")
        yield Entry(f"{file}: entry {index}{_shown_ids(value, ids)}", value)


def read_table(path: str | Path, needed: set[str], delimiter: str = ",") -> Iterator[Entry]:
    """The rows of a table with a head; ValueError naming the file where it is none, or a column is missing."""
    path = check_regular_file(path)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, restkey="", delimiter=delimiter)
            missing = needed - set(reader.fieldnames or ())
            if missing:
                raise ValueError(f"{path}: expected a table, columns {sorted(missing)} are missing; is it another one?")
            for index, row in enumerate(reader):
                yield Entry(f"{path}: entry {index}{_shown_ids(row, IDS)}", row)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path}: cannot be read as a table ({error}); fetch it again") from error


def _shown_ids(values: Mapping[str, Any], ids: Sequence[str]) -> str:
    shown = [" ".join(f"{key} {values[key]!s:.60}".split()) for key in ids if key in values]
    return f" ({', '.join(shown)})" if shown else ""


def made_by(make: Callable[[Any], Any]) -> Check:
    """Anything, as a function makes it."""
    return lambda entry, field, value: make(value)


def text(entry: Entry, field: str, value: Any) -> str:
    """Text."""
    if not isinstance(value, str):
        raise entry.error(field, "text", value)
    return value


def name(entry: Entry, field: str, value: Any) -> str:
    """Text that is not empty, such as a scene's name."""
    if not text(entry, field, value).strip():
        raise entry.error(field, "a name", value)
    return str(value)


def sentence(entry: Entry, field: str, value: Any) -> str:
    """Text for a model to read or say: without reserved tokens, valid Unicode."""
    try:
        return check_text(text(entry, field, value), f"text of {field!r}")
    except ValueError as error:
        raise error if str(error).startswith(entry.where) else ValueError(f"{entry.where}: {error}") from None


def whole(entry: Entry, field: str, value: Any) -> int:
    """A whole number, or text holding one."""
    if isinstance(value, str) and _WHOLE.fullmatch(value.strip()):
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < MOST:
        return value
    raise entry.error(field, "a whole number", value)


def is_number(value: Any) -> bool:
    """Whether it is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def list_of(check: Check) -> Check:
    """A list whose members pass a check, as a tuple."""

    def checked(entry: Entry, field: str, value: Any) -> tuple[Any, ...]:
        if not isinstance(value, list):
            raise entry.error(field, "a list", value)
        return tuple(check(entry, field, member) for member in value)

    return checked


def texts(entry: Entry, field: str, value: Any) -> tuple[str, ...]:
    """A list of texts."""
    if isinstance(value, list) and not all(isinstance(member, str) for member in value):
        raise entry.error(field, "a list of texts", value)
    found: tuple[str, ...] = list_of(text)(entry, field, value)
    return found


def sentences(entry: Entry, field: str, value: Any) -> tuple[str, ...]:
    """A list of texts for a model to read or say."""
    return tuple(sentence(entry, field, member) for member in texts(entry, field, value))
