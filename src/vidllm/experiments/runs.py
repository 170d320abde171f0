"""``vidllm ablate``: every row of a table trained and measured on rooms, with equal data, steps, seeds and start.

* Every row of a seed begins with the same weights wherever it has the same parts, and a row's joint training draws
  the same batches as the others'.
* Every row takes ``steps`` optimiser steps in all. The last ``language_steps`` train geometry and language jointly;
  before them comes geometry alone. A row of two stages spends ``stage1_steps`` of those first steps on distillation.
* Every row and seed is a folder below ``OUT/runs``: a killed ablation goes on where it was, what is finished is
  neither trained nor measured again, and other settings than those a folder was made with are refused.
"""

from __future__ import annotations

import multiprocessing
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vidllm.evaluation.baselines import LANGUAGE_ONLY, load_language_only
from vidllm.evaluation.prediction_files import claim
from vidllm.experiments.measuring import (
    PLAN,
    RESULT,
    Record,
    Rooms,
    measure_benchmarks,
    measure_scale,
    once,
    read_json,
    summary,
    telling,
    write_json,
)
from vidllm.experiments.rows import AblationConfig, Row, Table
from vidllm.experiments.tables import as_record, draw_curves, report
from vidllm.io.atomic import atomic_path
from vidllm.io.files import naming, plain, read_json_lines
from vidllm.io.processes import folder_lock
from vidllm.io.weight_files import model_of_run
from vidllm.model.config_fields import flat
from vidllm.model.huggingface import VidLLMForConditionalGeneration
from vidllm.model.loading import load_pretrained
from vidllm.model.text import read_tokenizer
from vidllm.pretrained.parts import find_geometry, find_tower
from vidllm.scene import load
from vidllm.training.config import TrainConfig, changed
from vidllm.training.data import RoomsData
from vidllm.training.language_teacher import LanguageTeacherConfig, geometry_teacher, train_language_teacher
from vidllm.training.loop import Log, to_stderr
from vidllm.training.losses import normalise
from vidllm.training.models import VOCABULARY, starting_model, write_model
from vidllm.training.plot import LOG_FILE
from vidllm.training.stage1 import Stage1Config, train_stage1
from vidllm.training.stage2 import train
from vidllm.training.texts import TextMaker, keep_tokenizer, load_or_build_tokenizer, saved_tokenizer

_REMEDY = "give another --out, or delete that folder to train it again"
CONTRAST = 0.6  # of the language teacher's steps: contrast; the rest is instruction tuning

NEW = ("adapter", "metric_depth")  # what every row learns from nothing: the ablation is about it
TRUE_GEOMETRY = 0.5  # of the joint steps: over them the share that is lifted with true geometry falls to nothing


@dataclass(frozen=True)
class Job:
    """One row with one seed, and what it needs to know of the others."""

    config: AblationConfig
    row: Row
    seed: int
    seeds: range
    rooms: Rooms
    teachers: tuple[str, str] | None
    unit_m: float
    label: str

    @property
    def folder(self) -> Path:
        """Where its runs and its result lie."""
        return _folder(self.config, self.row, self.seed)


def _folder(config: AblationConfig, row: Row, seed: int) -> Path:
    return Path(config.out) / "runs" / row.key(config.preset) / f"seed_{seed}"


def ablate(
    table: Table, config: AblationConfig, seeds: range, rooms: Rooms, say: Log | None = None
) -> list[list[Record]]:
    """Train (or resume) and measure every row with every seed; one list a row of one result a seed.

    Raises ValueError for settings that do not fit together, or that are not those of what lies in ``config.out``.
    """
    config.check()
    say = say or to_stderr
    with folder_lock(config.out):
        if not table.trained:
            return measure_scale(table, config, seeds, rooms.clip, say)
        teachers = make_teachers(config, say) if any(row.stage1 is not None for row in table.rows) else None
        tokenizer_of(config)
        unit_m, total = typical_unit(config.data), len(table.rows) * len(config.seeds)
        jobs: list[Job] = []
        for seed in config.seeds:  # all rows of a seed before the next: a table of fewer seeds is there early
            for row in table.rows:
                label = f"[{len(jobs) + 1}/{total}] {row.name}, seed {seed}"
                jobs.append(Job(config, row.of(config.preset), seed, seeds, rooms, teachers, unit_m, label))
        results = [run_job(job, say) for job in jobs] if config.jobs == 1 else _side_by_side(jobs, config.jobs)
        return [results[i :: len(table.rows)] for i in range(len(table.rows))]


def _side_by_side(jobs: Sequence[Job], count: int) -> list[Record]:
    folders = [job.folder for job in jobs]
    first = [job for i, job in enumerate(jobs) if job.folder not in folders[:i]]  # two rows may be one model
    with ProcessPoolExecutor(count, mp_context=multiprocessing.get_context("spawn")) as pool:
        made = dict(zip((job.folder for job in first), pool.map(run_job, first), strict=True))
    return [made[folder] for folder in folders]


def run_job(job: Job, say: Log = to_stderr) -> Record:
    """Train the row (or go on, or see that it is done), measure it, and keep the result beside it."""
    joint, stage1 = joint_config(job), stage1_config(job)
    plan = plain({"joint": telling(joint), "stage1": stage1 and telling(stage1), "changes": job.row.changes,
                  "init_from": job.config.init_from, "language_from": job.config.language_from})  # fmt: skip
    claim(job.folder / PLAN, plan, _REMEDY)
    done = once(job.folder, lambda: _train(job, joint, stage1, say))
    blind = Path(job.config.blind) if job.config.blind else LANGUAGE_ONLY
    for name in ("start", "stage1/model", "stage1/checkpoints", "joint/checkpoints"):  # gigabytes over all rows
        shutil.rmtree(job.folder / name, ignore_errors=True)
    rooms, frames = [job.seeds.start, job.seeds.stop], job.config.eval_frames
    measured: Record = {"rooms": rooms, "frames": frames, "blind": blind.name}
    if job.config.benchmarks:
        measured["benchmarks"] = [Path(job.config.benchmarks).name, job.config.benchmark_split]
    found = read_json(job.folder / RESULT)
    if found is not None and found["evaluation"] == measured:
        say(f"{job.label}: done")
        return found

    def tell(count: int) -> None:
        if count % 16 == 0 or count == len(job.seeds):
            say(f"{job.label} | measured in {count} of {len(job.seeds)} rooms")

    model = load(job.folder / done["model"])
    figures = job.rooms.evaluate(model, job.seeds, load_language_only(blind), tell, frames)
    result = {"row": job.row.name, "seed": job.seed, "training": plan, "evaluation": measured, **summary(figures),
              "parameters": done["parameters"], "seconds": done["seconds"]}  # fmt: skip
    if job.config.benchmarks:
        root, split = Path(job.config.benchmarks), job.config.benchmark_split
        out = job.folder / f"benchmarks.{root.name}"
        say(f"{job.label} | {root}, {split}")
        result["values"] |= measure_benchmarks(job.folder / done["model"], root, split, out, job.config.eval_frames)
    return write_json(job.folder / RESULT, result)


def joint_config(job: Job) -> TrainConfig:
    """The joint training of a row: what a row of one stage takes in place of distillation is geometry alone."""
    config = job.config
    steps = config.steps - (config.stage1_steps if job.row.stage1 is not None else 0)
    start = steps - config.language_steps
    return changed(
        config.joint, **job.row.changes, data=config.data, out=str(job.folder / "joint"), preset=config.preset,
        seed=job.seed, steps=steps, language_start=start, init_from=str(job.folder / "start"), unit_m=job.unit_m,
        true_geometry_until=start + round(TRUE_GEOMETRY * config.language_steps),
    )  # fmt: skip


def stage1_config(job: Job) -> Stage1Config | None:
    """The distillation of a row, None without."""
    if job.row.stage1 is None or job.teachers is None:
        return None
    config, (geometry, language) = job.config, job.teachers
    return changed(
        config.distil, **job.row.stage1, data=config.data, out=str(job.folder / "stage1"), preset=config.preset,
        seed=job.seed, steps=config.stage1_steps, init_from=str(job.folder / "start"), teacher_geometry=geometry,
        teacher_language=language,
    )  # fmt: skip


def _train(job: Job, joint: TrainConfig, stage1: Stage1Config | None, say: Log) -> Record:

    def tell(stage: str, line: str) -> None:
        say(f"{job.label} | {stage} | {line}")

    if not (job.folder / "start" / "config.json").exists():
        write_start(job)
    if stage1 is not None:
        joint = changed(joint, init_from=str(train_stage1(stage1, partial(tell, "stage 1"))))
    model = train(joint, partial(tell, "joint"), job.rooms.extra_questions)
    parameters = sum(p.numel() for p in load_pretrained(str(model))[0].parameters())
    stages = {"stage1": stage1, "joint": joint}
    seconds = {name: _seconds(Path(stage.loop.out)) for name, stage in stages.items() if stage is not None}
    return {"model": str(model.relative_to(job.folder)), "parameters": parameters, "seconds": seconds}


def _seconds(run: Path) -> float:
    """Time of a run by its log, over all the times it was resumed."""
    log = run / LOG_FILE
    with naming(log, "delete it"):
        seconds = [float(line["seconds"]) for _, line in read_json_lines(log)] if log.exists() else []
    return round(sum((a for a, b in zip(seconds, [*seconds[1:], 0.0], strict=False) if b < a), 0.0), 1)


def write_start(job: Job) -> None:
    """The model that a row begins with: fresh weights of the seed, the same as the other rows' wherever parts agree."""
    config = job.config
    texts = TextMaker(load_or_build_tokenizer(tokenizer_of(config), [], VOCABULARY))
    whole = changed(config.joint, preset=config.preset, language_from=config.language_from, unit_m=job.unit_m)
    models = []
    for settings in (changed(whole, **job.row.changes), whole):
        torch.manual_seed(job.seed)
        models.append(starting_model(settings.start, texts))
    model, full = models
    take_common(model, full)
    if config.init_from and not take_common(model, load_pretrained(config.init_from)[0], NEW):
        raise ValueError(f"{config.init_from}: none of its weights fit the preset {config.preset}; give a model of it")
    place = job.folder / "start"
    write_model(model, model.state_dict(), texts.tokenizer, place, torch.float32)


def take_common(
    model: VidLLMForConditionalGeneration, other: VidLLMForConditionalGeneration, but: tuple[str, ...] = ()
) -> int:
    """Copy the other's weights of the same name and shape, except in the parts named; returns how many tensors."""
    theirs, taken = other.state_dict(), 0
    for name, value in model.state_dict().items():
        if name.split(".")[0] not in but and name in theirs and theirs[name].shape == value.shape:
            value.copy_(theirs[name])
            taken += 1
    return taken


def publish(
    table: Table, config: AblationConfig, results: Sequence[Sequence[Record]], out: Path, command: str
) -> list[str]:
    """Write ``OUT/TABLE.json``, ``.md`` and, of trained rows, the curves as ``.png``; returns the table as text."""
    write_json(out / f"{table.name}.json", as_record(table, results, command))
    text = report(table, results, command, markdown=True)
    if table.trained:
        runs = [[_folder(config, row, seed) for seed in config.seeds] for row in table.rows]
        if draw_curves(table, runs, out / f"{table.name}.png"):
            text += ["", f"![Convergence of the joint training, a curve a row]({table.name}.png)"]
    with atomic_path(out / f"{table.name}.md") as part:
        part.write_text("\n".join(text) + "\n", encoding="utf-8")
    return report(table, results, command)


def tokenizer_of(config: AblationConfig) -> Path:
    """The folder of the tokenizer of all runs: that of the model they begin with, or one trained on the data."""
    folder, source = Path(config.out) / "tokenizer", config.init_from or config.language_from
    if source and saved_tokenizer(folder) is None:
        keep_tokenizer(read_tokenizer(model_of_run(source)), folder)
    load_or_build_tokenizer(folder, RoomsData(Path(config.data)).paths, VOCABULARY)
    return folder


def typical_unit(data: str, scenes: int = 48, frames: int = 4) -> float:
    """Metres a unit of relative depth in the training data: the median over scenes of what lengths are divided by.

    It stands for the scale where a row measures none (no metric depth, or no alignment).
    """
    rooms, rng = RoomsData(Path(data)), np.random.default_rng(0)
    found: list[float] = []
    while len(found) < scenes:
        batch = rooms.draw(rng, 4, frames, window=False)
        found += normalise(batch.depth_m, batch.extrinsics, batch.intrinsics).scale.tolist()
    return round(float(np.median(found)), 4)


_ALIKE = ("clip_images", "clip_frames", "warmup_steps", "dtype", "device", "threads", "log_every", "save_minutes",
          "keep_checkpoints")  # fmt: skip
#: A teacher's own settings, how it is trained, and which settings of the joint training it shares.
_TEACHERS: dict[str, tuple[Callable[[], Any], Callable[[Any, Log], Path], tuple[str, ...]]] = {
    "geometry": (geometry_teacher, train, (*_ALIKE, "window_scenes", "window_frames", "learning_rate")),
    "language": (LanguageTeacherConfig, train_language_teacher, (*_ALIKE, "questions", "references", "captions")),
}


def make_teachers(config: AblationConfig, say: Log) -> tuple[str, str]:
    """Both teachers of stage 1: those given, whose headers are read first, or our own, trained once for all rows."""
    if config.teacher_geometry:
        find_geometry(config.teacher_geometry, config.distil.geometry_source != "encoder")
    if config.teacher_language:
        find_tower(config.teacher_language)
    return (
        config.teacher_geometry or _make_teacher("geometry", config, say),
        config.teacher_language or _make_teacher("language", config, say),
    )


def _make_teacher(kind: str, config: AblationConfig, say: Log) -> str:
    out, (begin, run, alike) = Path(config.out) / "teachers" / kind, _TEACHERS[kind]
    own = {"contrastive_steps": round(CONTRAST * config.teacher_steps)} if kind == "language" else {}
    settings = changed(
        begin(), **{name: flat(config.joint)[name] for name in alike}, **own, data=config.data, out=str(out),
        preset=config.preset, steps=config.teacher_steps,
    )  # fmt: skip
    claim(out / PLAN, plain(telling(settings)), _REMEDY)

    def tell(line: str) -> None:
        say(f"[{kind} teacher] {line}")

    def make() -> Record:
        shutil.copytree(tokenizer_of(config), out / "tokenizer", dirs_exist_ok=True)
        made = run(settings, tell)
        shutil.rmtree(out / "checkpoints", ignore_errors=True)
        return {"model": str(made.relative_to(out))}

    return str(out / once(out, make)["model"])
