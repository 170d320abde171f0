"""Print one table: reconstruction errors of real clips with ground truth (recordings with depth: io/captures).

    python benchmarks/posed_clips.py CLIP [CLIP ...] [--model M] [--frames 8] [--windows 6] [--refine]

``scale_ratio``: told over true depth (median); ``frames_agree``: the share of runs not said to disagree;
``depth_in_90``, ``scale_in_90``: the share of true depths, and of true scales, within their told 90% intervals.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import vidllm
from vidllm.evaluation.reconstruction import measure_clip
from vidllm.io.captures import Capture, open_capture


def _clip(path: Path) -> Capture:
    found = open_capture(path)
    if found is None:
        raise SystemExit(f"{path}: no recording with depth and poses (docs/known_cameras.md)")
    return found


def main() -> None:
    """Read the arguments, measure every clip, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("clips", nargs="+", type=Path)
    parser.add_argument("--model", default=None)
    parser.add_argument("--frames", type=int, default=None)
    parser.add_argument("--windows", type=int, help="mean over so many runs of neighbours (default: one, spread)")
    parser.add_argument("--refine", action="store_true", help="docs/refinement.md")
    args = parser.parse_args()
    model = vidllm.load(args.model, refine=args.refine or None)
    rows = {path.name: measure_clip(model, _clip(path), args.frames, args.windows) for path in args.clips}
    names = list(next(iter(rows.values())))
    print("| clip | " + " | ".join(names) + " |")
    print("|---" * (len(names) + 1) + "|")
    mean = {name: sum(figures[name] for figures in rows.values()) / len(rows) for name in names}
    for clip, figures in [*rows.items(), ("mean", mean)]:
        print(f"| {clip} | " + " | ".join(f"{figures[n]:.3f}" for n in names) + " |")


if __name__ == "__main__":
    main()
