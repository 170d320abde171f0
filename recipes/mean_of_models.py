"""The weighted mean of two models of the same form, as int8: runs that go on from each other can be averaged.

    python recipes/mean_of_models.py A B OUT --share 0.7 language_model=0.5 grounding=1

``--share`` is that of B, in [0, 1]: of every part, then of single ones. All other files of OUT are those of B.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from vidllm.io.atomic import atomic_folder
from vidllm.model.compact_weights import load_compact, save_compact


def mean_of_models(first: Path, second: Path, out: Path, shares: list[str], largest_mib: float = 15) -> None:
    """Write the mean; ValueError for models of different forms, or for a part that they do not have."""
    of_all, *single = shares
    share = {name: float(value) for name, value in (part.split("=") for part in single)}
    before, after = load_compact(first), load_compact(second)
    shapes = [{name: weight.shape for name, weight in weights.items()} for weights in (before, after)]
    if shapes[0] != shapes[1]:
        raise ValueError(f"{first} and {second}: models of different forms have no mean")
    if unknown := share.keys() - {name.partition(".")[0] for name in after}:
        raise ValueError(f"--share {min(unknown)}: the models have no such part")
    mean = {n: w.lerp(after[n], share.get(n.partition(".")[0], float(of_all))) for n, w in before.items()}
    with atomic_folder(out) as folder:
        shutil.copytree(second, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("model.int8-*"))
        save_compact(mean, folder, largest_mib)


def main() -> None:
    """Read the arguments and write the mean."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs=3, type=Path, metavar=("A", "B", "OUT"))
    parser.add_argument("--share", nargs="+", default=["0.5"], help="of B: a number, then PART=NUMBER")
    given = parser.parse_args()
    mean_of_models(*given.models, given.share)


if __name__ == "__main__":
    main()
