"""A campaign of randomly damaged inputs: how many end as one clear line, and how many do not.

    python benchmarks/damaged_inputs.py --count 1000 --seed 0

Each trial takes one of the files that the commands read (tests/damaged_targets.py), damages it at random (cut, flipped
bits, random bytes written or removed, a value replaced, a special file) and runs the command in a process of its own.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from damaged import HARMLESS, attempt, damages  # noqa: E402
from damaged_targets import TARGETS, build_all  # noqa: E402

KINDS = ("traceback", "internal", "hang", "over 1 GB", "slow", "left behind", "unnamed", "accepted", "other")


def kind_of(fault: str) -> str:
    """The class of a fault's text (see :func:`damaged.fault`)."""
    words = {
        "hangs": "hang", "shows ['VIDLLM_DEBUG'": "internal", "shows": "traceback", "leaves": "left behind",
        "does not name": "unnamed", "accepted": "accepted",
    }  # fmt: skip
    if fault.startswith("takes"):
        return "over 1 GB" if fault.endswith("GB") else "slow"
    return next((kind for start, kind in words.items() if fault.startswith(start)), "other")


def main() -> None:
    """Run the campaign and print its figures; exit code 1 when anything was wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", help="targets whose name holds this text")
    options = parser.parse_args()
    from vidllm_rooms.shards import write_shard

    names = [name for name in TARGETS if options.only is None or options.only in name]
    rng, found, begun = np.random.default_rng(options.seed), Counter[str](), time.perf_counter()
    with tempfile.TemporaryDirectory() as place:
        rooms = Path(place) / "rooms"
        rooms.mkdir()
        write_shard(rooms, [10000, 10001], 4, 56, 70)
        build = build_all(Path(place) / "good", rooms)
        for number in range(options.count):
            name = str(rng.choice(names))
            kinds = [k for k in damages(TARGETS[name]) if k in HARMLESS or rng.random() < 0.4] or ["cut"]
            kind, seed = str(rng.choice(kinds)), int(rng.integers(2**31))
            fault = attempt(build, TARGETS[name], kind, Path(place) / "box", seed)
            if fault:
                found[kind_of(fault)] += 1
                print(f"{number}: {name}, {kind}, seed {seed}: {fault}", flush=True)
            if (number + 1) % 50 == 0:
                print(f"{number + 1} of {options.count}", file=sys.stderr, flush=True)
    print(f"{options.count} damaged inputs in {time.perf_counter() - begun:.0f} s")
    for kind in KINDS:
        print(f"  {kind:12s}{found[kind]:5d}")
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
