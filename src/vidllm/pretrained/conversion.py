"""From checkpoints to a model folder: planned on names and shapes alone, then streamed tensor by tensor.

A :class:`Source` says how the keys of one checkpoint are called here and which of our weights it must fill. The plan
fails before a byte is written when a weight would be missing or of another shape.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from vidllm.io.weight_files import Checkpoint
from vidllm.pretrained.licences import Licence
from vidllm.pretrained.report import Report, Unused
from vidllm.pretrained.weights import Renames
from vidllm.pretrained.writing import ShardWriter

Pairs = list[tuple[str, Tensor]]
#: From a key and its tensor to our names and tensors: none for a key that is left out, None for an unknown one.
Translate = Callable[[str, Tensor], Pairs | None]

_NAMED = 4  # problems named in an error of one line


class KeyMap:
    """(pattern, replacement) pairs as a function of keys; the first pattern that matches a whole key counts."""

    def __init__(self, renames: Renames) -> None:
        self._compiled = [(re.compile(pattern), replacement) for pattern, replacement in renames]

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


@dataclass(frozen=True)
class Source:
    """A checkpoint with its key map.

    ``fills``: beginnings of our names that it must fill, all of them but those that begin with one of ``optional``.
    ``given``: weights that its model leaves implicit (our names).
    """

    name: str
    checkpoint: Checkpoint
    translate: Translate
    fills: tuple[str, ...]
    licence: Licence
    optional: tuple[str, ...] = ()
    given: Mapping[str, Tensor] = field(default_factory=dict)


def plan(expected: Mapping[str, torch.Size], sources: Sequence[Source]) -> Report:
    """Where each weight comes from, from names and shapes alone; an earlier source goes before a later one.

    Raises ValueError where a source holds another shape (both are named), or lacks what it must fill.
    """
    report = Report(licences=[(source.checkpoint.place, source.licence) for source in sources])
    wrong: list[str] = []
    for source in sources:
        for key, tensor in source.checkpoint.shapes():
            _place(source, key, tensor, expected, report, wrong)
        for name in source.given:
            if name in expected:
                report.loaded.setdefault(name, (source.name, "(implied)"))
        _check_filled(source, expected, report, wrong)
        _refuse(source, wrong, "holds weights of another shape", "is it another model, or another size?")
    report.initial = [name for name in expected if name not in report.loaded]
    return report


def _place(source: Source, key: str, tensor: Tensor, expected: Mapping[str, torch.Size], report: Report,
           wrong: list[str]) -> None:  # fmt: skip
    pairs = source.translate(key, tensor)
    if not pairs:
        reason = "unknown key" if pairs is None else "not part of this model"
        report.unused.append(Unused(source.name, key, reason))
        return
    for name, value in pairs:
        if name not in expected:
            report.unused.append(Unused(source.name, key, "not part of this model"))
        elif name in report.loaded:
            report.unused.append(Unused(source.name, key, f"{report.loaded[name][0]} goes before"))
        elif value.shape != expected[name]:
            wrong.append(f"{key} {tuple(value.shape)}, ours {name} {tuple(expected[name])}")
        else:
            report.loaded[name] = (source.name, key)


def _check_filled(source: Source, expected: Mapping[str, torch.Size], report: Report, wrong: list[str]) -> None:
    """ValueError when weights the source must fill are still empty (those of another shape are told apart)."""
    told = {line.rsplit("ours ", 1)[1].split(" ", 1)[0] for line in wrong}
    empty = [
        name for name in expected
        if name.startswith(source.fills) and name not in report.loaded and name not in told
        and not (source.optional and name.startswith(source.optional))
    ]  # fmt: skip
    known = any(origin == source.name and key != "(implied)" for origin, key in report.loaded.values())
    if not known and not wrong:
        unknown = [u.key for u in report.unused if u.source == source.name]
        first = f"its keys begin with {unknown[0]}" if unknown else "it holds no tensor"
        raise ValueError(f"{source.checkpoint.place}: not a {source.name} checkpoint ({first})")
    _refuse(source, empty, "lacks weights", "is the checkpoint complete, and its configuration right?")


def _refuse(source: Source, problems: Sequence[str], what: str, advice: str) -> None:
    if problems:
        more = f" and {len(problems) - _NAMED} more" if len(problems) > _NAMED else ""
        raise ValueError(f"{source.checkpoint.place}: {source.name} {what}: {'; '.join(problems[:_NAMED])}{more}; "
                         f"{advice}")  # fmt: skip


def stream(report: Report, sources: Sequence[Source], initial: Iterable[tuple[str, Tensor]],
           writer: ShardWriter) -> None:  # fmt: skip
    """Write every weight of the plan: those of the sources as they pass by, then the initial ones."""
    for source in sources:
        for key, tensor in source.checkpoint.tensors():
            for name, value in source.translate(key, tensor) or ():
                if report.loaded.get(name) == (source.name, key):
                    writer.add(name, value)
        for name, value in source.given.items():
            if report.loaded.get(name) == (source.name, "(implied)"):
                writer.add(name, value)
    for name, value in initial:
        writer.add(name, value)
    writer.finish()
