"""Where the data lie under one root, and what the official releases hold.

    scans/SCENE, scans_test/SCENE       ScanNet's scenes; posed_images/SCENE: exported frames
    scannetv2_{train,val,test}.txt      lists of scenes; scannetv2-labels.combined.tsv: the label map
    scanqa/ sqa3d/ scanrefer/ scan2cap/ multi3drefer/ referit3d/ vsi/    annotation files under their official names
    mask3d/SCENE.mask.npz               proposals

The folders of scenes may also lie in ROOT/scannet, as the peers' code has them.
Annotation files are found by name, up to four folders below the root; a folder of the set's own name goes first.
VSI-Bench's test.jsonl must lie in such a folder.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from vidllm.datasets.annotations import (
    annotations_path,
    read_multi3drefer,
    read_referit3d,
    read_scanqa,
    read_scanrefer,
    read_scene_list,
    read_sqa3d,
    read_vsi,
)
from vidllm.datasets.scannet import LABEL_MAP, ScanNetScene
from vidllm.datasets.scannet_mesh import Proposals, read_proposals
from vidllm.io.files import check_regular_file

SCENE_SPLITS = {"train": 1201, "val": 312, "test": 100}
SCAN_FOLDERS = ("scans", "scans_test")
_SKIPPED = frozenset((*SCAN_FOLDERS, "posed_images"))
_DEPTH = 4


@dataclass(frozen=True)
class AnnotationSet:
    """One annotation set as released."""

    name: str  # of the task
    title: str  # as printed
    pattern: str  # the file of a split, with a folder where the name alone would be any file's
    splits: Mapping[str, int | None]  # how many entries the release holds, None where we know of none
    read: Callable[[Path], list[Any]]
    source: str
    terms: str

    def file(self, split: str) -> str:
        """The official name of the file of a split; ``all`` is the file of no split."""
        return self.pattern.format(split=split) if split != "all" else self.pattern.format(split="").replace("_.", ".")


SCANNET_SOURCE = "http://www.scan-net.org (fill in the terms of use; they send a download script by e-mail)"
LISTS_SOURCE = "https://github.com/ScanNet/ScanNet/tree/master/Tasks/Benchmark"
PROPOSALS_SOURCE = "https://huggingface.co/datasets/huangjy-pku/LEO_data (mask.zip)"
_SCANREFER = ("https://daveredrum.github.io/ScanRefer (form)", "CC BY-NC-SA 3.0")
_REFERIT3D = ("https://referit3d.github.io", "MIT, with ScanNet's terms")

_OBJECTS = {"train": 36_665, "val": 9_508}
_TABLES = {"all": None, "train": None, "test": None}
_QUESTIONS = {"train": 25_563, "val": 4_675, "test_w_obj": 4_976, "test_wo_obj": 6_149}
SETS: dict[str, AnnotationSet] = {
    s.name: s
    for s in (
        AnnotationSet("scanqa", "ScanQA", "ScanQA_v1.0_{split}.json", _QUESTIONS, read_scanqa,
                      "https://github.com/ATR-DBI/ScanQA", "CC BY-NC-SA 3.0"),
        AnnotationSet("sqa3d", "SQA3D", "v1_balanced_questions_{split}_scannetv2.json",
                      {"train": 26_623, "val": 3_261, "test": 3_519}, read_sqa3d,
                      "https://zenodo.org/record/7792397", "CC BY 4.0"),
        AnnotationSet("scanrefer", "ScanRefer", "ScanRefer_filtered_{split}.json", _OBJECTS, read_scanrefer,
                      *_SCANREFER),
        AnnotationSet("scan2cap", "Scan2Cap (ScanRefer's files)", "ScanRefer_filtered_{split}.json", _OBJECTS,
                      read_scanrefer, *_SCANREFER),
        AnnotationSet("multi3drefer", "Multi3DRefer", "multi3drefer_{split}.json", {"train": None, "val": None},
                      read_multi3drefer, "https://github.com/3dlg-hcvc/M3DRef-CLIP", "MIT, with ScanRefer's terms"),
        AnnotationSet("nr3d", "Nr3D", "nr3d_{split}.csv", _TABLES, read_referit3d, *_REFERIT3D),
        AnnotationSet("sr3d", "Sr3D", "sr3d_{split}.csv", _TABLES, read_referit3d, *_REFERIT3D),
        AnnotationSet("vsi", "VSI-Bench", "vsi/{split}.jsonl", {"test": None}, read_vsi,
                      "https://huggingface.co/datasets/nyu-visionx/VSI-Bench", "Apache-2.0, with the videos' terms"),
    )
}  # fmt: skip


class DataRoot:
    """The data under one folder. Nothing is read before it is asked for. ValueError when there is no such folder."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        if not self.root.is_dir():
            raise ValueError(
                f"{self.root}: no such folder; expected the root of the data (see vidllm data check --help)"
            )

    @cached_property
    def _files(self) -> dict[str, list[Path]]:
        """Files by name, scans left out, shallow ones first."""
        found: dict[str, list[Path]] = {}
        for place, folders, names in os.walk(self.root, followlinks=True):
            depth = len(Path(place).relative_to(self.root).parts)
            hidden = {name for name in folders if name.startswith(".")}
            folders[:] = sorted(set(folders) - _SKIPPED - hidden) if depth < _DEPTH else []
            for name in sorted(names):
                found.setdefault(name, []).append(Path(place) / name)
        for paths in found.values():
            paths.sort(key=lambda path: (len(path.parts), path))
        return found

    def find(self, name: str, prefer: str | None = None) -> Path | None:
        """A file by its name, or folder and name, None when there is none; one below `prefer` goes first."""
        folder, _, name = name.rpartition("/")
        paths = [path for path in self._files.get(name, []) if folder in ("", path.parent.name.lower())]
        own = [path for path in paths if prefer in [part.lower() for part in path.relative_to(self.root).parts[:-1]]]
        return next(iter(own or paths), None)

    @cached_property
    def _scannet(self) -> Path:
        """The folder of scans/: the root, or scannet/ in it."""
        places = (self.root, self.root / "scannet", self.root / "ScanNet")
        return next((p for p in places for name in (*SCAN_FOLDERS, "posed_images") if (p / name).is_dir()), self.root)

    @cached_property
    def _folders(self) -> dict[str, Path]:
        """Folder of each scene, in order of name; exported frames alone count too."""
        found: dict[str, Path] = {}
        for parent in ("posed_images", *reversed(SCAN_FOLDERS)):
            if (self._scannet / parent).is_dir():
                inside = (path for path in (self._scannet / parent).iterdir() if path.is_dir())
                found.update((path.name, path) for path in inside if path.name.startswith("scene"))
        return dict(sorted(found.items()))

    def scene_ids(self) -> list[str]:
        """The existing scenes of all splits."""
        return list(self._folders)

    def scene_list(self, split: str) -> list[str] | None:
        """The official scenes of a split, existing or not; None without the list."""
        path = self.find(f"scannetv2_{split}.txt")
        return None if path is None or check_regular_file(path).stat().st_size == 0 else read_scene_list(path)

    def scene(self, scene_id: str) -> ScanNetScene:
        """A scene by its name; ValueError if it does not exist."""
        if scene_id not in self._folders:
            raise ValueError(f"{self.root}: no scene {scene_id} under {' or '.join(SCAN_FOLDERS)}; {SCANNET_SOURCE}")
        posed = self._scannet / "posed_images" / scene_id
        images = posed if posed.is_dir() else None
        return ScanNetScene(self._folders[scene_id], posed_images=images, labels=self.find(LABEL_MAP))

    def proposals(self, scene_id: str) -> Proposals | None:
        """The Mask3D proposals of a scene, None when there are none."""
        path = self.find(f"{scene_id}.mask.npz")
        return None if path is None else read_proposals(path)

    def annotation_file(self, name: str, split: str) -> Path | None:
        """The file of a set's split, None if it does not exist. ValueError for an unknown set or split."""
        wanted = SETS.get(name)
        if wanted is None:
            raise ValueError(f"expected a set of {', '.join(SETS)}, got {name!r}")
        if (wanted.name, split) == ("scanqa", "test"):
            split = "test_w_obj"  # the test scenes that are named in ScanNet's own test list
        if split not in wanted.splits and split not in SCENE_SPLITS:  # rooms have those of ScanNet's scenes
            raise ValueError(f"{wanted.title} has the splits {', '.join(wanted.splits)}, got {split!r}")
        return self.find(wanted.file(split), name)

    def annotation_files(self, name: str, split: str) -> list[Path]:
        """Every file of a set's split: SQA3D has two. Empty if it does not exist."""
        path = self.annotation_file(name, split)
        if path is None:
            return []
        return [path, annotations_path(path)] if name == "sqa3d" else [path]

    def annotations(self, name: str, split: str) -> list[Any]:
        """The entries of a set's split; ValueError if it does not exist (naming its source) or is broken."""
        path = self.annotation_file(name, split)
        if path is None:
            wanted = SETS[name]
            raise ValueError(f"{self.root}: no {wanted.file(split)}; get it from {wanted.source} ({wanted.terms})")
        return SETS[name].read(path)
