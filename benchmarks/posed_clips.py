"""Print one table: reconstruction errors of real clips with ground truth (folders; see evaluation/posed_clip.py).

    python benchmarks/posed_clips.py CLIP [CLIP ...] [--model M] [--frames 8] [--refine]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import vidllm
from vidllm.evaluation.posed_clip import measure_clip, read_posed_clip


def main() -> None:
    """Read the arguments, measure every clip, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("clips", nargs="+", type=Path)
    parser.add_argument("--model", default=None)
    parser.add_argument("--frames", type=int, default=None)
    parser.add_argument("--refine", action="store_true", help="docs/refinement.md")
    args = parser.parse_args()
    model = vidllm.load(args.model, refine=args.refine or None)
    rows = {path.name: measure_clip(model, read_posed_clip(path), args.frames) for path in args.clips}
    names = list(next(iter(rows.values())))
    print("| clip | " + " | ".join(names) + " |")
    print("|---" * (len(names) + 1) + "|")
    for clip, figures in rows.items():
        print(f"| {clip} | " + " | ".join(f"{figures[n]:.3f}" for n in names) + " |")


if __name__ == "__main__":
    main()
