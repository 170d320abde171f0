"""Print one table: seconds by part, with its lower bound by arithmetic, and peak memory, by number of frames.

    python benchmarks/full_size.py tiny --frames 8 16 32 64 128
    python benchmarks/full_size.py paper --device cuda --dtype bfloat16 [--language-dtype int4] [--offload cpu]
    python benchmarks/full_size.py paper --arithmetic --tflops 989 --bandwidth 4800 --utilisation 0.5

Weights are random and made on the device. Each number of frames has its own peak memory: on a GPU the count begins
anew, on a CPU the process does. Times are medians after a warm-up. The lower bound is a part's operations over the
rate of a large matrix product measured in the same process; for a generated token (and a question, if that is more)
the bytes of weights and cache over the measured bandwidth of a large copy. With -o FILE the table is written after each
number of frames: it stays where a later one fails or time runs out.
``--arithmetic`` runs nothing and prints lower bounds and memory for given rates.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from parts_timing import QUESTION_TOKENS, Settings, benchmark_config, measure

from vidllm.io.video import write_video
from vidllm.profiling import Extent, cache_bytes, costs, extent_of, language_bytes, memory, visual_tokens

BACKBONE = ("encoder and adapter", "global-frame attention")
SCENE = ("decode", *BACKBONE, "depth head", "metric depth", "scale", "lift", "scene into the language model")
#: Our rows by the parts that costs() tells.
PARTS = {
    "encoder and adapter": ("encoder", "cross-task adapter"),
    "global-frame attention": ("frame attention", "global attention", "camera and gravity heads"),
    "depth head": ("depth head",),
    "metric depth": ("metric depth model",),
    "lift": ("lift and projector",),
    "scene into the language model": ("language model: scene",),
    "question to first token": ("language model: question",),
}
#: What is measured beside the parts, by how it begins.
OTHERS = ("a token", "attention alone", "the same in", "global attention once", "plain LLaVA")
FIRST = "first answer, to its first token"
#: Seconds of VGGT's backbone on one H100 with FlashAttention-3, frames of 336 x 518 (its paper's table 9).
VGGT = {1: 0.04, 2: 0.05, 4: 0.07, 8: 0.11, 10: 0.14, 20: 0.31, 50: 1.04, 100: 3.12, 200: 8.75}
VGGT_SIZE = (336, 518)

Column = dict[str, str]


def floors(config: Any, extent: Extent, visual: int, flops: float, bandwidth: float, weights: str) -> dict[str, float]:
    """Seconds below which no part can go at these rates."""
    told = {row.name: row.flops for row in costs(config, extent, visual)}
    found = {name: sum(told[part] for part in parts) / flops for name, parts in PARTS.items()}
    cache = cache_bytes(config, visual + QUESTION_TOKENS, "float32" if weights == "float32" else "bfloat16")
    token = (language_bytes(config, weights) + cache) / bandwidth
    found["question to first token"] = max(found["question to first token"], token)
    return found | {FIRST: sum(found.values()), "a token": token}


def measured_column(found: dict[str, Any], settings: Settings) -> Column:
    """One number of frames: "seconds (lower bound)" by part, rates and memory; or why it failed."""
    if "failed" in found:
        print(f"{found['frames']} frames: {found['failed']}", file=sys.stderr)
        return {"failed": found["failed"][:60]}
    config = benchmark_config(settings.preset)
    extent = Extent(int(found["frames"]), int(found["height"]), int(found["width"]), config.encoder.patch_size)
    weights = settings.language_dtype or settings.dtype
    floor = floors(config, extent, int(found["visual tokens"]), found["flops"], found["bandwidth"], weights)
    times = {name: found[name] for name in (*SCENE, "question to first token") if name in found}
    times[FIRST] = sum(times.values())
    times |= {name: found[name] for name in found if name.startswith(OTHERS)}
    column = {name: seconds(value, floor.get(name)) for name, value in times.items()}
    column["tokens a second"] = f"{1 / found['a token']:.1f}"
    if (extent.height, extent.width) == VGGT_SIZE and extent.frames in VGGT:
        column["encoder to cameras"] = seconds(sum(found[name] for name in BACKBONE), None)
        column["VGGT's backbone as published, H100"] = f"{VGGT[extent.frames]:.2f}"
    vision = sum(floor[name] for name in PARTS if name in times and "language" not in name and "token" not in name)
    column["vision, share of the measured rate"] = f"{vision / sum(found[n] for n in PARTS if n in SCENE[:7]):.0%}"
    column["visual tokens"] = f"{found['visual tokens']:.0f}"
    column["peak memory, GB"] = f"{found['peak bytes'] / 1e9:.2f}"
    if settings.device != "cpu":
        column["scene beside weights, GB a frame"] = f"{found['scene bytes'] / extent.frames / 1e9:.3f}"
    column["matrix product, TFLOP/s"] = f"{found['flops'] / 1e12:.3g}"
    column["copy, GB/s"] = f"{found['bandwidth'] / 1e9:.3g}"
    return column


def arithmetic_column(options: argparse.Namespace, frames: int) -> Column:
    """One number of frames from the configuration alone: seconds at a share of the rates given, and bytes."""
    config = benchmark_config(options.preset)
    extent = _extent(options, frames)
    tokens = visual_tokens(config, extent)
    weights = options.language_dtype or options.dtype
    flops, bandwidth = 1e12 * options.tflops * options.utilisation, 1e9 * options.bandwidth * options.utilisation
    floor = floors(config, extent, tokens, flops, bandwidth, weights)
    column = {name: seconds(value, None) for name, value in floor.items()}
    column["TFLOP to the first token"] = f"{sum(row.flops for row in costs(config, extent, tokens)[:-2]) / 1e12:.1f}"
    if options.dtype == "bfloat16":
        column |= {f"GB, {name}": f"{count / 1e9:.2f}" for name, count in _plain(memory(config, extent, weights))}
    return column


def _plain(rows: list[tuple[str, int]]) -> list[tuple[str, int]]:
    """Names that do not hold sizes, so that columns share their rows."""
    return [(name.split(" (")[0], count) for name, count in rows]


def _extent(options: argparse.Namespace, frames: int) -> Extent:
    config = benchmark_config(options.preset)
    if options.size is None:
        return extent_of(config, frames)
    return Extent(frames, *options.size, config.encoder.patch_size)


def seconds(value: float, floor: float | None) -> str:
    """Three digits, and the lower bound in brackets."""
    return f"{value:.3g}" if floor is None else f"{value:.3g} ({floor:.2g})"


def in_process(settings: Settings) -> Iterator[dict[str, Any]]:
    """Measure in another process; of a number of frames at which it ended (out of memory), the last line it wrote."""
    command = [sys.executable, __file__, settings.preset, "--measure", json.dumps(asdict(settings))]
    told = 0
    with tempfile.TemporaryFile("w+") as log, subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=log, text=True
    ) as process:  # fmt: skip
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("{"):
                yield json.loads(line)
                told += 1
        if process.wait():
            log.seek(0)
            reason = ([line for line in log.read().splitlines() if line.strip()] or ["killed"])[-1]
            yield {"frames": settings.frames[told], "failed": reason}


def table(columns: dict[int, Column]) -> str:
    """Rows by name, one column a number of frames."""
    names = list(dict.fromkeys(name for column in columns.values() for name in column))
    head = " | ".join(f"{n} frames" for n in columns)
    lines = [f"| seconds (lower bound) | {head} |", "|---" * (len(columns) + 1) + "|"]
    lines += [f"| {name} | " + " | ".join(c.get(name, "") for c in columns.values()) + " |" for name in names]
    return "\n".join(lines)


def write_clip(path: Path, frames: int, size: tuple[int, int]) -> None:
    """A moving texture of 4 to 3, or of the shape that is measured."""
    coarse = np.random.default_rng(0).integers(0, 255, (size[0] // 8 + 1, size[1] // 8 + 1, 3), dtype=np.uint8)
    picture = coarse.repeat(8, 0).repeat(8, 1)[: size[0], : size[1]]
    write_video(path, np.stack([np.roll(picture, 3 * i, 1) for i in range(frames)]), fps=30)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("preset", choices=("tiny", "compact", "paper"))
    parser.add_argument("--frames", type=int, nargs="+", default=[8, 16, 32, 64, 128])
    parser.add_argument("--size", type=int, nargs=2, metavar=("H", "W"), help="pixels (default: of a video of 4 to 3)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="default: bfloat16, on a CPU float32")
    parser.add_argument("--language-dtype", choices=("int8", "int4"))
    parser.add_argument("--offload", choices=("cpu",), help="the language model's layers wait in the host's memory")
    parser.add_argument("--attention", choices=("FLASH_ATTENTION", "CUDNN_ATTENTION", "EFFICIENT_ATTENTION", "MATH"))
    parser.add_argument("--compile", action="store_true", help="torch.compile of the vision part's blocks")
    parser.add_argument("--cuda-graphs", action="store_true", help="also decode with a static cache (graphs on CUDA)")
    parser.add_argument("--llava", action="store_true", help="also a plain Hugging Face LLaVA with the same LM")
    parser.add_argument("--vggt", action="store_true", help="also VGGT's form of the attention, and each kernel alone")
    parser.add_argument("--no-video", action="store_true", help="noise in place of a video: nothing is decoded")
    parser.add_argument("--processor-time", action="store_true", help="CPU time instead of wall time")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="the table (default: standard output)")
    parser.add_argument("--arithmetic", action="store_true", help="run nothing; lower bounds for the rates that follow")
    parser.add_argument("--tflops", type=float, default=989.0, help="default: H200, bf16 dense, datasheet")
    parser.add_argument("--bandwidth", type=float, default=4800.0, help="GB/s; default: H200, datasheet")
    parser.add_argument("--utilisation", type=float, default=1.0, help="share of both rates that is reached")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.dtype is None:
        options.dtype = "float32" if options.device == "cpu" and not options.arithmetic else "bfloat16"
    return options


def main(arguments: list[str] | None = None) -> None:
    """Measure every number of frames, or work it out, and print the table."""
    options = parse(arguments)
    if options.measure:
        for found in measure(Settings(**json.loads(options.measure))):
            print(json.dumps(found), flush=True)
        return
    if options.arithmetic:
        print(table({frames: arithmetic_column(options, frames) for frames in options.frames}))
        return
    with tempfile.TemporaryDirectory() as folder:
        clip = None if options.no_video else Path(folder) / "clip.mp4"
        if clip is not None:
            write_clip(clip, max(options.frames), tuple(options.size) if options.size else (480, 640))
        same = ("preset", "device", "dtype", "language_dtype", "offload", "attention", "size", "compile", "llava",
                "vggt", "processor_time", "repeats")  # fmt: skip
        given = {name: getattr(options, name) for name in same} | {"static_cache": options.cuda_graphs}
        counts = [(frames,) for frames in options.frames] if options.device == "cpu" else [tuple(options.frames)]
        columns: dict[int, Column] = {}
        for frames in counts:
            settings = Settings(frames=frames, video=None if clip is None else str(clip), **given)
            for found in in_process(settings):
                columns[int(found["frames"])] = measured_column(found, settings)
                if options.output is not None:
                    options.output.write_text(table(columns) + "\n")
        if options.output is None:
            print(table(columns))


if __name__ == "__main__":
    main()
