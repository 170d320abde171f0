"""Print one table: answers and boxes of a model with parts of what it must see replaced by the truth.

    python benchmarks/what_bounds.py --seeds 0:64 [--model M] [--frames 8]

Each row gives the language half the true cameras, depth, or (trained on rooms only) names of all patches in place of
what the vision half made of the video. What a row gains is what that part costs.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

import vidllm
from vidllm.cli.reading import seeds
from vidllm.datasets.language import Language
from vidllm.evaluation.baselines import MEAN_BOX
from vidllm.evaluation.reconstruction_metrics import depth_on_frames
from vidllm.evaluation.scene_metrics import Metrics
from vidllm.io.frames import Frames
from vidllm.model.outputs import Geometry, VisualPrefix
from vidllm.scene import Scene
from vidllm.training.data import patch_classes
from vidllm.training.joint import true_geometry
from vidllm.training.losses import normalise
from vidllm.training.pictures import PATCH_SIZE
from vidllm.training.supervision.geometry import OracleFeatures
from vidllm_rooms.evaluation import score_grounding, score_questions
from vidllm_rooms.shards import SIZES, render_scene, scene_record
from vidllm_rooms.world import Clip
from vidllm_rooms.world.catalogue import LABELS

COLUMNS = {"qa": "QA EM", "acc_25": "Acc@0.25", "acc_50": "Acc@0.5", "f1_25": "several F1@0.25",
           "none_right": "no such object"}  # fmt: skip


def truth(clip: Clip, frames: Frames) -> Geometry:
    """The clip's own cameras and depth, on the frames as they were read."""
    extrinsics = torch.from_numpy(clip.extrinsics).float()[None]
    intrinsics = (frames.affine @ torch.from_numpy(clip.intrinsics)).float()[None]
    depth = torch.from_numpy(depth_on_frames(clip.depth_m, frames)).float()[None]
    return true_geometry(normalise(depth, extrinsics, intrinsics), extrinsics[:, 0, :3, 2])


def named(clip: Clip, language: Language, width: int) -> Tensor:
    """The named feature (1,F,P,C) of what lies at each patch's centre; the rooms' frames are read as they are."""
    instance = torch.from_numpy(clip.instance)[None]
    classes = patch_classes(instance, [scene_record(clip, language)], LABELS, PATCH_SIZE)
    names = OracleFeatures(width, *LABELS.sizes)
    return names.features(*classes)


def ways(frames: Frames, clip: Clip, language: Language, model: vidllm.VidLLM) -> Iterator[tuple[str, Scene]]:
    """The scene as it is read from the video, and with more and more of it true; what sees runs once."""
    net = model.model
    features = net.encode(frames.images[None])
    seen, true = net.metric_geometry(features, net.predict_cameras(features)), truth(clip, frames)
    cameras = replace(seen, extrinsics=true.extrinsics, up=true.up, scene_from_world=true.scene_from_world)
    depth = replace(seen, depth_m=true.depth_m, confidence=true.confidence, intrinsics=true.intrinsics)

    def known(geometry: Geometry, prefix: VisualPrefix | None = None) -> Scene:
        return Scene(net, model.processor, frames, geometry, prefix or net.build_visual_tokens(features, geometry))

    names = named(clip, language, features.streams.language.shape[-1])
    yield "video alone", known(seen)
    yield "true poses", known(cameras)
    yield "true depth and intrinsics", known(depth)
    yield "true poses, depth and intrinsics", known(true)
    shown = net.pool_patches(names, None, *net.patch_positions(true, features.encoder.grid))
    yield "and true names of all patches", known(true, shown)


@torch.inference_mode()
def main() -> None:
    """Render the rooms, ask everything in every way, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", default="0:64")
    parser.add_argument("--model", default=None)
    parser.add_argument("--frames", type=int, default=8)
    args = parser.parse_args()
    model, found = vidllm.load(args.model), {}
    for seed in seeds(args.seeds):
        clip, language = render_scene(seed, args.frames, *SIZES[seed % len(SIZES)])
        frames = model.processor.image_processor.read(clip.rgb, args.frames)
        for way, scene in ways(frames, clip, language, model):
            figures = found.setdefault(way, Metrics())
            score_questions(scene, language, None, figures)
            score_grounding(scene, clip, language, MEAN_BOX, figures)
        print(f"room {seed} of {args.seeds}", file=sys.stderr)
    print("| what is known | " + " | ".join(COLUMNS.values()) + " |")
    print("|---" * (len(COLUMNS) + 1) + "|")
    for way, figures in found.items():
        print(f"| {way} | " + " | ".join(f"{figures.mean(name):.3f}" for name in COLUMNS) + " |")


if __name__ == "__main__":
    main()
