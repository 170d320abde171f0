"""Print one table: attention with its backward pass on one CPU thread, fused kernel against plain matrix products.

    python benchmarks/cpu_attention.py
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

SHAPES = ((4, 3, 744, 64), (32, 3, 93, 64))  # tiny: global attention over 8 frames of 4 scenes; the same frame-wise
REPEATS = 5


def plain(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(d)) v, written out."""
    return ((q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)).softmax(-1) @ v


def seconds(attention: Callable[..., Tensor], shape: tuple[int, ...], dtype: torch.dtype) -> float:
    """Median processor time of a forward and backward pass."""
    q, k, v = (torch.randn(shape, dtype=dtype, requires_grad=True) for _ in range(3))
    taken = []
    for _ in range(REPEATS):
        start = time.process_time()
        attention(q, k, v).sum().backward()
        taken.append(time.process_time() - start)
    return sorted(taken)[REPEATS // 2]


def main() -> None:
    """Measure every shape and precision, print the table."""
    torch.set_num_threads(1)
    print("| shape | dtype | fused, ms | plain, ms |\n|---|---|---|---|")
    for shape in SHAPES:
        for dtype in (torch.bfloat16, torch.float32):
            fused, written = (seconds(f, shape, dtype) for f in (F.scaled_dot_product_attention, plain))
            print(f"| {shape} | {str(dtype)[6:]} | {1e3 * fused:.0f} | {1e3 * written:.0f} |")


if __name__ == "__main__":
    main()
