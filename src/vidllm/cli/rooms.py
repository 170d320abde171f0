"""The commands of ``vidllm rooms``."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from vidllm.cli import reading
from vidllm.cli.options import ComputeOptions, Count, Effect, Flag, Frames, Output, Place, Seeds, Size, Verb


@dataclass(frozen=True)
class Render(Verb):
    """Render procedural rooms with ground truth, one folder per room."""

    seeds: Seeds  # seeds A to B - 1
    output: Output  # folder; created if missing
    frames: Count = 24  # frames per room
    size: Size = (240, 320)  # height and width of the frames in pixels

    def run(self) -> None:
        from vidllm_rooms.shards import render_scene, write_room

        folder = reading.writable_folder(self.output)
        tell = reading.Progress("rooms", len(self.seeds))
        for done, seed in enumerate(self.seeds, 1):
            clip, language = render_scene(seed, self.frames, *self.size)
            print(write_room(folder / f"room_{seed:06d}", clip, language))
            tell(done)


@dataclass(frozen=True)
class Export(Render):
    """Write rooms in the layouts of ScanNet and its language datasets; finished rooms are kept."""

    split: Literal["train", "val", "test"] = "val"  # split of the texts

    def run(self) -> None:
        from vidllm_rooms.official.export import export_rooms

        root = reading.writable_folder(self.output)
        tell = reading.Progress("rooms", len(self.seeds))
        height, width = self.size
        settings = {"frames": self.frames, "height": height, "width": width}
        for folder in export_rooms(root, self.seeds, split=self.split, **settings, tell=tell):
            print(folder)


@dataclass(frozen=True)
class Shards(Verb):
    """Render rooms as training shards; finished shards are kept. Prints the required space first."""

    EFFECTS = (Effect(("jobs",), "it needs shards to be written: leave --dry-run out", lambda o: not o.dry_run),)

    seeds: Seeds  # seeds A to B - 1
    output: Output  # folder of the shards
    frames: Count = 8  # frames per room
    shorter_side: int = 112  # shorter side of the frames in pixels, a multiple of 14 (tiny: 112; compact, paper: 518)
    look: Literal["plain", "life"] = "plain"
    """life: with clutter, close and shaking cameras and the artefacts of phone cameras"""
    jobs: Count = 1  # rendering processes
    dry_run: Flag = False  # print the required space, without writing anything

    def run(self) -> None:
        from vidllm_rooms.shards import plan_shards, shard_bytes, shard_path, write_shards

        folder = Path(self.output)
        plan = list(plan_shards(self.seeds.start, self.seeds.stop, shorter_side=self.shorter_side))
        missing = [p for p in plan if not shard_path(folder, *p, self.look).exists()]
        if len(missing) < len(plan):
            reading.note(f"{len(plan) - len(missing)} of {len(plan)} shards exist already")
        need = sum(shard_bytes(len(part), self.frames, height, width) for part, height, width in missing)
        reading.check_room(folder, need, f"{len(missing)} shards of {self.frames} frames a room")
        if not self.dry_run:
            reading.writable_folder(self.output)
            tell = reading.Progress("shards", len(missing))
            write_shards(folder, missing, self.frames, self.look, self.jobs, tell)
        print(folder)


@dataclass(frozen=True)
class Evaluate(Verb):
    """Evaluate a model and baselines on unseen rooms."""

    seeds: Seeds = range(1000, 1200)  # seeds A to B - 1
    json: Flag = False  # JSON on standard output
    blind: Place = None  # folder of the language-only baseline (default: the shipped one)
    frames: Frames = None  # frames to sample (default: the model's)
    compute: ComputeOptions = field(default_factory=ComputeOptions)

    def run(self) -> None:
        from vidllm.evaluation.baselines import LANGUAGE_ONLY, load_language_only
        from vidllm.evaluation.scene_metrics import table
        from vidllm_rooms.evaluation import evaluate

        model = self.compute.load()
        blind = load_language_only(Path(self.blind) if self.blind else LANGUAGE_ONLY)
        if blind is None and self.blind:
            raise ValueError(f"{self.blind}: no language-only baseline (config.json is missing)")
        rows = table(evaluate(model, self.seeds, blind, reading.Progress("rooms", len(self.seeds)), self.frames))
        seeds = reading.as_word(self.seeds)
        names = ("measure", "value", "baseline", "baseline_name")
        lines = [f"rooms {seeds}", f"{'measure':38s}{'value':>8s}{'baseline':>10s}"]
        for title, value, baseline, name in rows:
            other = "" if baseline is None or math.isnan(baseline) else f"{baseline:10.3f}  ({name})"
            lines.append(f"{title:38s}{value:8.3f}{other}")
        told = {"seeds": seeds, "rows": [dict(zip(names, row, strict=True)) for row in rows]}
        reading.show(self.json, told, lines)


@dataclass(frozen=True)
class Calibrate(Verb):
    """Calibrate a model's uncertainties on rooms and store the factors in its folder, or check stored ones."""

    model: Annotated[Positional[str | None], arg(metavar="MODEL", help_behavior_hint="")] = None
    """folder of a model (default: the shipped one)"""
    seeds: Seeds = range(600, 640)  # seeds A to B - 1, which should be in neither training nor test data
    check: Flag = False  # store nothing; print the coverage of the stored 90% intervals in these rooms
    closed_vocabulary: Flag = False
    """also store the vocabulary of the rooms: other words are replaced by the nearest of these, or refused"""
    json: Flag = False  # JSON on standard output

    def run(self) -> None:
        from vidllm.model.calibration import Calibration
        from vidllm.scene import load
        from vidllm_rooms.calibration import measure
        from vidllm_rooms.known_words import write_vocabulary

        model = load(self.model)
        folder = model.model.name_or_path
        stored = Calibration.read(folder) if self.check else None
        if self.check and stored is None:
            raise ValueError(f"{folder}: no calibration for these weights; leave --check out to make one")
        errors = measure(model, self.seeds, reading.Progress("rooms", len(self.seeds)))
        found = errors.calibration(reading.as_word(self.seeds)) if stored is None else stored
        if not self.check:
            reading.note(f"wrote {found.write(folder)}")
        if self.closed_vocabulary:
            reading.note(f"wrote {write_vocabulary(folder)}")
        held = errors.coverage(found)
        seeds = reading.as_word(self.seeds)
        shares = {name: {"share": share, "of": count} for name, (share, count) in held.items()}
        reading.show(self.json, {"calibrated_on": found.seeds, "seeds": seeds, "held": shares}, [
            f"90% intervals calibrated on rooms {found.seeds}, in rooms {seeds}",
            *(f"{name:12s}{100 * share:6.1f}% of {count}" for name, (share, count) in held.items()),
        ])  # fmt: skip
