"""``vidllm eval``: score a file of predictions under a named protocol, and say which numbers these are."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vidllm.cli import reading
from vidllm.evaluation.field_names import usual_rows
from vidllm.evaluation.protocol import Protocol
from vidllm.evaluation.registry import protocols
from vidllm.io import json_files as files
from vidllm.io.atomic import atomic_path
from vidllm.io.json_files import numbered_lines

__all__ = ["evaluate", "read_json", "score_files"]

_DEFAULT = "official"
_ALL = "all"


def evaluate(options: argparse.Namespace) -> None:
    """``vidllm eval TASK --predictions FILE --references FILE`` or ``--data ROOT -o OUT``; ``--protocol NAME``"""
    if options.data:
        _run_model(options)
        return
    if options.task == "reconstruction":
        raise ValueError("reconstruction is measured on scans: give --data ROOT")
    if not (options.predictions and options.references):
        raise ValueError("give --predictions FILE and --references FILE, or --data ROOT to run a model")
    chosen = _chosen(options.task, options.protocol)
    out = reading.writable(options.per_item) if options.per_item else None
    if out is not None and (len(chosen) > 1 or chosen[0].per_item is None):
        raise ValueError(f"--per-item: give one protocol that has values by item; {_with_items(options.task)}")
    results = [score_files(options.task, options.predictions, options.references, entry.name) for entry in chosen]
    tell_missing_meteor(options.task, [entry.name for entry in chosen])
    if out is not None:
        _write_items(out, chosen[0], options)
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
    return {"task": task, "protocol": entry.name, "scores": _told(entry, entry.score, predictions, references)}


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
    names = [name for name, entry in protocols(task).items() if entry.per_item is not None]
    return f"{task} has them for {', '.join(names) or 'none'}"


def _told(entry: Protocol, score: Any, predictions: str | Path, references: str | Path) -> dict[str, Any]:
    """Read, score, and let a complaint name the files."""
    truth, given = read_json(references), read_json(predictions)
    try:
        found: dict[str, Any] = score(truth, usual_rows(entry.task, entry.name, truth, given))
        return found
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError) as error:
        text = str(error) if isinstance(error, ValueError) else f"wrong schema ({type(error).__name__}: {error})"
        raise ValueError(f"{text} (predictions {predictions}, references {references})") from error


def _write_items(out: Path, entry: Protocol, options: argparse.Namespace) -> None:
    assert entry.per_item is not None
    items = _told(entry, entry.per_item, options.predictions, options.references)
    with atomic_path(out) as temporary:
        temporary.write_text(reading.json_text(items) + "\n", encoding="utf-8")


def _checksum(path: str | Path) -> str:
    from vidllm.evaluation.provenance import sha256_file

    return sha256_file(Path(path))[:12]


def _print_table(entry: Protocol, scores: dict[str, Any]) -> None:
    print(f"\n{entry.task}, protocol {entry.name}\n  follows {entry.source}\n  scale: {entry.scale}")
    rows = _flat(scores)
    width = max((len(name) for name, _ in rows), default=0)
    for name, value in rows:
        print(f"  {name:<{width}}  {f'{value:.6g}' if isinstance(value, float) else value}")


def _flat(scores: dict[str, Any], before: str = "") -> list[tuple[str, Any]]:
    """Nested scores as rows; lists of lines are left to the JSON."""
    rows: list[tuple[str, Any]] = []
    for name, value in scores.items():
        if isinstance(value, dict):
            rows += _flat(value, f"{before}{name} / ")
        elif not isinstance(value, list):
            rows.append((f"{before}{name}", value))
    return rows
