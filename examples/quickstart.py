"""From a video to metres and answers: python examples/quickstart.py [VIDEO]"""

import sys
from pathlib import Path

import vidllm

video = sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent / "room.mp4"
model = vidllm.load()  # the shipped small model
scene = model.reconstruct(video)  # encoded once

print("depth (F, H, W) in metres:", tuple(scene.depth.shape), f"median {float(scene.depth.median()):.2f} m")
print("first camera to last:", scene.extrinsics[-1].numpy().round(2).tolist())
print(f"scale {scene.scale.value:.2f}, spread {scene.scale.spread:.2f}", *scene.scale.warnings)
print("What kind of room is this?", scene.ask("What kind of room is this?"))
for box in scene.ground("the chair"):
    print("a chair at", [round(v, 2) for v in box.center], "of size", [round(v, 2) for v in box.size], "m")
    print(scene.describe(at=box.center))
