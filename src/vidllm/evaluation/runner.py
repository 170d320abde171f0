"""Run a model on a benchmark and score it: predictions by column, then the protocols of ``registry.py``.

Every scene is read, reconstructed from its frames alone and asked in all columns (``settings.py``); each column's
predictions are files (``prediction_files.py``), and the scores come from them through the functions that score
anybody's file. Several processes (torchrun, accelerate) take the scenes in turn; the numbers do not depend on how many.
``results.json`` (of all tasks in one folder, with ``table.txt`` beside it) holds no time and no path: running again
gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from vidllm.datasets.layout import DataRoot
from vidllm.evaluation.annotated_boxes import box_reader
from vidllm.evaluation.baselines import most_frequent_of
from vidllm.evaluation.language_only import LANGUAGE_ONLY, load_language_only
from vidllm.evaluation.predicting import MAX_ANSWER_TOKENS, MAX_CAPTION_TOKENS, Helpers, predict
from vidllm.evaluation.prediction_files import PredictionFile, claim
from vidllm.evaluation.processes import Processes
from vidllm.evaluation.provenance import files_record, folder_record, model_record, sha256_text
from vidllm.evaluation.recording import SceneCase
from vidllm.evaluation.registry import protocol
from vidllm.evaluation.results import json_text, publish
from vidllm.evaluation.settings import BASELINES_OF, SETTINGS, SOURCES, Column, Source, columns
from vidllm.evaluation.tasks import Item, Task, refuse_repeats, task_named
from vidllm.io.atomic import atomic_path
from vidllm.scene import VidLLM

Record = dict[str, Any]
_GIVEN_BOXES = ("nr3d", "sr3d")  # tasks that are a choice among the annotated objects
_DECODING = {
    "answer": f"greedy, at most {MAX_ANSWER_TOKENS} new tokens",
    "caption": f"greedy, at most {MAX_CAPTION_TOKENS} new tokens",
    "box": "the grounding decoder's best boxes, nothing sampled",
}


@dataclass(frozen=True)
class Plan:
    """What to run. None leaves the choice to the task and to what is there.

    Attributes:
        task: scanqa, sqa3d, scan2cap, scanrefer, multi3drefer, nr3d or sr3d.
        root: of the data (``datasets.DataRoot``).
        out: folder of predictions and results.
        protocols: names of ``registry.py``.
        split: of the annotations.
        scenes: these alone; all that the annotations name when empty.
        frames: shown of each scene (None: the model's own number).
        settings: of ``settings.py`` (None: all that can be had).
        proposals: whose boxes are given.
        baselines: of ``settings.py`` (None: all that can be had).
        blind: folder of the language-only model.
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


def evaluate(
    plan: Plan,
    model: VidLLM,
    name: str | Path | None = None,
    tell: Callable[[int, int], None] | None = None,
) -> Record | None:
    """Predict, gather and score; returns what is written to ``OUT/results.json``, None in all processes but the first.

    Args:
        plan: what to run.
        model: the model, loaded.
        name: its folder or hub id, for the checksums (None: the shipped one).
        tell: hears (scenes done, scenes) of the first process's share, from (0, scenes) on.

    Raises:
        ValueError: something is missing, unknown or contradicts itself; the message names it and the remedy.
    """
    run = Run(plan, model, name)
    with run.processes.alone(plan.out, f"{plan.task}.{plan.split}"):
        run.predict(tell)
        run.processes.wait()
        return run.score() if run.processes.rank == 0 else None


class Run:
    """A plan with its data, items and columns at hand."""

    def __init__(self, plan: Plan, model: VidLLM, name: str | Path | None = None) -> None:
        self.plan, self.model, self.name = plan, model, name
        self.task: Task = task_named(plan.task)
        for one in plan.protocols:
            protocol(plan.task, one)
        self.data = DataRoot(plan.root)
        self.processes = Processes.from_environment()
        self.items = self._items()
        self.columns = self._columns()

    # ---- what is to be done -----------------------------------------------------------------------------------

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

    def _columns(self) -> tuple[Column, ...]:
        plan, kind = self.plan, self.task.kind
        source = plan.proposals
        if source is not None and source not in SOURCES:
            raise ValueError(f"--proposals: expected one of {', '.join(SOURCES)}, got {source!r}")
        if source is None and kind != "answer":
            mask3d = all(self.data.find(f"{scene}.mask.npz") is not None for scene in self.by_scene)
            source = "gt" if plan.task in _GIVEN_BOXES else "mask3d" if mask3d else None
        settings: Sequence[str] = plan.settings if plan.settings is not None else [
            one for one in SETTINGS if one != "proposals" or (kind != "answer" and source is not None)
        ]  # fmt: skip
        baselines = BASELINES_OF[kind] if plan.baselines is None else plan.baselines
        found = columns(kind, settings, source, baselines)
        return tuple(column for column in found if self._can(column))

    def _can(self, column: Column) -> bool:
        """Whether a baseline's own data are there; ValueError where it was asked for by name and they are not."""
        wanted = self.plan.baselines is not None
        if column.system == "language-only" and self._blind is None:
            if wanted:
                raise ValueError(f"{self.plan.blind}: no language-only model here (config.json is missing)")
            return False
        if column.system == "most-frequent" and self.task.withheld(self.items):
            return self.data.annotation_file(self.task.name, "train") is not None
        return True

    @cached_property
    def _blind(self) -> Any:
        return load_language_only(self.plan.blind)

    @cached_property
    def helpers(self) -> Helpers:
        """The language-only model and the most frequent text, where a column needs them."""
        return Helpers(self._blind, self._most_frequent[0])

    @cached_property
    def _most_frequent(self) -> tuple[str, str]:
        if not any(column.system == "most-frequent" for column in self.columns):
            return "", ""
        return most_frequent_of(self.task, self.data, self.items)

    # ---- predictions ------------------------------------------------------------------------------------------

    def files(self) -> dict[Column, PredictionFile]:
        """The file of each column."""
        plan = self.plan
        wanted = {scene: [item.key for item in items] for scene, items in self.by_scene.items()}
        folder, stem = plan.out / "predictions", f"{plan.task}.{plan.split}"
        rank = self.processes.rank
        return {c: PredictionFile(folder, f"{stem}.{c.name}", wanted, rank) for c in self.columns}

    def predict(self, tell: Callable[[int, int], None] | None = None) -> None:
        """Write the predictions of this process's scenes that are not there yet."""
        claim(self.plan.out / "predictions", f"{self.plan.task}.{self.plan.split}", self.made_with)
        files = self.files()
        done = {column: file.done() for column, file in files.items()}
        for file in files.values():
            file.mend()
        mine = self.processes.share(list(self.by_scene))
        left = [scene for scene in mine if any(scene not in done[column] for column in self.columns)]
        tell = tell if self.processes.rank == 0 and left else None
        if tell is not None:
            tell(0, len(left))
        for count, scene in enumerate(left, 1):
            case = SceneCase(self.data, scene, self.model, self.plan.frames)
            for column in self.columns:
                if scene not in done[column]:
                    files[column].append(predict(self.task, column, case, self.by_scene[scene], self.helpers))
            if tell is not None:
                tell(count, len(left))

    @cached_property
    def made_with(self) -> Record:
        """What the predictions depend on; another run with the same does not make them again."""
        frames = self.plan.frames
        files = self.data.annotation_files(self.plan.task, self.plan.split)
        record: Record = {
            "task": self.plan.task, "split": self.plan.split, "scenes": list(self.by_scene),
            "items": len(self.items),
            "frames": self.model.processor.image_processor.num_frames if frames is None else frames,
            "annotations": files_record(files, self.plan.root),
            "prompt": {"template": self.task.prompt, "sha256": sha256_text(self.task.prompt)},
            "decoding": _DECODING[self.task.kind],
            "model": model_record(self.name, self.model),
        }  # fmt: skip
        if self._blind is not None:
            record["language-only"] = folder_record(self.plan.blind)["sha256"]
        return record

    # ---- scores -----------------------------------------------------------------------------------------------

    def score(self) -> Record:
        """Gather the predictions, score them under every protocol, write and return the results."""
        rows = {column: file.gather() for column, file in self.files().items()}
        outputs = {column: {row["key"]: row for row in found} for column, found in rows.items()}
        results = {**self.made_with, "columns": [self._told(column) for column in self.columns]}
        if self.task.withheld(self.items):
            results["protocols"] = {}
            self._write_submissions(outputs)
        else:
            references = self.task.references(self.items, box_reader(self.data), self.data)
            results["protocols"] = {one: self._scored(one, references, outputs) for one in self.plan.protocols}
        return publish(self.plan.out, results)

    def _told(self, column: Column) -> Record:
        told = {"system": column.system, "setting": column.setting}
        return told | ({"counted_over": self._most_frequent[1]} if column.system == "most-frequent" else {})

    def _scored(self, name: str, references: Any, outputs: dict[Column, dict[str, Record]]) -> Record:
        entry = protocol(self.plan.task, name)
        scores: Record = {}
        for column in self.columns:
            reason = self.task.why_not(name, column, self.data)
            if reason is None:
                scores[column.name] = entry.score(references, self.task.submission(self.items, outputs[column], name))
            else:
                scores[column.name] = {"not_available": reason}
        return {"source": entry.source, "scale": entry.scale, "scores": scores}

    def _write_submissions(self, outputs: dict[Column, dict[str, Record]]) -> None:
        """The file for the benchmark's server, of every column, where the answers are not ours to have."""
        for column in self.columns:
            path = self.plan.out / f"submission.{self.plan.task}.{self.plan.split}.{column.name}.json"
            with atomic_path(path) as part:
                part.write_text(json_text(self.task.submission(self.items, outputs[column], "official")) + "\n")
