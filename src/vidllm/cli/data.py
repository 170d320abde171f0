"""The verbs about data, downloaded or your own: check, pack, score."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import TYPE_CHECKING

from vidllm.cli import reading

if TYPE_CHECKING:
    from vidllm.datasets.check import Report
    from vidllm.datasets.jsonl_check import JsonlReport


def check(options: argparse.Namespace) -> None:
    """``vidllm data check ROOT`` or ``FILE.jsonl``"""
    if options.root.endswith(".jsonl"):
        _check_own(options)
        return
    from vidllm.datasets.check import check_root
    from vidllm.evaluation.tasks import refusals

    report = check_root(options.root, quick=options.quick, tell=reading.progress("scenes"), further=refusals)
    _print_report(report, options)
    if report.broken:
        raise ValueError(f"{options.root}: damaged files: {len(report.broken)}, named above; download them again")
    if not report.usable:
        raise ValueError(f"{options.root}: no data of ScanNet or its language sets found; see above for the sources")
    if options.strict and report.differs:
        names = ", ".join(row.what for row in report.differs)
        raise ValueError(f"{options.root}: counts differ from the official ones: {names}")


def _check_own(options: argparse.Namespace) -> None:
    """``vidllm data check FILE.jsonl``"""
    from vidllm.datasets.jsonl_check import check_jsonl

    report = check_jsonl(options.root, quick=options.quick, tell=reading.progress("videos"))
    if not options.quick:
        _note_lengths(report)
    _print_report(report, options)
    if report.problems:
        raise ValueError(f"{options.root}: problems: {len(report.problems)}, named above by line; correct them")
    if options.strict and report.notes:
        raise ValueError(f"{options.root}: notes: {len(report.notes)}, named above by line")


def _note_lengths(report: JsonlReport) -> None:
    """Add notes on texts over the default length of fine-tuning, counted in the shipped model's tokens."""
    from transformers import AutoTokenizer

    from vidllm.datasets.jsonl_check import Remark
    from vidllm.scene import TINY
    from vidllm.training.finetune import FinetuneConfig
    from vidllm.training.texts import TextMaker, too_long

    wrong = {remark.line for remark in report.problems}
    sound = [example for example in report.examples if example.line not in wrong]
    maker = TextMaker(AutoTokenizer.from_pretrained(TINY))
    for line, text in too_long(sound, maker, FinetuneConfig.max_text_tokens):
        report.notes.append(Remark(line, f"{report.path}: {text}"))


def _print_report(report: Report | JsonlReport, options: argparse.Namespace) -> None:
    if options.json:
        reading.print_json(report.to_json())
    else:
        print("\n".join(report.lines()))


def score(options: argparse.Namespace) -> None:
    """``vidllm data score FILE.jsonl``"""
    count = reading.frames(options.frames)
    from vidllm.datasets.jsonl import read_jsonl
    from vidllm.evaluation.scene_metrics import score_examples
    from vidllm.scene import load

    examples = read_jsonl(options.file)
    model = load(options.model, options.device, options.dtype, refine=options.refine)
    rows = score_examples(model, examples, count, reading.progress("videos"))
    if options.json:
        reading.print_json({"file": options.file, "model": options.model, "rows": [asdict(row) for row in rows]})
        return
    print(f"{'measure':32s}{'of':>6s}{'model':>8s}{'most frequent answer':>22s}")
    for row in rows:
        usual = "" if row.baseline is None else f"{row.baseline:22.3f}"
        print(f"{row.measure:32s}{row.count:6d}{row.value:8.3f}{usual}")


def pack(options: argparse.Namespace) -> None:
    """``vidllm data pack ROOT -o DIR``"""
    count = reading.frames(options.frames) or 1
    folder = reading.writable_folder(options.output)
    from vidllm.datasets.pack import PackSettings
    from vidllm.datasets.pack import pack as write

    settings = PackSettings(count, options.shorter_side, split=options.split)
    names = reading.words(options.scenes)
    held = write(options.root, folder, settings, scenes=names or None, per_shard=options.per_shard,
                 tell=reading.progress("scenes"))  # fmt: skip
    print(f"{folder}: {held} scenes")
