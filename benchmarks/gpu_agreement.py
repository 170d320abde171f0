"""Print how far a device's reconstructions and answers are from those of the CPU in float32.

    python benchmarks/gpu_agreement.py [--device cuda] [--seeds 1000:1004] [--model M]

Rooms are rendered here, no video is read. A row a type, float32 also with the TF32 that torch allows in convolutions:
the median and the largest difference of depth (relative), the largest of rotations (degrees) and of camera centres
(metres), and how many answers to the rooms' questions are the same, letter by letter.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch

import vidllm
from vidllm.cli.reading import seeds
from vidllm.datasets.language import Language
from vidllm.geometry.rotations import rotation_angle_deg
from vidllm_rooms.shards import SIZES, render_scene
from vidllm_rooms.world import Clip

FRAMES = 8
TYPES = (("float32", False), ("float32", True), ("bfloat16", False))  # and whether convolutions may round to TF32
Found = tuple[torch.Tensor, torch.Tensor, list[str]]


def found_by(model: vidllm.VidLLM, room: tuple[Clip, Language]) -> Found:
    """Depth (F,H,W), cameras (F,3,4) and answers of a room."""
    clip, language = room
    scene = model.reconstruct(list(clip.rgb), FRAMES, refine=False)
    answers = scene.ask_all([(item.question, item.situation) for item in language.questions])
    geometry = scene.geometry
    return geometry.depth_m[0].float().cpu(), geometry.extrinsics[0].double().cpu(), [str(each) for each in answers]


def row(name: str, ours: list[Found], theirs: list[Found]) -> str:
    """Differences over all rooms."""
    depth = torch.cat([((a[0] / b[0]).log().abs()).flatten() for a, b in zip(ours, theirs, strict=True)])
    degrees, metres = [], []
    for (_, a, _), (_, b, _) in zip(ours, theirs, strict=True):
        degrees.append(rotation_angle_deg(a[:, :, :3], b[:, :, :3]).max())
        metres.append((a[:, :, :3].mT @ a[:, :, 3:] - b[:, :, :3].mT @ b[:, :, 3:]).norm(dim=1).max())
    same = [x == y for a, b in zip(ours, theirs, strict=True) for x, y in zip(a[2], b[2], strict=True)]
    figures = (float(depth.median()), float(depth.max()), float(max(degrees)), float(max(metres)))
    return f"| {name} | " + " | ".join(f"{value:.2g}" for value in figures) + f" | {np.mean(same):.1%} of {len(same)} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--seeds", default="1000:1004")
    parser.add_argument("--model")
    options = parser.parse_args()
    rooms = [render_scene(seed, FRAMES, *SIZES[seed % len(SIZES)]) for seed in seeds(options.seeds)]
    reference = vidllm.load(options.model, "cpu", "float32")
    theirs = [found_by(reference, room) for room in rooms]
    print("| against float32, CPU | depth, median | depth, largest | rotation, degrees | centre, m | same answers |")
    print("|---|---|---|---|---|---|")
    for dtype, rounds in TYPES:
        torch.backends.cudnn.allow_tf32 = rounds
        model = vidllm.load(options.model, options.device, dtype)
        name = f"{options.device}, {dtype}" + ", TF32 in convolutions" * rounds
        print(row(name, [found_by(model, room) for room in rooms], theirs), flush=True)


if __name__ == "__main__":
    main()
