"""One room as a scan of ScanNet: recording, mesh, segments, instances and the alignment.

    SCENE.sens                            colour and depth, world-from-camera in the scan frame
    SCENE.txt                             axisAlignment, sizes and intrinsics
    SCENE_vh_clean_2.ply                  the mesh, in the scan frame
    SCENE_vh_clean_2.0.010000.segs.json   for each vertex its segment
    SCENE.aggregation.json                instances: objectId (from 0), label and segments
    SCENE_vh_clean.aggregation.json       the same

Objects without a single pixel in any frame are left out. Instances are the objects in the order of the room, then
floor, walls and ceiling; skirting boards belong to none.

Scene names. Seed 7 is ``scene9007_00``, seed 1000 is ``scene91000_00``: different for each seed, and from the names of
ScanNet's own scenes (0000 to 0806).

Frames. The scan frame is that of mesh and poses: z up, metres, the room turned by a yaw and moved into the positive
octant. The aligned frame (``axisAlignment``) has the room's own axes, its origin on the floor below the middle of the
footprint's bounding rectangle. All boxes of the language sets are in the aligned frame.

Cameras. ScanNet's pixel centres lie at whole numbers, ours at +0.5: its cx is ours - 0.5, and so is cy. Depth is every
second pixel of every second row, in millimetres: its fx, fy, cx and cy are half those of colour.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vidllm.datasets.sens import whole_centres, write_sens
from vidllm_rooms.official.mesh import Mesh, build_mesh, moved, write_mesh
from vidllm_rooms.world import Clip, Primitive, Room, RoomObject, read_data
from vidllm_rooms.world.layout import ROOMS

SCANNET = read_data("scannet")
SPLITS = ("train", "val", "test")


def scene_name(seed: int) -> str:
    """The scene of a seed; ValueError when the seed is negative."""
    if seed < 0:
        raise ValueError(f"expected a seed of at least 0, received {seed}; only those have a scene name")
    return f"scene9{seed:03d}_00"


@dataclass(frozen=True)
class ScanFrames:
    """4x4 float64 matrices in metres: ``scan_from_room`` and ``aligned_from_scan``.

    ``aligned_from_scan`` has six decimals, just as the file that holds it, so that nothing is lost in writing it.
    """

    scan_from_room: np.ndarray
    aligned_from_scan: np.ndarray


def scan_frames(room: Room) -> ScanFrames:
    """The frames of a room's scan, drawn from its seed: the yaw is never within 15 degrees of the axes."""
    rng = np.random.default_rng([room.seed, 11])
    yaw = np.radians(rng.uniform(15, 75) + 90 * rng.integers(4))
    outline = np.array(room.polygon)
    scan_from_room = np.eye(4)
    scan_from_room[:2, :2] = [[np.cos(yaw), -np.sin(yaw)], [np.sin(yaw), np.cos(yaw)]]
    lowest = (outline @ scan_from_room[:2, :2].T).min(0)
    scan_from_room[:2, 3] = rng.uniform(0.2, 0.6, 2) - lowest
    scan_from_room[2, 3] = rng.uniform(0.03, 0.15)
    middle = np.eye(4)
    middle[:2, 3] = -(outline.min(0) + outline.max(0)) / 2
    return ScanFrames(scan_from_room, np.round(middle @ np.linalg.inv(scan_from_room), 6) + 0.0)


SHELL_ORDER = ("floor", "wall", "ceiling")


@dataclass(frozen=True)
class Instance:
    """One annotated thing: ``object_id`` from 0, its label and segments; ``room_id`` is 0 for floor, walls, ceiling."""

    object_id: int
    label: str
    segments: tuple[int, ...]
    room_id: int


@dataclass(frozen=True)
class Scan:
    """A room as it is scanned: scene name, frames, mesh in the scan frame, and instances."""

    name: str
    frames: ScanFrames
    mesh: Mesh
    instances: tuple[Instance, ...]

    def box(self, object_id: int) -> tuple[np.ndarray, np.ndarray]:
        """(low, high) corners (3,) of an instance's vertices in the aligned frame, metres."""
        points = moved(self.frames.aligned_from_scan, self.mesh.points(self.instances[object_id].segments))
        return points.min(0), points.max(0)

    def middle(self) -> np.ndarray:
        """Middle (3,) of the mesh's bounding box in the scan frame: the origin of SQA3D's positions."""
        return np.asarray((self.mesh.vertices.min(0).astype(np.float64) + self.mesh.vertices.max(0)) / 2)

    def object_id_of(self) -> dict[int, int]:
        """Object ids by the ids of the room's things."""
        return {item.room_id: item.object_id for item in self.instances if item.room_id}


def scan_room(clip: Clip) -> Scan:
    """The scan of the visible part of a room."""
    seen = seen_objects(clip)
    primitives = [*(part for item in seen for part in item.parts), *clip.room.shell]
    frames = scan_frames(clip.room)
    mesh = build_mesh(primitives, frames.scan_from_room)
    numbers = iter(np.unique(mesh.segments).tolist())  # in the order of the primitives
    groups = [(item.category, tuple(next(numbers) for _ in item.parts), item.id) for item in seen]
    shell = [(shell_label(part, clip.room), next(numbers)) for part in clip.room.shell]
    groups += [(label, (number,), 0) for label in SHELL_ORDER for name, number in shell if name == label]
    instances = tuple(Instance(index, *group) for index, group in enumerate(groups))
    return Scan(scene_name(clip.room.seed), frames, mesh, instances)


def seen_objects(clip: Clip) -> list[RoomObject]:
    """The objects with at least one pixel in some frame, in the room's order."""
    ids = set(np.unique(clip.instance).tolist())
    return [item for item in clip.room.objects if item.id in ids]


def shell_label(part: Primitive, room: Room) -> str | None:
    """What a part of the shell is: "floor", "wall", "ceiling", or None for a skirting board."""
    if part.centre[2] < 0:
        return "floor"
    if part.centre[2] > room.height:
        return "ceiling"
    return "wall" if part.size[2] > 0.9 * room.height else None


def write_scan(folder: Path, clip: Clip, scan: Scan) -> None:
    """Write the files of a scan into an existing folder."""
    stem = folder / scan.name
    color, depth = cameras(clip)
    write_sens(f"{stem}.sens", recorded(clip, scan), color, depth, depth_shift=1000.0, sensor_name="procedural room")
    Path(f"{stem}.txt").write_text(_meta(clip, scan), encoding="utf-8")
    write_mesh(Path(f"{stem}_vh_clean_2.ply"), scan.mesh)
    segments = {"params": SCANNET["segmenter"], "sceneId": f"scannet.{scan.name}",
                "segIndices": scan.mesh.segments.tolist()}  # fmt: skip
    Path(f"{stem}_vh_clean_2.0.010000.segs.json").write_text(json.dumps(segments), encoding="utf-8")
    groups = [
        {"id": item.object_id, "objectId": item.object_id, "segments": list(item.segments), "label": item.label}
        for item in scan.instances
    ]
    aggregation = {
        "sceneId": f"scannet.{scan.name}", "appId": "Aggregator.v2", "segGroups": groups,
        "segmentsFile": f"scannet.{scan.name}_vh_clean_2.0.010000.segs.json",
    }  # fmt: skip
    for name in (".aggregation.json", "_vh_clean.aggregation.json"):
        Path(f"{stem}{name}").write_text(json.dumps(aggregation), encoding="utf-8")


def cameras(clip: Clip) -> tuple[np.ndarray, np.ndarray]:
    """(colour, depth) intrinsics as 4x4 in ScanNet's convention: pixel centres at whole numbers."""
    color = whole_centres(clip.intrinsics[0])
    depth = color.copy()
    depth[:2, :3] /= 2
    return color, depth


def recorded(clip: Clip, scan: Scan) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Colour (H, W, 3), depth (H/2, W/2) in millimetres and scan-from-camera (4, 4) of every frame, as written."""
    for rgb, depth_m, extrinsics in zip(clip.rgb, clip.depth_m, clip.extrinsics, strict=True):
        millimetres = np.rint(depth_m[::2, ::2].astype(np.float64) * 1000).clip(0, 65535).astype(np.uint16)
        yield rgb, millimetres, scan.frames.scan_from_room @ np.linalg.inv(extrinsics.astype(np.float64))


def _meta(clip: Clip, scan: Scan) -> str:
    count, height, width = clip.depth_m.shape
    named = tuple(zip(("color", "depth"), cameras(clip), strict=True))
    low_height, low_width = clip.depth_m[0, ::2, ::2].shape
    numbers = {
        "axisAlignment": _row(scan.frames.aligned_from_scan),
        "colorHeight": height,
        "colorToDepthExtrinsics": _row(np.eye(4)),
        "colorWidth": width,
        "depthHeight": low_height,
        "depthWidth": low_width,
        **{f"f{axis}_{name}": f"{k[i, i]:.6f}" for i, axis in enumerate("xy") for name, k in named},
        **{f"m{axis}_{name}": f"{k[i, 2]:.6f}" for i, axis in enumerate("xy") for name, k in named},
        "numColorFrames": count,
        "numDepthFrames": count,
        "numIMUmeasurements": 0,
        "sceneType": ROOMS.get(clip.room.room_type, {}).get("scannet", "Misc."),
    }
    return "".join(f"{key} = {value}\n" for key, value in numbers.items())


def _row(matrix: np.ndarray) -> str:
    return " ".join(f"{value:.6f}" for value in matrix.ravel())
