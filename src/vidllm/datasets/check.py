"""Checks of a data root: present, missing (with their source) and damaged files, and counts against the official ones.

A different count is no error: rooms exported in the same layout have their own. A damaged file is one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from vidllm.datasets.layout import (
    LISTS_SOURCE,
    PROPOSALS_SOURCE,
    SCAN_FOLDERS,
    SCANNET_SOURCE,
    SCENE_SPLITS,
    SETS,
    AnnotationSet,
    DataRoot,
)
from vidllm.datasets.pack import PackSettings, pack_scene
from vidllm.datasets.scannet import LABEL_MAP, ScanNetScene
from vidllm.datasets.scannet_mesh import read_groups, read_label_map, read_mesh, read_proposals, read_segments
from vidllm.datasets.sens import SensFile
from vidllm.io.files import has_file

SHOWN = 5
PATCH = PackSettings().patch_size  # pictures as small as can be packed


@dataclass(frozen=True)
class Row:
    """One line of the report: ``what`` (such as ``ScanQA val``) and the number of its entries.

    ``status`` is ``ok``, ``differs`` (from the official count, None where none is known), ``missing`` or ``broken``;
    ``note`` says where to get it, or what is wrong.
    """

    what: str
    status: str
    count: int = 0
    official: int | None = None
    path: str = ""
    note: str = ""


@dataclass
class Report:
    """What was found under a root: a row a split or file, one message a broken file, and scenes that lack a file."""

    root: str
    rows: list[Row] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    incomplete: dict[str, list[str]] = field(default_factory=dict)

    @property
    def usable(self) -> bool:
        """Whether there are data and none is broken."""
        return not self.broken and any(row.count for row in self.rows)

    @property
    def differs(self) -> list[Row]:
        """Rows with another count than the official one."""
        return [row for row in self.rows if row.status == "differs"]

    def to_json(self) -> dict[str, Any]:
        """The report as plain values."""
        return {**asdict(self), "usable": self.usable}

    def lines(self) -> list[str]:
        """The report as text."""
        lines = [f"{self.root}", f"{'what':34s}{'there':>9s}{'official':>10s}  "]
        for row in self.rows:
            official = f"{row.official:,}" if row.official is not None else "-"
            line = f"{row.what:34s}{row.count:9,}{official:>10s}  {row.status:8s} {row.note or row.path}"
            lines.append(line.rstrip())
        for kind, scenes in self.incomplete.items():
            more = f" and {len(scenes) - SHOWN} more" if len(scenes) > SHOWN else ""
            lines.append(f"without {kind}: {len(scenes)} scenes ({', '.join(scenes[:SHOWN])}{more})")
        return lines + [f"broken: {message}" for message in self.broken]

    def note(self, read: Callable[[], Any]) -> Any:
        """What `read` returns; None, and a note among the broken files, when it raises."""
        try:
            return read()
        except (ValueError, OSError) as error:
            if str(error) not in self.broken:
                self.broken.append(str(error))
            return None

    def count(self, what: str, count: int, official: int | None, path: Path, note: str = "") -> None:
        """Add a row whose count is compared with the official one."""
        status = "ok" if official is None or count == official else "differs" if count else "missing"
        self.rows.append(Row(what, status, count, official, str(path), note))


Further = Callable[[DataRoot, str, str, list[Any], bool], Iterable[str]]


def check_root(
    root: str | Path,
    *,
    quick: bool = False,
    progress: Callable[[int, int], None] | None = None,
    further: Further | None = None,
) -> Report:
    """Check everything under a root; every scene is also packed with small pictures, and the result discarded.

    ``quick``: only check that the files of the scenes exist, and do not read them; ``progress`` is called with the
    numbers of scenes done and of all; ``further`` returns more faults of (root, set, split, entries, not ``quick``).
    Raises ValueError if the folder does not exist.
    """
    data = DataRoot(root)
    report = Report(str(root))
    _check_scenes(data, report, quick, progress)
    for one in SETS.values():
        for split, official in one.splits.items():
            entries = _check_set(data, report, one, split, official)
            if entries and further is not None:
                _note_all(report, f"{one.title} {split}", further(data, one.name, split, entries, not quick))
    _check_rest(data, report)
    return report


def _check_scenes(data: DataRoot, report: Report, quick: bool, progress: Callable[[int, int], None] | None) -> None:
    _count_scenes(data, report)
    scenes = data.scene_ids()
    test = set(report.note(partial(data.scene_list, "test")) or ())
    for done, name in enumerate(scenes, 1):
        scene = data.scene(name)
        _check_scene(scene, report, quick, name in test or scene.folder.parent.name == "scans_test")
        if progress is not None:
            progress(done, len(scenes))


def _count_scenes(data: DataRoot, report: Report) -> None:
    listed = 0
    for split, official in SCENE_SPLITS.items():
        scenes = report.note(partial(data.scene_list, split))
        name = f"scannetv2_{split}.txt"
        if scenes is None:
            report.rows.append(Row(f"ScanNet {split} scenes", "missing", 0, official, "", f"{name}: {LISTS_SOURCE}"))
            continue
        there = set(data.scene_ids()) & set(scenes)
        listed += len(there)
        note = "" if len(there) == len(scenes) else f"{name} lists {len(scenes)}; {SCANNET_SOURCE}"
        report.count(f"ScanNet {split} scenes", len(there), official, data.root / name, note)
    others = len(data.scene_ids()) - listed
    if others:
        report.rows.append(Row("scenes in no list", "ok", others, None, str(data.root / SCAN_FOLDERS[0])))


def _check_scene(scene: ScanNetScene, report: Report, quick: bool, test: bool) -> None:
    """Note missing files of the scene and, unless `quick`, read the others."""
    readers: dict[str, tuple[str, Callable[[], Any]]] = {
        "frames": ("", lambda: _check_frames(scene)),
        "SCENE.txt": (".txt", lambda: scene.axis_alignment),
        "mesh": ("_vh_clean_2.ply", lambda: len(read_mesh(scene.file("_vh_clean_2.ply")))),
    }
    if not test:
        segments_end, objects_end = "_vh_clean_2.0.010000.segs.json", ".aggregation.json"
        readers["segments"] = segments_end, lambda: len(read_segments(scene.file(segments_end)))
        readers["objects"] = objects_end, lambda: len(read_groups(scene.file(objects_end)))
    found, complete = {}, True
    for kind, (ending, reader) in readers.items():
        if not (scene.file(ending).exists() if ending else _has_frames(scene)):
            report.incomplete.setdefault(kind, []).append(scene.scene_id)
            complete = False
        elif not quick:
            found[kind] = report.note(reader)
    vertices, segments = found.get("mesh"), found.get("segments")
    if vertices is not None and segments is not None and vertices != segments:
        report.broken.append(f"{scene.folder}: {segments} segments for the {vertices} vertices of the mesh; fetch both")
    elif complete and not quick:
        report.note(lambda: pack_scene(scene, PackSettings(shorter_side=PATCH), {}))


def _has_frames(scene: ScanNetScene) -> bool:
    try:
        return has_file(scene.file(".sens")) or bool(len(scene.source.names))
    except ValueError:
        return False


def _check_frames(scene: ScanNetScene) -> int:
    """Read the index of a recording, or every pose of an export; ValueError if something is broken."""
    if has_file(scene.file(".sens")):
        SensFile(scene.file(".sens")).index  # noqa: B018 - the index is built
    if not len(scene.posed):
        raise ValueError(f"{scene.source.where}: none of its {len(scene)} frames has a finite pose")
    return len(scene.posed)


def _note_all(report: Report, what: str, messages: Iterable[str]) -> None:
    """Add the first messages to the broken files, and the number of the others."""
    new = [message for message in messages if message not in report.broken]
    report.broken += new[:SHOWN]
    if len(new) > SHOWN:
        report.broken.append(f"{what}: {len(new) - SHOWN} more faults of these kinds")


def _check_set(
    data: DataRoot, report: Report, one: AnnotationSet, split: str, official: int | None
) -> list[Any] | None:
    """A row of the report; the entries, None where there are none."""
    what, path = f"{one.title} {split}", data.annotation_file(one.name, split)
    if path is None:
        if "all" in one.splits and (split != "all" or any(data.annotation_file(one.name, s) for s in one.splits)):
            return None  # ReferIt3D's tables come as one file or as one a split
        report.rows.append(Row(what, "missing", 0, official, "", f"{one.file(split)}: {one.source} ({one.terms})"))
        return None
    entries: list[Any] | None = report.note(partial(data.annotations, one.name, split))
    if entries is None:
        report.rows.append(Row(what, "broken", 0, official, str(path), report.broken[-1]))
        return None
    scenes = {entry.scene_id for entry in entries}
    lacking = scenes - set(data.scene_ids())
    note = f"{len(lacking)} of its {len(scenes)} scenes are not there" if lacking else ""
    report.count(what, len(entries), official, path, note)
    return entries


def _check_rest(data: DataRoot, report: Report) -> None:
    path = data.find(LABEL_MAP)
    table = None if path is None else report.note(partial(read_label_map, path))
    if path is None:
        report.rows.append(Row("label map", "missing", 0, None, "", f"{LABEL_MAP}: {LISTS_SOURCE}"))
    else:
        report.rows.append(Row("label map", "broken" if table is None else "ok", len(table or ()), None, str(path)))
    files = [file for scene in data.scene_ids() if (file := data.find(f"{scene}.mask.npz")) is not None]
    good = [file for file in files if report.note(partial(read_proposals, file)) is not None]
    note = "" if files else f"optional; {PROPOSALS_SOURCE}"
    report.rows.append(Row("Mask3D proposals", "ok" if files else "missing", len(good), None, "", note))
