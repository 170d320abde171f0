"""Conversion of checkpoints to a model folder: planned from names and shapes, then streamed tensor by tensor.

A :class:`Source` maps the keys of one checkpoint to our names, and lists which of our weights it must fill. The plan
fails, before anything is written, if a weight is missing or has another shape.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from vidllm.io.weight_files import Checkpoint
from vidllm.pretrained.licences import Licence
from vidllm.pretrained.report import Report, Unused

#: (pattern, replacement) pairs; the first pattern that matches a whole key renames it.
Renames = Sequence[tuple[str, str]]


def load_strictly(module: nn.Module, tensors: Mapping[str, Tensor], source: str, unknown: Sequence[str] = ()) -> None:
    """Put float32 copies of ``tensors`` into ``module`` (which may be on the meta device).

    One ValueError names every key of ``source`` that is missing, unexpected (``unknown`` adds to these) or of another
    shape.
    """
    expected = {key: tuple(tensor.shape) for key, tensor in module.state_dict().items()}
    problems = [f"missing: {key} {shape}" for key, shape in expected.items() if key not in tensors]
    problems += [f"unexpected: {key}" for key in (*unknown, *(key for key in tensors if key not in expected))]
    problems += [
        f"shape: {key} is {tuple(tensor.shape)}, expected {expected[key]}"
        for key, tensor in tensors.items()
        if key in expected and tuple(tensor.shape) != expected[key]
    ]
    if problems:
        raise ValueError(f"{source} weights do not fit the configuration:\n  " + "\n  ".join(problems))
    copies = {key: tensor.to(torch.float32, copy=True).contiguous() for key, tensor in tensors.items()}
    module.load_state_dict(copies, assign=True)


SHARD_BYTES = 2 * 10**9


class ShardWriter:
    """Writes ``model-0000k-of-0000n.safetensors`` and their index; holds at most one shard in memory."""

    def __init__(self, folder: Path, shard_bytes: int = SHARD_BYTES, dtype: torch.dtype | None = None) -> None:
        self.folder, self.shard_bytes, self.dtype = folder, shard_bytes, dtype
        self._waiting: dict[str, Tensor] = {}
        self._bytes = self._total = 0
        self._shards: list[list[str]] = []

    def write(self, tensors: Iterable[tuple[str, Tensor]]) -> None:
        """Write tensors (floating ones in ``dtype`` if that is set) and the shards' index."""
        for name, tensor in tensors:
            wanted = self.dtype if self.dtype is not None and tensor.is_floating_point() else tensor.dtype
            size = tensor.numel() * wanted.itemsize
            if self._waiting and self._bytes + size > self.shard_bytes:
                self._flush()
            self._waiting[name] = tensor.detach().to(wanted, copy=True).contiguous()
            self._bytes += size
            self._total += size
        if self._waiting or not self._shards:
            self._flush()
        count = len(self._shards)
        index: dict[str, str] = {}
        for number, names in enumerate(self._shards, 1):
            final = "model.safetensors" if count == 1 else f"model-{number:05d}-of-{count:05d}.safetensors"
            self._part(number).rename(self.folder / final)
            index.update(dict.fromkeys(names, final))
        if count > 1:
            table = {"metadata": {"total_size": self._total}, "weight_map": dict(sorted(index.items()))}
            (self.folder / "model.safetensors.index.json").write_text(json.dumps(table, indent=1))

    def _flush(self) -> None:
        self._shards.append(list(self._waiting))
        save_file(self._waiting, self._part(len(self._shards)), metadata={"format": "pt"})
        self._waiting, self._bytes = {}, 0

    def _part(self, number: int) -> Path:
        return self.folder / f"model-{number:05d}.part"


Pairs = list[tuple[str, Tensor]]
#: From a key and its tensor to our names and tensors: none for a key that is left out, None for an unknown one.
Translate = Callable[[str, Tensor], Pairs | None]
_NAMED = 4  # problems named in an error of one line
_NO_PART, _IMPLIED = "not part of this model", "(implied)"


class KeyMap:
    """:data:`Renames` as a function of keys, which may begin with ``prefix`` (a pattern)."""

    def __init__(self, renames: Renames, prefix: str = "") -> None:
        self._compiled = [(re.compile(prefix + pattern), replacement) for pattern, replacement in renames]

    def __call__(self, key: str) -> str | None:
        """The new name, empty for a key that is left out, None for an unknown one."""
        for pattern, replacement in self._compiled:
            match = pattern.fullmatch(key)
            if match is not None:
                return match.expand(replacement)
        return None

    def translate(self, key: str, tensor: Tensor) -> Pairs | None:
        """As :data:`Translate`: the tensor as it is under its new name."""
        name = self(key)
        return None if name is None else [(name, tensor)] if name else []


def dpt_renames(theirs: str, ours: str) -> list[tuple[str, str]]:
    """Key map of a DPT head in the usual names of its authors; levels are counted from 1 there, from 0 here."""
    pairs = [
        (r"norm\.(.+)", r"decoder.norm.\1"),
        (r"projects\.(.+)", r"decoder.projects.\1"),
        (r"resize_layers\.(.+)", r"decoder.resizes.\1"),
        (r"scratch\.output_conv1\.(.+)", r"narrow.\1"),
        (r"scratch\.output_conv2\.(.+)", r"out.\1"),
    ]
    for level in range(4):
        refine = rf"scratch\.refinenet{level + 1}\."
        pairs += [
            (rf"scratch\.layer{level + 1}_rn\.(.+)", rf"decoder.laterals.{level}.\1"),
            (rf"{refine}resConfUnit1\.(.+)", rf"decoder.fusions.{level}.skip.\1"),
            (rf"{refine}resConfUnit2\.(.+)", rf"decoder.fusions.{level}.refine.\1"),
            (rf"{refine}out_conv\.(.+)", rf"decoder.fusions.{level}.out.\1"),
        ]
    return [(rf"{theirs}\.{pattern}", f"{ours}.{name}") for pattern, name in pairs]


@dataclass(frozen=True)
class Source:
    """A checkpoint with its key map.

    ``fills``: prefixes of our names, all of which it must fill except those with a prefix in ``optional``. ``given``:
    weights that are constant in its model and not in its files (our names).
    """

    name: str
    checkpoint: Checkpoint
    translate: Translate
    fills: tuple[str, ...]
    licence: Licence
    optional: tuple[str, ...] = ()
    given: Mapping[str, Tensor] = field(default_factory=dict)


def source_beneath(prefix: str, source: Source, width: int, implied: Iterable[str]) -> Source:
    """The source of a network that a model holds under a prefix; it must fill all of it.

    ``implied``: weights of DINOv2 of that width that the published network does without (:func:`unused_tokens`).
    """

    def named(key: str, tensor: Tensor) -> Pairs | None:
        pairs = source.translate(key, tensor)
        return None if pairs is None else [(prefix + name, value) for name, value in pairs]

    given = {prefix + name: value for name, value in unused_tokens(width, implied).items()}
    return replace(source, translate=named, fills=(prefix,), given=given)


def unused_tokens(width: int, names: Iterable[str]) -> dict[str, Tensor]:
    """Weights of our encoder that a published one of that width does without: no registers, a mask that is not used."""
    return {name: torch.zeros((1, 0, width) if name.endswith("register_tokens") else (1, width)) for name in names}


def plan(expected: Mapping[str, torch.Size], sources: Sequence[Source]) -> Report:
    """The source of each weight, from names and shapes alone; earlier sources take precedence.

    Raises ValueError where a source holds another shape (both are named), or lacks what it must fill.
    """
    report = Report(licences=[(source.checkpoint.place, source.licence) for source in sources])
    for source in sources:
        wrong: dict[str, str] = {}
        for key, tensor in source.checkpoint.shapes():
            pairs = source.translate(key, tensor)
            reasons = [] if pairs else ["unknown key" if pairs is None else _NO_PART]
            for name, value in pairs or ():
                if name not in expected:
                    reasons.append(_NO_PART)
                elif name in report.loaded:
                    reasons.append(f"{report.loaded[name][0]} goes before")
                elif value.shape != expected[name]:
                    wrong[name] = f"{key} {tuple(value.shape)}, ours {name} {tuple(expected[name])}"
                else:
                    report.loaded[name] = (source.name, key)
            report.unused += [Unused(source.name, key, reason) for reason in reasons]
        known = any(origin == source.name for origin, _ in report.loaded.values())
        for name in source.given:
            if name in expected:
                report.loaded.setdefault(name, (source.name, _IMPLIED))
        if not known and not wrong:
            unknown = [u.key for u in report.unused if u.source == source.name]
            first = f"its keys begin with {unknown[0]}" if unknown else "it holds no tensor"
            raise ValueError(f"{source.checkpoint.place}: not a {source.name} checkpoint ({first})")
        empty = [
            name for name in expected
            if name.startswith(source.fills) and name not in report.loaded and name not in wrong
            and not (source.optional and name.startswith(source.optional))
        ]  # fmt: skip
        _refuse(source, empty, "lacks weights", "is the checkpoint complete, and its configuration right?")
        _refuse(source, list(wrong.values()), "holds weights of another shape", "is it another model, or another size?")
    report.initial = [name for name in expected if name not in report.loaded]
    return report


def _refuse(source: Source, problems: Sequence[str], what: str, advice: str) -> None:
    if problems:
        more = f" and {len(problems) - _NAMED} more" if len(problems) > _NAMED else ""
        raise ValueError(f"{source.checkpoint.place}: {source.name} {what}: {'; '.join(problems[:_NAMED])}{more}; "
                         f"{advice}")  # fmt: skip


def planned(report: Report, sources: Sequence[Source]) -> Iterator[tuple[str, Tensor]]:
    """The weights of a plan that the sources have, one by one; nothing else is read from their files."""
    for source in sources:
        keys = {key for origin, key in report.loaded.values() if origin == source.name}
        for key, tensor in source.checkpoint.tensors(keys):
            for name, value in source.translate(key, tensor) or ():
                if report.loaded.get(name) == (source.name, key):
                    yield name, value
        for name, value in source.given.items():
            if report.loaded.get(name) == (source.name, _IMPLIED):
                yield name, value
