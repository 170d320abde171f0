"""Results as one table: protocols below each other, systems in their settings beside each other, never mixed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vidllm.evaluation.protocol import NOT_AVAILABLE

_NONE = "-"


def flat(scores: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Nested scores as ``a / b``; lists and printed lines are left to the JSON."""
    rows: dict[str, Any] = {}
    for name, value in scores.items():
        if isinstance(value, Mapping):
            rows.update(flat(value, f"{before}{name} / "))
        elif value is None or isinstance(value, int | float) or value == NOT_AVAILABLE:
            rows[f"{before}{name}"] = value
    return rows


def rows_of(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row a metric: task, split, protocol, metric and a value for each column (None where there is none)."""
    names = [f"{c['system']}.{c['setting']}" for c in results["columns"]]
    rows = []
    for protocol, entry in results["protocols"].items():
        by_column = {name: flat(entry["scores"].get(name, {})) for name in names}
        metrics = dict.fromkeys(metric for found in by_column.values() for metric in found)
        for metric in metrics:
            row = {"task": results["task"], "split": results["split"], "protocol": protocol, "metric": metric}
            rows.append({**row, **{name: by_column[name].get(metric) for name in names}})
    return rows


def lines_of(results: Mapping[str, Any]) -> list[str]:
    """The table as text, with the checksums that the numbers rest on above it."""
    heads = [(c["system"], c["setting"]) for c in results["columns"]]
    rows, lines = rows_of(results), _header(results)
    width = max([len(row["metric"]) for row in rows] + [6])
    wide = [max(len(system), len(setting), 9) for system, setting in heads]
    for protocol, entry in results["protocols"].items():
        lines += ["", f"protocol {protocol}: follows {entry['source']}; {entry['scale']}"]
        for level in (0, 1):
            told = "  ".join(f"{head[level]:>{w}}" for head, w in zip(heads, wide, strict=True))
            lines.append(f"  {('', 'metric')[level]:<{width}}  {told}")
        for row in (r for r in rows if r["protocol"] == protocol):
            cells = (row[f"{system}.{setting}"] for system, setting in heads)
            told = "  ".join(f"{_cell(value):>{w}}" for value, w in zip(cells, wide, strict=True))
            lines.append(f"  {row['metric']:<{width}}  {told}")
        lines += _reasons(entry["scores"])
    return lines


def _header(results: Mapping[str, Any]) -> list[str]:
    lines = [
        f"{results['task']}, {results['split']}: {results['items']} items in {len(results['scenes'])} scenes, "
        f"{results['frames']} frames each; {results['decoding']}",
        f"model {results['model']['name']} (sha256 {results['model']['sha256'][:12]})",
    ]
    if "prompt" in results:
        lines.append(f"prompt {results['prompt']['template']!r} (sha256 {results['prompt']['sha256'][:12]})")
    lines += [f"annotations {name} (sha256 {digest[:12]})" for name, digest in results["annotations"].items()]
    counted = [column["counted_over"] for column in results["columns"] if "counted_over" in column]
    return lines + [f"most frequent text: counted over {place}" for place in counted[:1]]


def _reasons(scores: Mapping[str, Any]) -> list[str]:
    told = {name: entry["not_available"] for name, entry in scores.items() if "not_available" in entry}
    return [f"  {name}: n/a, {reason}" for name, reason in told.items()]


def _cell(value: Any) -> str:
    if value is None or value != value:
        return _NONE
    return f"{value:.4f}" if isinstance(value, float) else str(value)
