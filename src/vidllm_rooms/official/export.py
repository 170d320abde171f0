"""Rooms in the layouts of ScanNet and its language sets, for the same readers and evaluators.

One scene at a time is exported, whole or not at all, then the lists and JSON files over all of them:

    scans/SCENE/...                                      see ``rooms.official.scan``; SCENE.rooms.json: its entries
    scannetv2-labels.combined.tsv, scannetv2_SPLIT.txt   label map and lists of scenes
    scanqa/ScanQA_v1.0_SPLIT.json                        test is test_w_obj, with its answers
    sqa3d/v1_balanced_{questions,sqa_annotations}_SPLIT_scannetv2.json, sqa3d/answer_dict.json
    scanrefer/ScanRefer_filtered_SPLIT{.json,.txt,_gt_bbox.json}       references with one target
    scan2cap/ScanRefer_filtered_SPLIT{.json,.txt,_gt_bbox.json}        captions of things, in ScanRefer's form
    multi3drefer/multi3drefer_SPLIT.json, multi3drefer/ground_truth_SPLIT/SCENE.json   all references
    nr3d/nr3d_SPLIT.csv, sr3d/sr3d_SPLIT.csv             references that mean one of several of a category
    vsi/SPLIT.jsonl                                      VSI-Bench's eight tasks

A finished scene is not rendered again. The files over all scenes are made from the entries of every scene under the
root, so that further calls with other seeds or splits add to them. The same seeds give the same bytes. The label map's
NYU40 classes are those of ScanNet's label for the same thing (sofa: couch; ceiling lamp: ceiling light), or otherprop.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from vidllm.io.atomic import atomic_folder, atomic_path
from vidllm.io.files import read_json_object
from vidllm_rooms.language.vsi import numbered
from vidllm_rooms.official.corpora import corpora
from vidllm_rooms.official.scan import SCANNET, SPLITS, scan_room, scene_name, write_scan
from vidllm_rooms.shards import render_scene
from vidllm_rooms.world.catalogue import CATALOGUE

COLUMNS, NYU40 = tuple(SCANNET["label_columns"]), tuple(SCANNET["nyu40"])
SHELL = ("wall", "floor", "ceiling")


def nyu40_class(category: str) -> str:
    """The NYU40 class of a category of the rooms or of their shell."""
    known = CATALOGUE[category].nyu40 if category in CATALOGUE else None
    return known or (category if category in NYU40 else "otherprop")


def label_map() -> str:
    """The whole table as text, tab separated, one category a line; columns that do not apply are empty."""
    lines = ["\t".join(COLUMNS)]
    for number, category in enumerate((*SHELL, *CATALOGUE), 1):
        name = nyu40_class(category)
        known = {
            "id": str(number), "raw_category": category, "category": category, "count": "0",
            "nyu40id": str(NYU40.index(name) + 1), "nyuClass": name, "nyu40class": name,
        }  # fmt: skip
        lines.append("\t".join(known.get(column, "") for column in COLUMNS))
    return "\n".join(lines) + "\n"


VERSION = 2
Record = dict[str, Any]


def export_rooms(
    root: Path, seeds: Iterable[int], *, split: str = "val", frames: int = 24, height: int = 240, width: int = 320,
    tell: Callable[[int], None] = lambda done: None,
) -> list[Path]:  # fmt: skip
    """Export the rooms of ``seeds`` to ``root``; returns their folders. ``tell`` hears how many are done.

    Raises ValueError for an unknown split, or where a scene of another split, size or number of frames is in the way;
    OutputError when something cannot be written.
    """
    if split not in SPLITS:
        raise ValueError(f"expected a split of {', '.join(SPLITS)}, received {split!r}")
    folders = []
    for done, seed in enumerate(seeds, 1):
        settings = {"version": VERSION, "seed": seed, "split": split, "frames": frames, "size": [height, width]}
        folders.append(_export_scene(root, settings))
        tell(done)
    write_corpora(root)
    return folders


def _export_scene(root: Path, settings: Record) -> Path:
    name = scene_name(settings["seed"])
    folder = root / "scans" / name
    if folder.exists():
        record = _read(folder)
        for key, wanted in settings.items():
            if record.get(key) != wanted:
                raise ValueError(f"{folder}: exported with {key} {record.get(key)}, expected {wanted}; delete it or "
                                 "choose another root")  # fmt: skip
        return folder
    clip, language = render_scene(settings["seed"], settings["frames"], *settings["size"])
    scan = scan_room(clip)
    record = {**settings, "scene_id": name, **corpora(clip, language, scan, settings["split"])}
    with atomic_folder(folder) as part:
        write_scan(part, clip, scan)
        (part / f"{name}.rooms.json").write_text(json.dumps(record), encoding="utf-8")
    return folder


def _read(folder: Path) -> Record:
    try:
        return read_json_object(folder / f"{folder.name}.rooms.json")
    except ValueError as error:
        raise ValueError(f"{error}, or delete this room's folder to export it again") from None


def write_corpora(root: Path) -> None:
    """Write the label map, the lists and the JSON files of every exported scene under ``root/scans``."""
    records = sorted((_read(path) for path in root.glob("scans/scene9*")), key=lambda record: int(record["seed"]))
    _write(root / "scannetv2-labels.combined.tsv", label_map())
    for split in SPLITS:
        mine = [record for record in records if record["split"] == split]
        _write(root / f"scannetv2_{split}.txt", "\n".join(record["scene_id"] for record in mine))
        if mine:
            _write_split(root, split, mine)
    _write_json(root / "sqa3d" / "answer_dict.json", _answer_dict(records))


def _write_split(root: Path, split: str, records: list[Record]) -> None:
    name = "test_w_obj" if split == "test" else split
    _write_json(root / "scanqa" / f"ScanQA_v1.0_{name}.json", _all(records, "scanqa"))
    for kind, file in (("questions", "questions"), ("annotations", "sqa_annotations")):
        whole: Record = {
            "info": {"description": "Procedural rooms in the form of SQA3D v1.0.", "version": "1.0"},
            "license": {}, "data_type": "rooms", "data_subtype": "v1",
            **({"task_type": "Situated question answering"} if kind == "questions" else {}),
            kind: _all(records, f"sqa3d_{kind}"),
        }  # fmt: skip
        _write_json(root / "sqa3d" / f"v1_balanced_{file}_{split}_scannetv2.json", whole)
    for corpus in ("scanrefer", "scan2cap"):
        entries = _all(records, corpus)
        stem = root / corpus / f"ScanRefer_filtered_{split}"
        _write_json(stem.with_name(f"{stem.name}.json"), [_without(entry, "bbox") for entry in entries])
        _write_json(stem.with_name(f"{stem.name}_gt_bbox.json"), entries)
        _write(stem.with_name(f"{stem.name}.txt"), "\n".join(dict.fromkeys(entry["scene_id"] for entry in entries)))
    multi = root / "multi3drefer"
    described = [_without(entry, "aabb_bound") for entry in _all(records, "multi3drefer")]
    _write_json(multi / f"multi3drefer_{split}.json", described)
    for record in records:
        _write_json(multi / f"ground_truth_{split}" / f"{record['scene_id']}.json", record["multi3drefer"])
    for name in ("nr3d", "sr3d"):
        _write(root / name / f"{name}_{split}.csv", _table(_all(records, name)))
    questions = numbered(_all(records, "vsi"))
    _write(root / "vsi" / f"{split}.jsonl", "".join(json.dumps(question) + "\n" for question in questions))


def _table(entries: list[Record]) -> str:
    """ReferIt3D's tables, with numbers for the rows where Nr3D has those of the annotators' work."""
    text = io.StringIO()
    rows = [{"assignmentid": number, **entry} for number, entry in enumerate(entries)]
    writer = csv.DictWriter(text, list(rows[0]) if rows else ["scan_id", "target_id", "utterance", "stimulus_id"])
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _answer_dict(records: list[Record]) -> list[dict[str, Any]]:
    """[class by answer, answer by class] over all splits, in the order of the alphabet."""
    answers = sorted({answer["answer"] for entry in _all(records, "sqa3d_annotations") for answer in entry["answers"]})
    classes = {str(number): answer for number, answer in enumerate(answers)}
    return [{answer: int(number) for number, answer in classes.items()}, classes]


def _all(records: list[Record], key: str) -> list[Record]:
    return [entry for record in records for entry in record[key]]


def _without(entry: Record, key: str) -> Record:
    return {name: value for name, value in entry.items() if name != key}


def _write_json(path: Path, value: Any) -> None:
    _write(path, json.dumps(value))


def _write(path: Path, text: str) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
