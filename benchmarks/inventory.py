"""How right an inventory is: things, counts, colours and the floor of rooms, from video alone.

    python benchmarks/inventory.py --seeds 600:616 [--refine]

True are the things that fill 0.3% of some frame. A found box is right with an oriented IoU of at least 0.25, one to
one, best first. Counts are those of all names that are found or true.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter

import numpy as np
import torch

import vidllm
from vidllm.cli.reading import seeds
from vidllm.evaluation.scene_metrics import matched_pairs
from vidllm.geometry.boxes import iou_oriented
from vidllm.inventory import Inventory, row_of
from vidllm.training.texts import scene_boxes, scene_from_room
from vidllm_rooms.shards import SIZES, render_scene
from vidllm_rooms.world import Clip, RoomObject

Truth = list[tuple[RoomObject, list[float]]]


def truth_of(clip: Clip) -> Truth:
    """The visible things with their boxes in the scene frame."""
    seen = [clip.room.object(number) for number in clip.visible()]
    record = {"objects": [{"id": o.id, "box": [*o.centre, *o.size, o.yaw]} for o in seen]}
    boxes = scene_boxes(record, scene_from_room(torch.from_numpy(clip.extrinsics).float()))
    return [(thing, list(boxes[thing.id])) for thing in seen]


def matches(found: Inventory, true: Truth, same_name: bool) -> list[tuple[int, int]]:
    """Pairs (found, true) of one thing."""
    if not found.things or not true:
        return []
    iou = iou_oriented(torch.tensor([row_of(t.box) for t in found.things]), torch.tensor([box for _, box in true]))
    if same_name:
        iou *= torch.tensor([[float(t.name == o.category) for o, _ in true] for t in found.things])
    return matched_pairs(iou, 0.25)


def main() -> None:
    """Print one line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=seeds, default=range(600, 616))
    parser.add_argument("--refine", action="store_true")
    options = parser.parse_args()
    model = vidllm.load(refine=options.refine)
    totals: Counter[str] = Counter()
    exact, colours, areas, seconds = [], [], [], []
    for seed in options.seeds:
        clip, _ = render_scene(seed, model.model.config.default_frames, *SIZES[seed % len(SIZES)])
        scene, true = model.reconstruct(clip.rgb), truth_of(clip)
        begin = time.process_time()
        found = scene.inventory()
        seconds.append(time.process_time() - begin)
        pairs = matches(found, true, True)
        totals.update(things=len(found.things) + len(true), named=len(pairs), any=len(matches(found, true, False)))
        counts = Counter(thing.category for thing, _ in true)
        exact += [counts[name] == found.counts.get(name, 0) for name in {*counts, *found.counts}]
        colours += [found.things[a].colour == true[b][0].colour for a, b in pairs]
        x, y = np.array(clip.room.polygon).T
        areas.append(abs(found.room.area / abs((x * np.roll(y, -1) - y * np.roll(x, -1)).sum() / 2) - 1))
    print(f"F1@0.25 {2 * totals['named'] / totals['things']:.3f} (whatever the name: "
          f"{2 * totals['any'] / totals['things']:.3f}); counts exact {np.mean(exact):.3f} of {len(exact)}; colours "
          f"right {np.mean(colours):.2f} of {len(colours)}; area off by {np.median(areas):.2f} (median); "
          f"{np.mean(seconds):.2f} CPU s each")  # fmt: skip


if __name__ == "__main__":
    main()
