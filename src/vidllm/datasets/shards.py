"""Training shards: a few scenes with all that is known of them in a safetensors file. Rooms and ScanNet share the form.

A shard holds, for S scenes of one frame size, ``rgb`` (S,F,H,W,3) uint8, ``depth_m`` (S,F,H,W) float16, ``extrinsics``
(S,F,4,4) camera-from-scene and ``intrinsics`` (S,F,3,3) float32, and, where objects are known pixel by pixel,
``instance`` (S,F,H,W) uint8 (0 = background). Its metadata holds ``scenes``, a JSON list with each scene's seed (or
name), objects and language, and ``labels``, the :class:`LabelSpace` of the objects.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from vidllm.datasets.language import language_from_record
from vidllm.io.atomic import atomic_path
from vidllm.io.files import check_regular_file, parse_json, read_json_object
from vidllm.model.prompts import check_text

PATTERN = "*.safetensors"
TENSORS = {"rgb", "depth_m", "extrinsics", "intrinsics"}
REMEDY = "delete it, and render or pack it again"
SHOWN = 5  # damaged shards named one by one


@dataclass(frozen=True)
class LabelSpace:
    """Names of the classes of a patch, in order; class 0 is the background (or what has no such name)."""

    categories: tuple[str, ...] = ()
    colours: tuple[str, ...] = ()
    materials: tuple[str, ...] = ()

    @property
    def sizes(self) -> tuple[int, int, int]:
        """How many classes of category, colour and material there are, class 0 among them."""
        return len(self.categories) + 1, len(self.colours) + 1, len(self.materials) + 1

    def classes(self, item: dict[str, Any]) -> tuple[int, int, int]:
        """Category, colour and material of an object's record."""
        tables = (_numbered(names) for names in (self.categories, self.colours, self.materials))
        category, colour, material = (
            table.get(item[kind], 0) for table, kind in zip(tables, ("category", "colour", "material"), strict=True)
        )
        return category, colour, material


@cache
def _numbered(names: tuple[str, ...]) -> dict[str, int]:
    return {name: i + 1 for i, name in enumerate(names)}


def label_space(values: dict[str, Any]) -> LabelSpace:
    """A label space from plain values."""
    return LabelSpace(*(tuple(values[kind]) for kind in ("categories", "colours", "materials")))


@cache
def rooms_labels() -> LabelSpace:
    """The names of the procedural rooms: those of shards that were written before shards named theirs."""
    return label_space(read_json_object(Path(__file__).with_name("rooms_labels.json")))


def shards_of(folder: Path) -> list[Path]:
    """The shards of a folder by name; ValueError when there are none."""
    paths = sorted(folder.glob(PATTERN))
    if not paths:
        raise ValueError(f"no training shards in {folder}; make some: vidllm rooms shards or data pack, -o {folder}")
    return paths


def save_shard(
    path: Path,
    tensors: dict[str, Tensor],
    records: Sequence[dict[str, Any]],
    labels: LabelSpace,
    more: Mapping[str, str] | None = None,
) -> None:
    """Write a shard under a temporary name and move it into place; ``more`` goes into its metadata."""
    metadata = {"scenes": json.dumps(records), "labels": json.dumps(asdict(labels)), **(more or {})}
    with atomic_path(path) as temporary:
        save_file({name: value.contiguous() for name, value in tensors.items()}, temporary, metadata=metadata)


def _check_record(record: dict[str, Any]) -> None:
    """Any error where the objects or the language of a scene have another form than training reads."""
    for item in record["objects"]:
        if not (type(item["id"]) is int and isinstance(item["category"], str) and isinstance(item["visible"], bool)):
            raise ValueError(f"an object of id {item['id']!r:.40} and category {item['category']!r:.40}")
        if len(item["box"]) != 7 or not all(map(math.isfinite, item["box"])):
            raise ValueError(f"the box of the object of id {item['id']} is not seven finite numbers")
    if not record.get("language"):
        return
    said = language_from_record(record)
    texts = [t for q in said.questions for t in (q.question, *q.answers, q.situation or "")]
    texts += [*(r.expression for r in said.references), *(text for c in said.captions for text in c.texts)]
    numbers = [*(n for r in said.references for n in r.targets), *(c.object_id or 0 for c in said.captions)]
    if not all(isinstance(text, str) for text in texts) or not all(type(n) is int for n in numbers):
        raise ValueError("sentences that are no text, or about objects that are no numbers")


class Shard:
    """Reads scenes of one shard; tensors are sliced lazily."""

    def __init__(self, path: Path) -> None:
        try:
            self._file = safe_open(str(check_regular_file(path)), framework="pt")
            self.metadata: dict[str, str] = self._file.metadata()
            text = check_text(self.metadata["scenes"], "text of its scenes")
            self.records: list[dict[str, Any]] = parse_json(text, "its scenes")
            for record in self.records:
                _check_record(record)
            named = self.metadata.get("labels")
            self.labels = rooms_labels() if named is None else label_space(parse_json(named, "its labels"))
        except Exception as error:
            raise ValueError(f"{path} is not a readable training shard ({error}); {REMEDY}") from error
        self.path = path

    def __len__(self) -> int:
        return len(self.records)

    @property
    def frames(self) -> int:
        """Frames of each scene."""
        return int(self._file.get_slice("rgb").get_shape()[1])

    def tensors(self, index: int, frames: Sequence[int] | None = None) -> dict[str, torch.Tensor]:
        """The tensors of scene ``index``, without the leading S; of ``frames`` alone, in their order, where given."""
        parts = {name: self._file.get_slice(name) for name in self._file.keys()}  # noqa: SIM118
        if frames is None:
            return {name: part[index] for name, part in parts.items()}
        return {name: torch.stack([part[index, int(f)] for f in frames]) for name, part in parts.items()}


def check_shards(folder: Path) -> None:
    """ValueError naming the shards of a folder that are damaged; a place without shards is not looked at.

    Only headers are read: a safetensors file says where its tensors end, so that its size tells whether it is whole.
    """
    faults = [(path, fault) for path in sorted(folder.glob(PATTERN)) if (fault := shard_fault(path))]
    if not faults:
        return
    named = "; ".join(f"{path}: {fault}" for path, fault in faults[:SHOWN])
    more = f"; and {len(faults) - SHOWN} more" if len(faults) > SHOWN else ""
    raise ValueError(f"damaged training shard{'s' * (len(faults) > 1)}: {named}{more}; {REMEDY}")


def shard_fault(path: Path) -> str | None:
    """What is wrong with a shard's header or size; None when nothing is."""
    try:
        size = check_regular_file(path).stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= size - 8:
                return "not a safetensors file, or cut"
            header = parse_json(file.read(length), path.name)
        scenes = header.pop("__metadata__", {}).get("scenes")
        end = 8 + length + max((entry["data_offsets"][1] for entry in header.values()), default=0)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        return f"its header cannot be read ({' '.join(str(error).split())[:120] or type(error).__name__})"
    if end != size:
        return f"{size} bytes where its header says {end}: cut or overwritten"
    missing = sorted(TENSORS - set(header))
    if missing or scenes is None:
        return f"it lacks {', '.join(missing) or 'the record of its scenes'}"
    return None
