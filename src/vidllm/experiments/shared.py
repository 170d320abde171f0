"""What all rows of an ablation have in common: tokenizer, teachers, and the length that stands for a missing scale."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from vidllm.evaluation.results import plain
from vidllm.experiments.config import AblationConfig
from vidllm.experiments.files import Record, keep_plan, once, telling
from vidllm.io.weight_files import model_of_run
from vidllm.model.text import read_tokenizer
from vidllm.training.config import TrainConfig
from vidllm.training.data import RoomsData
from vidllm.training.loop import train
from vidllm.training.losses.targets import normalise
from vidllm.training.run import PATCH_SIZE
from vidllm.training.starting import VOCABULARY
from vidllm.training.teacher_runs import LanguageTeacherConfig, geometry_teacher, train_language_teacher
from vidllm.training.texts import keep_tokenizer, load_or_build_tokenizer, saved_tokenizer

Say = Callable[[str], None]
CONTRAST = 0.6  # of the language teacher's steps: contrast; the rest is instruction tuning


def tokenizer_of(config: AblationConfig) -> Path:
    """The folder of the tokenizer of all runs: that of the model they begin with, or one trained on the data."""
    folder, source = Path(config.out) / "tokenizer", config.init_from or config.language_from
    if source and saved_tokenizer(folder) is None:
        keep_tokenizer(read_tokenizer(model_of_run(source)), folder)
    load_or_build_tokenizer(folder, RoomsData(Path(config.data), PATCH_SIZE).paths, VOCABULARY)
    return folder


def typical_unit(data: str, scenes: int = 48, frames: int = 4) -> float:
    """Metres a unit of relative depth in the training data: the median over scenes of what lengths are divided by.

    It stands for the scale where a row measures none (no metric depth, or no alignment).
    """
    rooms, rng = RoomsData(Path(data), PATCH_SIZE), np.random.default_rng(0)
    found: list[float] = []
    while len(found) < scenes:
        batch = rooms.draw(rng, 4, frames, window=False)
        found += normalise(batch.depth_m, batch.extrinsics, batch.intrinsics).scale.tolist()
    return round(float(np.median(found)), 4)


def make_teachers(config: AblationConfig, say: Say) -> tuple[str, str]:
    """Both teachers of stage 1: those given, or our own, trained once for all rows."""
    geometry, language = config.teacher_geometry, config.teacher_language
    return geometry or _make_teacher("geometry", config, say), language or _make_teacher("language", config, say)


def _make_teacher(kind: str, config: AblationConfig, say: Say) -> str:
    out = Path(config.out) / "teachers" / kind
    settings = _geometry_teacher(config, out) if kind == "geometry" else _language_teacher(config, out)
    keep_plan(out, plain(telling(settings)))
    tell = partial(_tell_teacher, kind, say)

    def make() -> Record:
        shutil.copytree(tokenizer_of(config), out / "tokenizer", dirs_exist_ok=True)
        made = train(settings, tell) if isinstance(settings, TrainConfig) else train_language_teacher(settings, tell)
        shutil.rmtree(out / "checkpoints", ignore_errors=True)
        return {"model": str(made.relative_to(out))}

    return str(out / once(out, make)["model"])


def _tell_teacher(kind: str, say: Say, line: str) -> None:
    say(f"[{kind} teacher] {line}")


def _geometry_teacher(config: AblationConfig, out: Path) -> TrainConfig:
    names = ("window_scenes", "window_frames", "clip_images", "clip_frames", "learning_rate", "warmup_steps", "dtype",
             "device", "threads", "log_every", "save_minutes", "keep_checkpoints")  # fmt: skip
    alike = {name: getattr(config.joint, name) for name in names}
    return replace(
        geometry_teacher(), **alike, data=config.data, out=str(out), preset=config.preset, steps=config.teacher_steps
    )


def _language_teacher(config: AblationConfig, out: Path) -> LanguageTeacherConfig:
    names = ("clip_images", "clip_frames", "questions", "references", "captions", "warmup_steps", "dtype", "device",
             "threads", "log_every", "save_minutes", "keep_checkpoints")  # fmt: skip
    alike = {name: getattr(config.joint, name) for name in names}
    return replace(
        LanguageTeacherConfig(), **alike, data=config.data, out=str(out), preset=config.preset,
        steps=config.teacher_steps, contrastive_steps=round(CONTRAST * config.teacher_steps),
    )  # fmt: skip
