"""A root as downloaded: what is there and what is broken is told, and packing survives being killed anywhere."""

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
from vidllm.datasets import DataRoot, PackedScenes
from vidllm.datasets.check import check_root
from vidllm.datasets.pack import PackSettings, pack

SETTINGS = PackSettings(frames=3, shorter_side=14)
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
    assert data.scene_ids() == SCENES and data.scene_ids("val") == SCENES
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
    assert len(data.scene(SCENES[0])) == 6 and len(data.scene(SCENES[0], "posed_images")) == 4
    assert len(data.scene("scene0009_00")) == 4


def test_scans_may_lie_one_folder_deeper_and_behind_links(root: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "scannet").symlink_to(root)
    data = DataRoot(tmp_path / "other")
    assert data.scene_ids("val") == SCENES and len(data.annotations("scanrefer", "val")) == 1


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


def test_packed_frames_are_resized_with_their_cameras(root: Path, tmp_path: Path) -> None:
    pack(root, tmp_path / "out", SETTINGS, per_shard=2)
    packed = PackedScenes(tmp_path / "out")
    assert packed.scenes == SCENES
    tensors, record = packed.tensors(SCENES[0]), packed.record(SCENES[0])
    assert tensors["rgb"].shape == (3, 14, 14, 3) and tensors["depth_mm"].dtype == torch.uint16
    assert record["frames"] == ["0", "3", "5"] and record["lost"] == 1 and len(record["objects"]) == 2
    assert [entry["object_id"] for entry in record["annotations"]["scan2cap/val"]] == [3, 3]
    scene = DataRoot(root).scene(SCENES[0])
    aligned = scene.axis_alignment @ pose(5)
    np.testing.assert_allclose(np.linalg.inv(tensors["extrinsics"][2].numpy()), aligned, atol=1e-6)
    # 32 x 24 becomes 19 x 14, and 2 columns are cut off on the left
    scale_x, scale_y = 19 / 32, 14 / 24
    expected = [[30 * scale_x, 0, 16 * scale_x - 2], [0, 30 * scale_y, 12 * scale_y], [0, 0, 1]]
    np.testing.assert_allclose(tensors["intrinsics"].numpy(), expected)
    depth = scene.depth_on_colour(5)[int(7.5 / scale_y), int(9.5 / scale_x)] * 1000
    assert abs(int(tensors["depth_mm"][2, 7, 7]) - depth) < 2
    with pytest.raises(ValueError, match="no scene scene0700_00; it holds 5 others"):
        packed.record("scene0700_00")


def snapshot(folder: Path) -> dict[str, Any]:
    """All that a folder holds, by scene."""
    packed = PackedScenes(folder)
    return {name: (packed.record(name), packed.tensors(name)) for name in packed.scenes}


def assert_same(a: dict[str, Any], b: dict[str, Any]) -> None:
    assert a.keys() == b.keys()
    for name, (record, tensors) in a.items():
        assert record == b[name][0]
        assert all(torch.equal(value, b[name][1][key]) for key, value in tensors.items())


class _Killed(BaseException):
    """Stands for the end of the process."""


def test_killed_at_any_write_nothing_is_lost(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import vidllm.datasets.pack as module

    pack(root, tmp_path / "whole", SETTINGS, per_shard=2)
    expected = snapshot(tmp_path / "whole")
    replace, pack_scene = os.replace, module.pack_scene
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
            pack(root, folder, SETTINGS, per_shard=2)
        except _Killed:
            done = len([path for path in writes[:-1] if "parts" in str(path)])
        else:
            break
        monkeypatch.setattr(os, "replace", replace)
        packed.clear()
        monkeypatch.setattr(module, "pack_scene", lambda *a: packed.append(a[0].scene_id) or pack_scene(*a))
        pack(root, folder, SETTINGS, per_shard=2)
        monkeypatch.setattr(module, "pack_scene", pack_scene)
        assert len(packed) == len(SCENES) - done  # no scene is read twice
        assert_same(snapshot(folder), expected)
        assert not (folder / "parts").exists()
    assert moment == 1 + 1 + 5 + 3 + 3  # the index, five parts, three shards, an index after each


def test_killed_by_the_system(root: Path, tmp_path: Path) -> None:
    """SIGKILL while a part is being moved into place; a rerun continues and cleans up."""
    script = (
        "import os, signal, sys\n"
        "from vidllm.datasets.pack import PackSettings, pack\n"
        "replace, seen = os.replace, []\n"
        "def dying(a, b):\n"
        "    seen.append(b)\n"
        "    os.kill(os.getpid(), signal.SIGKILL) if len(seen) == 6 else replace(a, b)\n"
        "os.replace = dying\n"
        "pack(sys.argv[1], sys.argv[2], PackSettings(frames=3, shorter_side=14), per_shard=2)\n"
    )
    out = tmp_path / "out"
    paths = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    ended = subprocess.run([sys.executable, "-c", script, str(root), str(out)], env=paths, check=False)
    assert ended.returncode == -signal.SIGKILL
    assert [path.name for path in out.glob("shard_*")] == ["shard_00000.safetensors"]
    assert list(out.glob("**/.*.part*"))
    assert main(["data", "pack", str(root), "-o", str(out), "--frames", "3", "--shorter-side", "14"]) == 0
    assert not list(out.glob("**/.*.part*"))
    pack(root, tmp_path / "whole", SETTINGS)
    assert_same(snapshot(out), snapshot(tmp_path / "whole"))


def test_broken_scenes_are_left_out_by_name(root: Path, tmp_path: Path) -> None:
    sens = root / "scans" / SCENES[1] / f"{SCENES[1]}.sens"
    whole = sens.read_bytes()
    sens.write_bytes(whole[:-300])
    with pytest.raises(ValueError, match=rf"1 of 5 scenes were left out.*{SCENES[1]}: .*frame 5 of 6"):
        pack(root, tmp_path / "out", SETTINGS)
    assert PackedScenes(tmp_path / "out").scenes == [name for name in SCENES if name != SCENES[1]]
    sens.write_bytes(whole)
    pack(root, tmp_path / "out", SETTINGS)
    assert PackedScenes(tmp_path / "out").scenes == SCENES


def test_other_settings_need_another_folder(root: Path, tmp_path: Path) -> None:
    pack(root, tmp_path / "out", SETTINGS, scenes=SCENES[:1])
    with pytest.raises(ValueError, match="choose another folder"):
        pack(root, tmp_path / "out", PackSettings(frames=4, shorter_side=14))
    with pytest.raises(ValueError, match="no scene nowhere"):
        pack(root, tmp_path / "out", SETTINGS, scenes=["nowhere"])
    (tmp_path / "out" / "shard_00000.safetensors").write_bytes(b"cut")
    with pytest.raises(ValueError, match="not a readable shard"):
        PackedScenes(tmp_path / "out").record(SCENES[0])
