"""A file of predictions scored against a file of references, under a named protocol."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

from vidllm.evaluation.protocols import Protocol
from vidllm.evaluation.results import sha256_file, versions
from vidllm.io import files
from vidllm.io.files import numbered_lines
from vidllm.io.parquet import read_parquet


class PredictionFiles:
    """A file of predictions and one of references, each read once for all protocols."""

    def __init__(self, predictions: str | Path, references: str | Path) -> None:
        self.names = f"(predictions {predictions}, references {references})"
        self._paths = {"predictions": Path(predictions), "references": Path(references)}
        self.references, self.predictions = read_references(references), read_json(predictions)

    def result(self, task: str, entry: Protocol) -> dict[str, Any]:
        """Task, protocol with source and scale, scores, versions, and the files with their checksums."""
        return {
            "task": task, "protocol": entry.name, "scores": self.scored(entry.score), "source": entry.source,
            "scale": entry.scale, "versions": versions("numpy"), **self.checksums,
        }  # fmt: skip

    @cached_property
    def checksums(self) -> dict[str, dict[str, str]]:
        """Name and SHA-256 of both files."""
        return {what: {"file": path.name, "sha256": sha256_file(path)} for what, path in self._paths.items()}

    def scored(self, score: Any) -> Any:
        """What ``score`` returns; ValueError that also names the files."""
        try:
            return score(self.references, self.predictions)
        except (ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError) as error:
            text = str(error) if isinstance(error, ValueError) else f"wrong schema ({type(error).__name__}: {error})"
            raise ValueError(f"{text} {self.names}") from error


def read_references(path: str | Path) -> Any:
    """The content of a file of references: JSON, JSON lines or a parquet table.

    Where VSI-Bench's ``pruned_ids.txt`` lies beside JSON lines, rows get its field ``pruned``: whether the debiased set
    leaves them out.
    """
    path = Path(path)
    if path.suffix == ".parquet":
        return read_parquet(path)
    value, pruned = read_json(path), path.with_name("pruned_ids.txt")
    if path.suffix != ".jsonl" or not pruned.exists():
        return value
    left_out = set(files.read_text(pruned).replace(",", " ").split())
    return [row if not isinstance(row, dict) else {"pruned": str(row.get("id")) in left_out, **row} for row in value]


def read_json(path: str | Path) -> Any:
    """The content of a JSON file, or of one with a JSON value a line, whatever its suffix.

    Raises ValueError with file and line if it is neither.
    """
    first = next(numbered_lines(path), None)
    if first is None:
        raise ValueError(f"{path}: is empty; give a JSON file")
    try:
        value = files.read_json(path)
    except ValueError:
        if str(path).endswith(".jsonl") or _is_object(first[1]):
            return [value for _, value in files.read_json_lines(path)]
        raise
    row = isinstance(value, dict) and not all(isinstance(inner, list) for inner in value.values())
    return [value] if row and str(path).endswith(".jsonl") else value


def _is_object(line: bytes) -> bool:
    """Whether a first line is a JSON object by itself: then the file has one a line."""
    try:
        return isinstance(files.parse_json(line, ""), dict)
    except ValueError:
        return False
