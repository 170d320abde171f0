"""A tiny scene written in ScanNet's own formats: two boxes, recorded by a camera that moves along x."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
from PIL import Image

from vidllm.datasets.sens import write_sens

HEIGHT, WIDTH = 24, 32  # colour; depth has half of it
COLOUR_K = np.array([[30.0, 0, 15.5, 0], [0, 30.0, 11.5, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
DEPTH_K = np.array([[15.0, 0, 7.5, 0], [0, 15.0, 5.5, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
TURN = np.array([[0.0, -1, 0, 1], [1, 0, 0, 2], [0, 0, 1, 0.5], [0, 0, 0, 1]])  # aligned from mesh
OBJECTS = {3: ("chair", (0.0, 0.0, 0.0), (1.0, 0.5, 2.0)), 7: ("kitchen cabinet", (2.0, 1.0, 0.0), (1.0, 1.0, 1.0))}
FACES = [(0, 1, 2), (1, 3, 2), (4, 5, 6), (5, 7, 6)]


def picture(frame: int) -> np.ndarray:
    """(H, W, 3) uint8: a smooth ramp that depends on the frame."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    return np.stack([rows * 4 + frame, columns * 3 + 20, np.full_like(rows, 10 * frame)], -1).astype(np.uint8)


def depth(frame: int) -> np.ndarray:
    """(h, w) uint16 millimetres; the first pixel has none."""
    rows, columns = np.mgrid[: HEIGHT // 2, : WIDTH // 2]
    values = (1000 + 100 * frame + 10 * rows + columns).astype(np.uint16)
    values[0, 0] = 0
    return values


def pose(frame: int) -> np.ndarray:
    """World-from-camera 4x4."""
    matrix = np.eye(4)
    matrix[:3, 3] = (0.1 * frame, 0.2, 1.5)
    return matrix


def lost_pose() -> np.ndarray:
    """What ScanNet writes where tracking was lost."""
    return np.full((4, 4), -np.inf)


def write_recording(path: Path, frames: int = 6, lost: tuple[int, ...] = (2,)) -> None:
    """A recording whose `lost` frames have no pose."""
    rows = ((picture(i), depth(i), lost_pose() if i in lost else pose(i)) for i in range(frames))
    write_sens(path, rows, COLOUR_K, DEPTH_K)


def write_scene(root: Path, name: str = "scene0000_00", *, sens: bool = True, parent: str = "scans") -> Path:
    """A scene's folder with mesh, segments, objects and SCENE.txt; with a recording where `sens`."""
    folder = root / parent / name
    folder.mkdir(parents=True)
    numbers = " ".join(f"{v:.6f}" for v in TURN.ravel())
    lines = ["axisAlignment = " + numbers, "colorHeight = 24", "colorWidth = 32"]
    for kind, k in (("color", COLOUR_K), ("depth", DEPTH_K)):
        pairs = {"fx": k[0, 0], "fy": k[1, 1], "mx": k[0, 2], "my": k[1, 2]}
        lines += [f"{key}_{kind} = {value:.6f}" for key, value in pairs.items()]
    (folder / f"{name}.txt").write_text("\n".join(lines) + "\n")
    write_mesh(folder / f"{name}_vh_clean_2.ply")
    segments = [10] * 4 + [11] * 4 + [20] * 8
    (folder / f"{name}_vh_clean_2.0.010000.segs.json").write_text(json.dumps({"segIndices": segments}))
    groups = [
        {"id": 0, "objectId": 3, "label": "chair", "segments": [10, 11]},
        {"id": 1, "objectId": 7, "label": "kitchen cabinet", "segments": [20]},
    ]
    (folder / f"{name}.aggregation.json").write_text(json.dumps({"sceneId": name, "segGroups": groups}))
    if sens:
        write_recording(folder / f"{name}.sens")
    return folder


def vertices() -> np.ndarray:
    """(16, 3) corners of the two boxes, in the frame of the mesh."""
    unit = np.array([[x, y, z] for z in (0, 1) for y in (0, 1) for x in (0, 1)], float)
    return np.concatenate([unit * size + low for _, low, size in OBJECTS.values()])


def write_mesh(path: Path) -> None:
    """The two boxes as a binary PLY with ScanNet's header."""
    head = ["ply", "format binary_little_endian 1.0", "comment a comment", "element vertex 16"]
    head += [f"property float {axis}" for axis in "xyz"]
    head += [f"property uchar {c}" for c in ("red", "green", "blue", "alpha")]
    head += [f"element face {len(FACES)}", "property list uchar int vertex_indices", "end_header", ""]
    body = b"".join(struct.pack("<3f4B", *xyz, 1, 2, 3, 255) for xyz in vertices())
    body += b"".join(struct.pack("<B3i", 3, *face) for face in FACES)
    path.write_bytes("\n".join(head).encode() + body)


def write_posed_images(folder: Path, frames: int = 4, lost: tuple[int, ...] = (1,)) -> None:
    """An export as mmdetection3d writes it: every tenth frame, poses beside the pictures, no intrinsics."""
    folder.mkdir(parents=True)
    for i in range(frames):
        stem = folder / f"{10 * i:05d}"
        Image.fromarray(picture(i)).save(stem.with_suffix(".jpg"), quality=95)
        Image.fromarray(depth(i)).save(stem.with_suffix(".png"))
        np.savetxt(stem.with_suffix(".txt"), np.full((4, 4), np.nan) if i in lost else pose(i))


def write_sens_reader_export(folder: Path, frames: int = 12) -> None:
    """An export as ScanNet's own reader writes it: numbers without zeros in front, and four intrinsic files."""
    for kind in ("color", "depth", "pose", "intrinsic"):
        (folder / kind).mkdir(parents=True)
    for i in range(frames):
        Image.fromarray(picture(i)).save(folder / "color" / f"{i}.jpg", quality=95)
        Image.fromarray(depth(i)).save(folder / "depth" / f"{i}.png")
        np.savetxt(folder / "pose" / f"{i}.txt", pose(i))
    np.savetxt(folder / "intrinsic" / "intrinsic_color.txt", COLOUR_K)
    np.savetxt(folder / "intrinsic" / "intrinsic_depth.txt", DEPTH_K)
