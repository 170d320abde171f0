"""Print one table: the losses of stage 1 before its first step, of a Vid-LLM initialised by ``vidllm import``.

    vidllm import --preset cascade --vggt VGGT --llava-3d LLAVA3D -o CASCADE
    vidllm import --preset paper --vggt VGGT --llava-3d LLAVA3D -o START
    python benchmarks/before_distillation.py START CASCADE --seeds 2000:2004

The cascade holds both teachers: VGGT's encoder and LLaVA-3D's CLIP.
"""

from __future__ import annotations

import argparse

import torch

import vidllm
from vidllm.baselines.cascade import CascadeForConditionalGeneration
from vidllm.cli.reading import seeds
from vidllm.evaluation.initialisation import start_of_distillation
from vidllm_rooms.shards import SIZES, render_scene


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
