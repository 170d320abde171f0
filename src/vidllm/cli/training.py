"""The verb train: a stage with its options, a dry run of it, or the curves of what was trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, make_dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import tyro

from vidllm.cli import reading
from vidllm.cli.effects import idle_options
from vidllm.cli.models import options_of

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


@dataclass(frozen=True)
class Dry:
    """Look, count and time in place of training."""

    dry_run: bool = False  # check data, weights and disk, count memory and time real steps, without training
    gpus: int = 1  # of a dry run: processes with a GPU each, for the memory
    json: bool = False  # of a dry run: JSON on standard output


@dataclass(frozen=True)
class Plot:
    """Draw the curves of training runs, one over another."""

    runs: tyro.conf.Positional[tuple[str, ...]] = ()  # folders of runs, or their log.jsonl
    output: Annotated[str | None, tyro.conf.arg(aliases=("-o",))] = None  # FILE.png; none: curves.png in the first run
    smooth: int | None = None  # lines of the log to average for a point; 1: none


def train(argv: list[str]) -> None:
    """``vidllm train [STAGE] ...``: every field of the configuration is an option."""
    if argv[:1] in (["-h"], ["--help"]):
        print(TRAIN_HELP)
        return
    stage, rest = split_stage(argv)
    if stage == "plot":
        _plot(plot_options(rest))
        return
    config, run, dry = configuration(stage, rest)
    from vidllm.training.config import flat

    usual = configuration(stage, preset_options(rest))[0]
    but = ("parallel",) if dry.dry_run else ()
    for line in idle_options(type(config), flat(config), flat(usual), but):
        reading.note(f"vidllm: warning: {line}")
    if dry.dry_run:
        _dry_run(config, dry)
        return
    reading.writable_folder(config.loop.out)
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


def configuration(stage: str, argv: list[str]) -> tuple[Any, Callable[[Any], Path], Dry]:
    """The configuration of a stage from its options, what runs it, and whether it is a dry run.

    ``--preset`` also chooses the other defaults of stages 1 and 2. ValueError of one line for a wrong option.
    """
    usual, run = _stage(stage, preset_options(argv))
    kind: Any = type(usual)
    parts: list[Any] = [("config", Annotated[kind, tyro.conf.arg(name="")], field(default=usual))]
    if stage in DRY_STAGES:
        parts.append(("dry", Annotated[Dry, tyro.conf.arg(name="")], field(default=Dry())))
    elif "--dry-run" in argv:
        raise ValueError(f"--dry-run is for {', '.join(DRY_STAGES)}; not for {stage}")
    read: Any = options_of(make_dataclass("Options", parts, frozen=True), f"vidllm train {stage}", argv)
    dry = read.dry if stage in DRY_STAGES else Dry()
    if not dry.dry_run and dry != Dry():
        raise ValueError("--gpus and --json are options of --dry-run; give it too")
    return read.config, run, dry


def preset_options(argv: list[str]) -> list[str]:
    """``--preset NAME`` of some options, alone."""
    words = [word for argument in argv for word in argument.split("=", 1)]
    return next((["--preset", b] for a, b in pairwise(words) if a == "--preset"), [])


def _stage(stage: str, preset_option: list[str]) -> tuple[Any, Callable[[Any], Path]]:
    """A stage's configuration without other options, and what runs it."""
    name = preset_option[1] if preset_option else "tiny"
    if stage in ("stage2", "joint", "teacher geometry"):
        from vidllm.model.presets import preset
        from vidllm.training.config import PRESETS
        from vidllm.training.language_teacher import geometry_teacher
        from vidllm.training.stage2 import train as run
        from vidllm_rooms.language.template_questions import template_questions

        preset(name)
        config = geometry_teacher() if stage == "teacher geometry" else PRESETS[name]()
        return config, partial(run, extra_questions=template_questions)
    if stage == "stage1":
        from vidllm.training.stage1 import STAGE1_PRESETS, Stage1Config, train_stage1

        return STAGE1_PRESETS.get(name, Stage1Config)(), train_stage1
    if stage == "finetune":
        from vidllm.training.finetune import FinetuneConfig, finetune

        return FinetuneConfig(), finetune
    if stage == "blind":
        from vidllm.training.language_only import LanguageOnlyConfig, train_language_only

        return LanguageOnlyConfig(), train_language_only
    from vidllm.training.language_teacher import LanguageTeacherConfig, train_language_teacher

    return LanguageTeacherConfig(), train_language_teacher


def _dry_run(config: Any, options: Dry) -> None:
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


def plot_options(argv: list[str]) -> Plot:
    """The options of ``vidllm train plot``."""
    options = options_of(Plot, "vidllm train plot", argv)
    if not options.runs:
        raise ValueError("give at least one run's folder; see vidllm train plot --help")
    return options


def _plot(options: Plot) -> None:
    if options.output:
        reading.writable(options.output)
    from vidllm.training.plot import plot_runs

    print(plot_runs(options.runs, options.output, options.smooth))
