"""Results as files: one ``results.json`` for all tasks of a folder, the same as a table, and checksums of the inputs.

In a table protocols stand below each other and systems in their settings beside each other, never mixed. Checksums of
annotation files, prompts and models are those of ``sha256sum``.
"""

from __future__ import annotations

import hashlib
import json
import platform
import re
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vidllm.evaluation.protocols import NOT_AVAILABLE, TASKS
from vidllm.io.atomic import atomic_path
from vidllm.io.files import plain, read_json

if TYPE_CHECKING:
    from torch import nn

    from vidllm.scene import VidLLM

Record = dict[str, Any]
_MODEL_FILES = ("config.json", "tokenizer.json", "processor_config.json", "preprocessor_config.json")


def publish(out: Path, results: Record) -> Record:
    """Put one task's results into ``results.json`` and ``table.txt``; returns them as JSON would give them back.

    Those of other tasks (and other splits) stay. ValueError when an unreadable ``results.json`` is in the way.
    """
    record: Record = plain(results)
    path = out / "results.json"
    every = _read(path) | {f"{record['task']}.{record['split']}": record}
    every = dict(sorted(every.items(), key=lambda pair: (TASKS.index(pair[1]["task"]), pair[0])))
    write_result(path, every)
    with atomic_path(out / "table.txt") as part:
        part.write_text("\n\n\n".join("\n".join(lines_of(one)) for one in every.values()) + "\n", encoding="utf-8")
    return record


def _read(path: Path) -> Record:
    if not path.exists():
        return {}
    try:
        value = read_json(path)
        if isinstance(value, dict) and all(one["task"] in TASKS for one in value.values()):
            return value
    except (ValueError, TypeError, KeyError):
        pass
    raise ValueError(f"{path}: not results of vidllm eval; delete it or choose another output folder")


def write_result(path: Path, value: Any) -> None:
    """Indented JSON in the order given; numbers that are not finite become null."""
    with atomic_path(path) as part:
        text = json.dumps(plain(value), indent=1, ensure_ascii=False, allow_nan=False)
        part.write_text(text + "\n", encoding="utf-8")


# ---- the table ----

#: The numbers that papers quote, first to last, as the protocols call them.
_HEADLINES = [re.compile(pattern, re.IGNORECASE) for pattern in (
    r"(vsibench_)?overall(_acc)?$|sparbench_score|vanilla_accuracy|average$|final score|full / acc|all$",
    r"(\[\w+\] )?(EM@?1|em|em_overall|EM \(fraction\))$|\w+ / overall$",
    r"@0\.5\w* / ci?der(@0\.5)?$|.*cider@0\.50$|(\[\w+\] )?cider$",
    r"all (/ )?\S*@0\.25\S*$|.*@0\.25 / overall$|.*overall / overall / acc@0\.25iou$|.*overall_only / acc@0\.25$",
    r"all (/ )?\S*@0\.5\S*$|.*@0\.5 / overall$|.*overall / overall / acc@0\.5iou$|.*overall_only / acc@0\.5$",
)]  # fmt: skip


def headline_first(metrics: Mapping[str, Sequence[Any]]) -> list[str]:
    """Metrics by their values: those that papers quote first, then the others, at the end what is 0 or nothing."""

    def rank(metric: str) -> tuple[bool, int]:
        place = next((i for i, pattern in enumerate(_HEADLINES) if pattern.match(metric)), len(_HEADLINES))
        return place == len(_HEADLINES) and not any(metrics[metric]), place

    return sorted(metrics, key=rank)


def flat(scores: Mapping[str, Any], before: str = "", with_text: bool = False) -> dict[str, Any]:
    """Nested scores as ``a / b``; lists, and lines of text unless wanted, are left to the JSON."""
    rows: dict[str, Any] = {}
    shown = (int, float, str) if with_text else (int, float)
    for name, value in scores.items():
        if isinstance(value, Mapping):
            rows.update(flat(value, f"{before}{name} / ", with_text))
        elif value in (None, NOT_AVAILABLE) or isinstance(value, shown):
            rows[f"{before}{name}"] = value
    return rows


def rows_of(results: Mapping[str, Any], protocol: str) -> dict[str, list[Any]]:
    """A value for each column (None where there is none) by metric, the headlines first."""
    scores = results["protocols"][protocol]["scores"]
    columns = [flat(scores.get(f"{c['system']}.{c['setting']}", {})) for c in results["columns"]]
    rows = {metric: [column.get(metric) for column in columns] for found in columns for metric in found}
    return {metric: rows[metric] for metric in headline_first(rows)}


def lines_of(results: Mapping[str, Any]) -> list[str]:
    """The table as text, with the checksums that the numbers rest on above it."""
    heads = [[name, *(column[part] for column in results["columns"])]
             for name, part in (("", "system"), ("metric", "setting"))]  # fmt: skip
    lines = _header(results)
    for protocol, entry in results["protocols"].items():
        cells = [[metric, *map(_cell, values)] for metric, values in rows_of(results, protocol).items()]
        lines += ["", f"protocol {protocol}: follows {entry['source']}; {entry['scale']}"]
        lines += [f"  {line}" for line in aligned([*heads, *cells])]
        reasons = ((name, one["not_available"]) for name, one in entry["scores"].items() if "not_available" in one)
        lines += [f"  {name}: n/a, {reason}" for name, reason in reasons]
    return lines


def _header(results: Mapping[str, Any]) -> list[str]:
    lines = [
        f"{results['task']}, {results['split']}: {results['items']} items in {len(results['scenes'])} scenes, "
        f"{results['frames']} frames each; {results['decoding']}",
        f"model {results['model']['name']} (sha256 {results['model']['sha256'][:12]})",
    ]
    if "vlm" in results["model"]:
        lines.append("answers by {name} (sha256 {sha256:.12})".format(**results["model"]["vlm"]))
    if "prompt" in results:
        lines.append(f"prompt {results['prompt']['template']!r} (sha256 {results['prompt']['sha256'][:12]})")
    lines += [f"annotations {name} (sha256 {digest[:12]})" for name, digest in results["annotations"].items()]
    counted = [column["counted_over"] for column in results["columns"] if "counted_over" in column]
    return lines + [f"most frequent text: counted over {place}" for place in counted[:1]]


def aligned(lines: Sequence[Sequence[str]]) -> list[str]:
    """Cells as columns, the first one flush left."""
    wide = [max(map(len, column)) for column in zip(*lines, strict=True)]
    cells = ([text.rjust(width) for text, width in zip(line, wide, strict=True)] for line in lines)
    return ["  ".join([line[0].ljust(wide[0]), *rest]) for line, (_, *rest) in zip(lines, cells, strict=True)]


def _cell(value: Any) -> str:
    if value is None or value != value:
        return "-"
    return f"{value:.4f}" if isinstance(value, float) else str(value)


# ---- versions and checksums ----


def versions(*packages: str) -> dict[str, str]:
    """Of this package, of Python and of the packages named."""
    from vidllm import __version__

    return {"vidllm": __version__, "python": platform.python_version(), **{name: version(name) for name in packages}}


def sha256_text(text: str) -> str:
    """Of a text's UTF-8 bytes."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def sha256_file(path: Path) -> str:
    """Of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def files_record(paths: Iterable[Path], root: Path) -> dict[str, str]:
    """Checksums by path below ``root``."""
    return {path.relative_to(root).as_posix(): sha256_file(path) for path in sorted(paths)}


def model_record(model: str | Path | None, loaded: VidLLM) -> dict[str, Any]:
    """A model's name, checksums (of its configuration, tokenizer and weights, or of what was loaded) and use."""
    from vidllm.scene import TINY

    folder = TINY if model is None else Path(model)
    name = "tiny (shipped)" if model is None else folder.name
    parameter = next(loaded.model.parameters())
    use: Record = {"dtype": str(parameter.dtype).removeprefix("torch."), "device": parameter.device.type,
                   "refine": loaded.refine}  # fmt: skip
    speaker = loaded.model.speaker
    if speaker is not None:
        use["vlm"] = {"name": speaker.place, **folder_record(Path(speaker.model.name_or_path))}
    if not folder.is_dir():
        return {"name": str(model), "files": {}, "sha256": _loaded(loaded.model), **use}
    return {"name": name, **folder_record(folder), **use}


def folder_record(folder: Path) -> dict[str, Any]:
    """Checksums of the files of a saved model, and one over them all."""
    paths = [folder / name for name in _MODEL_FILES if (folder / name).is_file()]
    files = files_record([*paths, *folder.glob("*.safetensors")], folder)
    return {"files": files, "sha256": sha256_text("".join(f"{digest}  {name}\n" for name, digest in files.items()))}


def _loaded(network: nn.Module) -> str:
    """Of the weights in memory, for a model that came from a hub."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().float().numpy().tobytes())
    return digest.hexdigest()
