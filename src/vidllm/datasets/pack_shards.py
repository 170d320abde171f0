"""Packed ScanNet scenes as the training shards that stage 1 and stage 2 read (:mod:`vidllm.datasets.shards`).

What the rooms know and a scan does not is left out: there are no instances, and no names of patches. Sentences of one
split become questions, situated questions, references and captions, under the numbers of their objects plus one (0 is
the shell).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vidllm.datasets.language import Caption, Language, Question, Reference
from vidllm.datasets.pack import PackedScenes, Record
from vidllm.datasets.shards import LabelSpace, save_shard
from vidllm.io.files import naming

MOST_ID = 255  # instances are bytes
CAPTIONS = "scan2cap"
_REFERRING = {"scanrefer": "object_id", "nr3d": "target_id", "sr3d": "target_id"}


def write_training_shards(
    pack: str | Path, output: str | Path, *, split: str = "train", per_shard: int = 4,
    tell: Callable[[int, int], None] | None = None,
) -> int:  # fmt: skip
    """Write the scenes that have sentences in ``split``; returns how many there are. Finished shards are kept.

    Scenes of one shard have equally many frames of one size. ValueError when no scene has a sentence of the split.
    """
    packed, folder = PackedScenes(pack), Path(output)
    groups: dict[tuple[int, ...], list[str]] = {}
    for name in packed.scenes:
        record = packed.record(name)
        with naming(packed.folder, "pack again"):
            if any(asdict(language_of(record, split)).values()):
                groups.setdefault(tuple(packed.tensors(name)["rgb"].shape[:3]), []).append(name)
    wanted = [(s, names[i : i + per_shard]) for s, names in groups.items() for i in range(0, len(names), per_shard)]
    if not wanted:
        raise ValueError(f"{pack}: no scene has a sentence of the split {split!r}; pack a root that holds its sets")
    for done, (shape, names) in enumerate(wanted, 1):
        path = folder / f"rooms_{names[0]}_{len(names):03d}_{shape[1]}x{shape[2]}.safetensors"
        if not path.exists():
            with naming(packed.folder, "pack again"):
                scenes = [(packed.tensors(name), training_record(packed.record(name), split)) for name in names]
            _write(path, scenes)
        if tell is not None:
            tell(done, len(wanted))
    return sum(len(names) for _, names in wanted)


def _write(path: Path, scenes: list[tuple[dict[str, Tensor], Record]]) -> None:
    tensors = {
        "rgb": torch.stack([t["rgb"] for t, _ in scenes]),
        "depth_m": torch.stack([(t["depth_mm"].float() / 1000).half() for t, _ in scenes]),
        "extrinsics": torch.stack([t["extrinsics"].float() for t, _ in scenes]),
        "intrinsics": torch.stack([t["intrinsics"].float().expand(len(t["rgb"]), 3, 3) for t, _ in scenes]),
    }
    save_shard(path, tensors, [record for _, record in scenes], LabelSpace())


def training_record(record: Record, split: str) -> Record:
    """A scene's record in the form of the rooms': objects with boxes (centre, size, yaw) and language."""
    return {
        "seed": record["scene_id"],
        "objects": [
            {"id": o["object_id"] + 1, "category": o["label"], "colour": "", "material": "", "box": [*o["box"], 0.0],
             "visible": True}
            for o in _boxed(record)
        ],
        "language": asdict(language_of(record, split)),
    }  # fmt: skip


def language_of(record: Record, split: str) -> Language:
    """A scene's sentences of one split; those about objects without a box are left out."""
    known = {o["object_id"] for o in _boxed(record)}
    questions = [
        *(Question("scanqa", e["question"], tuple(e["answers"])) for e in _entries(record, "scanqa", split)),
        *(Question("sqa3d", e["question"], tuple(e["answers"]), e["situation"]["text"])
          for e in _entries(record, "sqa3d", split)),
    ]  # fmt: skip
    told: dict[int, list[str]] = {}
    for entry in _entries(record, CAPTIONS, split):
        if entry["object_id"] in known:
            told.setdefault(entry["object_id"] + 1, []).append(entry["description"])
    captions = [Caption(number, tuple(texts)) for number, texts in told.items()]
    references = [r for r in _references(record, split) if all(target - 1 in known for target in r.targets)]
    return Language(tuple(q for q in questions if q.answers), tuple(references), tuple(captions))


def _references(record: Record, split: str) -> Iterator[Reference]:
    for name, field in _REFERRING.items():
        for entry in _entries(record, name, split):
            said = entry["description"] if name == "scanrefer" else entry["utterance"]
            yield Reference("unique", said, (entry[field] + 1,))
    for entry in _entries(record, "multi3drefer", split):
        targets = tuple(number + 1 for number in entry["object_ids"])
        kind = ("none", "unique", "several")[min(len(targets), 2)]
        yield Reference(kind, entry["description"], targets)


def _entries(record: Record, name: str, split: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = record.get("annotations", {}).get(f"{name}/{split}", [])
    return found


def _boxed(record: Record) -> list[dict[str, Any]]:
    return [o for o in record["objects"] if o["box"] is not None and o["object_id"] < MOST_ID]
