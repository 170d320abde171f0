"""Render the bundled clip and its ground truth: python examples/make_demo_clip.py --seed 12

Eight camera poses are drawn as for training; the film passes through them smoothly, seven steps between two, so that
uniform sampling of eight frames picks exactly these. ``--list 0:100`` shows which seeds have chairs to count.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import numpy as np
import torch

from vidllm.datasets.language import Language
from vidllm.evaluation.demo import FOLDER
from vidllm.geometry.rotations import matrix_to_quaternion, quaternion_to_matrix
from vidllm.io.video import write_video
from vidllm.training.texts import scene_boxes, scene_from_room
from vidllm_rooms import build_room
from vidllm_rooms.camera_paths import CameraPath, draw_path
from vidllm_rooms.language import make_language
from vidllm_rooms.language.facts import Scene, observe
from vidllm_rooms.language.speaker import spelled
from vidllm_rooms.raycast import nearest
from vidllm_rooms.render import primitives_of, render_linear
from vidllm_rooms.sensors import draw_sensor, photograph
from vidllm_rooms.shading import prepare
from vidllm_rooms.world import Clip, Room

KEYS, STEPS, FPS = 8, 7, 10
SIZE, PROCESSED = (224, 280), (112, 140)
COUNTED = "chair"
WANTED = ("color", "existence", "category_at", "nearest", "distance_camera", "on_top", "room_type")
WANTED += ("situated_direction",)
FOUND = ("unique_category", "unique_attribute", "relation", "superlative", "several", "none")


def smooth_poses(keys: np.ndarray) -> np.ndarray:
    """Catmull-Rom through camera-from-room poses (N,4,4): quaternions and centres, STEPS between two keys."""
    pose = np.linalg.inv(keys)
    turn = matrix_to_quaternion(torch.from_numpy(pose[:, :3, :3])).numpy()
    for i in range(1, len(turn)):
        turn[i] *= np.sign(turn[i] @ turn[i - 1]) or 1
    values = np.concatenate([turn, pose[:, :3, 3]], 1)
    padded = np.concatenate([2 * values[:1] - values[1:2], values, 2 * values[-1:] - values[-2:-1]])
    path = [_between(padded[i : i + 4], step / STEPS) for i in range(len(keys) - 1) for step in range(STEPS)]
    path = np.stack([*path, values[-1]])
    out = np.tile(np.eye(4), (len(path), 1, 1))
    out[:, :3, :3] = quaternion_to_matrix(torch.from_numpy(path[:, :4])).numpy()
    out[:, :3, 3] = path[:, 4:]
    return np.linalg.inv(out)


def _between(four: np.ndarray, t: float) -> np.ndarray:
    a, b, c, d = four
    return 0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3)


def film(room: Room, keys: CameraPath, rng: np.random.Generator) -> np.ndarray:
    """The frames of the film (F,H,W,3) uint8: one exposure for all, little noise."""
    extrinsics = smooth_poses(keys.extrinsics)
    path = CameraPath(extrinsics, np.repeat(keys.intrinsics[:1], len(extrinsics), 0), keys.fov_deg)
    table = primitives_of(room)
    lighting = prepare(room, table, ambient=float(rng.uniform(0.24, 0.48)))
    linear, _, _ = render_linear(table, lighting, path, *SIZE)
    sensor = draw_sensor(rng, KEYS)
    drift = np.interp(np.linspace(0, KEYS - 1, len(extrinsics)), np.arange(KEYS), sensor.drift)
    sensor = type(sensor)(**{**vars(sensor), "drift": tuple(drift.tolist())})
    return (photograph(linear, sensor, rng) * 255 + 0.5).to(torch.uint8).numpy()


def key_clip(room: Room, keys: CameraPath) -> Clip:
    """Exact depth and ids of the key frames at the processed resolution (no colours: language needs none)."""
    intrinsics = keys.intrinsics.copy()
    intrinsics[:, :2] *= PROCESSED[0] / SIZE[0]
    table = primitives_of(room)
    depth, winner = nearest(table, torch.from_numpy(keys.extrinsics), torch.from_numpy(intrinsics), *PROCESSED)
    owner = torch.where(winner >= 0, table.owner[winner.clamp_min(0)], 0)
    blank = np.zeros((*depth.shape, 3), np.uint8)
    return Clip(room, blank, depth.numpy(), owner.to(torch.uint8).numpy(), keys.extrinsics, intrinsics)


def countable(scene: Scene) -> int | None:
    """How many chairs the clip shows; None where some of them cannot be seen well."""
    rows = scene.named(COUNTED)
    return None if scene.faint(rows) or not scene.plain(COUNTED) else len(rows)


def questions(language: Language, chairs: int) -> list[dict[str, object]]:
    """The count of chairs first, then one question of each wanted kind."""
    chosen = [{"kind": "count", "question": "How many chairs are there?", "answers": list(spelled(chairs))}]
    for kind in WANTED:
        for item in language.questions:
            if item.kind == kind:
                said = {"kind": kind, "question": item.question, "answers": list(item.answers)}
                chosen.append(said | ({"situation": item.situation} if item.situation else {}))
                break
    return chosen


def references(clip: Clip, language: Language) -> list[dict[str, object]]:
    """One expression of each kind, with its boxes in the scene frame."""
    objects = [{"id": o.id, "box": [*o.centre, *o.size, o.yaw]} for o in clip.room.objects]
    boxes = scene_boxes({"objects": objects}, scene_from_room(torch.from_numpy(clip.extrinsics).float()))
    simplest = sorted(language.references, key=lambda r: (len(r.targets) > 3, not r.expression.startswith("the ")))
    first = {item.kind: item for item in reversed(simplest)}
    rows = [first[kind] for kind in FOUND if kind in first]
    return [{"kind": r.kind, "expression": r.expression, "boxes": [boxes[t] for t in r.targets]} for r in rows]


def scene_of(seed: int) -> tuple[Room, CameraPath, Clip, np.random.Generator]:
    """Room, key poses, their exact clip, and the generator for light and sensor."""
    rng = np.random.default_rng([seed, 1])
    room = build_room(seed)
    keys = draw_path(room, rng, KEYS, *SIZE)
    return room, keys, key_clip(room, keys), rng


def list_seeds(first: int, last: int) -> None:
    """Seeds with at least two chairs that can all be seen."""
    for seed in range(first, last):
        room, keys, clip, _ = scene_of(seed)
        chairs = countable(observe(clip))
        if chairs is not None and chairs >= 2:
            walked = np.linalg.norm(np.diff(np.linalg.inv(keys.extrinsics)[:, :3, 3], axis=0), axis=1).sum()
            print(f"seed {seed}: {chairs} chairs, {len(clip.visible())} objects, {walked:.1f} m, "
                  f"{keys.fov_deg:.0f} deg, {room.room_type}", flush=True)  # fmt: skip


def make(seed: int, folder: Path, copy: Path) -> None:
    """Write room.mp4, truth.npz and truth.json, and a copy of the film."""
    room, keys, clip, rng = scene_of(seed)
    chairs = countable(observe(clip))
    if chairs is None:
        raise SystemExit(f"seed {seed}: its chairs cannot be counted fairly; choose another (--list 0:100)")
    language = make_language(clip, np.random.default_rng([seed, 7]), questions=60, references=16)
    folder.mkdir(parents=True, exist_ok=True)
    write_video(folder / "room.mp4", film(room, keys, rng), FPS)
    millimetres = np.clip(clip.depth_m * 1000 + 0.5, 0, 65535).astype(np.uint16)
    cameras = {"extrinsics": clip.extrinsics, "intrinsics": clip.intrinsics}
    np.savez_compressed(folder / "truth.npz", depth_mm=millimetres, **cameras)
    said = {"seed": seed, "questions": questions(language, chairs), "references": references(clip, language)}
    (folder / "truth.json").write_text(json.dumps(said, indent=1) + "\n", encoding="utf-8")
    if copy.resolve() != (folder / "room.mp4").resolve():
        shutil.copyfile(folder / "room.mp4", copy)
    print(f"seed {seed}: {chairs} chairs; {sum(f.stat().st_size for f in folder.iterdir()) / 1e6:.2f} MB in {folder}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path, default=FOLDER)
    parser.add_argument("--copy", type=Path, default=Path(__file__).parent / "room.mp4")
    parser.add_argument("--list", metavar="A:B")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.list:
        list_seeds(*map(int, options.list.split(":")))
    else:
        make(options.seed, options.output, options.copy)
