"""A small good set of every kind of file that the commands read, and the command that reads each."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from damaged import Target, run_child
from PIL import Image

TESTS = Path(__file__).parent
for part in ("", "datasets", "pretrained", "training", "evaluation"):
    sys.path.append(str(TESTS / part))

from evaluation_data import load  # noqa: E402
from micro_start import save_start  # noqa: E402
from published_files import write_llava_3d, write_vggt  # noqa: E402
from scannet_files import write_scene  # noqa: E402
from small_model import save_small_model  # noqa: E402

GOLDEN = TESTS / "golden"
SCENE = "scene0000_00"
MODEL = ("--model", "model", "--frames", "2")
ASK = ("ask", "film.mp4", "Why?", *MODEL)
PACK = ("data", "pack", "root", "-o", "packed", "--frames", "2", "--shorter-side", "14")
TRAIN = ("train", "stage2", "--init-from", "start", "--data", "shards", "--out", "run", "--steps", "1", "--device",
         "cpu", "--clip-frames", "2", "--window-frames", "2", "--dtype", "float32")  # fmt: skip
IMPORT = ("import", "--preset", "cascade", "--vggt", "vggt", "--llava-3d", "llava", "-o", "imported")
RECONSTRUCT = ("reconstruct", "film.mp4", "-o", "out", "--format", "cameras", *MODEL)
SCENE_FILES = f"root/scans/{SCENE}/{SCENE}"


def evaluation(task: str) -> tuple[str, ...]:
    """Scoring a file of predictions."""
    return ("eval", task, "--predictions", f"{task}_predictions.json", "--references", f"{task}_references.json")


TARGETS = {
    "video": Target("film.mp4", ASK),
    "animation": Target("film.gif", ("ask", "film.gif", "Why?", *MODEL)),
    "png": Target("pictures/1.png", ("ask", "pictures", "Why?", *MODEL)),
    "jpeg": Target("pictures/0.jpg", ("ask", "pictures", "Why?", *MODEL)),
    "intrinsics json": Target("cameras.json", (*RECONSTRUCT, "--intrinsics", "cameras.json"), json=True),
    "poses json": Target("cameras.json", (*RECONSTRUCT, "--poses", "cameras.json"), json=True),
    "transforms json": Target("transforms.json", (*RECONSTRUCT, "--poses", "transforms.json"), json=True),
    "trajectory": Target("trajectory.txt", (*RECONSTRUCT, "--poses", "trajectory.txt")),
    "matrix": Target("matrix.txt", (*RECONSTRUCT, "--intrinsics", "matrix.txt")),
    "own data": Target("own.jsonl", ("data", "check", "own.jsonl", "--strict"), json=True),
    "model config": Target("model/config.json", ASK, json=True, names=("model",)),
    "model weights": Target("model/model.safetensors", ASK, names=("model",)),
    "tokenizer": Target("model/tokenizer.json", ASK, json=True, names=("model",)),
    "tokenizer config": Target("model/tokenizer_config.json", ASK, json=True, names=("model",)),
    "mesh": Target(f"{SCENE_FILES}_vh_clean_2.ply", PACK),
    "sens": Target(f"{SCENE_FILES}.sens", PACK),
    "segments": Target(f"{SCENE_FILES}_vh_clean_2.0.010000.segs.json", PACK, json=True),
    "aggregation": Target(f"{SCENE_FILES}.aggregation.json", PACK, json=True),
    "scene text": Target(f"{SCENE_FILES}.txt", PACK),
    "scanrefer annotations": Target("root/scanrefer/ScanRefer_filtered_val.json", PACK, json=True),
    "shard": Target("shards/rooms_010000.safetensors", TRAIN, names=("shards", "rooms_")),
    "start weights": Target("start/model.safetensors", TRAIN, names=("start",)),
    "start config": Target("start/config.json", TRAIN, json=True, names=("start",)),
    "import config": Target("vggt/config.json", IMPORT, json=True, names=("vggt",)),
    "import weights": Target("vggt/model.safetensors", IMPORT, names=("vggt",)),
    "import index": Target("llava/model.safetensors.index.json", IMPORT, json=True, names=("llava",)),
    "import shard": Target("llava/model-00002-of-00003.safetensors", IMPORT, names=("llava",)),
    "scanqa predictions": Target("scanqa_predictions.json", evaluation("scanqa"), json=True),
    "scanqa references": Target("scanqa_references.json", evaluation("scanqa"), json=True),
    "scanrefer predictions": Target("scanrefer_predictions.json", evaluation("scanrefer"), json=True),
    "scanrefer references": Target("scanrefer_references.json", evaluation("scanrefer"), json=True),
    "curves": Target("curves/log.jsonl", ("train", "plot", "curves"), json=True, names=("curves",)),
}  # fmt: skip


def build_all(folder: Path, rooms: Path) -> Callable[[Path], None]:
    """Write the good set once; returns what copies it to a sandbox."""
    from vidllm.video import write_video

    pixels = np.random.default_rng(0).integers(0, 256, (4, 56, 70, 3), dtype=np.uint8)
    folder.mkdir(parents=True, exist_ok=True)
    write_video(folder / "film.mp4", pixels)
    pictures = [Image.fromarray(p) for p in pixels]
    pictures[0].save(folder / "film.gif", save_all=True, append_images=pictures[1:])
    (folder / "pictures").mkdir()
    for number, picture in enumerate(pictures):
        picture.save(folder / "pictures" / f"{number}.{'png' if number % 2 else 'jpg'}")
    save_small_model(folder / "model")
    _write_cameras(folder)
    _write_own_data(folder)
    _write_scans(folder / "root")
    shutil.copytree(rooms, folder / "shards")
    save_start(folder / "start", folder / "shards")
    write_vggt(folder / "vggt", GOLDEN)
    write_llava_3d(folder / "llava", GOLDEN)
    _write_benchmarks(folder)
    (folder / "curves").mkdir()
    rows = [{"step": n, "loss": 1.0 / (n + 1), "seconds": 0.1} for n in range(5)]
    (folder / "curves" / "log.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return lambda sandbox: _copy(folder, sandbox)


def _copy(source: Path, target: Path) -> None:
    shutil.copytree(source, target)


def _write_cameras(folder: Path) -> None:
    """The camera files that a reconstruction writes, and a matrix."""
    made = run_child(("reconstruct", "film.mp4", "-o", "out", "--format", "cameras,nerfstudio,tum", *MODEL), folder)
    assert made.code == 0, made.err
    for file in ("cameras.json", "transforms.json", "trajectory.txt"):
        (found,) = (folder / "out").rglob(file)
        shutil.move(found, folder / file)
    shutil.rmtree(folder / "out")
    np.savetxt(folder / "matrix.txt", np.array([[60.0, 0, 34.5], [0, 60.0, 27.5], [0, 0, 1.0]]))


def _write_own_data(folder: Path) -> None:
    lines = [
        {"video": "film.mp4", "caption": "a room", "point": [1.0, 0.0, 0.5]},
        {"video": "film.mp4", "question": "how many chairs are there?", "answer": "two"},
    ]
    (folder / "own.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def _write_scans(root: Path) -> None:
    write_scene(root, SCENE)
    (root / "scannetv2_val.txt").write_text(SCENE)
    (root / "scanrefer").mkdir()
    row = {"scene_id": SCENE, "object_id": "3", "object_name": "chair", "ann_id": "0", "description": "a chair."}
    (root / "scanrefer" / "ScanRefer_filtered_val.json").write_text(json.dumps([row]))


def _write_benchmarks(folder: Path) -> None:
    for task in ("scanqa", "scanrefer"):
        stored = load(GOLDEN, task)
        for kind in ("predictions", "references"):
            (folder / f"{task}_{kind}.json").write_text(json.dumps(stored[kind]))

