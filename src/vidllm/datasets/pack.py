"""Training shards (:mod:`vidllm.datasets.shards`) of ScanNet scenes: frames resized once, the sentences of one split.

Unlike shards of rooms they have no instances and no names of patches. Sentences become questions, situated questions,
references and captions, with the ids of their objects plus one (0 is the shell).

    scans_SCENE_COUNT_HxW.safetensors    the first scene's name, scenes, frame size

Shards are written atomically; scenes of existing shards are not read again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vidllm.datasets.language import Caption, Language, Question, Reference
from vidllm.datasets.layout import SETS, DataRoot
from vidllm.datasets.scannet import ScanNetScene
from vidllm.datasets.shards import LabelSpace, Shard, save_shard
from vidllm.io.atomic import clear_leftovers_of
from vidllm.io.files import has_file, parse_json
from vidllm.io.frames import frame_spec
from vidllm.io.processes import folder_lock

MOST_ID = 255  # of an object, as instances of rooms are bytes
_MOST_M = 65.535  # what 16 bits of millimetres hold
_NAMES = "scans_*.safetensors"
Entries = dict[str, list[Any]]  # of one scene, by annotation set
Packed = tuple[dict[str, Tensor], dict[str, Any]]  # a scene's tensors and record


@dataclass(frozen=True)
class PackSettings:
    """How scenes are packed."""

    frames: int = 32  # of a scene, spread evenly over those with a pose; fewer where there are fewer [P: 32]
    shorter_side: int = 518  # pixels [P: 518]; the centre is cropped to whole patches
    patch_size: int = 14  # both sides are multiples of it
    split: str = "train"  # of the sentences; scenes without any are left out


def pack(
    root: str | Path,
    output: str | Path,
    settings: PackSettings | None = None,
    *,
    scenes: Sequence[str] | None = None,
    per_shard: int = 4,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Write scenes as training shards into `output`; returns how many it holds. Rooms' shards may lie there too.

    ``scenes`` are names (default: every scene of ``root`` that has sentences); a shard holds ``per_shard`` of one frame
    size and number of frames; ``progress`` is called with the numbers of scenes done and of all not packed before.
    Raises ValueError if `output` was packed with other settings or another process packs into it, where no scene has a
    sentence of the split, and, after all others were packed, naming the scenes that could not be read, which a rerun
    tries again; OutputError where the disk is full or not writable.
    """
    data, folder, settings = DataRoot(root), Path(output), settings or PackSettings()
    wanted = list(dict.fromkeys(data.scene_ids() if scenes is None else scenes))
    if not wanted or per_shard < 1:
        raise ValueError(f"{root}: expected scenes to pack and at least one a shard, got {len(wanted)} and {per_shard}")
    waiting: dict[tuple[int, ...], list[Packed]] = {}
    with folder_lock(folder):
        clear_leftovers_of(folder)
        done = _scenes_there(folder, settings)
        entries, broken = _entries_by_scene(data, settings.split), list[str]()
        todo = [scene for scene in wanted if scene not in done]
        for count, name in enumerate(todo, 1):
            try:
                scene = data.scene(name)
                packed = pack_scene(scene, settings, entries[name]) if name in entries else None
            except ValueError as error:
                broken.append(f"{name}: {error}")
            else:
                if packed is not None and any(packed[1]["language"].values()):
                    group = waiting.setdefault(tuple(packed[0]["rgb"].shape), [])
                    group.append(packed)
                    if len(group) == per_shard:
                        done |= _write(folder, group, settings)
                        group.clear()
                elif scenes is not None:
                    broken.append(f"{name}: no sentence of the split {settings.split!r} about it")
            if progress is not None:
                progress(count, len(todo))
        for group in waiting.values():
            if group:
                done |= _write(folder, group, settings)
    if broken:
        raise ValueError(f"{len(broken)} of {len(wanted)} scenes were left out, run again after mending: "
                         + "; ".join(broken))  # fmt: skip
    if not done:
        raise ValueError(f"{root}: no scene has a sentence of the split {settings.split!r}; add its annotation files")
    return len(done)


def packing_bytes(
    root: str | Path, output: str | Path, settings: PackSettings, *, scenes: Sequence[str] | None = None
) -> tuple[int, int]:
    """How many scenes :func:`pack` would still write, and their bytes, all taken to be as large as the first.

    Raises ValueError as :func:`pack`, where the root, the folder or the first scene's frames cannot be read.
    """
    data, folder = DataRoot(root), Path(output)
    entries, done = _entries_by_scene(data, settings.split), _scenes_there(folder, settings)
    todo = [name for name in scenes or data.scene_ids() if name in entries and name not in done]
    if not todo:
        return 0, 0
    first = data.scene(todo[0])
    height, width = first.colour(first.uniform_frames(1).tolist()[0]).shape[:2]
    size = frame_spec((height, width), shorter_side=settings.shorter_side, patch_size=settings.patch_size).size
    return len(todo), len(todo) * (settings.frames * size[0] * size[1] * (3 + 2) + 2**16)


def _scenes_there(folder: Path, settings: PackSettings) -> set[str]:
    """The scenes of finished shards; ValueError where these were packed with other settings."""
    there: set[str] = set()
    for path in sorted(folder.glob(_NAMES)):
        shard = Shard(path)
        before = parse_json(shard.metadata.get("packed", "null"), f"{path}: its settings")
        if before != asdict(settings):
            raise ValueError(f"{folder}: packed with {before}, now asked for {asdict(settings)}; choose another folder")
        there |= {record["seed"] for record in shard.records}
    return there


def _entries_by_scene(data: DataRoot, split: str) -> dict[str, Entries]:
    """The entries of every annotation set that exists; ValueError if a file is broken."""
    found: dict[str, Entries] = {}
    for name, one in SETS.items():
        if (split in one.splits or name == "vsi") and data.annotation_file(name, split) is not None:
            for entry in data.annotations(name, split):
                found.setdefault(entry.scene_id, {}).setdefault(name, []).append(entry)
    return found


def _write(folder: Path, group: list[Packed], settings: PackSettings) -> set[str]:
    records = [record for _, record in group]
    height, width = group[0][0]["rgb"].shape[1:3]
    tensors = {name: torch.stack([scene[name] for scene, _ in group]) for name in group[0][0]}
    path = folder / f"scans_{records[0]['seed']}_{len(group):03d}_{height}x{width}.safetensors"
    save_shard(path, tensors, records, LabelSpace(), {"packed": json.dumps(asdict(settings))})
    return {record["seed"] for record in records}


def pack_scene(scene: ScanNetScene, settings: PackSettings, entries: Entries) -> Packed:
    """Tensors (F,...) and record of a scene; ValueError where frames, poses, intrinsics or objects are broken."""
    chosen = scene.uniform_frames(settings.frames).tolist()
    original = (scene.colour(chosen[0]).shape[0], scene.colour(chosen[0]).shape[1])
    spec = frame_spec(original, shorter_side=settings.shorter_side, patch_size=settings.patch_size)
    intrinsics = spec.affine.numpy() @ scene.colour_intrinsics
    rgb = torch.empty((len(chosen), *spec.size, 3), dtype=torch.uint8)
    depth = torch.empty((len(chosen), *spec.size), dtype=torch.float16)
    for row, frame in enumerate(chosen):
        picture = scene.colour(frame, spec.resized)
        height, width = picture.shape[:2]  # perhaps of the whole picture's half, and so on
        if height * original[1] != width * original[0] or original[0] % height:
            raise ValueError(f"{scene.source.where}: frame {scene.source.names[frame]} is {picture.shape[:2]} (H, W), "
                             f"the first one {original}; export the scene again")  # fmt: skip
        rgb[row] = (spec.apply(Image.fromarray(picture)).permute(1, 2, 0) * 255).round().to(torch.uint8)
        grid = scene.depth_on_colour(frame, spec.size, intrinsics)
        depth[row] = torch.from_numpy(np.clip(grid, 0, _MOST_M))
    aligned = has_file(scene.file(".txt"))
    alignment = scene.axis_alignment if aligned else np.eye(4)
    poses = np.stack([alignment @ scene.pose(frame) for frame in chosen])
    tensors = {
        "rgb": rgb,
        "depth_m": depth,
        "extrinsics": torch.from_numpy(np.linalg.inv(poses)).float(),
        "intrinsics": torch.from_numpy(intrinsics).float().repeat(len(chosen), 1, 1),
    }
    instances = scene.instances if aligned and has_file(scene.file(".aggregation.json")) else []
    objects: list[dict[str, Any]] = [
        {"id": i.object_id + 1, "category": i.label, "colour": "", "material": "", "box": [*i.box, 0.0],
         "visible": True}
        for i in instances if i.box is not None and i.object_id < MOST_ID
    ]  # fmt: skip
    language = scene_language(entries, {item["id"] for item in objects})
    return tensors, {"seed": scene.scene_id, "objects": objects, "language": asdict(language)}


def scene_language(entries: Entries, known: Collection[int]) -> Language:
    """The sentences of one scene; those about an object that is not among the `known` ids are left out."""
    questions = [
        *(Question("scanqa", entry.question, entry.answers) for entry in entries.get("scanqa", ())),
        *(Question("sqa3d", e.question, e.answers, e.situation.text) for e in entries.get("sqa3d", ())),
        *(Question("vsi", entry.prompt, entry.answers) for entry in entries.get("vsi", ())),
    ]
    descriptions: dict[int, list[str]] = {}
    for entry in entries.get("scan2cap", ()):
        if entry.object_id + 1 in known:
            descriptions.setdefault(entry.object_id + 1, []).append(entry.description)
    captions = [Caption(number, tuple(texts)) for number, texts in descriptions.items()]
    references = [r for r in _references(entries) if all(target in known for target in r.targets)]
    return Language(tuple(q for q in questions if q.answers), tuple(references), tuple(captions))


def _references(entries: Entries) -> Iterator[Reference]:
    for entry in entries.get("scanrefer", ()):
        yield Reference("unique", entry.description, (entry.object_id + 1,))
    for entry in (*entries.get("nr3d", ()), *entries.get("sr3d", ())):
        yield Reference("unique", entry.utterance, (entry.target_id + 1,))
    for entry in entries.get("multi3drefer", ()):
        targets = tuple(number + 1 for number in entry.object_ids)
        yield Reference(("none", "unique", "several")[min(len(targets), 2)], entry.description, targets)
