"""The weighted mean of two models of the same form, as int8: runs that go on from each other can be averaged.

    python recipes/mean_of_models.py A B OUT --share 0.7 language_model=0.5 grounding=1

``--share`` is that of B, in [0, 1]: of every part, then of single ones. The other files of OUT are those of B, but that
seen.json names what either has seen, and that nothing is calibrated (``vidllm rooms calibrate OUT``).
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from vidllm.datasets.seen import seen_or_unknown, write_seen
from vidllm.io.atomic import atomic_folder
from vidllm.model.calibration import FILE
from vidllm.model.compact_weights import load_compact, save_compact


def mean_of_models(first: Path, second: Path, out: Path, shares: list[str], largest_mib: float = 15) -> None:
    """Write the mean; ValueError for models of different forms, or for a part that they do not have."""
    of_all, *single = shares
    share = {name: float(value) for name, _, value in (part.partition("=") for part in (f"={of_all}", *single))}
    if not all(0 <= value <= 1 for value in share.values()):
        raise ValueError(f"--share {' '.join(shares)}: a share lies in 0 to 1")
    before, after = load_compact(first), load_compact(second)
    shapes = [{name: weight.shape for name, weight in weights.items()} for weights in (before, after)]
    if shapes[0] != shapes[1]:
        raise ValueError(f"{first} and {second}: models of different forms have no mean")
    if unknown := share.keys() - {"", *(name.partition(".")[0] for name in after)}:
        raise ValueError(f"--share {min(unknown)}: the models have no such part")
    mean = {
        name: weight.lerp(after[name], share.get(name.partition(".")[0], share[""]))
        if weight.is_floating_point() else after[name] for name, weight in before.items()
    }  # fmt: skip
    with atomic_folder(out) as folder:
        shutil.copytree(second, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("model.int8-*", FILE))
        save_compact(mean, folder, largest_mib)
        write_seen(folder, seen_or_unknown(first) | seen_or_unknown(second))


def main() -> None:
    """Read the arguments and write the mean."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs=3, type=Path, metavar=("A", "B", "OUT"))
    parser.add_argument("--share", nargs="+", default=["0.5"], help="of B: a number, then PART=NUMBER")
    given = parser.parse_args()
    mean_of_models(*given.models, given.share)


if __name__ == "__main__":
    main()
