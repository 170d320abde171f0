"""``vidllm eval reconstruction``: the metrics of ``reconstruction_metrics.py`` over the scenes of a ScanNet-like root.

Depth and cameras are compared at full resolution. For the point clouds every n-th pixel of every n-th row is taken of
both, n being the smallest that leaves ``MOST_POINTS`` a scene: thinner than the clouds' own voxels would be at a
distance, and the same for prediction and truth. The baseline is a flat wall before a camera that never moves.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vidllm.datasets.layout import DataRoot
from vidllm.evaluation.harness import Plan, Work
from vidllm.evaluation.prediction_files import Row
from vidllm.evaluation.reconstruction_metrics import (
    PosedDepth,
    depth_on_frames,
    known,
    pose_errors,
    reconstruction_metrics,
)
from vidllm.evaluation.recording import EvaluationScene, Recording
from vidllm.evaluation.results import model_record
from vidllm.evaluation.scene_metrics import CONSTANT_DEPTH_M, scene_errors
from vidllm.evaluation.tasks import Variant
from vidllm.io.captures import Capture
from vidllm.io.files import plain
from vidllm.io.frames import sampled_indices
from vidllm.model.calibration import DEVIATIONS
from vidllm.scene import Scene, VidLLM

MOST_POINTS = 200_000
WALL_FOV_DEG = 60.0  # horizontal field of view that the flat wall is seen with
WALL = Variant("flat-wall", "no-video")
_SETTINGS = ("raw", "given-poses")
_SOURCE = "TUM's definitions of ATE and RPE; VGGT's of the pose AUC (vidllm.evaluation.reconstruction_metrics)"
_SCALE = "metres, degrees, shares 0..1; ..._aligned and sim3: after alignment"


def _variants(settings: Sequence[str]) -> tuple[Variant, ...]:
    """The model in each setting, and the baseline; ValueError for another setting."""
    for name in settings:
        if name not in _SETTINGS:
            raise ValueError(f"no setting {name!r} of reconstruction; known: {', '.join(_SETTINGS)}")
    return *(Variant("vidllm", name) for name in dict.fromkeys(settings)), WALL


def scene_metrics(case: EvaluationScene, variant: Variant) -> dict[str, float]:
    """Metrics of one scene, of the model or of the baseline."""
    recording = case.recording
    truth = PosedDepth(recording.depth_m, recording.extrinsics, recording.intrinsics)
    predicted = _flat_wall(recording) if variant == WALL else _reconstructed(case, variant.setting)
    step = max(1, math.ceil(math.sqrt(truth.depth_m.size / MOST_POINTS)))
    return reconstruction_metrics(predicted, truth, step)


def _reconstructed(case: EvaluationScene, setting: str) -> PosedDepth:
    scene = case.placed(setting).scene
    return PosedDepth(scene.depth.numpy(), scene.extrinsics.double().numpy(), scene.intrinsics.double().numpy())


def _flat_wall(recording: Recording) -> PosedDepth:
    frames, height, width = recording.depth_m.shape
    focal = width / 2 / math.tan(math.radians(WALL_FOV_DEG / 2))
    intrinsics = np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
    depth = np.full((frames, height, width), CONSTANT_DEPTH_M, np.float32)
    return PosedDepth(depth, np.repeat(np.eye(4)[None], frames, 0), np.repeat(intrinsics[None], frames, 0))


def evaluate_reconstruction(
    plan: Plan,
    model: VidLLM,
    name: str | Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Row | None:
    """Measure the scenes of ``plan.root``: those named, else the list of the split, else all.

    Settings are ``raw`` (alone where the plan has none) and ``given-poses``, in which the model is given the true poses
    and intrinsics. Returns mean and median of each metric, as ``results.json`` has them (None but in rank 0).
    ValueError naming scenes that are missing or broken.
    """
    data = DataRoot(plan.root)
    scenes, variants = _scenes(plan, data), _variants(("raw",) if plan.settings is None else plan.settings)
    made_with = {
        **plan.record(model, scenes, len(scenes)), "annotations": {},
        "decoding": f"point clouds of at most {MOST_POINTS} pixels a scene", "model": model_record(name, model),
    }  # fmt: skip
    return Work(plan, {scene: [scene] for scene in scenes}, variants, made_with).run(
        lambda scene: EvaluationScene(data, scene, model, plan.frames), _row, _results, progress
    )


def _results(rows: dict[Variant, list[Row]]) -> Row:
    """The columns, and mean and median of every metric."""
    how: dict[str, Callable[[list[float]], Any]] = {"mean": np.mean, "median": np.median}
    return {"columns": [{"system": v.system, "setting": v.setting} for v in rows], "protocols": {
        name: {"source": _SOURCE, "scale": _SCALE, "scores": {
            v.name: _over_scenes(found, take) for v, found in rows.items()
        }} for name, take in how.items()
    }}  # fmt: skip


def _row(scene: EvaluationScene, variant: Variant) -> list[Row]:
    return [{"key": scene.scene_id, "scene_id": scene.scene_id, "figures": plain(scene_metrics(scene, variant))}]


def _scenes(plan: Plan, data: DataRoot) -> list[str]:
    there = data.scene_ids()
    absent = [scene for scene in plan.scenes if scene not in there]
    if absent:
        raise ValueError(f"--scenes: {plan.root} has no scene {absent[0]}; it has {', '.join(there[:3]) or 'none'} ...")
    listed = data.scene_list(plan.split)
    found = list(plan.scenes) or (there if listed is None else [scene for scene in listed if scene in there])
    if not found:
        raise ValueError(f"{plan.root}: no scene of the split {plan.split} is there; name some with --scenes")
    return found


def _over_scenes(rows: list[Row], take: Callable[[list[float]], Any]) -> dict[str, float | None]:
    """Each metric over the scenes that have it."""
    values: dict[str, list[float]] = {}
    for row in rows:
        for name, value in row["figures"].items():
            values.setdefault(name, []).extend([] if value is None else [value])
    return {name: float(take(found)) if found else None for name, found in values.items()}


# -- clips of one's own with ground truth (:mod:`vidllm.io.captures`)


def measure_clip(
    model: VidLLM, clip: Capture, num_frames: int | None = None, windows: int | None = None
) -> dict[str, float]:
    """Depth, scale and pose errors of a real clip, from its pictures alone.

    ``num_frames`` are spread over the clip; with ``windows``, the mean over so many runs of ``num_frames`` neighbours.
    ValueError for a clip without poses.
    """
    frames = [n for n in clip.usable if n in clip.depths]
    if clip.poses is None or not frames:
        raise ValueError(f"{clip.where}: measuring needs a pose and a depth map of each frame")
    count = min(num_frames or model.processor.image_processor.num_frames, len(frames))
    if windows is None:
        return _measure(model, clip, [frames[int(i)] for i in sampled_indices(len(frames), count)])
    starts = sorted({round(s) for s in np.linspace(0, len(frames) - count, windows)})
    found = [_measure(model, clip, frames[s : s + count]) for s in starts]
    return {name: float(np.mean([metrics[name] for metrics in found])) for name in found[0]}


def _measure(model: VidLLM, clip: Capture, chosen: Sequence[int]) -> dict[str, float]:
    assert clip.poses is not None
    scene = model.reconstruct([clip.picture(n) for n in chosen], len(chosen))
    extrinsics = np.linalg.inv(clip.poses[list(chosen)])
    true = np.concatenate([depth_on_frames(clip.depths[n]()[None], scene.frames) for n in chosen])
    still, _ = pose_errors(torch.eye(4).expand(len(chosen), 4, 4), torch.from_numpy(extrinsics).float())
    errors = scene_errors(scene, true, extrinsics)
    pose = {name: errors.pop(name) for name in ("rotation_deg", "translation_m")}
    return {
        "frames": float(len(chosen)),
        **errors,
        "rotation_deg": pose["rotation_deg"],
        "rotation_deg_if_still": float(still.median()),
        "translation_m": pose["translation_m"],
        "frames_agree": float(scene.frames_agree is not False),
        "spread": scene.scale.spread,
        **_in_intervals(scene, true, errors["scale_ratio"]),
    }


def _in_intervals(scene: Scene, true: np.ndarray, scale_ratio: float) -> dict[str, float]:
    """The share of true depths within the 90% interval of depth, and whether the true scale is within its own.

    nan without such an interval.
    """
    predicted, std, lengths = scene.depth.numpy(), scene.depth_std, scene.scale.of_length(1.0)
    valid = known(predicted, true)
    off = np.abs(predicted - true)[valid]
    return {
        "depth_in_90": math.nan if std is None else float((off <= DEVIATIONS * std.numpy()[valid]).mean()),
        "scale_in_90": math.nan if lengths is None else float(lengths[0] <= 1 / scale_ratio <= lengths[1]),
    }
