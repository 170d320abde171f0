"""The bundled clip with its ground truth: errors in metres, and which answers are right.

``weights/demo`` holds ``room.mp4`` (a walk through a procedural room), ``truth.npz`` (depth in millimetres at the
processed resolution, cameras and intrinsics of the frames that uniform sampling picks) and ``truth.json`` (questions
with answers, expressions with boxes in the scene frame). ``examples/make_demo_clip.py`` writes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from vidllm.english import answer_matches
from vidllm.evaluation.reconstruction_metrics import depth_on_frames
from vidllm.evaluation.scene_metrics import box_rows, scene_errors
from vidllm.geometry.boxes import iou_oriented
from vidllm.io.files import read_json_object, read_npz

if TYPE_CHECKING:
    from vidllm.scene import Scene

FOLDER = Path(__file__).parents[1] / "weights" / "demo"
CLIP = FOLDER / "room.mp4"


@dataclass(frozen=True)
class Truth:
    """depth_m (F,H,W), extrinsics (F,4,4) camera-from-room, questions and references as plain JSON values."""

    seed: int
    depth_m: np.ndarray
    extrinsics: np.ndarray
    intrinsics: np.ndarray
    questions: list[dict[str, Any]]
    references: list[dict[str, Any]]


def load_truth(folder: Path = FOLDER) -> Truth:
    """The ground truth of the clip. ValueError if the files are missing or damaged."""
    try:
        texts, arrays = read_json_object(folder / "truth.json"), read_npz(folder / "truth.npz")
        depth = arrays["depth_mm"].astype(np.float32) / 1000
        extrinsics, intrinsics = arrays["extrinsics"], arrays["intrinsics"]
    except (KeyError, ValueError) as error:
        raise ValueError(f"{folder}: cannot read the bundled clip's ground truth ({error}); install again") from error
    return Truth(texts["seed"], depth, extrinsics, intrinsics, texts["questions"], texts["references"])


def report(scene: Scene, truth: Truth) -> dict[str, Any]:
    """Errors in metres, degrees and ratios, and each answer and box beside the truth."""
    return {
        "clip": CLIP.name,
        "seed": truth.seed,
        "geometry": geometry_errors(scene, truth),
        "questions": [_answer(scene, item) for item in truth.questions],
        "references": [_find(scene, item) for item in truth.references],
        "units": "m",
        "frame": "scene",
    }


def geometry_errors(scene: Scene, truth: Truth) -> dict[str, Any]:
    """Depth abs-rel, scale error, median depth error (m), camera rotation (degrees) and translation (m) errors."""
    true = depth_on_frames(truth.depth_m, scene.frames)
    errors = scene_errors(scene, true, truth.extrinsics)
    return {
        "depth_abs_rel": errors["abs_rel"],
        "depth_error_m": float(np.median(np.abs(scene.depth.numpy() - true)[true > 0])),
        "scale_error": errors["scale_error"],
        "scale_spread": scene.scale.spread,
        "rotation_error_deg": errors["rotation_deg"],
        "translation_error_m": errors["translation_m"],
        "warnings": list(scene.scale.warnings),
    }


def _answer(scene: Scene, item: dict[str, Any]) -> dict[str, Any]:
    answer = scene.ask(item["question"], item.get("situation"))
    return {**item, "answer": answer, "right": answer_matches(answer, item["answers"])}


def _find(scene: Scene, item: dict[str, Any]) -> dict[str, Any]:
    """The best IoU of each true box; right if all reach 0.25, or if there is no true box and none was found."""
    several = len(item["boxes"]) != 1
    boxes = scene.ground(item["expression"], several=several)
    best = [0.0] * len(item["boxes"])
    if boxes and best:
        best = iou_oriented(box_rows(boxes), torch.tensor(item["boxes"])).max(0).values.tolist()
    return {
        "expression": item["expression"],
        "boxes": [box.as_dict() for box in boxes],
        "true_boxes": item["boxes"],
        "iou": best,
        "right": min(best) >= 0.25 if item["boxes"] else not boxes,
    }


def write_page(scene: Scene, results: dict[str, Any], folder: Path, more: Sequence[str] = ()) -> list[Path]:
    """The page of the clip with what was asked and found, and other formats; returns the paths."""
    boxes = [(item["expression"], scene.ground(item["expression"], False)[0]) for item in results["references"]
             if item["boxes"]]  # fmt: skip
    answers = [(item["question"], item["answer"]) for item in results["questions"]]
    return scene.save(folder, ["html", *more], [box for _, box in boxes], [name for name, _ in boxes], answers)


def lines(results: dict[str, Any]) -> list[str]:
    """The report as text."""
    geometry = results["geometry"]
    text = [
        f"{results['clip']} (procedural room {results['seed']}), from video alone",
        f"  depth        abs-rel {geometry['depth_abs_rel']:.3f}, median error {geometry['depth_error_m']:.2f} m",
        f"  scale        error {100 * geometry['scale_error']:.0f}%, images agree within "
        f"{100 * geometry['scale_spread']:.0f}%",
        f"  cameras      median error {geometry['rotation_error_deg']:.1f} deg, "
        f"{geometry['translation_error_m']:.2f} m",
    ]
    for item in results["questions"]:
        mark = "right" if item["right"] else f"wrong, it is: {item['answers'][0]}"
        asked = " ".join(filter(None, [item.get("situation"), item["question"]]))
        text.append(f"  {asked} {item['answer']} ({mark})")
    for item in results["references"]:
        text.append(f"  find: {item['expression']}: {_verdict(item)}")
    every = results["questions"] + results["references"]
    return [*text, f"  {sum(item['right'] for item in every)} of {len(every)} right"]


def _verdict(item: dict[str, Any]) -> str:
    found = f"{len(item['boxes'])} box{'' if len(item['boxes']) == 1 else 'es'}"
    if not item["true_boxes"]:
        return f"{found} (right, there is none)" if item["right"] else f"{found} (wrong, there is none)"
    ious = ", ".join(f"{v:.2f}" for v in item["iou"])
    return f"{found}, IoU {ious} ({'right' if item['right'] else 'wrong'} at 0.25)"
