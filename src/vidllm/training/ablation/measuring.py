"""What is measured of a row, and the table that needs no training: one model's scale, estimated in several ways."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from vidllm.evaluation.rooms import ROWS, Figures, score_geometry
from vidllm.model.configuration import ScaleConfig
from vidllm.model.scale_alignment import measured_anew
from vidllm.rooms.shards import SIZES, render_scene
from vidllm.scene import TINY, Scene, VidLLM, load
from vidllm.training.ablation.config import AblationConfig
from vidllm.training.ablation.files import Record, read_json, write_json
from vidllm.training.ablation.rows import Table

Say = Callable[[str], None]


@lru_cache(maxsize=512)
def remembered_room(seed: int, frames: int, height: int, width: int) -> Any:
    """A room that all rows are measured on, rendered once a process."""
    return render_scene(seed, frames, height, width)


def summary(figures: Figures) -> Record:
    """Means and medians of an evaluation, and those of its baselines, by the figures' names."""
    how = {name: how for _, name, how, _ in ROWS}
    told = {name: getattr(figures, how.get(name.removeprefix("baseline_"), "mean"))(name) for name in figures.values}
    return {
        "values": {name: value for name, value in told.items() if not name.startswith("baseline_")},
        "baselines": {n.removeprefix("baseline_"): value for n, value in told.items() if n.startswith("baseline_")},
    }


def measure_scale(table: Table, config: AblationConfig, rooms: range, say: Say) -> list[list[Record]]:
    """Geometry of one model with each row's estimator; a seed draws which images vote.

    The relative reconstruction is computed once a room and scaled in every way.
    """
    place = Path(config.model) if config.model else TINY
    model, count = load(place), config.eval_frames or 24
    measured = {"rooms": [rooms.start, rooms.stop], "frames": count, "model": str(config.model or "shipped")}
    ways = [(row, seed) for row in table.rows for seed in config.seeds]
    files = [Path(config.out) / "scale" / row.key(config.preset) / f"seed_{seed}.json" for row, seed in ways]
    found = [read_json(file) for file in files]
    if all(result is not None and result["evaluation"] == measured for result in found):
        say(f"{table.title}: done")
    else:
        figures = [Figures() for _ in ways]
        for done, seed in enumerate(rooms, 1):
            scales = [replace(model.model.config.scale, **row.scale, seed=drawn) for row, drawn in ways]
            _score_ways(model, seed, count, scales, figures)
            if done % 4 == 0 or done == len(rooms):
                say(f"{table.title}: {done} of {len(rooms)} rooms")
        found = [
            write_json(file, {"row": row.name, "seed": seed, "evaluation": measured, **summary(one)})
            for file, (row, seed), one in zip(files, ways, figures, strict=True)
        ]
    results = [result for result in found if result is not None]
    return [results[i : i + len(config.seeds)] for i in range(0, len(results), len(config.seeds))]


@torch.inference_mode()
def _score_ways(model: VidLLM, seed: int, count: int, scales: Sequence[ScaleConfig], figures: list[Figures]) -> None:
    """Add a room's geometric figures, once for each way to estimate its scale."""
    clip, _ = remembered_room(seed, count, *SIZES[seed % len(SIZES)])
    frames = model.processor.image_processor.read(clip.rgb, count)
    seen = model.model.encode_scene(frames.images[None])
    geometry, prefix = seen.geometry, seen.prefix
    if geometry.metric_depth_m is None:
        raise ValueError("this model has no metric depth model, so that there is no scale to estimate; give another")
    for scale, one in zip(scales, figures, strict=True):
        measured = measured_anew(geometry, geometry.metric_depth_m, scale)
        scene = Scene(model.model, model.processor, frames, measured, prefix)
        score_geometry(scene, clip, one)
