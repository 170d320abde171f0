"""Checks before a run folder is resumed: changed settings or data are refused.

The folder contains ``config.json`` (the settings) and ``made_from.json`` (the kind of run, size and checksum of its
data and initial weights, its tokenizer, and the micro-batches per step).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vidllm.datasets.shards import PATTERN
from vidllm.io.atomic import clear_leftovers_of, write_json
from vidllm.io.files import check_regular_file, naming, read_json_object
from vidllm.model.config_fields import flat
from vidllm.training.checkpoints import list_checkpoints
from vidllm.training.config import RunConfig, flat_file

Record = dict[str, Any]

CONFIG_FILE, RECORD_FILE = "config.json", "made_from.json"
SHOWN = 4  # differences named one by one
ENDS = 2**16  # bytes at either end of a file that its checksum is of: large files are not read whole

_MAY_CHANGE = {
    "the place may change, the files or weights there may not; shards and clips may be added": (
        "out", "data", "init_from", "language_from", "teacher_geometry", "teacher_language", "tokenizer",
        "encoder_from", "geometry_from", "posed_clips",
    ),
    "a run can be prolonged: the rate is constant until the last part of the steps": ("steps", "minutes"),
    "processes times accumulation is compared instead": ("accumulation",),
    "where and how the same numbers are computed and kept": (
        "parallel", "device", "threads", "gradient_checkpointing", "teacher_cache", "cache", "prefetch",
        "compile_blocks",
    ),
    "bookkeeping": ("export", "log_every", "save_minutes", "keep_checkpoints", "trackers"),
}  # fmt: skip
#: The settings that a resumed run may change, and why what it learns stays what it was.
MAY_CHANGE: Mapping[str, str] = {name: why for why, names in _MAY_CHANGE.items() for name in names}
#: The settings that name files, whose contents are compared.
PLACES = ("init_from", "language_from", "encoder_from", "geometry_from", "teacher_geometry", "teacher_language")
#: Also compared in a folder without a checkpoint: its tokenizer was made from them.
OF_TOKENIZER = ("kind", "data", "init_from")


def begin(config: RunConfig, processes: int) -> list[str]:
    """Compare a run folder with the configuration, then write the settings; returns lines to be logged.

    Nothing is loaded. A folder without a checkpoint may be reused with other settings, but not with other data than
    those of its tokenizer.

    Raises:
        ValueError: settings or data differ from those of the folder; the message names them.
    """
    out = Path(config.loop.out)
    clear_leftovers_of(out)
    record = _record(config, processes)
    trained = bool(list_checkpoints(out / "checkpoints"))
    before = _read(out / RECORD_FILE)
    differ: list[str] = []
    told: list[str] = []
    if before is not None and (trained or _tokenizer_file(config).exists()):
        keys = [key for key in {**before, **record} if key != "tokenizer" and (trained or key in OF_TOKENIZER)]
        differ, told = _differences(before, record, keys)
    if not differ and trained and (settings := _read(out / CONFIG_FILE)) is not None:
        with naming(out / CONFIG_FILE, "put the run's own back, or give another --out"):
            differ = _other_settings(settings, config)
    if differ:
        more = f" and {len(differ) - SHOWN} more" if len(differ) > SHOWN else ""
        raise ValueError(
            f"{out}: the run in it was started with {', '.join(differ[:SHOWN])}{more}; use these settings again, give "
            f"another --out, or delete {out} to train anew"
        )
    if before is not None and "tokenizer" in before:
        record["tokenizer"] = before["tokenizer"]
    write_json(out / CONFIG_FILE, asdict(config))
    write_json(out / RECORD_FILE, record)
    return told


def check_tokenizer_of(config: RunConfig) -> None:
    """Record the checksum of the run's tokenizer; ValueError if it is not that of the start of the run."""
    out = Path(config.loop.out)
    file = _tokenizer_file(config)
    record = _read(out / RECORD_FILE) or {}
    if not file.is_file():
        return
    found = hashlib.sha256(file.read_bytes()).hexdigest()[:16]
    if list_checkpoints(out / "checkpoints") and record.get("tokenizer", found) != found:
        raise ValueError(f"{file}: not the tokenizer that the run in {out} was started with; restore that one, or give "
                         "another --out")  # fmt: skip
    write_json(out / RECORD_FILE, {**record, "tokenizer": found})


def _tokenizer_file(config: RunConfig) -> Path:
    return Path(flat(config).get("tokenizer", f"{config.loop.out}/tokenizer")) / "tokenizer.json"


# ---- what is compared -----------------------------------------------------------------------------------------------


def _record(config: RunConfig, processes: int) -> Record:
    values = flat(config)
    places = {name: place for name in PLACES if (place := values.get(name))}
    return {
        "kind": type(config).__name__,
        "micro_batches": processes * config.loop.accumulation,
        "data": _data_files(Path(config.loop.data)),
        **{name: _checkpoint_files(str(place)) for name, place in places.items()},
    }


def _data_files(place: Path) -> dict[str, str]:
    """The shards of a folder; a file of sentences with the videos that it names."""
    if not place.is_file():
        return {path.name: fingerprint(path) for path in sorted(place.glob(PATTERN))}
    from vidllm.datasets.jsonl import read_jsonl

    try:
        videos = sorted({example.video for example in read_jsonl(place)})
    except ValueError:  # told in full, with all faults, when the run is built
        videos = []
    return {"sentences": fingerprint(place), **{os.path.relpath(video, place.parent): _size(video) for video in videos}}


def _checkpoint_files(place: str) -> dict[str, str] | str:
    """The weights and settings of a model's folder; a hub id is its own name."""
    path = Path(place)
    if path.is_file():
        return {path.name: fingerprint(path)}
    if not path.is_dir():
        return place
    files = (file for kind in ("*.safetensors", "*.bin", "*.pt", "config.json") for file in path.glob(kind))
    return {file.name: fingerprint(file) for file in sorted(files)}


def fingerprint(path: Path) -> str:
    """Size of a file, and a checksum of its beginning and end."""
    size = check_regular_file(path).stat().st_size
    with path.open("rb") as file:
        ends = file.read(ENDS)
        file.seek(max(size - ENDS, 0))
        ends += file.read(ENDS)
    return f"{size}-{hashlib.sha256(ends).hexdigest()[:16]}"


def _size(video: Path) -> str:
    """Bytes of a video, or of a folder's pictures; empty for one that is not there."""
    files = [video] if video.is_file() else [file for file in video.glob("*") if file.is_file()]
    return str(sum(file.stat().st_size for file in files)) if files else ""


def _differences(before: Record, record: Record, keys: Iterable[str]) -> tuple[list[str], list[str]]:
    """Differences between two records, by name; and additions, which are allowed."""
    differ, told = [], []
    for key in keys:
        old, new = before.get(key), record.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            lost = [name for name in old if name not in new]
            other = [name for name in old if name in new and old[name] != new[name]]
            differ += [f"{_option(key)}: {name} is missing now" for name in lost]
            differ += [f"{_option(key)}: {name} is another file now" for name in other]
            added = len(new) - len(old)
            if added > 0 and not lost:
                told.append(f"{_option(key)}: {added} files more than when the run was begun")
        elif old != new and (key in PLACES or None not in (old, new)):  # an earlier version wrote fewer keys
            what = "processes times --accumulation" if key == "micro_batches" else _option(key)
            differ.append(f"{what} {_short(old)} (now {_short(new)})")
    return differ, told


def _other_settings(before: Record, config: RunConfig) -> list[str]:
    """Settings that differ from the stored ones; one that is not stored (by an earlier version) has its default."""
    now, usual = (json.loads(json.dumps(flat(each))) for each in (config, type(config)()))
    old = flat_file(before, config)
    before = {name: old.get(name, usual[name]) for name in now if name not in MAY_CHANGE}
    return [
        f"{_option(name)} {_short(told)} (now {_short(now[name])})"
        for name, told in before.items() if told != now[name]
    ]  # fmt: skip


def _option(name: str) -> str:
    return "another kind of run," if name == "kind" else f"--{name.replace('_', '-')}"


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return f"{len(value)} files"
    return ",".join(map(str, value)) if isinstance(value, list) else "none" if value is None else str(value)


def _read(path: Path) -> Record | None:
    return read_json_object(path) if path.exists() else None
