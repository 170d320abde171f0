"""What an ablation's rows share: tokenizer, teachers, the length for a missing scale; and what is kept in files.

A folder keeps what it is made with, what was trained, and what was measured.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from vidllm.evaluation.results import json_text, plain
from vidllm.experiments.rows import AblationConfig
from vidllm.io.atomic import atomic_path
from vidllm.io.files import read_json_object
from vidllm.io.weight_files import model_of_run
from vidllm.model.text import read_tokenizer
from vidllm.training.config import TrainConfig
from vidllm.training.data import RoomsData
from vidllm.training.loop import train
from vidllm.training.loop_config import LoopConfig
from vidllm.training.losses.targets import normalise
from vidllm.training.run import PATCH_SIZE
from vidllm.training.starting import VOCABULARY
from vidllm.training.teacher_runs import LanguageTeacherConfig, geometry_teacher, train_language_teacher
from vidllm.training.texts import keep_tokenizer, load_or_build_tokenizer, saved_tokenizer

Say = Callable[[str], None]
CONTRAST = 0.6  # of the language teacher's steps: contrast; the rest is instruction tuning
Record = dict[str, Any]

PLAN, TRAINED, RESULT = "plan.json", "trained.json", "result.json"
_UNTOLD = ("out", "init_from", "device", "threads", "log_every", "save_minutes", "keep_checkpoints", "trackers",
           "teacher_cache")  # fmt: skip


def keep_plan(folder: Path, plan: Record) -> None:
    """Write down what a folder is made with; ValueError naming what differs where it was made with something else."""
    before = read_json(folder / PLAN)
    if before is None:
        write_json(folder / PLAN, plan)
        return
    old, new = _flat(before), _flat(plan)
    differ = [f"{k} {old.get(k)} (now {new.get(k)})" for k in sorted({*old, *new}) if old.get(k) != new.get(k)]
    if differ:
        told = ", ".join(differ[:4]) + (f" and {len(differ) - 4} more" if len(differ) > 4 else "")
        raise ValueError(f"{folder} was made with {told}; give another --out, or delete that folder to train it again")


def _flat(plan: Record, before: str = "") -> Record:
    flat: Record = {}
    for name, value in plan.items():
        flat |= _flat(value, f"{before}{name}.") if isinstance(value, dict) else {f"{before}{name}": value}
    return flat


def telling(config: TrainConfig | LoopConfig) -> Record:
    """The fields of a run that its numbers rest on; where a row begins is told apart."""
    return {name: value for name, value in asdict(config).items() if name not in _UNTOLD}


def once(folder: Path, make: Callable[[], Record]) -> Record:
    """What ``make`` told when it was last done in ``folder``; done now if it was not yet."""
    return read_json(folder / TRAINED) or write_json(folder / TRAINED, make())


def read_json(path: Path) -> Record | None:
    """A file written by :func:`write_json`, None where there is none or it is damaged."""
    with suppress(ValueError):
        return read_json_object(path)
    return None


def write_json(path: Path, value: Record) -> Record:
    """Write atomically; returns the value as it will be read."""
    with atomic_path(path) as part:
        part.write_text(json_text(value) + "\n", encoding="utf-8")
    told: Record = plain(value)
    return told


# ---- what all rows have in common ----


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
