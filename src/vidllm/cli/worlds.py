"""The verbs about procedural rooms: render, export, shards, eval."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from vidllm.cli import reading


def render(options: argparse.Namespace) -> None:
    """``vidllm rooms render --seeds A:B -o OUT``"""
    span = reading.seeds(options.seeds)
    height, width = reading.size(options.size)
    count = reading.frames(options.frames) or 1
    folder = reading.writable_folder(options.output)
    from vidllm_rooms.shards import render_scene, write_room

    tell = reading.Progress("rooms", len(span))
    for done, seed in enumerate(span, 1):
        clip, language = render_scene(seed, count, height, width)
        print(write_room(folder / f"room_{seed:06d}", clip, language))
        tell(done)


def export(options: argparse.Namespace) -> None:
    """``vidllm rooms export --seeds A:B -o ROOT``"""
    span = reading.seeds(options.seeds)
    height, width = reading.size(options.size)
    count = reading.frames(options.frames) or 1
    root = reading.writable_folder(options.output)
    from vidllm_rooms.official.export import export_rooms

    tell = reading.Progress("rooms", len(span))
    settings = {"frames": count, "height": height, "width": width}
    for folder in export_rooms(root, span, split=options.split, **settings, tell=tell):
        print(folder)


def shards(options: argparse.Namespace) -> None:
    """``vidllm rooms shards --seeds A:B -o DIR``"""
    span = reading.seeds(options.seeds)
    count = reading.frames(options.frames) or 1
    folder = reading.writable_folder(options.output)
    from vidllm_rooms.shards import plan_shards, shard_path, write_shard

    plan = list(plan_shards(span.start, span.stop, shorter_side=options.shorter_side))
    missing = [p for p in plan if not shard_path(folder, *p, options.look).exists()]
    if len(missing) < len(plan):
        reading.note(f"{len(plan) - len(missing)} of {len(plan)} shards exist already")
    tell = reading.Progress("shards", len(missing))
    for done, (part, height, width) in enumerate(missing, 1):
        write_shard(folder, part, count, height, width, options.look)
        tell(done)
    print(folder)


def eval(options: argparse.Namespace) -> None:
    """``vidllm rooms eval --seeds A:B``"""
    span = reading.seeds(options.seeds)
    count = reading.frames(options.frames)
    from vidllm.evaluation.baselines import LANGUAGE_ONLY, load_language_only
    from vidllm.evaluation.scene_metrics import table
    from vidllm.scene import load
    from vidllm_rooms.evaluation import evaluate

    model = load(options.model, options.device, options.dtype, refine=options.refine)
    blind = load_language_only(Path(options.blind) if options.blind else LANGUAGE_ONLY)
    if blind is None and options.blind:
        raise ValueError(f"{options.blind}: no language-only baseline (config.json is missing)")
    figures = evaluate(model, span, blind, reading.Progress("rooms", len(span)), count)
    rows = table(figures)
    if options.json:
        names = ("measure", "value", "baseline", "baseline_name")
        reading.print_json({"seeds": options.seeds, "rows": [dict(zip(names, row, strict=True)) for row in rows]})
    else:
        print("\n".join(_table_lines(rows, options.seeds)))


def _table_lines(rows: list[tuple[str, float, float | None, str]], span: str) -> list[str]:
    lines = [f"rooms {span}", f"{'measure':38s}{'value':>8s}{'baseline':>10s}"]
    for title, value, baseline, name in rows:
        other = "" if baseline is None or math.isnan(baseline) else f"{baseline:10.3f}  ({name})"
        lines.append(f"{title:38s}{value:8.3f}{other}")
    return lines
