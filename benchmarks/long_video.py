"""Print one table: time, memory and accuracy of long videos in windows, beside the whole clip at once where it fits.

    python benchmarks/long_video.py [--frames 32 128 512 2048] [--whole-up-to 128] [--window 8] [--overlap 2] [--refine]

The video is a rendered walk through a procedural room with ground truth. Above ``--rendered`` frames the walk goes
there and back again. Each measurement runs in a process of its own: model loaded, reconstruction begun at a film on
disk and ended at the first answer. CPU seconds are those of one thread; memory is the process's peak (resident set)
while it reconstructs and answers, over what it takes before with the model loaded (Linux).
"""

from __future__ import annotations

import argparse
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from own_process import in_own_process, memory

COLUMNS = (
    ("CPU s", "cpu_s", ".1f"),
    ("wall s", "wall_s", ".1f"),
    ("peak MiB over model", "peak_mib", ".0f"),
    ("ATE m", "ate_m", ".3f"),
    ("ATE m, Sim(3)", "ate_sim3_m", ".3f"),
    ("rotation deg", "rotation_deg", ".2f"),
    ("step deg", "rpe_per_frame_deg", ".2f"),
    ("depth abs-rel", "abs_rel", ".3f"),
    ("aligned", "abs_rel_aligned", ".3f"),
)


def there_and_back(frames: int, rendered: int) -> list[int]:
    """Numbers of the rendered frames in the order of a walk that turns round at both ends."""
    period = list(range(rendered)) + list(range(rendered - 2, 0, -1))
    return [period[i % len(period)] for i in range(frames)]


def render(folder: Path, seed: int, rendered: int) -> None:
    """Write a room's frames and truth as ``room.npz``."""
    import numpy as np

    from vidllm_rooms.shards import render_scene

    clip, _ = render_scene(seed, rendered, 112, 140)
    np.savez(folder / "room.npz", rgb=clip.rgb, depth_m=clip.depth_m.astype(np.float16), extrinsics=clip.extrinsics)


def film(folder: Path, frames: int) -> None:
    """Write the film of so many frames."""
    import numpy as np

    from vidllm.io.video import write_video

    with np.load(folder / "room.npz") as room:
        write_video(folder / "walk.mp4", room["rgb"][there_and_back(frames, len(room["rgb"]))])


def measure(options: argparse.Namespace, folder: Path, frames: int, window: int | None, answer: Connection) -> None:
    """Send the figures of one reconstruction by name."""
    import torch

    import vidllm

    torch.set_num_threads(1)
    model = vidllm.load(options.model, refine=options.refine or None)
    if options.shorter_side:
        model.processor.image_processor.shorter_side = options.shorter_side
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before, wall, cpu = memory("VmRSS"), time.perf_counter(), time.process_time()
    scene = model.reconstruct(folder / "walk.mp4", frames, None, window or frames, options.overlap)
    scene.ask("How many chairs are there?")
    figures = {
        "wall_s": time.perf_counter() - wall,
        "cpu_s": time.process_time() - cpu,
        "peak_mib": (memory() - before) / 2**20,
    }
    answer.send({**figures, **accuracy(scene, folder)})


def accuracy(scene: Any, folder: Path) -> dict[str, float]:
    """Trajectory and depth errors against the room's truth."""
    import numpy as np
    import torch

    from vidllm.evaluation.reconstruction_metrics import (
        absolute_error_m,
        depth_metrics,
        depth_on_frames,
        pose_errors,
        relative_error,
    )

    with np.load(folder / "room.npz") as room:
        order = there_and_back(len(scene), len(room["extrinsics"]))
        depth_m, extrinsics = room["depth_m"].astype(np.float32), room["extrinsics"][order]
    one_each = depth_m[order[:: max(1, len(order) // 256)]]  # a share of the frames speaks for all
    kept = range(0, len(order), max(1, len(order) // 256))
    poses = scene.extrinsics
    return {
        "ate_m": absolute_error_m(poses.numpy(), extrinsics),
        "ate_sim3_m": absolute_error_m(poses.numpy(), extrinsics, with_scale=True),
        "rotation_deg": float(pose_errors(poses, torch.from_numpy(extrinsics).float())[0].median()),
        "rpe_per_frame_deg": relative_error(poses.numpy(), extrinsics)[1],
        **depth_metrics(scene.depth.numpy()[list(kept)], depth_on_frames(one_each, scene.frames)),
    }


def row(frames: int, how: str, figures: dict[str, float] | None) -> str:
    """A row of the table; a dash for what was not measured (it did not fit into memory)."""
    measured = figures or {}
    cells = [format(measured[name], form) if name in measured else "-" for _, name, form in COLUMNS]
    return f"| {frames} | {how} | " + " | ".join(cells) + " |"


def main() -> None:
    """Read the arguments, measure every length, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, nargs="+", default=[32, 128, 512, 2048])
    parser.add_argument("--whole-up-to", type=int, default=128, help="frames that are also taken as one clip")
    parser.add_argument("--window", type=int, default=8)
    parser.add_argument("--overlap", type=int, default=2)
    parser.add_argument("--rendered", type=int, default=128, help="different frames; longer walks turn round")
    parser.add_argument("--seed", type=int, default=1000, help="of the room")
    parser.add_argument("--shorter-side", type=int, default=None, help="pixels (default: the model's)")
    parser.add_argument("--refine", action="store_true", help="each window: docs/refinement.md")
    parser.add_argument("--model", default=None)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        render(folder, options.seed, options.rendered)
        print("| frames | how | " + " | ".join(title for title, _, _ in COLUMNS) + " |")
        print("|---" * (len(COLUMNS) + 2) + "|", flush=True)
        for frames in options.frames:
            film(folder, frames)
            windowed = in_own_process(measure, options, folder, frames, options.window)
            print(row(frames, f"windows of {options.window}, {options.overlap} shared", windowed), flush=True)
            if frames <= options.whole_up_to:
                whole = in_own_process(measure, options, folder, frames, None)
                print(row(frames, "whole clip", whole), flush=True)


if __name__ == "__main__":
    main()
