"""The verb info, and a configuration from its options."""

from __future__ import annotations

import argparse
import io
from contextlib import redirect_stderr
from typing import TYPE_CHECKING, TypeVar

from vidllm.cli import reading

if TYPE_CHECKING:
    from vidllm.model.huggingface import VidLLMConfig

C = TypeVar("C")


def info(options: argparse.Namespace) -> None:
    """``vidllm info [PRESET or FOLDER]``"""
    from vidllm.model.loading import load_config
    from vidllm.model.presets import PRESETS, preset
    from vidllm.profiling import parts, total
    from vidllm.scene import TINY

    name = options.model
    config = preset(name) if name in PRESETS else load_config(TINY if name is None else name)
    rows = parts(config)
    costs = None if reading.frames(options.frames) is None else _costs_of(config, options)
    if options.json:
        table = [{"part": row.name, "form": row.form, "parameters": row.parameters} for row in rows]
        more = {} if costs is None else {"flops": dict(costs[0]), "bytes": dict(costs[1])}
        reading.print_json({"model": name or "shipped", "parts": table, "parameters": total(rows), **more})
        return
    for row in rows:
        print(f"{row.name:27s}{row.parameters:>16,d}  {row.form}".rstrip())
    print(f"{'total':27s}{total(rows):>16,d}  {2 * total(rows) / 2**30:.2f} GiB in bfloat16")
    for part, flops in costs[0] if costs else ():
        print(f"{part:60s}{flops / 1e9:14,.1f} GFLOP")
    for purpose, count in costs[1] if costs else ():
        print(f"{purpose:60s}{count / 1e9:14.2f} GB")


def _costs_of(
    config: VidLLMConfig, options: argparse.Namespace
) -> tuple[list[tuple[str, int]], list[tuple[str, int]]]:
    """Operations by part and bytes by purpose for a video of 4 to 3, in bfloat16."""
    from vidllm.profiling import costs, extent_of, memory

    extent = extent_of(config, options.frames)
    flops = [(row.name, row.flops) for row in costs(config, extent) if row.flops]
    return flops, memory(config, extent, options.language_dtype or "bfloat16")


def options_of(kind: type[C], prog: str, argv: list[str], default: C | None = None) -> C:
    """A configuration from its options (and other defaults than its own); ValueError of one line for a wrong one."""
    import tyro

    told = io.StringIO()
    try:
        with redirect_stderr(told):
            return tyro.cli(kind, args=argv, prog=prog, default=kind() if default is None else default)
    except SystemExit as stop:
        if not stop.code:
            raise
        raise ValueError(f"{_first_sentence(told.getvalue())}; see {prog} --help") from None


def _first_sentence(drawn: str) -> str:
    """The message inside the frame that tyro draws, without its title and its advice."""
    words = []
    for line in drawn.splitlines()[1:]:
        if "──" in line:
            break
        words.append(line.strip("│╭╮╰╯─ \t"))
    return " ".join(" ".join(words).split()).rstrip(".") or "wrong options"
