"""Print one table: frames a second from recordings and from exported pictures, and peak memory by number of scenes.

    python benchmarks/reading_speed.py [--frames 60] [--scenes 1,4,16] [--colour 1296x968] [--depth 640x480]

The scenes are made here, in a temporary folder, in the sizes of ScanNet. Every measurement is a process of its own, so
that its peak memory is its own; every frame is read whole: colour, depth and pose. All scenes stay open meanwhile.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
from own_process import in_own_process, memory
from PIL import Image

from vidllm.datasets.layout import DataRoot
from vidllm.datasets.sens import write_sens

FORMS = ("sens", "posed_images")
Size = tuple[int, int]


def frames(count: int, colour: Size, depth: Size) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Textured pictures and a tilted plane with noise, seen from a moving camera."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 255, (colour[0] // 16, colour[1] // 16, 3), dtype=np.uint8)
    texture = np.asarray(Image.fromarray(coarse).resize(colour[::-1], Image.Resampling.BICUBIC))
    plane = np.linspace(900, 4000, depth[0])[:, None] + rng.integers(0, 12, depth)
    for frame in range(count):
        pose = np.eye(4)
        pose[0, 3] = 0.02 * frame
        yield np.roll(texture, 5 * frame, 1), (plane + frame).astype(np.uint16), pose


def make_scenes(root: Path, scenes: int, count: int, colour: Size, depth: Size) -> None:
    """One scene in both forms, and links to it under other names: each is opened and indexed for itself."""
    folder, posed = root / "scans" / "scene0000_00", root / "posed_images" / "scene0000_00"
    folder.mkdir(parents=True)
    posed.mkdir(parents=True)
    cameras = []
    for height, width in (colour, depth):
        camera = np.diag([0.9 * width, 0.9 * width, 1, 1])
        camera[:2, 2] = (width - 1) / 2, (height - 1) / 2
        cameras.append(camera)
    write_sens(folder / "scene0000_00.sens", frames(count, colour, depth), cameras[0], cameras[1])
    for index, (rgb, millimetres, pose) in enumerate(frames(count, colour, depth)):
        Image.fromarray(rgb).save(posed / f"{index:05d}.jpg", quality=95)
        Image.fromarray(millimetres).save(posed / f"{index:05d}.png")
        np.savetxt(posed / f"{index:05d}.txt", pose)
    for number in range(1, scenes):
        name = f"scene{number:04d}_00"
        (root / "scans" / name).mkdir()
        (root / "scans" / name / f"{name}.sens").hardlink_to(folder / "scene0000_00.sens")
        (root / "posed_images" / name).symlink_to(posed)


def measure(root: Path, form: str, scenes: int, answer: Connection) -> None:
    """Read every frame of the first `scenes` scenes; send frames, seconds and the peak of this process in bytes."""
    data = DataRoot(root)
    opened = [data.scene(name, "sens" if form == "sens" else "posed_images") for name in data.scene_ids()[:scenes]]
    begin, total = time.perf_counter(), 0
    for scene in opened:
        for frame in scene.uniform_frames(None).tolist():
            assert scene.colour(frame).any() and scene.depth_m(frame).any()
            total += 1
    answer.send((total, time.perf_counter() - begin, memory()))


def size(text: str) -> Size:
    """``WxH`` as (H, W)."""
    width, height = (int(word) for word in text.split("x"))
    return height, width


def main() -> None:
    """Make the scenes, measure each form and number of scenes in a process of its own, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=60)
    parser.add_argument("--scenes", default="1,4,16")
    parser.add_argument("--colour", type=size, default=size("1296x968"))
    parser.add_argument("--depth", type=size, default=size("640x480"))
    args = parser.parse_args()
    counts = [int(word) for word in args.scenes.split(",")]
    print("| form | scenes | frames | frames/s | peak memory MiB |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        make_scenes(Path(folder), max(counts), args.frames, args.colour, args.depth)
        for form in FORMS:
            for count in counts:
                total, seconds, peak = in_own_process(measure, Path(folder), form, count)
                print(f"| {form} | {count} | {total} | {total / seconds:.1f} | {peak >> 20} |", flush=True)


if __name__ == "__main__":
    main()
