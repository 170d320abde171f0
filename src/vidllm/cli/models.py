"""The verbs about models: info and train."""

from __future__ import annotations

import argparse
import io
from contextlib import redirect_stderr
from typing import TYPE_CHECKING, TypeVar

from vidllm.cli import reading

if TYPE_CHECKING:
    from vidllm.training.config import TrainConfig

C = TypeVar("C")

TRAIN_HELP = """usage: vidllm train [stage1|stage2|blind|teacher geometry|teacher language] [--OPTION VALUE ...]

teacher geometry                a small VGGT, for stage 1
teacher language                a small CLIP (and LLaVA-3D), for stage 1
stage1                          encoder and adapter learn from two teachers; resumes where it stopped
stage2 (default; also: joint)   joint training of geometry and language on rooms; resumes where it stopped
blind                           the language-only baseline: the same questions, no video

Every field of the configuration is an option: vidllm train stage2 --help, vidllm train teacher geometry --help."""


def info(options: argparse.Namespace) -> None:
    """``vidllm info [PRESET or FOLDER]``"""
    from vidllm.model.auto import load_config
    from vidllm.model.configuration import PRESETS, preset
    from vidllm.model.summary import parts, total
    from vidllm.scene import TINY

    name = options.model
    config = preset(name) if name in PRESETS else load_config(TINY if name is None else name)
    rows = parts(config)
    if options.json:
        table = [{"part": row.name, "form": row.form, "parameters": row.parameters} for row in rows]
        reading.print_json({"model": name or "shipped", "parts": table, "parameters": total(rows)})
        return
    for row in rows:
        print(f"{row.name:27s}{row.parameters:>16,d}  {row.form}".rstrip())
    print(f"{'total':27s}{total(rows):>16,d}  {2 * total(rows) / 2**30:.2f} GiB in bfloat16")


def train(argv: list[str]) -> None:
    """``vidllm train [STAGE] ...``: every field of the configuration is an option."""
    if argv[:1] in (["-h"], ["--help"]):
        print(TRAIN_HELP)
        return
    stage = argv[0] if argv and not argv[0].startswith("-") else "stage2"
    rest = argv[1:] if argv[:1] == [stage] else argv
    if stage in ("stage2", "joint"):
        from vidllm.training.config import TrainConfig

        _train_jointly(_options(TrainConfig, f"vidllm train {stage}", rest))
    elif stage == "blind":
        from vidllm.training.blind import BlindConfig, train_blind

        print(train_blind(_options(BlindConfig, "vidllm train blind", rest)))
    elif stage == "stage1":
        from vidllm.training.stage1 import Stage1Config, train_stage1

        config = _options(Stage1Config, "vidllm train stage1", rest)
        reading.writable_folder(config.out)
        print(train_stage1(config))
    elif stage == "teacher":
        _train_teacher(rest)
    else:
        raise ValueError(f"unknown stage {stage!r}; expected stage1, stage2, joint, blind or teacher")


def _train_jointly(config: TrainConfig) -> None:
    from vidllm.model.configuration import preset
    from vidllm.training.loop import train as run

    preset(config.preset)
    reading.writable_folder(config.out)
    print(run(config))


def _train_teacher(argv: list[str]) -> None:
    """``vidllm train teacher geometry|language ...``"""
    from vidllm.training.config import TrainConfig
    from vidllm.training.teacher_runs import LanguageTeacherConfig, geometry_teacher, train_language_teacher

    kind, rest = (argv[0] if argv else ""), argv[1:]
    if kind == "geometry":
        _train_jointly(_options(TrainConfig, "vidllm train teacher geometry", rest, geometry_teacher()))
    elif kind == "language":
        config = _options(LanguageTeacherConfig, "vidllm train teacher language", rest)
        reading.writable_folder(config.out)
        print(train_language_teacher(config))
    else:
        raise ValueError(f"unknown teacher {kind!r}; expected geometry or language")


def _options(kind: type[C], prog: str, argv: list[str], default: C | None = None) -> C:
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
