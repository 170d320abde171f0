"""Write what the shipped model says and sees of the bundled clip: the record that tests/test_shipped.py compares with.

Run it only where a change of the outputs is meant: ``python scripts/record_shipped.py``.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch

import vidllm

ROOT = Path(__file__).parents[1]
RECORD = ROOT / "tests" / "golden" / "shipped" / "room.json"
QUESTIONS = (
    "How many chairs are there?",
    "What color is the table?",
    "Is there a sofa?",
    "What kind of room is this?",
    "What is on the table?",
    "Which is closer to the camera, the chair or the table?",
    "What is the floor made of?",
    "How wide is the table?",
)
EXPRESSIONS = ("the table", "the chair", "the lamp", "the unicorn")


def observe(scene: Any) -> dict[str, Any]:
    """Answers, boxes, cameras and a grid of depths of a scene, as plain values."""
    boxes = {e: [b.as_dict() for b in scene.ground(e)] for e in EXPRESSIONS}
    point = [round(v, 3) for v in next(b for found in boxes.values() for b in found)["center"]]
    return {
        "answers": {q: scene.ask(q) for q in QUESTIONS},
        "situated": scene.ask("What is in front of me?", situation="I am sitting on the chair."),
        "together": scene.ask_all([(q, None) for q in QUESTIONS]),
        "room": scene.describe(),
        "point": point,
        "object": scene.describe(at=point),
        "boxes": boxes,
        "scale": [scene.scale.value, scene.scale.spread],
        "extrinsics": scene.extrinsics.tolist(),
        "intrinsics": scene.intrinsics.tolist(),
        "scene_from_world": scene.scene_from_world.tolist(),
        "depth_grid": scene.depth[:, 5::20, 5::20].tolist(),
        "depth_sha256": hashlib.sha256(scene.depth.contiguous().numpy().tobytes()).hexdigest(),
    }


def main() -> None:
    """Record the bundled clip, as it is and refined, on one thread in float32."""
    torch.set_num_threads(1)
    model = vidllm.load()
    clip = ROOT / "examples" / "room.mp4"
    record = {
        "plain": observe(model.reconstruct(clip)),
        "refined": observe(model.reconstruct(clip, refine=True)),
        "windows": observe(model.reconstruct(clip, num_frames=12, window=6)),
    }
    RECORD.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(f"{RECORD}: {RECORD.stat().st_size} bytes")


if __name__ == "__main__":
    main()
