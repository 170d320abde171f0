"""What is measured of a row and kept in its folder; one model's scale, estimated in several ways."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from vidllm.evaluation.harness import Plan, evaluate
from vidllm.evaluation.results import write_result
from vidllm.evaluation.scene_metrics import ROWS, Metrics, score_geometry
from vidllm.experiments.rows import AblationConfig, Table
from vidllm.io.files import plain, read_json_object
from vidllm.model.config_fields import flat
from vidllm.model.configuration import ScaleConfig
from vidllm.model.scale_alignment import measured_anew
from vidllm.scene import TINY, Scene, VidLLM, load
from vidllm.training.config import RunConfig
from vidllm.training.loop import Log
from vidllm.training.texts import ExtraQuestions

Record = dict[str, Any]

PLAN, TRAINED, RESULT = "plan.json", "trained.json", "result.json"
_UNTOLD = ("out", "init_from", "device", "threads", "log_every", "save_minutes", "keep_checkpoints", "trackers",
           "teacher_cache")  # fmt: skip


def telling(config: RunConfig) -> Record:
    """The fields of a run that its numbers rest on; where a row begins is told apart."""
    return {name: value for name, value in flat(config).items() if name not in _UNTOLD}


def once(folder: Path, make: Callable[[], Record]) -> Record:
    """What ``make`` told when it was last done in ``folder``; done now if it was not yet."""
    return read_json(folder / TRAINED) or write_json(folder / TRAINED, make())


def read_json(path: Path) -> Record | None:
    """A file written by :func:`write_json`, None where there is none or it is damaged."""
    with suppress(ValueError):
        return read_json_object(path)
    return None


def write_json(path: Path, value: Record) -> Record:
    """Write a result; returns the value as it will be read."""
    write_result(path, value)
    record: Record = plain(value)
    return record


@dataclass(frozen=True)
class Rooms:
    """Scenes with ground truth that the caller hands in, as functions that other processes can be given by name."""

    clip: Callable[[int, int], Any]  # (``rgb``, ``depth_m``, ``extrinsics``) of a seed, with so many frames
    evaluate: Callable[..., Metrics]  # of a model over seeds (``vidllm_rooms.evaluation.evaluate``)
    extra_questions: ExtraQuestions | None = None


def summary(metrics: Metrics) -> Record:
    """Means and medians of an evaluation, and those of its baselines, by the metrics' names."""
    how = {name: how for _, name, how, _ in ROWS}
    values = {name: getattr(metrics, how.get(name.removeprefix("baseline_"), "mean"))(name) for name in metrics.values}
    return {
        "values": {name: value for name, value in values.items() if not name.startswith("baseline_")},
        "baselines": {n.removeprefix("baseline_"): value for n, value in values.items() if n.startswith("baseline_")},
    }


def measure_scale(
    table: Table, config: AblationConfig, seeds: range, clip: Callable[[int, int], Any], say: Log
) -> list[list[Record]]:
    """Geometry of one model with each row's estimator; a seed draws which images vote.

    The relative reconstruction is computed once a room and scaled in every way.
    """
    place = Path(config.model) if config.model else TINY
    model, count = load(place), config.eval_frames or 24
    measured = {"rooms": [seeds.start, seeds.stop], "frames": count, "model": str(config.model or "shipped")}
    ways = [(row, seed) for row in table.rows for seed in config.seeds]
    files = [Path(config.out) / "scale" / row.key(config.preset) / f"seed_{seed}.json" for row, seed in ways]
    found = [read_json(file) for file in files]
    if all(result is not None and result["evaluation"] == measured for result in found):
        say(f"{table.title}: done")
    else:
        metrics = [Metrics() for _ in ways]
        for done, seed in enumerate(seeds, 1):
            scales = [replace(model.model.config.scale, **row.scale, seed=drawn) for row, drawn in ways]
            _score_ways(model, clip(seed, count), scales, metrics)
            if done % 4 == 0 or done == len(seeds):
                say(f"{table.title}: {done} of {len(seeds)} rooms")
        found = [
            write_json(file, {"row": row.name, "seed": seed, "evaluation": measured, **summary(one)})
            for file, (row, seed), one in zip(files, ways, metrics, strict=True)
        ]
    results = [result for result in found if result is not None]
    return [results[i : i + len(config.seeds)] for i in range(0, len(results), len(config.seeds))]


@torch.inference_mode()
def _score_ways(model: VidLLM, clip: Any, scales: Sequence[ScaleConfig], metrics: list[Metrics]) -> None:
    """Add a room's geometric metrics, once for each way to estimate its scale."""
    frames = model.processor.image_processor.read(clip.rgb, len(clip.rgb))
    seen = model.model.encode_scene(frames.images[None])
    geometry, prefix = seen.geometry, seen.prefix
    if geometry.metric_depth_m is None:
        raise ValueError("this model has no metric depth model, so that there is no scale to estimate; give another")
    for scale, one in zip(scales, metrics, strict=True):
        measured = measured_anew(geometry, geometry.metric_depth_m, scale)
        scene = Scene(model.model, model.processor, frames, measured, prefix)
        score_geometry(scene, clip.depth_m, clip.extrinsics, one)


# ---- the real benchmarks' figures of a row: its model on a data root, through the commands' own evaluation ----


@dataclass(frozen=True)
class Figure:
    """Where a number stands: task, protocol and the way to it in the scores; its heading and the paper's columns."""

    task: str
    protocol: str
    way: tuple[str, ...]
    heading: str
    columns: tuple[str, ...]


_BEST = ("deduplicated_known_only", "scores", "overall", "overall")
FIGURES: dict[str, Figure] = {
    "scanqa_cider": Figure("scanqa", "official", ("CIDEr",), "ScanQA CIDEr", ("ScanQA CIDEr",)),
    "scanqa_em": Figure("scanqa", "official", ("EM@1",), "ScanQA EM", ("ScanQA EM",)),
    "sqa3d_em": Figure("sqa3d", "leo", ("em_overall",), "SQA3D EM", ()),
    "scan2cap_cider": Figure("scan2cap", "cvpr21", ("@0.5IoU", "CIDEr"), "Scan2Cap C@0.5", ("Scan2Cap",)),
    "scanrefer_acc": Figure("scanrefer", "official", (*_BEST, "acc@0.25iou"), "ScanRefer Acc@0.25",
                            ("ScanRefer Acc@0.25", "ScanRefer")),
}  # fmt: skip


def measure_benchmarks(model: Path, root: Path, split: str, out: Path, frames: int | None = None) -> dict[str, float]:
    """Every figure of a model on the data under ``root``, from video alone; predictions are kept below ``out``.

    ValueError where the root lacks a benchmark or its scenes.
    """
    loaded, found = load(model), {}
    for name, figure in FIGURES.items():
        plan = Plan(figure.task, root, out, (figure.protocol,), split, frames=frames, settings=("raw",), baselines=())
        results = evaluate(plan, loaded, model)
        assert results is not None  # one process
        score = results["protocols"][figure.protocol]["scores"]["vidllm.raw"]
        for part in figure.way:
            score = score[part]
        found[name] = float(score)
    return found
