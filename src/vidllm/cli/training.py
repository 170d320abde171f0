"""The verb train: a stage with its options, a dry run of it, or the curves of what was trained."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from vidllm.cli import reading
from vidllm.cli.effects import idle_options
from vidllm.cli.models import options_of
from vidllm.cli.parser import LineParser

TRAIN_HELP = """usage: vidllm train [stage1|stage2|finetune|blind|teacher KIND|plot] [--OPTION VALUE ...]

teacher geometry                a small VGGT, for stage 1
teacher language                a small CLIP (and LLaVA-3D), for stage 1
stage1                          encoder and adapter are distilled from two teachers
stage2 (default; also: joint)   joint training of geometry and language
finetune                        fine-tune a model on your own videos and texts (docs/fine_tuning.md)
blind                           the language-only baseline: the same questions without video
plot RUN... [-o FILE.png] [--smooth N]   the curves of one or several runs

--dry-run [--gpus N] [--json]   with stage1, stage2 and the teachers: check data, weights and disk,
                                count memory and time real steps, without training (docs/training.md)

Ctrl-C and SIGTERM write a checkpoint and end with exit code 130 and 143; the same command resumes the run.
Every field of the configuration is an option: vidllm train stage2 --help, vidllm train teacher geometry --help."""


STAGES = ("stage2", "joint", "stage1", "finetune", "blind", "teacher", "plot")
DRY_STAGES = ("stage1", "stage2", "joint", "teacher geometry", "teacher language")


def train(argv: list[str]) -> None:
    """``vidllm train [STAGE] ...``: every field of the configuration is an option."""
    if argv[:1] in (["-h"], ["--help"]):
        print(TRAIN_HELP)
        return
    stage, rest = split_stage(argv)
    if stage == "plot":
        _plot(plot_options(rest))
        return
    dry, rest = dry_options(stage, rest)
    config, run = configuration(stage, rest)
    for line in idle_options(config, usual(stage), but=() if dry is None else ("parallel",)):
        reading.note(f"vidllm: warning: {line}")
    if dry is not None:
        _dry_run(config, dry)
        return
    reading.writable_folder(config.out)
    print(run(config))


def split_stage(argv: list[str]) -> tuple[str, list[str]]:
    """The stage ("stage2" where none is named; a teacher with its kind) and the options that follow it."""
    stage = argv[0] if argv and not argv[0].startswith("-") else "stage2"
    rest = argv[1:] if argv[:1] == [stage] else argv
    if stage not in STAGES:
        raise ValueError(f"unknown stage {stage!r}; expected stage1, stage2, joint, finetune, blind, teacher or plot")
    if stage != "teacher":
        return stage, rest
    kind = rest[0] if rest else ""
    if kind not in ("geometry", "language"):
        raise ValueError(f"unknown teacher {kind!r}; expected geometry or language")
    return f"teacher {kind}", rest[1:]


def configuration(stage: str, argv: list[str]) -> tuple[Any, Callable[[Any], Path]]:
    """The configuration of a stage from its options, and what runs it; ValueError of one line for a wrong option."""
    prog = f"vidllm train {stage}"
    if stage in ("stage2", "joint", "teacher geometry"):
        return _stage2(prog, argv, teacher=stage == "teacher geometry")
    if stage == "stage1":
        from vidllm.training.stage1 import Stage1Config, train_stage1

        return options_of(Stage1Config, prog, argv), train_stage1
    if stage == "finetune":
        from vidllm.training.finetune import FinetuneConfig, finetune

        return options_of(FinetuneConfig, prog, argv), finetune
    if stage == "blind":
        from vidllm.training.language_only import LanguageOnlyConfig, train_language_only

        return options_of(LanguageOnlyConfig, prog, argv), train_language_only
    from vidllm.training.teacher_runs import LanguageTeacherConfig, train_language_teacher

    return options_of(LanguageTeacherConfig, prog, argv), train_language_teacher


def _stage2(prog: str, argv: list[str], *, teacher: bool) -> tuple[Any, Callable[[Any], Path]]:
    from vidllm.model.presets import preset
    from vidllm.training.config import TrainConfig
    from vidllm.training.loop import train as run
    from vidllm.training.teacher_runs import geometry_teacher
    from vidllm_rooms.language.template_questions import template_questions

    config = options_of(TrainConfig, prog, argv, geometry_teacher() if teacher else None)
    preset(config.preset)
    return config, partial(run, extra_questions=template_questions)


def usual(stage: str) -> Any:
    """The configuration of a stage without options."""
    return configuration(stage, [])[0]


def dry_options(stage: str, argv: list[str]) -> tuple[argparse.Namespace | None, list[str]]:
    """The options of a dry run, None without one, and the other options."""
    if "--dry-run" not in argv:
        return None, argv
    if stage not in DRY_STAGES:
        raise ValueError(f"--dry-run is for {', '.join(DRY_STAGES)}; not for {stage}")
    parser = LineParser(prog=f"vidllm train {stage} --dry-run", allow_abbrev=False, add_help=False)
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("--gpus", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    return parser.parse_known_args(argv)


def _dry_run(config: Any, options: argparse.Namespace) -> None:
    from vidllm.training.preflight import dry_run
    from vidllm_rooms.language.template_questions import template_questions

    report = dry_run(config, options.gpus, template_questions)
    if options.json:
        reading.print_json(report.to_json())
    else:
        print("\n".join(report.lines()))
    if report.problems:
        names = ", ".join(finding.what for finding in report.problems)
        raise ValueError(f"not ready: {names}; see the lines above" if not options.json else f"not ready: {names}")


def plot_options(argv: Sequence[str]) -> argparse.Namespace:
    """The options of ``vidllm train plot``."""
    parser = LineParser(prog="vidllm train plot", description="Draw the curves of training runs, one over another.")
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folder of a run, or its log.jsonl")
    parser.add_argument("-o", "--output", metavar="FILE.png", help="(default: curves.png in the first run)")
    parser.add_argument("--smooth", type=int, metavar="N", help="lines of the log to average for a point; 1: none")
    return parser.parse_args(argv)


def _plot(options: argparse.Namespace) -> None:
    if options.output:
        reading.writable(options.output)
    from vidllm.training.plot import plot_runs

    print(plot_runs(options.runs, options.output, options.smooth))
