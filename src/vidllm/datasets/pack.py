"""Training data from ScanNet scenes: frames resized once, a few scenes a safetensors file, an index over all.

    index.json                       settings, and scene -> shard
    shard_00000.safetensors          SCENE/rgb (F,H,W,3) uint8, SCENE/depth_mm (F,H,W) uint16 (0 = none),
                                     SCENE/extrinsics (F,4,4) float64 camera-from-aligned,
                                     SCENE/intrinsics (3,3) float64, pixel centres at +0.5; its metadata: a JSON
                                     record of each scene (frames, objects, annotations)
    parts/SCENE.safetensors          scenes that are done and whose shard is not full yet

Every file is written under another name and moved into place; a shard's parts are deleted after it stands, and the
index can be made again from the shards. So killing the writer at any moment loses at most the scene it was at.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from vidllm.datasets.layout import SETS, DataRoot
from vidllm.datasets.scannet import ScanNetScene
from vidllm.datasets.scannet_frames import depth_on_colour_grid
from vidllm.io.atomic import atomic_path, clear_leftovers_of
from vidllm.io.files import check_regular_file, has_file, naming, parse_json, read_json_object
from vidllm.io.frames import FrameSpec, frame_spec
from vidllm.io.processes import folder_lock
from vidllm.model.prompts import check_text

VERSION = 1
_MOST_MM = 65_535
Record = dict[str, Any]


@dataclass(frozen=True)
class PackSettings:
    """How scenes are packed.

    Attributes:
        frames: frames of a scene, spread evenly over those with a pose; fewer where there are fewer [P: 32].
        shorter_side: pixels [P: 518]; the centre is cropped to whole patches.
        patch_size: both sides are multiples of it.
    """

    frames: int = 32
    shorter_side: int = 518
    patch_size: int = 14


def pack(
    root: str | Path,
    output: str | Path,
    settings: PackSettings | None = None,
    *,
    scenes: Sequence[str] | None = None,
    per_shard: int = 4,
    tell: Callable[[int, int], None] | None = None,
) -> Path:
    """Pack scenes into `output`; those that are there already are not read again. Returns the index's path.

    Args:
        root: the data (see :mod:`vidllm.datasets.layout`).
        output: the folder to write.
        settings: see :class:`PackSettings`.
        scenes: names (default: every scene of the root).
        per_shard: scenes a shard.
        tell: hears (scenes done, scenes in all), those that were there already left out.

    Raises:
        ValueError: `output` was packed with other settings, or another process packs into it; no scenes; or, after
            all others were packed, the scenes that could not be read, by name and reason. A rerun tries those again.
        OutputError: the disk is full or not writable.
    """
    data, folder, settings = DataRoot(root), Path(output), settings or PackSettings()
    wanted = list(dict.fromkeys(data.scene_ids() if scenes is None else scenes))
    if not wanted or per_shard < 1:
        raise ValueError(f"{root}: expected scenes to pack and at least one a shard, got {len(wanted)} and {per_shard}")
    with folder_lock(folder):
        writer = _Writer(folder, settings)
        todo = [scene for scene in wanted if scene not in writer.shards and not writer.part(scene).exists()]
        annotations, broken = _annotations(data, wanted), list[str]()
        for done, name in enumerate(todo, 1):
            try:
                tensors, record = pack_scene(data.scene(name), settings)
            except ValueError as error:
                broken.append(f"{name}: {error}")
            else:
                writer.add(name, tensors, {**record, "annotations": annotations.get(name, {})}, per_shard)
            if tell is not None:
                tell(done, len(todo))
        writer.finish(per_shard)
    if broken:
        raise ValueError(f"{len(broken)} of {len(wanted)} scenes were left out, run again after mending: "
                         + "; ".join(broken))  # fmt: skip
    return writer.index_path


# -- one scene


def pack_scene(scene: ScanNetScene, settings: PackSettings) -> tuple[dict[str, Tensor], Record]:
    """Tensors and record of a scene; ValueError where frames, poses or intrinsics are broken.

    The record holds ``scene_id``, ``frames`` (names), ``lost`` (frames without a pose), ``aligned``, ``objects``
    (id, label, box in the aligned frame or null, nyu40) where the scene is annotated.
    """
    chosen = scene.uniform_frames(settings.frames).tolist()
    first = scene.colour(chosen[0])
    spec = frame_spec(
        (first.shape[0], first.shape[1]), shorter_side=settings.shorter_side, patch_size=settings.patch_size
    )
    intrinsics = spec.affine.numpy() @ scene.colour_intrinsics
    rgb = np.empty((len(chosen), *spec.size, 3), np.uint8)
    depth = np.empty((len(chosen), *spec.size), np.uint16)
    for row, frame in enumerate(chosen):
        rgb[row] = _resized(scene, frame, spec)
        grid = depth_on_colour_grid(scene.depth_m(frame), scene.depth_intrinsics, intrinsics, spec.size)
        depth[row] = np.clip(np.rint(grid * 1000), 0, _MOST_MM)
    aligned = has_file(scene.file(".txt"))
    alignment = scene.axis_alignment if aligned else np.eye(4)
    poses = np.stack([alignment @ scene.pose(frame) for frame in chosen])
    tensors = {
        "rgb": torch.from_numpy(rgb),
        "depth_mm": torch.from_numpy(depth),
        "extrinsics": torch.from_numpy(np.linalg.inv(poses)),
        "intrinsics": torch.from_numpy(intrinsics),
    }
    names = [scene.source.names[frame] for frame in chosen]
    annotated = has_file(scene.file(".aggregation.json"))
    objects = [asdict(item) for item in scene.instances] if annotated and aligned else []
    record = {"scene_id": scene.scene_id, "frames": names, "lost": scene.lost, "aligned": aligned, "objects": objects}
    return tensors, record


def _resized(scene: ScanNetScene, frame: int, spec: FrameSpec) -> np.ndarray:
    picture = scene.colour(frame)
    if picture.shape[:2] != spec.original:
        raise ValueError(f"{scene.source.where}: frame {scene.source.names[frame]} is {picture.shape[:2]} (H, W), the "
                         f"first one {spec.original}; export the scene again")  # fmt: skip
    return (spec.apply(Image.fromarray(picture)).permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()


def _annotations(data: DataRoot, scenes: Iterable[str]) -> dict[str, Record]:
    """Entries of every set that is there, by scene and ``set/split``; ValueError where a file is broken."""
    found: dict[str, Record] = {scene: {} for scene in scenes}
    for name, one in SETS.items():
        for split in one.splits:
            if data.annotation_file(name, split) is None:
                continue
            for entry in data.annotations(name, split):
                if entry.scene_id in found:
                    found[entry.scene_id].setdefault(f"{name}/{split}", []).append(asdict(entry))
    return found


# -- files


class _Writer:
    """Parts, shards and index of one folder."""

    def __init__(self, folder: Path, settings: PackSettings) -> None:
        self.folder, self.settings = folder, settings
        self.index_path = folder / "index.json"
        stated = {"version": VERSION, "settings": asdict(settings)}
        if self.index_path.exists():
            known = _read_index(self.index_path)
            if {key: known.get(key) for key in stated} != stated:
                raise ValueError(f"{folder}: packed with {known.get('settings')}, now asked for {asdict(settings)}; "
                                 "choose another folder")  # fmt: skip
        self.shards = {name: path.name for path in sorted(folder.glob("shard_*.safetensors")) for name in records(path)}
        self._stated = stated
        self._write_index()
        clear_leftovers_of(folder)
        for name in self.shards:  # left over where the writer was killed after a shard stood
            self.part(name).unlink(missing_ok=True)

    def part(self, scene: str) -> Path:
        """Where a finished scene waits for its shard."""
        return self.folder / "parts" / f"{scene}.safetensors"

    def add(self, scene: str, tensors: dict[str, Tensor], record: Record, per_shard: int) -> None:
        """Store one scene; close a shard when enough of them wait."""
        _save(self.part(scene), {f"{scene}/{name}": value for name, value in tensors.items()}, {scene: record})
        waiting = self._waiting()
        if len(waiting) >= per_shard:
            self._close(waiting[:per_shard])

    def finish(self, per_shard: int) -> None:
        """Close the last shard, which may hold fewer scenes."""
        waiting = self._waiting()
        for start in range(0, len(waiting), per_shard):
            self._close(waiting[start : start + per_shard])
        if (self.folder / "parts").is_dir() and not any((self.folder / "parts").iterdir()):
            (self.folder / "parts").rmdir()

    def _waiting(self) -> list[Path]:
        return sorted((self.folder / "parts").glob("scene*.safetensors"))

    def _close(self, parts: list[Path]) -> None:
        tensors: dict[str, Tensor] = {}
        merged: dict[str, Record] = {}
        for path in parts:
            merged.update(records(path))
            with safe_open(str(path), framework="pt") as file:
                tensors.update({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
        numbers = [int(path.stem.split("_")[1]) for path in self.folder.glob("shard_*.safetensors")]
        target = self.folder / f"shard_{max(numbers, default=-1) + 1:05d}.safetensors"
        _save(target, tensors, merged)
        self.shards.update(dict.fromkeys(merged, target.name))
        self._write_index()
        for path in parts:
            path.unlink()

    def _write_index(self) -> None:
        text = json.dumps({**self._stated, "scenes": dict(sorted(self.shards.items()))}, indent=1)
        with atomic_path(self.index_path) as temporary:
            temporary.write_text(text + "\n", encoding="utf-8")


def _save(path: Path, tensors: dict[str, Tensor], scene_records: dict[str, Record]) -> None:
    with atomic_path(path) as temporary:
        contiguous = {name: value.contiguous() for name, value in tensors.items()}
        save_file(contiguous, temporary, metadata={"scenes": json.dumps(scene_records)})


def records(path: str | Path) -> dict[str, Record]:
    """The records of a shard by scene; ValueError when it is none."""
    try:
        with safe_open(str(check_regular_file(path)), framework="pt") as file:
            text = check_text(file.metadata()["scenes"], "text of its scenes")
            found: dict[str, Record] = parse_json(text, "its scenes")
            return found
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: not a readable shard ({error}); delete it and pack again") from error


def _read_index(path: Path) -> Record:
    try:
        return read_json_object(path)
    except ValueError as error:
        raise ValueError(f"{error}, or delete it: it is made again") from None


class PackedScenes:
    """Reads what :func:`pack` wrote, one scene at a time. ValueError when the folder holds no readable index."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        index = self.folder / "index.json"
        told = _read_index(index)
        self._shards: dict[str, str] = told.get("scenes", {})
        plain = isinstance(self._shards, dict) and all(Path(str(name)).name == name for name in self._shards.values())
        if told.get("version") != VERSION or not plain:
            raise ValueError(f"{index}: not an index of packed scenes of version {VERSION}; delete it and pack again")
        self.scenes = list(self._shards)

    def __len__(self) -> int:
        return len(self.scenes)

    def _path(self, scene: str) -> Path:
        if scene not in self._shards:
            raise ValueError(f"{self.folder}: no scene {scene}; it holds {len(self)} others")
        return self.folder / self._shards[scene]

    def record(self, scene: str) -> Record:
        """Frames, objects and annotations of a scene."""
        path = self._path(scene)
        with naming(path, "delete it and pack again"):
            return records(path)[scene]

    def tensors(self, scene: str) -> dict[str, Tensor]:
        """``rgb``, ``depth_mm``, ``extrinsics`` and ``intrinsics`` of a scene."""
        path = check_regular_file(self._path(scene))
        with naming(path, "delete it and pack again"), safe_open(str(path), framework="pt") as file:
            names = [name for name in file.keys() if name.startswith(f"{scene}/")]  # noqa: SIM118
            return {name.partition("/")[2]: file.get_tensor(name) for name in names}
