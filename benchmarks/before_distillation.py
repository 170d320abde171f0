"""Print one table: the losses of stage 1 before its first step, of a Vid-LLM initialised by ``vidllm import``.

    vidllm import --preset cascade --vggt VGGT --llava-3d LLAVA3D -o CASCADE
    vidllm import --preset paper --vggt VGGT --llava-3d LLAVA3D -o START
    python benchmarks/before_distillation.py START CASCADE --seeds 2000:2004

The cascade holds both teachers: VGGT's encoder and LLaVA-3D's CLIP.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor

import vidllm
from vidllm.baselines.cascade import CascadeForConditionalGeneration
from vidllm.cli.reading import seeds
from vidllm.model.modeling import Network
from vidllm.training.distillation import Streams, distillation_losses, resample_grid
from vidllm.training.teachers import clip_tokens
from vidllm_rooms.shards import SIZES, render_scene


@torch.no_grad()
def start_of_distillation(
    start: Network, cascade: CascadeForConditionalGeneration, images: Tensor
) -> dict[str, float]:
    """"geo", "lang" (Eq 6) and "structure" (Eq 7) of ``start`` against the cascade's encoder and CLIP, unweighted.

    What distillation has to close (docs/method.md, section 8): the geometric stream of a Vid-LLM initialised from VGGT
    and LLaVA-3D is the geometry teacher's; its language stream holds DINOv2's tokens where LLaVA-3D's projector was
    trained on CLIP's. Images (B, F, 3, H, W) in [0, 1]. ValueError where the two models' widths differ: then
    projections stand between them, which are random before training.
    """
    features, taught = start.encode(images), cascade.encoder(images)
    clip = clip_tokens(cascade.clip, images.flatten(0, 1), cascade.config.vision_layer)
    side = cascade.clip_side // cascade.clip_patch
    clip = resample_grid(clip.unflatten(0, images.shape[:2]), (side, side), features.encoder.grid)
    student = Streams(features.streams.geometry, features.streams.language)
    losses = distillation_losses(student, Streams(taught.tokens, clip))
    return {name: float(value) for name, value in losses.items()}


def main() -> None:
    """Render rooms, see them with both, print the losses."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("start")
    parser.add_argument("cascade")
    parser.add_argument("--seeds", default="2000:2004")
    parser.add_argument("--frames", type=int, default=4)
    args = parser.parse_args()
    start, teachers = vidllm.load(args.start), vidllm.load(args.cascade).model
    if not isinstance(teachers, CascadeForConditionalGeneration):
        raise SystemExit(f"{args.cascade}: expected a model of vidllm import --preset cascade")
    rows = []
    for seed in seeds(args.seeds):
        clip, _ = render_scene(seed, args.frames, *SIZES[seed % len(SIZES)])
        images = start.processor.image_processor.read(clip.rgb, args.frames).images[None]
        with torch.inference_mode():
            rows.append(start_of_distillation(start.model, teachers, images))
    print("| loss (Eqs 6 and 7) | before the first step | largest possible |\n|---|---|---|")
    for name, title, most in (("geo", "L_geo", "4"), ("lang", "L_lang", "2"), ("structure", "L_sc, streams", "")):
        print(f"| {title} | {sum(row[name] for row in rows) / len(rows):.4f} | {most} |")


if __name__ == "__main__":
    main()
