"""Print one table: peak memory and time of Eq 7 with its backward pass, through C x C products and as it is written.

    python benchmarks/gram_memory.py [--device cuda] [--width 1024] [--frames 1 2 4 8 16 32]

Tokens of both streams: M = 2 x frames x 37 x 49. Each measurement runs in a process of its own.
"""

from __future__ import annotations

import argparse
import time
from multiprocessing.connection import Connection

from own_process import in_own_process, memory

PATCHES = 37 * 49


def measure(form: str, rows: int, width: int, device: str, answer: Connection) -> None:
    """Send (peak MiB over what the tokens take, seconds)."""
    import torch

    from vidllm.training.distillation import gram_loss, unit

    def direct(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        return (student @ student.T - teacher @ teacher.T).square().sum() / len(student) ** 2

    loss = gram_loss if form == "products" else direct
    student = torch.randn(rows, width, device=device, requires_grad=True)
    teacher = unit(torch.randn(rows, width, device=device))
    before, start = peak(device), time.perf_counter()
    loss(unit(student), teacher).backward()
    after = peak(device)
    answer.send((after - before, time.perf_counter() - start))


def peak(device: str) -> float:
    """Peak memory so far, MiB."""
    import torch

    if device == "cpu":
        return memory() / 2**20
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() / 2**20


def columns(form: str, rows: int, width: int, device: str) -> str:
    """One measurement as two columns; a dash where it does not fit."""
    measured = in_own_process(measure, form, rows, width, device)
    if measured is None:
        return "- | -"
    memory, seconds = measured
    return f"{memory:.0f} | {seconds:.2f}"


def main() -> None:
    """Read the arguments, measure every size, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--frames", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32])
    parser.add_argument("--direct-up-to", type=int, default=4, help="frames; the written form takes 12 M^2 bytes")
    options = parser.parse_args()
    print("| frames | M | products, MiB | s | as written, MiB | s |\n|---|---|---|---|---|---|")
    for frames in options.frames:
        rows = 2 * frames * PATCHES
        ours = columns("products", rows, options.width, options.device)
        direct = "- | -"
        if frames <= options.direct_up_to:
            direct = columns("direct", rows, options.width, options.device)
        print(f"| {frames} | {rows} | {ours} | {direct} |", flush=True)


if __name__ == "__main__":
    main()
