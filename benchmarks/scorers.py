"""Time and memory of the scorers that read a file, on N predictions: each in a process of its own.

python benchmarks/scorers.py --count 100000     # one line a scorer, at N / 10 and at N, to show that it is linear

Letters, numbers and words are random; boxes and captions are those of the tests' golden sets, again and again.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import time
from collections.abc import Callable
from itertools import chain
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from own_process import in_own_process, memory

from vidllm.evaluation.protocols import protocol

Row = dict[str, Any]
WORDS = ("red", "blue", "two", "on the table", "left", "wood", "chair", "next to the door", "yes", "no")
Made = tuple[Any, Any]
GOLDEN = Path(__file__).parents[1] / "tests" / "golden" / "eval"


def graded(kinds: tuple[str, ...], kind: str, truth: str) -> Callable[[int, random.Random], Made]:
    """Questions of these types (numbers where their names say so) with answers of both kinds."""

    def make(count: int, rng: random.Random) -> Made:
        said = [f"{rng.uniform(0, 6):.1f}" if rng.random() < 0.5 else rng.choice("ABCD") for _ in range(count)]
        references = [
            {"id": i, "qid": f"{i // 4:08d}{('', '-1', '-flip', '-flip-1')[i % 4]}", kind: kinds[i % len(kinds)],
             truth: rng.choice("ABCD") if i % 2 else f"{rng.uniform(1, 6):.1f}"}
            for i in range(count)
        ]  # fmt: skip
        return references, [{"id": i, "prediction": text} for i, text in enumerate(said)]

    return make


def marks(count: int, rng: random.Random) -> Made:
    """OpenEQA: a judge's marks."""
    rows = [{"question_id": str(i), "category": rng.choice(WORDS)} for i in range(count)]
    return rows, {str(i): rng.randint(1, 5) for i in range(count)}


def scanqa(count: int, rng: random.Random) -> Made:
    """ScanQA: short answers."""
    rows = [{"scene_id": "s", "question_id": str(i), "question": "what is it?", "answers": [rng.choice(WORDS)],
             "object_ids": [], "object_names": []} for i in range(count)]  # fmt: skip
    return rows, [{"scene_id": "s", "question_id": str(i), "answer_top10": [rng.choice(WORDS)]} for i in range(count)]


def sqa3d(count: int, rng: random.Random) -> Made:
    """SQA3D: short answers, in its two files."""
    rows = [{"scene_id": "s", "question_id": i, "situation": "I am here.", "question": "what is it?"}
            for i in range(count)]  # fmt: skip
    truths = [{"question_id": i, "answers": [{"answer": rng.choice(WORDS)}]} for i in range(count)]
    references = {"questions": {"questions": rows}, "annotations": {"annotations": truths}, "answer_dict": None}
    return references, [{**row, "answer": rng.choice(WORDS)} for row in rows]


def copied(task: str, predictions: str = "predictions") -> Callable[[int, random.Random], Made]:
    """The tests' golden set of a task, so often that there are enough items, each time under other names."""

    def make(count: int, rng: random.Random) -> Made:
        held = json.loads(gzip.decompress((GOLDEN / f"{task}.json.gz").read_bytes()))
        said = held[predictions]
        items = len(said) if isinstance(said, list) else sum(map(len, said.values()))
        times = range(-(-count // items))
        return joined([renamed(held["references"], n) for n in times]), joined([renamed(said, n) for n in times])

    return make


def joined(parts: list[Any]) -> Any:
    """Lists, or objects by scene, as one."""
    if isinstance(parts[0], list):
        return [*chain.from_iterable(parts)]
    return {name: value for part in parts for name, value in part.items()}


def renamed(value: Any, number: int) -> Any:
    """With scenes and questions of other names."""
    if isinstance(value, dict):
        return {
            f"{name}_{number}" if name.startswith("scene9") else name:
            f"{inner}_{number}" if name in ("scene_id", "question_id") else renamed(inner, number)
            for name, inner in value.items()
        }  # fmt: skip
    return [renamed(one, number) for one in value] if isinstance(value, list) else value


def nr3d(count: int, rng: random.Random) -> Made:
    """Nr3D: chosen objects."""
    rows = [{"id": str(i), "stimulus_id": "s-chair-3-1-2-3", "target_id": 1, "tokens": ["the", "chair"]}
            for i in range(count)]  # fmt: skip
    return rows, [{"id": str(i), "target_id": rng.randint(1, 3)} for i in range(count)]


_DIRECTIONS = tuple(f"object_rel_direction_{level}" for level in ("easy", "medium", "hard"))
_VSI = graded(
    ("object_counting", *_DIRECTIONS, "room_size_estimation", "route_planning"), "question_type", "ground_truth"
)
_REVSI = graded(("object_counting_single", "route_planning"), "question_type", "ground_truth")
_SPAR = graded(("depth_prediction_oc", "position_matching", "view_change_infer"), "task", "answer")
SCORERS: dict[tuple[str, str], Callable[[int, random.Random], Made]] = {
    ("vsi", "official"): _VSI, ("vsi", "paper"): _VSI, ("vsi", "lmms-eval-0.7.3"): _VSI,
    ("revsi", "lmms-eval-0.7.3"): _REVSI, ("spar", "official"): _SPAR, ("spar", "lmms-eval-0.7.3"): _SPAR,
    ("3dsr", "lmms-eval-0.7.3"): graded(("height_higher", "location_above"), "category", "answer"),
    ("mmsi", "lmms-eval-0.7.3"): graded(("MSR", "Motion (Cam.)"), "question_type", "answer"),
    ("openeqa", "official"): marks, ("nr3d", "official"): nr3d,
    ("scanqa", "leo"): scanqa, ("scanqa", "llava3d"): scanqa, ("scanqa", "official"): copied("scanqa"),
    ("sqa3d", "leo"): sqa3d, ("scanrefer", "official"): copied("scanrefer"),
    ("multi3drefer", "official"): copied("multi3drefer"), ("scan2cap", "cvpr21"): copied("scan2cap"),
    ("scan2cap", "leo"): copied("scan2cap", "object_predictions"),
}  # fmt: skip


def one(task: str, name: str, count: int, answer: Connection) -> None:
    """Send the seconds of processor time and the peak memory (bytes) of one scorer in this process."""
    references, predictions = SCORERS[task, name](count, random.Random(0))
    begin = time.process_time()
    protocol(task, name).score(references, predictions)
    answer.send((time.process_time() - begin, memory()))


def main() -> None:
    """Print one line a scorer."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--only", metavar="TASK")
    options = parser.parse_args()
    for task, name in SCORERS if options.only is None else [one for one in SCORERS if one[0] == options.only]:
        for count in (options.count // 10, options.count):
            seconds, peak = in_own_process(one, task, name, count)
            print(f"{task:8s} {name:16s} {count:7d} {seconds:6.2f} s {peak >> 20:5d} MiB", flush=True)


if __name__ == "__main__":
    main()
