"""Run a model over the scenes of a dataset: rows of each variant, shared by processes and resumed; then the scores.

Every scene is read, reconstructed from its frames alone and asked in all variants (``tasks.py``); the predictions of
each variant are a file (``prediction_files.py``), and the scores come from them through the functions that score any
file. Several processes (torchrun, accelerate) take the scenes in turn; the numbers do not depend on how many.
``results.json`` (of all tasks in one folder, with ``table.txt`` beside it) holds no time and no path: running again
gives the same bytes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

import torch.distributed as dist

from vidllm.datasets.layout import DataRoot
from vidllm.evaluation.baselines import LANGUAGE_ONLY, load_language_only, most_frequent_of
from vidllm.evaluation.predicting import MAX_ANSWER_TOKENS, MAX_CAPTION_TOKENS, Helpers, predict
from vidllm.evaluation.prediction_files import PredictionFile, claim
from vidllm.evaluation.protocols import protocol
from vidllm.evaluation.recording import EvaluationScene, box_reader
from vidllm.evaluation.results import (
    files_record,
    folder_record,
    model_record,
    publish,
    sha256_text,
    versions,
    write_result,
)
from vidllm.evaluation.tasks import (
    BASELINES_OF,
    SETTINGS,
    SOURCES,
    Item,
    Source,
    Task,
    Variant,
    refuse_repeats,
    task_named,
    variants,
)
from vidllm.io.processes import folder_lock
from vidllm.scene import VidLLM
from vidllm.training.distributed import ProcessGroup

Record = dict[str, Any]
_PATIENCE = timedelta(days=7)  # a process may be done long before the others
_GIVEN_BOXES = ("nr3d", "sr3d")  # tasks that are a choice among the annotated objects
_DECODING = {
    "answer": "greedy, at most {} new tokens",
    "caption": f"greedy, at most {MAX_CAPTION_TOKENS} new tokens",
    "box": "the grounding decoder's best boxes, nothing sampled",
}


def join_processes() -> ProcessGroup:
    """The processes that torchrun or accelerate started; a group of one when they did not."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized():
        dist.init_process_group("gloo", timeout=_PATIENCE)
    return ProcessGroup.from_environment()


def own_device(device: str) -> str:
    """``cuda`` as this process's own GPU; any other name as it is."""
    local = os.environ.get("LOCAL_RANK")
    return f"cuda:{local}" if device == "cuda" and local is not None else device


@dataclass(frozen=True)
class Plan:
    """What to run: a task of ``tasks.py``, or reconstruction, on the data under ``root``, written to ``out``.

    None leaves the choice to the task and the data: ``frames`` of each scene (the model's own number),
    ``settings``, whose boxes are given (``proposals``), ``baselines``. ``scenes``: these alone, or all that the
    annotations name. ``blind``: the folder of the language-only baseline.
    """

    task: str
    root: Path
    out: Path
    protocols: tuple[str, ...]
    split: str = "val"
    scenes: tuple[str, ...] = ()
    frames: int | None = None
    settings: tuple[str, ...] | None = None
    proposals: Source | None = None
    baselines: tuple[str, ...] | None = None
    blind: Path = LANGUAGE_ONLY

    @property
    def name(self) -> str:
        """``TASK.SPLIT``."""
        return f"{self.task}.{self.split}"

    def record(self, model: VidLLM, scenes: Iterable[str], items: int) -> Record:
        """The task, and what it runs over."""
        frames = model.processor.image_processor.num_frames if self.frames is None else self.frames
        return {"task": self.task, "split": self.split, "scenes": list(scenes), "items": items, "frames": frames}


@dataclass(frozen=True)
class Work:
    """The rows to predict: one for each of a scene's keys (in the order of the annotations), a file per variant.

    ``made_with`` is what the predictions depend on; a run with the same value reuses them.
    """

    plan: Plan
    wanted: Mapping[str, Sequence[str]]
    variants: tuple[Variant, ...]
    made_with: Record

    def run(
        self,
        open_scene: Callable[[str], EvaluationScene],
        predict: Callable[[EvaluationScene, Variant], list[Record]],
        score: Callable[[dict[Variant, list[Record]]], Record],
        progress: Callable[[int, int], None] | None = None,
    ) -> Record | None:
        """Predict what is missing, score all rows and publish the results; None in all processes but the first.

        ValueError where another command is writing the same results.
        """
        processes = join_processes()
        lock = folder_lock(self.plan.out, f".{self.plan.name}.lock") if processes.rank == 0 else nullcontext()
        with lock:
            files = self._predict(processes, open_scene, predict, progress)
            if processes.rank != 0:
                return None
            rows = {variant: file.gather() for variant, file in files.items()}
            return publish(self.plan.out, {**self.made_with, **score(rows)})

    def _predict(
        self,
        processes: ProcessGroup,
        open_scene: Callable[[str], EvaluationScene],
        predict: Callable[[EvaluationScene, Variant], list[Record]],
        progress: Callable[[int, int], None] | None,
    ) -> dict[Variant, PredictionFile]:
        folder, name = self.plan.out / "predictions", self.plan.name
        claim(folder / f"{name}.run.json", self.made_with, "choose another output folder, or delete it")
        files = {v: PredictionFile(folder, f"{name}.{v.name}", self.wanted, processes.rank) for v in self.variants}
        done = {variant: file.done() for variant, file in files.items()}
        for file in files.values():
            file.repair()
        mine = list(self.wanted)[processes.rank :: processes.size]
        left = [scene for scene in mine if any(scene not in done[variant] for variant in files)]
        progress = progress if processes.rank == 0 and left else None
        if progress is not None:
            progress(0, len(left))
        for count, scene in enumerate(left, 1):
            opened = open_scene(scene)
            for variant, file in files.items():
                if scene not in done[variant]:
                    file.append(predict(opened, variant))
            if progress is not None:
                progress(count, len(left))
        if processes.size > 1:
            dist.barrier()
        return files


def evaluate(
    plan: Plan,
    model: VidLLM,
    name: str | Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Record | None:
    """Predict, gather and score; returns what is written to ``OUT/results.json``, None in all processes but the first.

    ``name`` is the model's folder or hub id, for the checksums (None: the shipped one); ``progress`` is called with
    the numbers of scenes done and of all of the first process, from (0, all) on. ValueError where something is missing,
    unknown or contradictory.
    """
    run = Run(plan, model, name)
    wanted = {scene: [item.key for item in items] for scene, items in run.by_scene.items()}
    return Work(plan, wanted, run.variants, run.made_with).run(
        lambda scene: EvaluationScene(run.data, scene, model, plan.frames),
        lambda opened, variant: predict(run.task, variant, opened, run.by_scene[opened.scene_id], run.helpers),
        run.score,
        progress,
    )


class Run:
    """A plan with its data, items and variants."""

    def __init__(self, plan: Plan, model: VidLLM, name: str | Path | None = None) -> None:
        self.plan, self.model, self.name = plan, model, name
        self.task: Task = task_named(plan.task)
        for one in plan.protocols:
            protocol(plan.task, one)
        self.data = DataRoot(plan.root)
        self.items = self._items()
        self.variants = self._variants()

    def _items(self) -> list[Item]:
        plan = self.plan
        items = self.task.items(self.data.annotations(plan.task, plan.split))
        named = {item.scene_id for item in items}
        for scene in plan.scenes:
            if scene not in named:
                raise ValueError(f"--scenes: the {plan.task} annotations of {plan.split} name no scene {scene}")
        items = [item for item in items if not plan.scenes or item.scene_id in plan.scenes]
        refuse_repeats(plan.task, plan.split, items)
        there = set(self.data.scene_ids())
        absent = sorted({item.scene_id for item in items} - there)
        if absent:
            raise ValueError(
                f"{plan.root}: {len(absent)} scenes of the {plan.task} annotations are not there, the first is "
                f"{absent[0]}; fetch them, or name those to be used with --scenes"
            )
        return items

    @cached_property
    def by_scene(self) -> dict[str, list[Item]]:
        """The items of each scene, in the order of the annotations."""
        found: dict[str, list[Item]] = {}
        for item in self.items:
            found.setdefault(item.scene_id, []).append(item)
        return found

    def _variants(self) -> tuple[Variant, ...]:
        plan, kind = self.plan, self.task.kind
        source = plan.proposals
        if source is not None and source not in SOURCES:
            raise ValueError(f"--proposals: expected one of {', '.join(SOURCES)}, got {source!r}")
        if source is None and kind != "answer":
            mask3d = all(self.data.find(f"{scene}.mask.npz") is not None for scene in self.by_scene)
            source = "gt" if plan.task in _GIVEN_BOXES else "mask3d" if mask3d else None
        settings: Sequence[str] = plan.settings if plan.settings is not None else [
            one for one in SETTINGS if one != "given-poses"
            and (one != "proposals" or (kind != "answer" and source is not None))
        ]  # fmt: skip
        baselines = BASELINES_OF[kind] if plan.baselines is None else plan.baselines
        found = variants(kind, settings, source, baselines)
        return tuple(variant for variant in found if self._can(variant))

    def _can(self, variant: Variant) -> bool:
        """Whether a baseline's own data exist; ValueError if it was requested by name and they do not."""
        wanted = self.plan.baselines is not None
        if variant.system == "language-only" and self._blind is None:
            if wanted:
                raise ValueError(f"{self.plan.blind}: no language-only model here (config.json is missing)")
            return False
        if variant.system == "most-frequent" and self.task.withheld(self.items):
            return self.data.annotation_file(self.task.name, "train") is not None
        return True

    @cached_property
    def _blind(self) -> Any:
        return load_language_only(self.plan.blind)

    @cached_property
    def helpers(self) -> Helpers:
        """The language-only model and the most frequent text, where a variant needs them."""
        needed = any(variant.system == "most-frequent" for variant in self.variants)
        text, counted_over = most_frequent_of(self.task, self.data, self.items) if needed else ("", "")
        return Helpers(self._blind, text, counted_over)

    @cached_property
    def made_with(self) -> Record:
        """What the predictions depend on; a run with the same value reuses them."""
        kind, prompt = self.task.kind, self.task.prompt
        decoding = _DECODING[kind].format(self.task.answer_tokens or MAX_ANSWER_TOKENS)
        if self.model.model.speaker is not None:
            from vidllm.baselines.vision_language import MAX_NUMBERS, PROMPTS

            prompt = PROMPTS[kind]
            decoding = f"greedy, at most {MAX_NUMBERS} new tokens" if kind == "box" else decoding
        files = self.data.annotation_files(self.plan.task, self.plan.split)
        record: Record = {
            **self.plan.record(self.model, self.by_scene, len(self.items)),
            "annotations": files_record(files, self.plan.root),
            "prompt": {"template": prompt, "sha256": sha256_text(prompt)},
            "decoding": decoding,
            "model": model_record(self.name, self.model),
        }
        if self._blind is not None:
            record["language-only"] = folder_record(self.plan.blind)["sha256"]
        return record

    def score(self, rows: Mapping[Variant, list[Record]]) -> Record:
        """The columns, and the scores of the predictions under every protocol."""
        outputs = {variant: {row["key"]: row for row in found} for variant, found in rows.items()}
        scores: Record = {}
        if self.task.withheld(self.items):  # the file for the benchmark's server, as the answers are not ours to have
            for variant in self.variants:
                path = self.plan.out / f"submission.{self.plan.name}.{variant.name}.json"
                write_result(path, self.task.submission(self.items, outputs[variant], "official"))
        else:
            references = self.task.references(self.items, box_reader(self.data), self.data)
            scores = {one: self._scored(one, references, outputs) for one in self.plan.protocols}
        columns = [{"system": v.system, "setting": v.setting} for v in self.variants]
        for column in columns:
            if column["system"] == "most-frequent":
                column["counted_over"] = self.helpers.counted_over
        found = versions("torch", "transformers", "numpy")
        return {"columns": columns, "versions": found, "protocols": scores}

    def _scored(self, name: str, references: Any, outputs: dict[Variant, dict[str, Record]]) -> Record:
        entry = protocol(self.plan.task, name)
        scores: Record = {}
        for variant in self.variants:
            reason = self.task.why_not(entry.name, variant, self.data)
            if reason is None:
                submission = self.task.submission(self.items, outputs[variant], entry.name)
                scores[variant.name] = entry.score(references, submission)
            else:
                scores[variant.name] = {"not_available": reason}
        return {"source": entry.source, "scale": entry.scale, "scores": scores}
