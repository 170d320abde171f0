"""Print one table: errors of depth, scale and points on rooms, with nothing known and with known cameras.

    python benchmarks/known_cameras.py --seeds 2000:2016 [--model M] [--frames 8] [--refine]
"""

from __future__ import annotations

import argparse

import numpy as np
import torch

import vidllm
from vidllm.cli.reading import seeds
from vidllm.evaluation.reconstruction_metrics import depth_on_frames
from vidllm.evaluation.scene_metrics import Metrics, scene_errors
from vidllm.geometry.cameras import relative_to_first, unproject
from vidllm.io.cameras.given import GivenCameras
from vidllm.scene import Scene
from vidllm_rooms.shards import SIZES, render_scene
from vidllm_rooms.world import Clip

KNOWN = ("nothing", "intrinsics", "poses, unknown scale", "poses", "intrinsics and poses, unknown scale",
         "intrinsics and poses")  # fmt: skip
ROWS = (("abs_rel", "mean"), ("abs_rel_aligned", "mean"), ("scale_error", "median"), ("points_m", "median"),
        ("rotation_deg", "median"), ("translation_m", "median"))  # fmt: skip
UNIT = 0.37  # metres a unit of the poses of "unknown" scale


def given(clip: Clip, known: str) -> GivenCameras | None:
    """The clip's own cameras, as far as they are ``known``."""
    poses = None
    if "poses" in known:
        poses = np.linalg.inv(clip.extrinsics)
        poses[:, :3, 3] /= UNIT if "unknown" in known else 1.0
    intrinsics = clip.intrinsics if "intrinsics" in known else None
    return None if known == "nothing" else GivenCameras(intrinsics, poses, metric="unknown" not in known)


def measure(scene: Scene, clip: Clip, figures: Metrics) -> None:
    """Add a scene's errors; points are compared pixel by pixel in the first camera's frame."""
    true = depth_on_frames(clip.depth_m, scene.frames)
    for name, value in scene_errors(scene, true, clip.extrinsics).items():
        figures.add(name, value)
    extrinsics = relative_to_first(torch.from_numpy(clip.extrinsics)[None])[0].float()
    intrinsics = (scene.frames.affine @ torch.from_numpy(clip.intrinsics)).float()
    apart = unproject(scene.depth, scene.intrinsics, scene.extrinsics) - unproject(
        torch.from_numpy(true).float(), intrinsics, extrinsics
    )
    figures.add("points_m", float(apart.norm(dim=-1)[torch.from_numpy(true) > 0].median()))


def main() -> None:
    """Render the rooms, reconstruct each with what is known, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", default="2000:2016")
    parser.add_argument("--model", default=None)
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--refine", action="store_true", help="docs/refinement.md")
    args = parser.parse_args()
    model = vidllm.load(args.model, refine=args.refine or None)
    found = {known: Metrics() for known in KNOWN}
    for seed in seeds(args.seeds):
        clip, _ = render_scene(seed, args.frames, *SIZES[seed % len(SIZES)])
        for known, figures in found.items():
            measure(model.reconstruct(clip.rgb, args.frames, cameras=given(clip, known)), clip, figures)
    print("| known | " + " | ".join(f"{name}, {how}" for name, how in ROWS) + " |")
    print("|---" * (len(ROWS) + 1) + "|")
    for known, figures in found.items():
        print(f"| {known} | " + " | ".join(f"{getattr(figures, how)(name):.3f}" for name, how in ROWS) + " |")


if __name__ == "__main__":
    main()
