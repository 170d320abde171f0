"""Annotation files as records whose fields are checked: every error names the file, the entry and the field.

Ids are written as numbers in some files and as text in others ("34"); both become int.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from vidllm.io.files import read_json
from vidllm.model.prompts import check_text

T = TypeVar("T")
MOST = 10**18  # whole numbers stay below it, so that they fit 64 bits


@dataclass(frozen=True)
class Entry:
    """One record of a file. Its methods return one field each, or raise ValueError when it is missing or wrong."""

    path: Path
    index: int
    values: Mapping[str, Any]

    @property
    def name(self) -> str:
        """How messages call this entry: its number and whatever ids it has."""
        ids = [" ".join(f"{key} {self.values[key]!s:.60}".split()) for key in _IDS if key in self.values]
        return f"{self.path}: entry {self.index}" + (f" ({', '.join(ids)})" if ids else "")

    def get(self, field: str) -> Any:
        """A field as it is."""
        if field not in self.values:
            raise ValueError(f"{self.name}: field {field!r} is missing; it has {sorted(map(str, self.values))}")
        return self.values[field]

    def text(self, field: str) -> str:
        """A field that is text."""
        value = self.get(field)
        if not isinstance(value, str):
            raise self.error(field, "text", value)
        return value

    def sentence(self, field: str) -> str:
        """A field that is text for a model to read or say: without reserved tokens, valid Unicode."""
        return self.sayable(field, self.text(field))

    def sentences(self, field: str) -> tuple[str, ...]:
        """A list of such texts."""
        return tuple(self.sayable(field, text) for text in self.texts(field))

    def sayable(self, field: str, text: str) -> str:
        """A text of `field`, checked likewise."""
        try:
            return check_text(text, f"text of {field!r}")
        except ValueError as error:
            raise ValueError(f"{self.name}: {error}") from None

    def name_of(self, field: str) -> str:
        """A field that is text and not empty, such as a scene's name."""
        value = self.text(field)
        if not value.strip():
            raise self.error(field, "a name", value)
        return value

    def integer(self, field: str) -> int:
        """A field that is a whole number, or text holding one."""
        return self._integer(field, self.get(field))

    def integers(self, field: str) -> tuple[int, ...]:
        """A list of whole numbers, or of texts holding them."""
        return tuple(self._integer(field, value) for value in self._list(field))

    def texts(self, field: str) -> tuple[str, ...]:
        """A list of texts."""
        values = self._list(field)
        for value in values:
            if not isinstance(value, str):
                raise self.error(field, "a list of texts", values)
        return tuple(values)

    def error(self, field: str, expected: str, value: Any) -> ValueError:
        """The error of a field that is not what it should be."""
        shown = f"{value!r:.77}" + ("..." if len(repr(value)) > 77 else "")
        return ValueError(
            f"{self.name}: expected {field!r} to be {expected}, got {shown}; fetch the file again or mend it"
        )

    def _list(self, field: str) -> list[Any]:
        value = self.get(field)
        if not isinstance(value, list):
            raise self.error(field, "a list", value)
        return value

    def _integer(self, field: str, value: Any) -> int:
        if isinstance(value, str) and _WHOLE.fullmatch(value.strip()):
            return int(value)
        if isinstance(value, int) and not isinstance(value, bool) and abs(value) < MOST:
            return value
        raise self.error(field, "a whole number", value)


_WHOLE = re.compile(r"-?\d{1,18}")
_IDS = ("scene_id", "scan_id", "question_id", "object_id", "ann_id", "assignmentid", "stimulus_id")


def entries(path: str | Path, values: Any, what: str) -> Iterator[Entry]:
    """The records of a JSON list; ValueError when it is no list, or one of them is no object."""
    path = Path(path)
    if not isinstance(values, list):
        raise ValueError(f"{path}: expected a list of {what}, got {type(values).__name__}; is it another file?")
    for index, value in enumerate(values):
        if not isinstance(value, dict):
            raise ValueError(f"{path}: entry {index}: expected an object, got {value!r:.60}; fetch the file again")
        yield Entry(path, index, value)


def read_list(path: str | Path, what: str, make: Callable[[Entry], T]) -> list[T]:
    """Every record of a JSON file that is a list, made by `make`."""
    return [make(entry) for entry in entries(path, read_json(path), what)]
