"""Write the documents of the lmms-eval tasks from a data root: one JSON object a line, one item an object."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from vidllm.datasets.layout import DataRoot
from vidllm.evaluation.tasks import Task, task_named

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
        lines = [json.dumps(one) for one in documents(task_named(name), Path(options.data), options.split)]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        print(f"{folder / name}.jsonl: {len(lines)} documents")


if __name__ == "__main__":
    main()
