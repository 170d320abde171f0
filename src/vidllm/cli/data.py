"""The verbs about downloaded data: check, pack."""

from __future__ import annotations

import argparse

from vidllm.cli import reading


def check(options: argparse.Namespace) -> None:
    """``vidllm data check ROOT``"""
    from vidllm.datasets.check import check_root

    report = check_root(options.root, quick=options.quick, tell=reading.progress("scenes"))
    if options.json:
        reading.print_json(report.to_json())
    else:
        print("\n".join(report.lines()))
    if report.broken:
        raise ValueError(f"{options.root}: broken files: {len(report.broken)}, named above; fetch them again")
    if not report.usable:
        raise ValueError(f"{options.root}: nothing of ScanNet or its language sets is here; see above where to get it")
    if options.strict and report.differs:
        names = ", ".join(row.what for row in report.differs)
        raise ValueError(f"{options.root}: counts differ from the official ones: {names}")


def pack(options: argparse.Namespace) -> None:
    """``vidllm data pack ROOT -o DIR``"""
    count = reading.frames(options.frames) or 1
    folder = reading.writable_folder(options.output)
    from vidllm.datasets.pack import PackSettings
    from vidllm.datasets.pack import pack as write

    settings = PackSettings(count, options.shorter_side)
    names = reading.words(options.scenes)
    print(write(options.root, folder, settings, scenes=names or None, per_shard=options.per_shard,
                tell=reading.progress("scenes")))  # fmt: skip
