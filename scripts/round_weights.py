"""Round a saved model's matrices to fewer significant bits, so that version control packs them smaller.

    python scripts/round_weights.py runs/both/model src/vidllm/weights/tiny [--bits 7]

Half-precision matrices keep ``--bits`` of their 10 stored mantissa bits, rounded to nearest; vectors stay as they are.
What is measured is then the rounded model.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

MANTISSA = 10  # stored bits of float16


def rounded(weight: Tensor, bits: int) -> Tensor:
    """A float16 matrix whose mantissas have ``bits`` stored bits; other tensors unchanged."""
    if weight.dtype != torch.float16 or weight.ndim < 2:
        return weight
    drop = MANTISSA - bits
    whole = weight.contiguous().view(torch.int16)
    return ((whole + (1 << drop >> 1)) & (-1 << drop)).view(torch.float16)


def main() -> None:
    """Read the arguments, write every file of the folder anew."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--bits", type=int, default=7, choices=range(4, MANTISSA + 1))
    options = parser.parse_args()
    options.target.mkdir(parents=True, exist_ok=True)
    for file in sorted(options.source.iterdir()):
        if file.suffix != ".safetensors":
            shutil.copy(file, options.target / file.name)
            continue
        with safe_open(str(file), "pt") as opened:
            tensors = {name: rounded(opened.get_tensor(name), options.bits) for name in opened.keys()}  # noqa: SIM118
            save_file(tensors, options.target / file.name, opened.metadata())


if __name__ == "__main__":
    main()
