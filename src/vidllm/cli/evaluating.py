"""``vidllm eval``: score a file of predictions under a named protocol, and say which numbers these are."""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vidllm.cli import reading
from vidllm.evaluation.protocols import Protocol, protocols
from vidllm.evaluation.results import flat
from vidllm.io import files
from vidllm.io.atomic import atomic_path
from vidllm.io.files import numbered_lines

__all__ = ["evaluate", "read_json", "score_files"]

_DEFAULT = "official"
_ALL = "all"


def evaluate(options: argparse.Namespace) -> None:
    """``vidllm eval TASK --predictions FILE --references FILE`` or ``--data ROOT -o OUT``; ``--protocol NAME``"""
    if options.data:
        _run_model(options)
        return
    if options.task == "reconstruction":
        raise ValueError("reconstruction is evaluated on scans: give --data ROOT")
    if not (options.predictions and options.references):
        raise ValueError("give --predictions FILE and --references FILE, or --data ROOT to run a model")
    chosen = _chosen(options.task, options.protocol)
    out = reading.writable(options.per_item) if options.per_item else None
    if out is not None and (len(chosen) > 1 or chosen[0].items is None):
        raise ValueError(f"--per-item: give one protocol that has values per item; {_with_items(options.task)}")
    given = _Files(options.predictions, options.references)
    results = [given.result(options.task, entry) for entry in chosen]
    tell_missing_meteor(options.task, [entry.name for entry in chosen])
    if out is not None:
        items = given.told(chosen[0].per_item)
        with atomic_path(out) as temporary:
            temporary.write_text(reading.json_text(items) + "\n", encoding="utf-8")
    if options.json:
        reading.print_json(results[0] if options.protocol != _ALL else results)
        return
    for name, path in (("predictions", options.predictions), ("references", options.references)):
        print(f"{name}: {path} (sha256 {_checksum(path)})")
    for entry, result in zip(chosen, results, strict=True):
        _print_table(entry, result["scores"])


def tell_missing_meteor(task: str, names: Sequence[str]) -> None:
    """A line on standard error where a protocol reports METEOR and this machine cannot compute it."""
    from vidllm.evaluation.text_metrics.meteor import meteor_missing

    reports = task in ("scanqa", "scan2cap") or (task == "sqa3d" and bool({"leo", "chatscene"} & set(names)))
    if reports and (missing := meteor_missing()) is not None:
        reading.note(f"vidllm: warning: {missing}")


def _run_model(options: argparse.Namespace) -> None:
    """``--data``: the protocols by name, then :mod:`vidllm.cli.benchmarks`."""
    from vidllm.cli.benchmarks import run

    names = [] if options.task == "reconstruction" else [p.name for p in _chosen(options.task, options.protocol)]
    if not (options.output and (Path(options.output) / "results.json").exists()):
        tell_missing_meteor(options.task, names)
    run(options, names)


def score_files(task: str, predictions: str | Path, references: str | Path, protocol: str = _DEFAULT) -> dict[str, Any]:
    """``{"task", "protocol", "scores"}`` of two JSON files; ``scores`` in the keys and scale of the protocol.

    Raises ``ValueError`` naming the file, and the entry in it, for anything that cannot be read or scored.
    """
    (entry,) = _chosen(task, protocol)
    return _Files(predictions, references).result(task, entry)


class _Files:
    """A file of predictions and one of references, each read once for all protocols."""

    def __init__(self, predictions: str | Path, references: str | Path) -> None:
        self.names = f"(predictions {predictions}, references {references})"
        self.references, self.predictions = read_json(references), read_json(predictions)

    def result(self, task: str, entry: Protocol) -> dict[str, Any]:
        """Task, protocol and scores."""
        return {"task": task, "protocol": entry.name, "scores": self.told(entry.score)}

    def told(self, score: Any) -> Any:
        """Score, and let a complaint name the files."""
        try:
            return score(self.references, self.predictions)
        except (ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError) as error:
            text = str(error) if isinstance(error, ValueError) else f"wrong schema ({type(error).__name__}: {error})"
            raise ValueError(f"{text} {self.names}") from error


def read_json(path: str | Path) -> Any:
    """The content of a JSON file, or of a file with one JSON value a line, whatever the file is called.

    Raises:
        ValueError: it can be read as neither; the message names file and line.
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


def _chosen(task: str, name: str) -> list[Protocol]:
    """The protocol of this name, or all; ``official`` is the first one of a task that has several official ones."""
    table = protocols(task)
    if name == _ALL:
        return list(table.values())
    if name == _DEFAULT and name not in table:
        return [next(iter(table.values()))]
    if name not in table:
        raise ValueError(f"{task} has no protocol {name!r}; known: {', '.join(table)}, or {_ALL}")
    return [table[name]]


def _with_items(task: str) -> str:
    names = [name for name, entry in protocols(task).items() if entry.items is not None]
    return f"{task} has them for {', '.join(names) or 'none'}"


def _checksum(path: str | Path) -> str:
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:12]


def _print_table(entry: Protocol, scores: dict[str, Any]) -> None:
    print(f"\n{entry.task}, protocol {entry.name}\n  follows {entry.source}\n  scale: {entry.scale}")
    rows = flat(scores, with_text=True)
    width = max(map(len, rows), default=0)
    for name, value in rows.items():
        print(f"  {name:<{width}}  {f'{value:.6g}' if isinstance(value, float) else value}")
