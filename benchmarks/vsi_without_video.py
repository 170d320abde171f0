"""What a file in the form of VSI-Bench gives away to who never sees a video: scores of the other scenes' answers.

    python benchmarks/vsi_without_video.py ROOT/vsi/test.jsonl

A number is the median of the same question about other scenes (of its kind, where no other scene has it); a choice is
the option that is right most often in other scenes. The official protocol, over all questions and over those that are
not pruned.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from statistics import median
from typing import Any

from vidllm.evaluation.protocols import protocol
from vidllm.evaluation.results import flat
from vidllm.evaluation.scoring import read_references

Row = dict[str, Any]


def guess(row: Row, others: Sequence[Row]) -> str:
    """The answer to a question from those to questions of its kind about other scenes."""
    if not row["options"]:
        same = [other for other in others if other["question"] == row["question"]] or others
        return str(median(float(other["ground_truth"]) for other in same))
    right = Counter(other["options"]["ABCD".index(other["ground_truth"])][3:] for other in others)
    return max(zip("ABCD", row["options"], strict=False), key=lambda option: right[option[1][3:]])[0]


def guesses(rows: Sequence[Row]) -> list[Row]:
    """A prediction for every question."""
    found = []
    for row in rows:
        alike = [o for o in rows if o["question_type"] == row["question_type"] and o["scene_name"] != row["scene_name"]]
        found.append({"id": row["id"], "prediction": guess(row, alike)})
    return found


def main() -> None:
    """Print the scores."""
    rows = read_references(sys.argv[1])
    print(f"{len(rows)} questions, {sum(bool(row.get('pruned')) for row in rows)} of them pruned")
    for name, value in flat(protocol("vsi", "official").score(rows, guesses(rows))).items():
        print(f"{name:50s} {value:6.1f}")


if __name__ == "__main__":
    main()
