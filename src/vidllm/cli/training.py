"""The commands train and ablate: stages with their options, dry runs, and curves of runs."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable
from dataclasses import dataclass, field, make_dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from vidllm.cli import reading
from vidllm.cli.options import Effect, Verb, Whole, by_name, idle, parse, read_by

TRAIN_HELP = """usage: vidllm train [stage1|stage2|finetune|blind|teacher KIND|plot] [--OPTION VALUE ...]

teacher geometry                train a small VGGT as geometry teacher of stage 1
teacher language                train a small CLIP (and LLaVA-3D) as language teacher of stage 1
stage1                          distil encoder and adapter from two teachers
stage2 (default; also: joint)   train geometry and language jointly
finetune                        fine-tune a model on your own videos and texts (docs/fine_tuning.md)
blind                           train the language-only baseline: the same questions without video
plot RUN... [-o FILE.png] [--smooth N]   plot the curves of one or several runs

--dry-run [--planned] [--gpus N] [--json]   with stage1, stage2 and the teachers: check data, weights and disk,
                                count the memory and time a few steps, without training (docs/training.md)

Ctrl-C and SIGTERM write a checkpoint and end with exit code 130 and 143; the same command resumes the run.
Every field of the configuration is an option: vidllm train stage2 --help, vidllm train teacher geometry --help."""

ABLATE_HELP = """usage: vidllm ablate main|adapter|metric|stages|scale --data SHARDS --out FOLDER [--OPTION VALUE ...]

main      baseline, + CTA, + CTA + MDM, + CTA + MDM + two-stage distillation
adapter   no adapter, concat self-attention, cross-attention, bridge of 4, 8, 16, 32 tokens
metric    without metric depth, without scale alignment, full
stages    one stage, two stages without L_sc, two stages
scale     scale estimators of one model (no training)

The same command resumes a stopped ablation.
Every field of the configuration is an option: vidllm ablate main --help."""


def _speaks(config: Any) -> bool:
    return config.language_start < config.steps and config.language_share > 0


def _has_windows(config: Any) -> bool:
    return config.language_start > 0 or config.language_share < 1


_GEOMETRY = (
    "camera_weight", "rotation_weight", "translation_weight", "fov_weight", "depth_weight", "point_weight",
    "metric_weight", "gravity_weight", "correspondence_weight", "guide_weight", "patch_point_weight", "semantic_weight",
    "naming_weight", "vision_scale",
)  # fmt: skip
_LANGUAGE = (
    "clip_images", "dense_frames", "language_only_share", "true_geometry_until", "questions", "references", "captions",
    "plain", "places", "spatial", "max_text_tokens", "text_weight", "box_weight", "word_weight", "resemble_weight",
    "place_weight",
)  # fmt: skip

#: Conditions of options by configuration class: a run warns of an option without an effect.
TRAINING: dict[str, tuple[Effect, ...]] = {
    "RunConfig": (
        Effect(("spike_window",), "--spike-factor above 0", lambda c: c.spike_factor > 0),
        Effect(("workers",), "--prefetch above 0", lambda c: c.prefetch > 0),
        Effect(("parallel",), "several processes (torchrun)", lambda _: int(os.environ.get("WORLD_SIZE", "1")) > 1),
    ),
    "TrainConfig": (
        Effect(("adapter", "bridge_tokens", "metric_depth", "scale_alignment", "unit_m", "literal_streams",
                "point_head", "canonical_focal"),
               "fresh weights, without --init-from", lambda c: not c.init_from),
        Effect(("bridge_tokens",), "--adapter bridge", lambda c: c.adapter in (None, "bridge")),
        Effect(("unit_m",), "--no-metric-depth or --no-scale-alignment",
               lambda c: not (c.metric_depth and c.scale_alignment)),
        Effect(("canonical_focal", "scale_estimator"), "--metric-depth", lambda c: c.metric_depth),
        Effect(("scale_estimator",), "--scale-alignment", lambda c: c.scale_alignment),
        Effect(("lora_alpha",), "--lora-rank above 0", lambda c: c.lora_rank > 0),
        Effect(("window_scenes", "window_frames", "window_dense_frames", "spread_share", "vary_share"),
               "geometry steps: --language-start above 0 or --language-share below 1", _has_windows),
        Effect(("clip_frames",), "steps on whole clips: --language-start below --steps, or --spread-share",
               lambda c: _speaks(c) or c.spread_share > 0),
        Effect(("language_share",), "--language-start below --steps", lambda c: c.language_start < c.steps),
        Effect(_LANGUAGE, "language steps: --language-start below --steps", _speaks),
        Effect(("named_share",), "--language-only-share above 0", lambda c: c.language_only_share > 0),
        Effect(_GEOMETRY, "geometry steps: --language-only-share below 1, or --language-start above 0",
               lambda c: _has_windows(c) or c.language_only_share < 1),
        Effect(("dense_frames",), "--language-only-share below 1", lambda c: c.language_only_share < 1),
        Effect(("rotation_weight", "translation_weight", "fov_weight", "confidence_weight", "inverse_depth"),
               "--reconstruction ours", lambda c: c.reconstruction == "ours"),
        Effect(("fit_steps",), "--geometry-from MODEL", lambda c: c.geometry_from),
        Effect(("guide_layers",), "--guide-weight above 0", lambda c: c.guide_weight > 0),
        Effect(("bearing_weight",), "--patch-point-weight above 0", lambda c: c.patch_point_weight > 0),
        Effect(("represent_from",), "--represent-weight above 0", lambda c: c.represent_weight > 0),
        Effect(("resemble_weight", "place_weight"), "--word-weight above 0", lambda c: c.word_weight > 0),
    ),
    "Stage1Config": (
        Effect(("structure",), "--structure-weight above 0", lambda c: c.structure_weight > 0),
    ),
    "FinetuneConfig": (
        Effect(("lora_rank", "lora_alpha"), "--lora", lambda c: c.lora),
    ),
    "LanguageTeacherConfig": (
        Effect(("clip_images", "clip_frames", "questions", "references", "captions", "tune_tower"),
               "instruction tuning: --contrastive-steps below --steps", lambda c: c.contrastive_steps < c.steps),
        Effect(("shards_a_step", "scenes_a_shard"), "contrastive training: --contrastive-steps above 0",
               lambda c: c.contrastive_steps > 0),
    ),
    "AblationConfig": (
        Effect(("model",), "the table `scale`", lambda c: not c.trained),
        Effect(("benchmark_split",), "--benchmarks ROOT", lambda c: bool(c.benchmarks)),
        Effect(("data", "steps", "stage1_steps", "language_steps", "init_from", "language_from", "blind", "benchmarks",
                "benchmark_split", "teacher_geometry", "teacher_language", "teacher_steps", "jobs", "joint", "distil"),
               "tables whose rows are trained", lambda c: c.trained),
        Effect(("stage1_steps", "teacher_geometry", "teacher_language", "teacher_steps", "distil"),
               "tables with rows of two stages", lambda c: c.two_stages),
        Effect(("teacher_steps",), "a teacher to train: leave --teacher-geometry or --teacher-language out",
               lambda c: not (c.teacher_geometry and c.teacher_language)),
    ),
}  # fmt: skip

STAGES = ("stage2", "joint", "stage1", "finetune", "blind", "teacher", "plot")
DRY_STAGES = ("stage1", "stage2", "joint", "teacher geometry", "teacher language")


@dataclass(frozen=True)
class DryRun:
    """Checks, memory and timing without training."""

    dry_run: bool = False  # check data, weights and disk, count the memory and time a few steps, without training
    planned: bool = False  # dry run: do not check data and initial model, which do not exist yet
    gpus: int = 1  # dry run: number of processes, each with one GPU, for the memory
    json: bool = False  # dry run: JSON on standard output


@dataclass(frozen=True)
class Plot(Verb):
    """Plot the curves of training runs, all runs in the same panels."""

    runs: Annotated[
        Positional[tuple[str, ...]], arg(metavar="RUN...", help_behavior_hint="(required)")
    ]
    """run folders, or their log.jsonl"""
    output: Annotated[str | None, read_by(str, "FILE.png"), arg(aliases=("-o",), help_behavior_hint="")] = None
    """picture to write (default: curves.png in the first run folder)"""
    smooth: Whole = None  # length of the moving average in log lines (default: a fortieth of the log; 1: none)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.runs:
            raise ValueError("RUN is missing; see vidllm train plot --help")

    def run(self) -> None:
        if self.output:
            reading.writable(self.output)
        from vidllm.training.plot import plot_runs

        print(plot_runs(list(self.runs), self.output, self.smooth))


def train(argv: list[str]) -> None:
    """``vidllm train [STAGE] ...``: every field of the configuration is an option."""
    if argv in (["-h"], ["--help"], ["teacher", "-h"], ["teacher", "--help"]):
        print(TRAIN_HELP)
        return
    stage, rest = split_stage(argv)
    if stage == "plot":
        parse(Plot, "vidllm train plot", rest).run()
        return
    config, run, dry = configuration(stage, rest)
    usual = _stage(stage, preset_of(rest))[0]
    for line in idle_lines(config, usual, but=("--parallel",) if dry.dry_run else ()):
        reading.note(f"vidllm: warning: {line}")
    if dry.dry_run:
        _dry_run(config, dry)
        return
    reading.writable_folder(config.loop.out)
    print(run(config))


def split_stage(argv: list[str]) -> tuple[str, list[str]]:
    """The stage ("stage2" by default; a teacher with its kind) and its options."""
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


def configuration(stage: str, argv: list[str]) -> tuple[Any, Callable[[Any], Path], DryRun]:
    """The configuration of a stage from its options, the function that runs it, and the options of a dry run.

    ``--preset`` also sets the other defaults of stages 1 and 2. ValueError of one line for a wrong option.
    """
    usual, run = _stage(stage, preset_of(argv))
    kind: Any = type(usual)
    parts: list[Any] = [("config", Annotated[kind, arg(name="")], field(default=usual))]
    if stage in DRY_STAGES:
        parts.append(("dry", Annotated[DryRun, arg(name="")], field(default=DryRun())))
    elif "--dry-run" in argv:
        raise ValueError(f"--dry-run is only for {', '.join(DRY_STAGES)}; not for {stage}")
    read: Any = parse(make_dataclass("Options", parts, frozen=True), f"vidllm train {stage}", argv)
    dry = read.dry if stage in DRY_STAGES else DryRun()
    if not dry.dry_run and dry != DryRun():
        raise ValueError("--planned, --gpus and --json have an effect only with --dry-run; add it")
    return read.config, run, dry


def preset_of(argv: list[str]) -> str:
    """The value of ``--preset`` in some options."""
    words = [word for argument in argv for word in argument.split("=", 1)]
    return next((b for a, b in pairwise(words) if a == "--preset"), "tiny")


def _stage(stage: str, name: str) -> tuple[Any, Callable[[Any], Path]]:
    """The configuration of a stage for a preset, and the function that runs it."""
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


def idle_lines(config: Any, usual: Any, but: tuple[str, ...] = (), **known: Any) -> list[str]:
    """One line per condition that leaves options of a configuration without effect; ``usual`` has the defaults.

    ``known``: values that the predicates need in addition to the configuration; options in ``but`` are not checked.
    """
    effects = tuple(e for kind in reversed(type(config).__mro__) for e in TRAINING.get(kind.__name__, ()))
    lines = []
    for names, effect in idle(effects, config, by_name(usual), **known):
        if told := [name for name in names if name not in but]:
            needs = "it needs" if len(told) == 1 else "they need"
            lines.append(f"{', '.join(told)}: no effect here; {needs} {effect.where}")
    return lines


def _dry_run(config: Any, options: DryRun) -> None:
    from vidllm.training.preflight import dry_run
    from vidllm_rooms.language.template_questions import template_questions

    report = dry_run(config, options.gpus, template_questions, planned=options.planned)
    reading.show(options.json, report.to_json(), report.lines())
    if report.problems:
        names = ", ".join(finding.what for finding in report.problems)
        raise ValueError(f"not ready: {names}; see the lines above" if not options.json else f"not ready: {names}")


def ablate(argv: list[str]) -> None:
    """``vidllm ablate TABLE ...``: train and evaluate its rows; writes the table to standard output and to --out."""
    if not argv or argv[0] in ("-h", "--help"):
        print(ABLATE_HELP)
        return
    from vidllm.experiments.rows import AblationConfig, table_named

    table = table_named(argv[0])
    config = parse(AblationConfig, f"vidllm ablate {table.name}", argv[1:])
    two_stages = any(row.stage1 is not None for row in table.rows)
    for line in idle_lines(config, AblationConfig(), trained=table.trained, two_stages=two_stages):
        reading.note(f"vidllm: warning: {line}")
    try:
        seeds = reading.seeds(config.eval_seeds)
    except ValueError as error:
        raise ValueError(f"--eval-seeds: {error}") from None
    out = reading.writable_folder(config.out)
    from vidllm.experiments.measuring import Rooms
    from vidllm.experiments.runs import ablate as run
    from vidllm.experiments.runs import publish
    from vidllm_rooms.evaluation import evaluate, remembered_clip, remembered_room
    from vidllm_rooms.language.template_questions import template_questions

    rooms = Rooms(remembered_clip, partial(evaluate, render=remembered_room), template_questions)
    results = run(table, config, seeds, rooms, reading.note)
    command = f"vidllm ablate {shlex.join(argv)}"
    print("\n".join(publish(table, config, results, Path(out), command)))
