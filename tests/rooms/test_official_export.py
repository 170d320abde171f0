"""Exported language: entries as the sets have them, consistent with the scans, and the same bytes again."""

from __future__ import annotations

import hashlib
import json
import math
import re
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import agent_pose

from vidllm.cli import main
from vidllm.datasets.language import Language
from vidllm.datasets.layout import DataRoot
from vidllm.english import tokens
from vidllm_rooms import build_room
from vidllm_rooms.language.situations import SITUATIONS
from vidllm_rooms.official import export
from vidllm_rooms.official.corpora import SituationReader, _patterns, clearance_m, names_in, pose_in_scan
from vidllm_rooms.official.export import export_rooms
from vidllm_rooms.official.scan import moved, scan_room, scene_name
from vidllm_rooms.shards import render_scene
from vidllm_rooms.world import Clip

SEEDS = (3, 1004)
SMALL = {"frames": 3, "height": 56, "width": 72}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("official")
    export_rooms(folder, SEEDS, **SMALL)
    return folder


@cache
def rendered(seed: int) -> tuple[Clip, Language]:
    return render_scene(seed, 3, 56, 72)


def read(root: Path, path: str) -> Any:
    return json.loads((root / path).read_text(encoding="utf-8"))


def digests(root: Path) -> dict[str, str]:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_every_file_is_there(root: Path) -> None:
    found = set(digests(root))
    stems = (
        "scanqa/ScanQA_v1.0_val.json", "sqa3d/v1_balanced_questions_val_scannetv2.json",
        "sqa3d/v1_balanced_sqa_annotations_val_scannetv2.json", "sqa3d/answer_dict.json",
        "scanrefer/ScanRefer_filtered_val.json", "scanrefer/ScanRefer_filtered_val.txt",
        "scanrefer/ScanRefer_filtered_val_gt_bbox.json", "scan2cap/ScanRefer_filtered_val.json",
        "scan2cap/ScanRefer_filtered_val.txt", "scan2cap/ScanRefer_filtered_val_gt_bbox.json",
        "multi3drefer/multi3drefer_val.json", "scannetv2-labels.combined.tsv", "vsi/val.jsonl",
        "nr3d/nr3d_val.csv", "sr3d/sr3d_val.csv",
        "scannetv2_train.txt", "scannetv2_val.txt", "scannetv2_test.txt",
    )  # fmt: skip
    of_scenes = []
    for name in map(scene_name, SEEDS):
        endings = (
            ".sens", ".txt", "_vh_clean_2.ply", "_vh_clean_2.0.010000.segs.json", ".aggregation.json",
            "_vh_clean.aggregation.json", ".rooms.json",
        )  # fmt: skip
        of_scenes += [f"scans/{name}/{name}{ending}" for ending in endings]
        of_scenes.append(f"multi3drefer/ground_truth_val/{name}.json")
    assert found == {*stems, *of_scenes}
    assert (root / "scannetv2_val.txt").read_text() == "scene9003_00\nscene91004_00"


def test_every_question_is_in_one_of_the_two_sets(root: Path) -> None:
    scanqa, asked = (
        read(root, "scanqa/ScanQA_v1.0_val.json"),
        read(root, "sqa3d/v1_balanced_questions_val_scannetv2.json"),
    )
    said = [q for seed in SEEDS for q in rendered(seed)[1].questions]
    assert [(e["question"], e["answers"]) for e in scanqa] == [
        (q.question, list(q.answers)) for q in said if q.situation is None
    ]
    assert [(e["situation"], e["question"]) for e in asked["questions"]] == [
        (q.situation, q.question) for q in said if q.situation is not None
    ]
    assert scanqa[0]["question_id"] == "val-scene9003-0"
    assert len({e["question_id"] for e in scanqa}) == len(scanqa)
    for entry in scanqa:
        labels = labels_of(root, entry["scene_id"])
        assert entry["object_names"] == [labels[number] for number in entry["object_ids"]]


def labels_of(root: Path, name: str) -> dict[int, str]:
    groups = read(root, f"scans/{name}/{name}.aggregation.json")["segGroups"]
    return {group["objectId"]: group["label"] for group in groups}


def test_sqa3d_annotations_belong_to_their_questions(root: Path) -> None:
    asked = read(root, "sqa3d/v1_balanced_questions_val_scannetv2.json")["questions"]
    answered = read(root, "sqa3d/v1_balanced_sqa_annotations_val_scannetv2.json")["annotations"]
    classes, answers = read(root, "sqa3d/answer_dict.json")
    assert [e["question_id"] for e in asked] == [e["question_id"] for e in answered]
    assert len({e["question_id"] for e in asked}) == len(asked) > 4
    assert {str(number): answer for answer, number in classes.items()} == answers
    for entry in answered:
        rotation = entry["rotation"]
        assert rotation["_z"] ** 2 + rotation["_w"] ** 2 == pytest.approx(1) and rotation["_x"] == rotation["_y"] == 0
        assert entry["answers"][0]["answer"] in classes and len(entry["answers"]) == 1


@pytest.mark.parametrize("seed", [3, 1004, 11, 12])
def test_situations_hold_where_they_put_the_speaker(seed: int) -> None:
    clip, language = rendered(seed)
    scan, reader = scan_room(clip), SituationReader(clip)
    situations = {q.situation for q in language.questions if q.situation}
    assert situations
    for text in situations:
        stand = reader.stand(text)
        place, target, away = reader._named(text)
        things = {thing.id: thing for thing in clip.room.objects}
        place, target = (things[reader.speaker.thing(row).id] for row in (place, target))
        pose = pose_in_scan(stand, scan.frames.scan_from_room, scan.middle())
        half = math.atan2(pose["rotation"]["_z"], pose["rotation"]["_w"])
        heading = -np.array([math.cos(2 * half), math.sin(2 * half)])  # the identity faces -x
        spot = np.array([pose["position"]["x"], pose["position"]["y"]]) + scan.middle()[:2]
        to_target = moved(scan.frames.scan_from_room, np.array(target.centre))[:2] - spot
        cosine = heading @ to_target / np.linalg.norm(to_target)
        assert cosine == pytest.approx(-1 if away else 1, abs=1e-6), text
        reach = np.linalg.norm(moved(scan.frames.scan_from_room, np.array(place.centre))[:2] - spot)
        assert reach < max(place.size[:2]) / 2 + 0.41
        assert ("sit" in text.lower() or "seated" in text.lower()) == (reach < 1e-6), text


def test_a_foreign_situation_is_refused() -> None:
    reader = SituationReader(rendered(3)[0])
    with pytest.raises(ValueError, match=r"expected a situation about this clip.*the moon"):
        reader.stand("I am sitting on the moon facing the sun.")


def test_no_situation_is_told_in_words_of_another() -> None:
    """Facing and turned away must not be mistaken: every filled template is matched by one kind alone."""
    for kind, templates in SITUATIONS.items():
        for template in templates:
            text = template.format(x="the chair", y="the red table")
            kinds = {
                away for away, pattern in _patterns() if (m := pattern.fullmatch(text)) and m["y"] == "the red table"
            }
            assert kinds == {kind.endswith("away")}, template


def test_clearance_of_a_bare_room() -> None:
    room = build_room(0)
    low, high = np.array(room.polygon).min(0), np.array(room.polygon).max(0)
    assert clearance_m(room, low - 1.0) < -1
    thing = next(item for item in room.objects if item.on is None and item.category not in ("rug", "door"))
    assert clearance_m(room, np.array(thing.centre[:2])) < 0
    assert all(clearance_m(room, spot) < 3 for spot in np.linspace(low, high, 20))


@pytest.mark.parametrize("corpus", ["scanrefer", "scan2cap"])
def test_described_things_have_the_boxes_of_their_scans(root: Path, corpus: str) -> None:
    entries = read(root, f"{corpus}/ScanRefer_filtered_val_gt_bbox.json")
    plain = read(root, f"{corpus}/ScanRefer_filtered_val.json")
    assert plain == [{key: value for key, value in entry.items() if key != "bbox"} for entry in entries]
    assert list(plain[0]) == ["scene_id", "object_id", "object_name", "ann_id", "description", "token"]
    keys = [(e["scene_id"], e["object_id"], e["ann_id"]) for e in entries]
    assert len(set(keys)) == len(keys) > 2
    scans = {scene_name(seed): scan_room(rendered(seed)[0]) for seed in SEEDS}
    for entry in entries:
        box, scan = np.array(entry["bbox"]), scans[entry["scene_id"]]
        low, high = scan.box(int(entry["object_id"]))
        np.testing.assert_allclose([box.min(0), box.max(0)], [low, high], atol=1e-12)
        np.testing.assert_allclose(box[:4, 2], high[2]), np.testing.assert_allclose(box[0], high)
        assert entry["object_name"] == labels_of(root, entry["scene_id"])[int(entry["object_id"])].replace(" ", "_")
        assert entry["description"] == entry["description"].lower()
        assert "".join(entry["token"]) == re.sub(r"\s", "", entry["description"])


def test_references_are_those_of_the_room_and_keep_their_targets(root: Path) -> None:
    refer = read(root, "scanrefer/ScanRefer_filtered_val.json")
    multi = read(root, "multi3drefer/multi3drefer_val.json")
    for seed in SEEDS:
        clip, language = rendered(seed)
        ids = scan_room(clip).object_id_of()
        mine = [entry for entry in multi if entry["scene_id"] == scene_name(seed)]
        assert [e["object_ids"] for e in mine] == [[ids[t] for t in r.targets] for r in language.references]
        single = [r for r in language.references if len(r.targets) == 1]
        own = [entry for entry in refer if entry["scene_id"] == scene_name(seed)]
        assert [int(e["object_id"]) for e in own] == [ids[r.targets[0]] for r in single]


def test_multi3drefer_types_and_boxes(root: Path) -> None:
    for name in map(scene_name, SEEDS):
        entries = read(root, f"multi3drefer/ground_truth_val/{name}.json")
        labels = labels_of(root, name)
        assert [entry["ann_id"] for entry in entries] == list(range(len(entries)))
        for entry in entries:
            count = len(entry["object_ids"])
            same = sum(label.replace(" ", "_") == entry["object_name"] for label in labels.values())
            kind, _, distractors = entry["eval_type"].partition("_")
            assert kind == ("zt" if not count else "st" if count == 1 else "mt")
            assert np.array(entry["aabb_bound"]).reshape(-1, 2, 3).shape[0] == count
            if kind == "st":
                assert distractors == ("w_d" if same > 1 else "wo_d")
            if kind == "zt" and same:
                assert distractors == "w_d"


def test_names_and_tokens() -> None:
    assert names_in("Are the coffee tables or the table lamp on a bookshelf?") == [
        "coffee table",
        "table lamp",
        "bookshelf",
    ]
    assert names_in("all red lamps above the tables") == ["lamp", "table"] and names_in("What colour?") == []
    assert tokens("An L-shaped desk's 1.5 meters, isn't it?") == [
        "an", "l-shaped", "desk", "'s", "1.5", "meters", ",", "isn", "'t", "it", "?",
    ]  # fmt: skip


def test_the_same_seeds_give_the_same_bytes(root: Path, tmp_path: Path) -> None:
    export_rooms(tmp_path, reversed(SEEDS), **SMALL)
    assert digests(tmp_path) == digests(root)


def test_finished_scenes_are_kept_and_interrupted_ones_leave_nothing(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []

    def render(seed: int, *settings: int) -> Any:
        seen.append(seed)
        if seed == 1004 and len(seen) == 2:
            raise KeyboardInterrupt
        return render_scene(seed, *settings)

    monkeypatch.setattr(export, "render_scene", render)
    with pytest.raises(KeyboardInterrupt):
        export_rooms(tmp_path, SEEDS, **SMALL)
    assert [path.name for path in (tmp_path / "scans").iterdir()] == ["scene9003_00"]
    told: list[int] = []
    export_rooms(tmp_path, SEEDS, **SMALL, tell=told.append)
    assert seen == [3, 1004, 1004] and told == [1, 2]
    assert digests(tmp_path) == digests(root)


def test_a_failure_while_writing_leaves_no_scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("vidllm_rooms.official.scan.write_mesh", fail)
    with pytest.raises(OSError, match=r"scene9003_00.*No space left"):
        export_rooms(tmp_path, [3], **SMALL)
    assert list((tmp_path / "scans").iterdir()) == []


def test_splits_add_up_and_do_not_mix(root: Path, tmp_path: Path) -> None:
    export_rooms(tmp_path, [3], **SMALL)
    export_rooms(tmp_path, [5], split="test", **SMALL)
    assert (tmp_path / "scannetv2_val.txt").read_text() == "scene9003_00"
    assert (tmp_path / "scannetv2_test.txt").read_text() == "scene9005_00"
    tested = read(tmp_path, "scanqa/ScanQA_v1.0_test_w_obj.json")
    assert {e["scene_id"] for e in tested} == {"scene9005_00"} and tested[0]["question_id"].startswith(
        "test-scene9005-"
    )
    with pytest.raises(ValueError, match=r"scene9005_00: exported with split test, expected val; delete it"):
        export_rooms(tmp_path, [5], **SMALL)
    with pytest.raises(ValueError, match=r"exported with frames 3, expected 4"):
        export_rooms(tmp_path, [3], frames=4, height=56, width=72)
    with pytest.raises(ValueError, match="expected a split of train, val, test, received 'dev'"):
        export_rooms(tmp_path, [3], split="dev", **SMALL)
    (tmp_path / "scans" / "scene9003_00" / "scene9003_00.rooms.json").write_text("{")
    with pytest.raises(ValueError, match=r"scene9003_00\.rooms\.json: not JSON"):
        export_rooms(tmp_path, [3], **SMALL)


def test_command(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["rooms", "export", "--seeds", "3", "-o", str(tmp_path), "--frames", "3", "--size", "56x72"]
    assert main(words) == 0
    said = capsys.readouterr()
    assert said.out == f"{tmp_path / 'scans' / 'scene9003_00'}\n" and "rooms 1/1" in said.err
    written = digests(tmp_path)
    assert {k: v for k, v in digests(root).items() if k.startswith("scans/scene9003_00/")}.items() <= written.items()
    assert main([*words, "--split", "dev"]) == 2
    assert "--split" in capsys.readouterr().err


@pytest.mark.slow
def test_the_readers_of_the_released_sets_read_them(root: Path) -> None:
    data = DataRoot(root)
    assert data.scene_list("val") == [scene_name(seed) for seed in SEEDS]
    assert len(data.annotations("scanqa", "val")) == len(read(root, "scanqa/ScanQA_v1.0_val.json"))
    corpora = {name: data.annotation_file(name, "val") for name in ("scanrefer", "scan2cap")}
    assert {name: path.parent.name for name, path in corpora.items() if path} == {name: name for name in corpora}
    for entry in data.annotations("scanrefer", "val"):
        instance = next(i for i in data.scene(entry.scene_id).instances if i.object_id == entry.object_id)
        truth = next(
            e["bbox"]
            for e in read(root, "scanrefer/ScanRefer_filtered_val_gt_bbox.json")
            if (e["scene_id"], e["object_id"]) == (entry.scene_id, str(entry.object_id))
        )
        low, high = np.min(truth, 0), np.max(truth, 0)
        np.testing.assert_allclose(instance.box, [*(low + high) / 2, *(high - low)], atol=1e-5)
    assert {e.eval_type[:2] for e in data.annotations("multi3drefer", "val")} <= {"zt", "st", "mt"}


def test_situations_read_back_are_where_the_speaker_stands(root: Path) -> None:
    clip, _ = rendered(SEEDS[0])
    scan, reader = scan_room(clip), SituationReader(clip)
    mine = [q for q in DataRoot(root).annotations("sqa3d", "val") if q.scene_id == scan.name]
    assert mine
    for question in mine:
        stand = reader.stand(question.situation.text)
        pose = agent_pose(question.situation)
        place = pose[:3, 3] + scan.middle()
        np.testing.assert_allclose(place[:2], moved(scan.frames.scan_from_room, np.array([*stand.place, 0.0]))[:2])
        turn = scan.frames.scan_from_room[:2, :2]
        np.testing.assert_allclose(-pose[:3, 0], [*(turn @ stand.heading), 0], atol=1e-9)
