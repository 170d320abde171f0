"""Write a saved model with int8 weights, which load as any others: a quarter of single precision's space.

    python scripts/compact_weights.py runs/both/model src/vidllm/weights/tiny [--shard-mib 15]

Prints the size and the mean relative error of the matrices. What is measured is then the model written here.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from safetensors import safe_open
from torch import Tensor

from vidllm.model.compact_weights import load_compact, save_compact
from vidllm.model.encoder import newer_names


def read_weights(folder: Path) -> dict[str, Tensor]:
    """All tensors of a folder's safetensors files; ValueError where there is none."""
    found: dict[str, Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(str(file), "pt") as opened:
            found.update({name: opened.get_tensor(name) for name in opened.keys()})  # noqa: SIM118
    if not found:
        raise ValueError(f"{folder}: no safetensors files there; give the folder of a saved model")
    return newer_names(found)


def relative_error(before: dict[str, Tensor], after: dict[str, Tensor]) -> float:
    """Root of the squared error of all matrices over that of their values."""
    names = [name for name, value in before.items() if value.ndim >= 2 and value.numel()]
    error = sum(float((after[n].double() - before[n].double()).square().sum()) for n in names)
    return float((error / sum(float(before[n].double().square().sum()) for n in names)) ** 0.5)


def main() -> None:
    """Read the arguments, write the folder, print what it costs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--shard-mib", type=float, default=15.0, help="largest file (default 15)")
    options = parser.parse_args()
    weights = read_weights(options.source)
    files = save_compact(weights, options.target, options.shard_mib)
    for file in sorted(options.source.iterdir()):
        if file.is_file() and not file.name.startswith("model"):
            shutil.copy(file, options.target / file.name)
    size = sum(file.stat().st_size for file in files) / 2**20
    error = relative_error(weights, load_compact(options.target))
    print(f"{size:.1f} MiB in {len(files)} files, relative error of the matrices {error:.4f}")


if __name__ == "__main__":
    main()
