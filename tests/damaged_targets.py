"""A small good set of every kind of file that the commands read, and the command that reads each."""

from __future__ import annotations

import csv
import json
import shutil
import struct
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

_OF_LENS, _OF_POSE = "intrinsics_original", "scene_from_camera"
_FEW = ("scanrefer",)  # whose lists go side by side
GOLDEN = TESTS / "golden"
SCENE = "scene0000_00"
MODEL = ("--model", "model", "--frames", "2")
ASK = ("ask", "film.mp4", "Why?", *MODEL)
PACK = ("data", "pack", "root", "-o", "packing", "--frames", "2", "--shorter-side", "14",
        "--split", "val")  # fmt: skip
SHORT_RUN = ("--steps", "1", "--device", "cpu", "--dtype", "float32")
RESUME = ("train", "stage2", "--init-from", "start", "--data", "shards", "--out", "begun", "--window-frames", "2",
          "--device", "cpu", "--dtype", "float32", "--save-minutes", "0", "--log-every", "1", "--steps")  # fmt: skip
FINETUNE = ("train", "finetune", "--data", "own.jsonl", "--init-from", "model", "--out", "tuned", "--scenes", "1",
            *SHORT_RUN)  # fmt: skip
CHECK = ("data", "check", "root")
PACK_AGAIN = tuple("packed" if word == "packing" else word for word in PACK)
SCORE = ("data", "score", "own.jsonl", *MODEL)
SAVED = ("ask", "saved", "Why?", "--model", "model")
TRAIN = ("train", "stage2", "--init-from", "start", "--data", "shards", "--out", "run", "--steps", "1", "--device",
         "cpu", "--clip-frames", "2", "--window-frames", "2", "--dtype", "float32")  # fmt: skip
IMPORT = ("import", "--preset", "cascade", "--vggt", "vggt", "--llava-3d", "llava", "-o", "imported")
RECONSTRUCT = ("reconstruct", "film.mp4", "-o", "out", "--format", "cameras", "--no-refine", *MODEL)
SCENE_FILES = f"root/scans/{SCENE}/{SCENE}"


def evaluation(task: str) -> tuple[str, ...]:
    """Scoring a file of predictions."""
    return ("eval", task, "--predictions", f"{task}_predictions.json", "--references", f"{task}_references.json")


TARGETS = {
    "video": Target("film.mp4", ASK),
    "animation": Target("film.gif", ("ask", "film.gif", "Why?", *MODEL)),
    "png": Target("pictures/3.png", ("ask", "pictures", "Why?", *MODEL)),
    "jpeg": Target("pictures/0.jpg", ("ask", "pictures", "Why?", *MODEL)),
    "intrinsics json": Target("cameras.json", (*RECONSTRUCT, "--intrinsics", "cameras.json"), True, (), _OF_LENS),
    "poses json": Target("cameras.json", (*RECONSTRUCT, "--poses", "cameras.json"), True, (), _OF_POSE),
    "transforms json": Target(
        "transforms.json", (*RECONSTRUCT, "--poses", "transforms.json"), True, (), "transform_matrix"
    ),
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
    "aggregation": Target(f"{SCENE_FILES}.aggregation.json", PACK, json=True, field="objectId"),
    "scene text": Target(f"{SCENE_FILES}.txt", PACK),
    "scanrefer annotations": Target("root/scanrefer/ScanRefer_filtered_val.json", PACK, json=True),
    "shard": Target("shards/rooms_*.safetensors", TRAIN, names=("shards", "rooms_")),
    "start weights": Target("start/model.safetensors", TRAIN, names=("start",)),
    "start config": Target("start/config.json", TRAIN, json=True, names=("start",)),
    "import config": Target("vggt/config.json", IMPORT, json=True, names=("vggt",)),
    "import weights": Target("vggt/model.safetensors", IMPORT, names=("vggt",)),
    "import index": Target("llava/model.safetensors.index.json", IMPORT, json=True, names=("llava",)),
    "import shard": Target("llava/model-00002-of-00003.safetensors", IMPORT, names=("llava",)),
    "scanqa predictions": Target("scanqa_predictions.json", evaluation("scanqa"), json=True, field="answer_top10"),
    "scanqa references": Target("scanqa_references.json", evaluation("scanqa"), json=True, field="question_id"),
    "scanrefer predictions": Target("scanrefer_predictions.json", evaluation("scanrefer"), json=True),
    "scanrefer references": Target("scanrefer_references.json", evaluation("scanrefer"), json=True),
    "sqa3d predictions": Target("sqa3d_predictions.json", evaluation("sqa3d"), json=True),
    "sqa3d references": Target("sqa3d_references.json", evaluation("sqa3d"), json=True, field="questions"),
    "scan2cap predictions": Target("scan2cap_predictions.json", evaluation("scan2cap"), json=True),
    "scan2cap references": Target("scan2cap_references.json", evaluation("scan2cap"), json=True),
    "multi3drefer predictions": Target("multi3drefer_predictions.json", evaluation("multi3drefer"), json=True),
    "multi3drefer references": Target("multi3drefer_references.json", evaluation("multi3drefer"), json=True),
    "nr3d predictions": Target("nr3d_predictions.json", evaluation("nr3d"), json=True),
    "nr3d references": Target("nr3d_references.json", evaluation("nr3d"), json=True),
    "scanqa annotations": Target("root/scanqa/ScanQA_v1.0_val.json", PACK, json=True),
    "sqa3d questions": Target("root/sqa3d/v1_balanced_questions_val_scannetv2.json", PACK, True, (), "question_id"),
    "sqa3d annotations": Target(
        "root/sqa3d/v1_balanced_sqa_annotations_val_scannetv2.json", PACK, True, (), "rotation"
    ),
    "multi3drefer annotations": Target("root/multi3drefer/multi3drefer_val.json", PACK, json=True),
    "nr3d annotations": Target("root/referit3d/nr3d.csv", CHECK),
    "scene list": Target("root/scannetv2_val.txt", CHECK, harmless=("empty",)),
    "label map": Target("root/scannetv2-labels.combined.tsv", CHECK),
    "proposals": Target(f"root/mask3d/{SCENE}.mask.npz", CHECK),
    "saved scene": Target("saved/vidllm_scene.json", SAVED, json=True, names=("saved",)),
    "saved tensors": Target("saved/vidllm_scene.safetensors", SAVED, names=("saved",)),
    "colmap cameras": Target("colmap/cameras.txt", (*RECONSTRUCT, "--intrinsics", "colmap")),
    "colmap images": Target("colmap/images.txt", (*RECONSTRUCT, "--poses", "colmap"), names=("cameras.txt",)),
    "colmap cameras bin": Target("colmap_bin/cameras.bin", (*RECONSTRUCT, "--intrinsics", "colmap_bin")),
    "colmap images bin": Target("colmap_bin/images.bin", (*RECONSTRUCT, "--poses", "colmap_bin")),
    "opencv yaml": Target("lens.yaml", (*RECONSTRUCT, "--intrinsics", "lens.yaml")),
    "matrix npy": Target("matrix.npy", (*RECONSTRUCT, "--intrinsics", "matrix.npy")),
    "poses npy": Target("poses.npy", (*RECONSTRUCT, "--poses", "poses.npy")),
    "poses csv": Target("poses.csv", (*RECONSTRUCT, "--poses", "poses.csv")),
    "checkpoint": Target("begun/checkpoints/step_0000002.pt", (*RESUME, "3")),
    "run config": Target("begun/config.json", (*RESUME, "3"), True, ("begun",), "seed"),
    "run record": Target("begun/made_from.json", (*RESUME, "3"), json=True, names=("begun",)),
    "run log": Target(  # a last line without its end is what a killed run leaves
        "begun/log.jsonl", (*RESUME, "3"), json=True, names=("begun",), harmless=("empty", "deep")
    ),
    # made again from the model that the run starts from, which the log tells (pytest's own handler takes that line)
    "run tokenizer": Target(
        "begun/tokenizer/tokenizer.json", (*RESUME, "3"), json=True, names=("tokenizer",), optional=True
    ),
    "packed shard": Target(f"packed/scans_{SCENE}_001_14x14.safetensors", PACK_AGAIN, names=("packed",)),
    "scored data": Target("own.jsonl", SCORE, json=True),
    "scored film": Target("film.mp4", SCORE),
    "tuning data": Target("own.jsonl", FINETUNE, json=True),
    "tuning film": Target("film.mp4", FINETUNE),
    "curves": Target("curves/log.jsonl", ("train", "plot", "curves"), json=True, names=("curves",)),
}  # fmt: skip


Copier = Callable[[Path, Target], None]

#: Targets of every kind of reader that no model is loaded for: the fast ones.
FAST = ("mesh", "sens", "scene text", "nr3d annotations", "proposals", "nr3d predictions")


def build_light(folder: Path) -> Copier:
    """Write the good set of :data:`FAST` once; returns what copies what a target needs of it to a sandbox."""
    from vidllm.io.video import write_video

    folder.mkdir(parents=True, exist_ok=True)
    pixels = _pixels()
    write_video(folder / "film.mp4", pixels)
    pictures = [Image.fromarray(p) for p in pixels]
    pictures[0].save(folder / "film.gif", save_all=True, append_images=pictures[1:])
    (folder / "pictures").mkdir()
    for number, picture in enumerate(pictures):
        picture.save(folder / "pictures" / f"{number}.{'png' if number % 2 else 'jpg'}")
    _write_own_data(folder)
    _write_scans(folder / "root")
    _write_benchmarks(folder)
    (folder / "curves").mkdir()
    rows = [{"step": n, "loss": 1.0 / (n + 1), "seconds": 0.1} for n in range(5)]
    (folder / "curves" / "log.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return lambda sandbox, target: _copy(folder, sandbox, target)


def build_all(folder: Path, rooms: Path) -> Copier:
    """:func:`build_light` for all targets; ``rooms`` is a folder of shards."""
    copier = build_light(folder)
    save_small_model(folder / "model")
    _write_cameras(folder)
    shutil.copytree(rooms, folder / "shards")
    save_start(folder / "start", folder / "shards")
    write_vggt(folder / "vggt", GOLDEN)
    write_llava_3d(folder / "llava", GOLDEN)
    _write_what_commands_write(folder)
    return copier


def _pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (4, 56, 70, 3), dtype=np.uint8)


def _copy(source: Path, sandbox: Path, target: Target) -> None:
    """What the command names, and what own data name."""
    sandbox.mkdir()
    names = {Path(target.path).parts[0], "film.mp4", *(word.split("/")[0] for word in target.command)}
    for item in source.iterdir():
        if item.name in names:
            (shutil.copytree if item.is_dir() else shutil.copy)(item, sandbox / item.name)


def _write_cameras(folder: Path) -> None:
    """The camera files that a reconstruction writes, and a matrix."""
    formats = "cameras,nerfstudio,tum,colmap"
    _run(("reconstruct", "film.mp4", "-o", "out", "--format", formats, "--no-refine", *MODEL), folder)
    for file in ("cameras.json", "transforms.json", "trajectory.txt"):
        (found,) = (folder / "out").rglob(file)
        shutil.move(found, folder / file)
    shutil.move(folder / "out" / "colmap" / "sparse" / "0", folder / "colmap")
    (folder / "colmap" / "points3D.txt").unlink()
    _shorten_points(folder / "colmap" / "images.txt")
    shutil.rmtree(folder / "out")
    matrix = np.array([[60.0, 0, 34.5], [0, 60.0, 27.5], [0, 0, 1.0]])
    np.savetxt(folder / "matrix.txt", matrix)
    np.save(folder / "matrix.npy", matrix)
    poses = np.tile(np.eye(4), (4, 1, 1))
    poses[:, 0, 3] = np.arange(4) * 0.1
    np.save(folder / "poses.npy", poses)
    rows = [",".join(map(repr, p[:3].ravel().tolist())) for p in poses]
    (folder / "poses.csv").write_text("\n".join(rows) + "\n")
    data = ", ".join(map(repr, matrix.ravel().tolist()))
    (folder / "lens.yaml").write_text(
        "%YAML:1.0\nimage_width: 70\nimage_height: 56\ncamera_matrix: !!opencv-matrix\n"
        f"   rows: 3\n   cols: 3\n   dt: d\n   data: [ {data} ]\n"
    )
    _write_binary_colmap(folder / "colmap_bin")


def _shorten_points(file: Path) -> None:
    """No points in a model of COLMAP: the line after each image is left empty."""
    lines = [line for line in file.read_text().splitlines() if line.startswith("#") or ".png" in line]
    file.write_text("".join(line + ("\n" if line.startswith("#") else "\n\n") for line in lines))


def _write_binary_colmap(folder: Path) -> None:
    folder.mkdir()
    (folder / "cameras.bin").write_bytes(struct.pack("<QIiQQ4d", 1, 1, 1, 70, 56, 60.0, 60.0, 35.0, 28.0))
    told = struct.pack("<Q", 4)
    for number in range(4):
        told += struct.pack("<I7dI", number + 1, 1, 0, 0, 0, 0.1 * number, 0, 0, 1)
        told += f"frame_{number:06d}.png".encode() + b"\0" + struct.pack("<Q", 0)
    (folder / "images.bin").write_bytes(told)


def _run(command: tuple[str, ...], folder: Path) -> None:
    made = run_child(command, folder)
    assert made.code == 0, made.err


def _write_what_commands_write(folder: Path) -> None:
    """A saved scene, packed scenes and the folder of a run with two checkpoints."""
    _run(("reconstruct", "film.mp4", "-o", "saved", "--format", "scene", "--no-refine", *MODEL), folder)
    _run(PACK, folder)
    shutil.move(folder / "packing", folder / "packed")
    _run((*RESUME, "2"), folder)


def _write_own_data(folder: Path) -> None:
    lines = [
        {"video": "film.mp4", "caption": "a room", "point": [1.0, 0.0, 0.5]},
        {"video": "film.mp4", "question": "how many chairs are there?", "answer": "two"},
    ]
    (folder / "own.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def _write_scans(root: Path) -> None:
    write_scene(root, SCENE)
    (root / "scannetv2_val.txt").write_text(SCENE)
    row = {"scene_id": SCENE, "object_id": "3", "object_name": "chair", "ann_id": "0", "description": "a chair."}
    question = {"scene_id": SCENE, "question_id": "val-0", "question": "What?", "answers": ["a chair"]}
    situated = {"scene_id": SCENE, "question_id": 1, "question": "What?", "situation": "I sit.",
                "alternative_situation": []}  # fmt: skip
    answered = {"scene_id": SCENE, "question_id": 1, "question_type": "N/A", "answer_type": "other",
                "answers": [{"answer": "chair", "answer_confidence": "yes", "answer_id": 1}],
                "rotation": {"_x": 0, "_y": 0, "_z": 0, "_w": 1},
                "position": {"x": 0.7, "y": -0.1, "z": 0}}  # fmt: skip
    several = {k: row[k] for k in ("scene_id", "object_name", "description")}
    files = {
        "scanrefer/ScanRefer_filtered_val.json": [row],
        "scanqa/ScanQA_v1.0_val.json": [question],
        "sqa3d/v1_balanced_questions_val_scannetv2.json": {"questions": [situated]},
        "sqa3d/v1_balanced_sqa_annotations_val_scannetv2.json": {"annotations": [answered]},
        "multi3drefer/multi3drefer_val.json": [several | {"ann_id": 0, "object_ids": [3, 7], "eval_type": "mt"}],
    }
    for name, content in files.items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(json.dumps(content))
    told = {"assignmentid": 1, "stimulus_id": f"{SCENE}-chair-2-3-7", "utterance": "the chair", "target_id": 3,
            "scan_id": SCENE, "tokens": "['the', 'chair']", "instance_type": "chair", "dataset": "nr3d",
            "mentions_target_class": "True", "correct_guess": "True"}  # fmt: skip
    (root / "referit3d").mkdir()
    with (root / "referit3d" / "nr3d.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(told))
        writer.writeheader()
        writer.writerow(told)
    names = [("1", "chair", "chair", "5"), ("2", "kitchen cabinet", "cabinet", "3")]
    lines = ["\t".join(line) for line in [("id", "raw_category", "category", "nyu40id"), *names]]
    (root / "scannetv2-labels.combined.tsv").write_text("\n".join(lines) + "\n")
    (root / "mask3d").mkdir()
    np.savez(root / "mask3d" / f"{SCENE}.mask.npz", format=np.array("coo"), shape=np.array([2, 16]),
             data=np.ones(16, bool), row=np.repeat([0, 1], 8), col=np.arange(16))  # fmt: skip


def _write_benchmarks(folder: Path) -> None:
    """A few entries of each stored set, and four descriptions of Nr3D."""
    for task in ("scanqa", "scanrefer", "sqa3d", "scan2cap", "multi3drefer"):
        stored = load(GOLDEN, task)
        for kind in ("predictions", "references"):
            rows = stored[kind][:40] if isinstance(stored[kind], list) and task in _FEW else stored[kind]
            (folder / f"{task}_{kind}.json").write_text(json.dumps(rows))
    rows = [
        {"assignmentid": n, "stimulus_id": f"{SCENE}-chair-2-{n}-9", "target_id": n, "tokens": ["the", "chair"]}
        for n in range(4)
    ]
    (folder / "nr3d_references.json").write_text(json.dumps(rows))
    chosen = [{"assignmentid": row["assignmentid"], "target_id": 1} for row in rows]
    (folder / "nr3d_predictions.json").write_text(json.dumps(chosen))

