"""Make a small data set of one's own from rendered rooms, in words that the shipped model has never heard.

    vidllm rooms render --seeds 20000:20040 --size 112x140 -o ROOMS
    python examples/stock_check.py ROOMS

Writes ROOMS/train.jsonl and ROOMS/validation.jsonl (every fourth room): "Stock check: chair" with "two in stock" or
"none in stock", and "stock item: chair" with the boxes in the room's own frame, beside which each video's first camera
is told. docs/fine_tuning.md goes on from there.
"""

import json
import sys
from pathlib import Path

import numpy as np

NUMBERS = ("none", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


def lines_of(folder: Path, kinds: list[str], rng: np.random.Generator) -> list[dict]:
    """As many questions about things that are there as about things that are not, and as many boxes to find."""
    record = json.loads((folder / "scene.json").read_text())
    seen = [item for item in record["objects"] if item["visible"]]
    there = sorted({item["category"] for item in seen})
    absent = [kind for kind in kinds if kind not in {item["category"] for item in record["objects"]}]
    lines = []
    for kind in [*there, *rng.permutation(absent)[: len(there)].tolist()]:
        boxes = [item["box"] for item in seen if item["category"] == kind]
        video = f"{folder.name}/room.mp4"
        answer = f"{NUMBERS[len(boxes)]} in stock"
        lines.append({"video": video, "question": f"Stock check: {kind}", "answer": answer, "kind": "stock"})
        rows = [{"center": box[:3], "size": box[3:6], "yaw": box[6]} for box in boxes]
        lines.append({"video": video, "expression": f"stock item: {kind}", "boxes": rows, "frame": "world"})
    return lines


def main(root: Path) -> None:
    """Write the two files, and the first camera of each video."""
    folders = sorted(folder for folder in root.iterdir() if (folder / "scene.json").exists())
    records = [json.loads((folder / "scene.json").read_text()) for folder in folders]
    kinds = sorted({item["category"] for record in records for item in record["objects"]})
    written: dict[str, list[dict]] = {"train": [], "validation": []}
    for number, folder in enumerate(folders):
        camera = {"world_from_camera": np.loadtxt(folder / "pose" / "00000.txt").tolist()}
        (folder / "room.camera.json").write_text(json.dumps(camera) + "\n")
        split = "validation" if number % 4 == 3 else "train"
        written[split] += lines_of(folder, kinds, np.random.default_rng(number))
    for split, lines in written.items():
        path = root / f"{split}.jsonl"
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        print(f"{path}: {len(lines)} lines")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
