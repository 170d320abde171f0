"""A model and the language-only one on VSI-Bench's eight tasks about test rooms, and how many times better it is.

    python benchmarks/vsi_rooms.py --model M --blind BLIND --seeds 1000:1100 -o OUT

exports the rooms, answers from the video alone and without it (``vidllm eval vsi --setting raw``) and prints every
task, then the overall scores side by side: over all questions, and over those that are not pruned. BLIND should be
trained on the same shards as M (``vidllm train blind``); one that never saw such questions cannot answer them, and the
ratio says nothing. The same command goes on where it was stopped, and prints finished scores again.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from vsi_without_video import guesses

from vidllm.evaluation.baselines import LANGUAGE_ONLY
from vidllm.evaluation.harness import Plan, evaluate
from vidllm.evaluation.protocols import protocol
from vidllm.evaluation.results import lines_of
from vidllm.evaluation.scoring import read_references
from vidllm.io.weight_files import model_of_run
from vidllm.scene import load
from vidllm_rooms.official.export import export_rooms


def main() -> None:
    """Print the table and the ratios; seconds of processor time a room go to standard error."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="folder of a model or of its run (default: the shipped one)")
    parser.add_argument("--blind", default=LANGUAGE_ONLY, help="the language-only model (default: the shipped one)")
    parser.add_argument("--seeds", default="1000:1020", help="of the rooms, A:B")
    parser.add_argument("--frames", type=int, help="that the model sees (default: its own number)")
    parser.add_argument("-o", "--output", type=Path, required=True, help="rooms, predictions and results")
    given = parser.parse_args()
    first, end = map(int, given.seeds.split(":"))
    root, begin = given.output / "rooms", time.process_time()
    export_rooms(root, range(first, end), split="test", frames=16, tell=lambda n: print(f"room {n}", file=sys.stderr))
    exported = time.process_time()
    model = None if given.model is None else model_of_run(given.model)
    plan = Plan("vsi", root, given.output, ("official",), "test", frames=given.frames, settings=("raw",),
                baselines=("language-only", "most-frequent"), blind=model_of_run(given.blind))  # fmt: skip
    results = evaluate(plan, load(model), model, lambda n, of: print(f"answered {n} of {of} rooms", file=sys.stderr))
    assert results is not None  # one process
    print("\n".join(lines_of(results)))

    rows = read_references(root / "vsi" / "test.jsonl")
    scores = dict(results["protocols"]["official"]["scores"])
    scores["answers about the other rooms"] = protocol("vsi", "official").score(rows, guesses(rows))
    kept = {name: one.get("debiased", one) for name, one in scores.items()}
    for part, found in (("all questions", scores), ("not pruned", kept)):
        overall = {name: one["overall"] for name, one in found.items()}
        print(f"\noverall, {part}")
        for name, value in overall.items():
            ratio = f"the model has {overall['vidllm.raw'] / value:.2f} times as much" if value else "nothing right"
            print(f"  {name:32s}{value:6.1f}  {'' if name == 'vidllm.raw' else ratio}".rstrip())
    a_room = [seconds / (end - first) for seconds in (exported - begin, time.process_time() - exported)]
    print("processor seconds a room: export {:.1f}, answers {:.1f}".format(*a_room), file=sys.stderr)


if __name__ == "__main__":
    main()
