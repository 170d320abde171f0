"""Write what lmms-eval reads, from a data root: the documents of the tasks beside this file, one JSON object a line;
for ``vsi`` a folder that lmms-eval's own tasks ``vsibench`` and ``vsibench_debiased`` take for VSI-Bench.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from vidllm.datasets.layout import DataRoot
from vidllm.evaluation.tasks import Task, task_named
from vidllm.io.files import read_json_lines
from vidllm.io.video import write_video

TASKS = ("scanqa", "sqa3d", "scan2cap", "scanrefer")


def documents(task: Task, root: Path, split: str, scenes: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    """What lmms-eval carries about: where the item is found, and what is asked."""
    items = task.items(DataRoot(root).annotations(task.name, split))
    found = []
    for item in items:
        if not scenes or item.scene_id in scenes:
            asked = ("Describe the object.", None) if task.kind == "caption" else task.ask(item)
            found.append({
                "root": str(root.absolute()), "benchmark": task.name, "split": split, "key": item.key,
                "scene_id": item.scene_id, "question": asked[0], "situation": asked[1] or "",
            })  # fmt: skip
    return found


CARD = """---
configs:
- config_name: full
  data_files: [{split: test, path: full.jsonl}]
- config_name: debiased
  data_files: [{split: test, path: debiased.jsonl}]
---
"""


def write_vsi(root: Path, split: str, out: Path) -> int:
    """VSI-Bench as lmms-eval finds it, run in ``out`` with ``HF_HOME=out/hf``; returns the number of questions.

    ``out/nyu-visionx/VSI-Bench`` has the rows of ``ROOT/vsi/SPLIT.jsonl``, ``out/hf/vsibench/DATASET/SCENE.mp4`` the
    frames with a pose, without loss, so that a model is given what ``vidllm eval`` gives it. (A folder ``vsibench`` in
    ``out`` itself would be read as ``--tasks``.)
    """
    data = DataRoot(root)
    file = data.annotation_file("vsi", split)
    if file is None:
        raise ValueError(f"{root}: no vsi/{split}.jsonl; write rooms there with vidllm rooms export --split {split}")
    rows = [row for _, row in read_json_lines(file)]
    folder = out / "nyu-visionx" / "VSI-Bench"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "README.md").write_text(CARD, encoding="utf-8")
    for name, kept in (("full", rows), ("debiased", [row for row in rows if not row.get("pruned")])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")
    for dataset, name in dict.fromkeys((row["dataset"], row["scene_name"]) for row in rows):
        scene = data.scene(name)
        video = out / "hf" / "vsibench" / dataset / f"{name}.mp4"
        video.parent.mkdir(parents=True, exist_ok=True)
        write_video(video, np.stack([scene.colour(int(n)) for n in scene.uniform_frames(None)]), lossless=True)
    return len(rows)


def main() -> None:
    """``python prepare.py --data ROOT --split val --out docs``"""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, metavar="ROOT")
    parser.add_argument("--split", default="val")
    parser.add_argument("--out", default="docs", metavar="DIR")
    parser.add_argument("--tasks", default=",".join(TASKS), metavar="A,B,...")
    options = parser.parse_args()
    folder = Path(options.out)
    folder.mkdir(parents=True, exist_ok=True)
    for name in options.tasks.split(","):
        if name == "vsi":
            print(f"{folder}: {write_vsi(Path(options.data), options.split, folder)} questions")
            continue
        lines = [json.dumps(one) for one in documents(task_named(name), Path(options.data), options.split)]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        print(f"{folder / name}.jsonl: {len(lines)} documents")


if __name__ == "__main__":
    main()
