"""A root as downloaded: what is there and what is broken is told; what packing writes, training reads."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scannet_files import pose, write_posed_images, write_scene

from vidllm.cli import main
from vidllm.datasets.annotations import ScanQAQuestion, ScanReferDescription
from vidllm.datasets.check import check_root
from vidllm.datasets.layout import DataRoot
from vidllm.datasets.pack import PackSettings, pack, pack_scene, packing_bytes, scene_language
from vidllm.datasets.shards import Shard, check_shards
from vidllm.training.data import RoomsData
from vidllm.training.texts import scene_boxes, scene_from_room

SETTINGS = PackSettings(frames=3, shorter_side=14, split="val")
SCENES = [f"scene000{i}_00" for i in range(5)]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    for name in SCENES:
        write_scene(folder, name)
    (folder / "scannetv2_val.txt").write_text("\n".join([*SCENES, "scene0700_00"]))
    (folder / "scanrefer").mkdir()
    (folder / "scan2cap").mkdir()
    row = {"scene_id": SCENES[0], "object_id": "3", "object_name": "chair", "ann_id": "0", "description": "a chair."}
    (folder / "scanrefer" / "ScanRefer_filtered_val.json").write_text(json.dumps([row]))
    (folder / "scan2cap" / "ScanRefer_filtered_val.json").write_text(json.dumps([row, {**row, "ann_id": "1"}]))
    question = {"scene_id": "scene0900_00", "question": "Where?", "question_id": "q", "answers": ["here"]}
    (folder / "scanqa" / "deep").mkdir(parents=True)
    (folder / "scanqa" / "deep" / "ScanQA_v1.0_val.json").write_text(json.dumps([question]))
    return folder


def test_files_are_found_by_name(root: Path) -> None:
    data = DataRoot(root)
    assert data.scene_ids() == SCENES and data.scene_list("val") == [*SCENES, "scene0700_00"]
    assert len(data.annotations("scanrefer", "val")) == 1 and len(data.annotations("scan2cap", "val")) == 2
    assert data.annotations("scanqa", "val")[0].answers == ("here",)
    assert len(data.scene(SCENES[1])) == 6 and data.proposals(SCENES[1]) is None
    with pytest.raises(ValueError, match=r"get it from https://zenodo.org"):
        data.annotations("sqa3d", "val")
    with pytest.raises(ValueError, match="no scene scene0700_00"):
        data.scene("scene0700_00")
    with pytest.raises(ValueError, match="has the splits train, val"):
        data.annotations("multi3drefer", "dev")


def test_exported_frames_beside_scans(root: Path) -> None:
    write_posed_images(root / "posed_images" / SCENES[0])
    write_posed_images(root / "posed_images" / "scene0009_00")
    data = DataRoot(root)
    assert len(data.scene(SCENES[0])) == 6  # the recording goes first
    data.scene(SCENES[0]).file(".sens").unlink()
    assert len(data.scene(SCENES[0])) == len(data.scene("scene0009_00")) == 4


def test_scans_may_lie_one_folder_deeper_and_behind_links(root: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "scannet").symlink_to(root)
    data = DataRoot(tmp_path / "other")
    assert data.scene_ids() == SCENES and len(data.annotations("scanrefer", "val")) == 1


def test_check_counts_and_says_where_to_get_the_rest(root: Path) -> None:
    report = check_root(root)
    rows = {row.what: row for row in report.rows}
    assert report.usable and not report.broken and not report.incomplete
    assert (rows["ScanNet val scenes"].count, rows["ScanNet val scenes"].status) == (5, "differs")
    assert rows["ScanQA val"].official == 4675 and rows["ScanQA val"].count == 1
    assert rows["ScanQA val"].note == "1 of its 1 scenes are not there"
    assert rows["SQA3D train"].status == "missing" and "zenodo" in rows["SQA3D train"].note
    assert "Nr3D all" in rows and "Nr3D train" not in rows
    assert json.loads(json.dumps(report.to_json()))["usable"] is True
    assert any("ScanRefer val" in line for line in report.lines())


def test_check_names_what_is_broken(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sens = root / "scans" / SCENES[1] / f"{SCENES[1]}.sens"
    sens.write_bytes(sens.read_bytes()[:-300])
    (root / "scans" / SCENES[2] / f"{SCENES[2]}_vh_clean_2.ply").unlink()
    (root / "scans" / SCENES[3] / f"{SCENES[3]}.aggregation.json").write_text("{")
    (root / "scanrefer" / "ScanRefer_filtered_val.json").write_text('[{"scene_id": "x"}]')
    report = check_root(root)
    assert len(report.broken) == 3 and not report.usable
    assert f"{SCENES[1]}.sens: frame 5 of 6" in report.broken[0]
    assert f"{SCENES[3]}.aggregation.json: not JSON" in report.broken[1]
    assert "ScanRefer_filtered_val.json: entry 0 (scene_id x)" in report.broken[2]
    assert report.incomplete == {"mesh": [SCENES[2]]}
    assert main(["data", "check", str(root)]) == 2
    out, err = capsys.readouterr()
    assert f"without mesh: 1 scenes ({SCENES[2]})" in out and "damaged files: 3" in err
    assert check_root(root, quick=True).broken == report.broken[2:]


def test_check_finds_what_pack_and_eval_would_refuse(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scene = root / "scans" / SCENES[1] / f"{SCENES[1]}.txt"
    text = scene.read_text()
    scene.write_text(text.replace("axisAlignment = 0.000000 -1", "axisAlignment = 0.000000 1"))
    row = {"scene_id": SCENES[0], "object_id": "3", "object_name": "chair", "ann_id": "0", "description": "a chair."}
    rows = [row, row, {**row, "object_id": "99"}]
    (root / "scanrefer" / "ScanRefer_filtered_val.json").write_text(json.dumps(rows))
    assert main(["data", "check", str(root)]) == 2
    out = capsys.readouterr().out
    assert f"{SCENES[1]}.txt: axisAlignment: expected a turn and a shift" in out and "got a mirroring" in out
    assert f"scanrefer, val: the id {SCENES[0]}|3|0 occurs twice in the annotations" in out
    assert f"{SCENES[0]} has no object 99 with a box" in out


def test_check_reads_the_pictures_that_pack_would_read(root: Path) -> None:
    sens = root / "scans" / SCENES[1] / f"{SCENES[1]}.sens"
    content = bytearray(sens.read_bytes())
    at = content.index(b"\xff\xd8\xff")
    content[at : at + 40] = bytes(40)
    sens.write_bytes(content)
    report = check_root(root)
    assert len(report.broken) == 1 and f"{SCENES[1]}.sens: frame 0, byte" in report.broken[0]
    assert not check_root(root, quick=True).broken


def test_reserved_tokens_in_annotations_are_named(root: Path) -> None:
    path = root / "scanqa" / "deep" / "ScanQA_v1.0_val.json"
    path.write_text(path.read_text().replace("here", "a <loc> b"))
    with pytest.raises(ValueError, match=r"ScanQA_v1.0_val.json: entry 0 .*the reserved token <loc>"):
        DataRoot(root).annotations("scanqa", "val")


def test_check_command(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "check", str(root), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["broken"] == []
    assert main(["data", "check", str(root), "--strict"]) == 2
    assert "counts differ" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert main(["data", "check", str(tmp_path / "empty")]) == 2
    assert "no data of ScanNet" in capsys.readouterr().err


@pytest.fixture
def told(root: Path) -> Path:
    """A root each of whose scenes has a sentence of the split val."""
    row = {"object_name": "chair", "ann_id": "0", "description": "a chair."}
    rows = [{**row, "scene_id": name, "object_id": number} for name in SCENES for number in ("3", "99")]
    (root / "scanrefer" / "ScanRefer_filtered_val.json").write_text(json.dumps(rows))
    return root


def test_packed_frames_are_resized_with_their_cameras(told: Path, tmp_path: Path) -> None:
    assert pack(told, tmp_path / "out", SETTINGS, per_shard=2) == 5
    check_shards(tmp_path / "out")
    packed = snapshot(tmp_path / "out")
    assert list(packed) == SCENES
    record, tensors = packed[SCENES[0]]
    assert tensors["rgb"].shape == (3, 14, 14, 3) and tensors["depth_m"].dtype == torch.float16
    assert len(record["objects"]) == 2 and record["language"]["captions"][0]["object_id"] == 4
    scene = DataRoot(told).scene(SCENES[0])
    aligned = scene.axis_alignment @ pose(5)
    np.testing.assert_allclose(np.linalg.inv(tensors["extrinsics"][2].numpy()), aligned, atol=1e-6)
    # 32 x 24 becomes 19 x 14, and 2 columns are cut off on the left
    scale_x, scale_y = 19 / 32, 14 / 24
    expected = [[30 * scale_x, 0, 16 * scale_x - 2], [0, 30 * scale_y, 12 * scale_y], [0, 0, 1]]
    np.testing.assert_allclose(tensors["intrinsics"][1].numpy(), expected, rtol=1e-6)
    depth = scene.depth_on_colour(5, scene.colour(5).shape[:2])[int(7.5 / scale_y), int(9.5 / scale_x)]
    assert float(tensors["depth_m"][2, 7, 7]) == pytest.approx(depth, abs=2e-3)


def test_sentences_keep_their_objects(root: Path) -> None:
    descriptions = [ScanReferDescription(SCENES[0], n, "chair", 0, "a chair.", ("a", "chair")) for n in (3, 99)]
    questions = [ScanQAQuestion(SCENES[0], "q", "Where?", ("here", "there")), ScanQAQuestion(SCENES[0], "r", "Why?")]
    entries = {"scanrefer": descriptions, "scan2cap": descriptions, "scanqa": questions}
    language = scene_language(entries, {4, 8})
    assert [r.targets for r in language.references] == [(4,)]  # object 99 has no box
    (question,) = language.questions  # one without an answer is left out
    assert question.answers == ("here", "there") and question.situation is None
    assert [(c.object_id, c.texts) for c in language.captions] == [(4, ("a chair.",))]
    scene = DataRoot(root).scene(SCENES[0])
    boxes = {o["id"]: o["box"] for o in pack_scene(scene, SETTINGS, entries)[1]["objects"]}
    assert boxes == {i.object_id + 1: [*i.box, 0.0] for i in scene.instances} and set(boxes) == {4, 8}


def test_training_reads_them(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["data", "pack", str(root), "-o", str(tmp_path), "--frames", "3", "--shorter-side", "14"]
    for _ in range(2):
        assert main([*command, "--split", "val"]) == 0
        assert capsys.readouterr().out == f"{tmp_path}: 1 scenes\n"  # the others have no sentence
    data = RoomsData(tmp_path)
    batch = data.draw(np.random.default_rng(0), 1, 2, window=False)
    record, scene = snapshot(tmp_path)[batch.records[0]["seed"]]
    assert torch.equal(batch.images[0, 0], scene["rgb"][0].permute(2, 0, 1).float() / 255)
    assert torch.equal(batch.depth_m[0, 0], scene["depth_m"][0].float())
    assert torch.equal(batch.extrinsics[0, 0], scene["extrinsics"][0])
    assert torch.equal(batch.intrinsics[0, 1], scene["intrinsics"][0])
    assert not batch.category.any() and not batch.colour.any()
    assert torch.allclose(batch.up.norm(dim=-1), torch.ones(1))
    level = scene_from_room(batch.extrinsics[0])
    assert set(scene_boxes(batch.records[0], level)) == {4, 8} == {item["id"] for item in record["objects"]}
    assert main([*command, "--split", "test"]) == 2 and "choose another folder" in capsys.readouterr().err
    command[command.index(str(tmp_path))] = str(tmp_path / "other")
    assert main(command) == 2 and "no scene has a sentence of the split 'train'" in capsys.readouterr().err


def test_nothing_is_stored_twice_and_the_bytes_are_told_before(
    told: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Recordings are read where they lie: beside the shards nothing is written, and these are as large as was told."""
    command = ["data", "pack", str(told), "-o", str(tmp_path / "out"), "--frames", "5", "--shorter-side", "112"]
    downloaded = {path: path.stat().st_size for path in told.rglob("*")}
    count, need = packing_bytes(told, tmp_path / "out", PackSettings(5, 112, split="val"))
    line = f"5 scenes of 5 frames, {need / 2**30:.3g} GiB to write"
    assert main([*command, "--split", "val", "--dry-run"]) == 0
    assert count == 5 and line in capsys.readouterr().err and not (tmp_path / "out").exists()
    assert main([*command, "--split", "val"]) == 0 and line in capsys.readouterr().err
    written = {path: path.stat() for path in (tmp_path / "out").iterdir() if path.name != ".lock"}
    assert all(path.match("scans_*.safetensors") for path in written)
    assert 0.8 * need < sum(each.st_size for each in written.values()) <= need
    assert main([*command, "--split", "val"]) == 0 and "0 scenes of 5 frames, 0 GiB" in capsys.readouterr().err
    assert all(path.stat() == before for path, before in written.items())
    assert {path: path.stat().st_size for path in told.rglob("*")} == downloaded


def snapshot(folder: Path) -> dict[str, Any]:
    """Record and tensors of every scene in a folder, by name."""
    shards = [Shard(path) for path in sorted(folder.glob("scans_*"))]
    found = {r["seed"]: (r, shard.tensors(i)) for shard in shards for i, r in enumerate(shard.records)}
    return dict(sorted(found.items()))


def assert_same(a: dict[str, Any], b: dict[str, Any]) -> None:
    assert a.keys() == b.keys()
    for name, (record, tensors) in a.items():
        assert record == b[name][0]
        assert all(torch.equal(value, b[name][1][key]) for key, value in tensors.items())


class _Killed(BaseException):
    """Stands for the end of the process."""


def test_killed_at_any_write_finished_shards_are_kept(
    told: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import vidllm.datasets.pack as module

    pack(told, tmp_path / "whole", SETTINGS, per_shard=2)
    expected = snapshot(tmp_path / "whole")
    replace, pack_one = os.replace, module.pack_scene
    writes, packed = [], []
    for moment in range(1, 100):
        folder = tmp_path / f"killed{moment}"
        writes.clear()

        def dying(source: Any, target: Any, moment: int = moment) -> None:
            writes.append(target)
            if len(writes) == moment:
                raise _Killed
            replace(source, target)

        monkeypatch.setattr(os, "replace", dying)
        try:
            pack(told, folder, SETTINGS, per_shard=2)
        except _Killed:
            pass
        else:
            break
        monkeypatch.setattr(os, "replace", replace)
        packed.clear()
        monkeypatch.setattr(module, "pack_scene", lambda *a: packed.append(a[0].scene_id) or pack_one(*a))
        pack(told, folder, SETTINGS, per_shard=2)
        monkeypatch.setattr(module, "pack_scene", pack_one)
        assert packed == SCENES[2 * (moment - 1) :]  # no scene of a finished shard is read twice
        assert_same(snapshot(folder), expected)
    assert moment == 1 + 3  # three shards


def test_killed_by_the_system(told: Path, tmp_path: Path) -> None:
    """SIGKILL while a shard is being moved into place; a rerun continues and cleans up."""
    script = (
        "import os, signal, sys\n"
        "from vidllm.datasets.pack import PackSettings, pack\n"
        "replace, seen = os.replace, []\n"
        "def dying(a, b):\n"
        "    seen.append(b)\n"
        "    os.kill(os.getpid(), signal.SIGKILL) if len(seen) == 2 else replace(a, b)\n"
        "os.replace = dying\n"
        "pack(sys.argv[1], sys.argv[2], PackSettings(3, 14, split='val'), per_shard=2)\n"
    )
    out = tmp_path / "out"
    paths = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    ended = subprocess.run([sys.executable, "-c", script, str(told), str(out)], env=paths, check=False)
    assert ended.returncode == -signal.SIGKILL
    assert [path.name for path in out.glob("scans_*")] == ["scans_scene0000_00_002_14x14.safetensors"]
    assert list(out.glob("**/.*.part*"))
    again = ["data", "pack", str(told), "-o", str(out), "--frames", "3", "--shorter-side", "14", "--split", "val"]
    assert main(again) == 0
    assert not list(out.glob("**/.*.part*"))
    pack(told, tmp_path / "whole", SETTINGS)
    assert_same(snapshot(out), snapshot(tmp_path / "whole"))


def test_broken_scenes_are_left_out_by_name(told: Path, tmp_path: Path) -> None:
    sens = told / "scans" / SCENES[1] / f"{SCENES[1]}.sens"
    whole = sens.read_bytes()
    sens.write_bytes(whole[:-300])
    with pytest.raises(ValueError, match=rf"1 of 5 scenes were left out.*{SCENES[1]}: .*frame 5 of 6"):
        pack(told, tmp_path / "out", SETTINGS)
    assert list(snapshot(tmp_path / "out")) == [name for name in SCENES if name != SCENES[1]]
    sens.write_bytes(whole)
    assert pack(told, tmp_path / "out", SETTINGS) == 5
    assert list(snapshot(tmp_path / "out")) == SCENES


def test_other_settings_need_another_folder(told: Path, tmp_path: Path) -> None:
    pack(told, tmp_path / "out", SETTINGS, scenes=SCENES[:1])
    with pytest.raises(ValueError, match="choose another folder"):
        pack(told, tmp_path / "out", PackSettings(frames=4, shorter_side=14, split="val"))
    with pytest.raises(ValueError, match="no scene nowhere"):
        pack(told, tmp_path / "out", SETTINGS, scenes=["nowhere"])
    (told / "scanqa" / "deep" / "ScanQA_v1.0_val.json").unlink()
    (told / "scanrefer" / "ScanRefer_filtered_val.json").unlink()
    with pytest.raises(ValueError, match=rf"{SCENES[2]}: no sentence of the split 'val'"):
        pack(told, tmp_path / "out", SETTINGS, scenes=[SCENES[2]])
    (shard,) = (tmp_path / "out").glob("scans_*")
    shard.write_bytes(b"cut")
    with pytest.raises(ValueError, match=r"not a readable training shard .* pack it again"):
        pack(told, tmp_path / "out", SETTINGS)
