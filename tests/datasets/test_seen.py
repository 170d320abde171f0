"""What a model has seen: ranges of rooms, names of scans, data sets in doubt, and the command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vidllm.cli import main
from vidllm.datasets.seen import Seen, benchmark_scenes, read_seen, seen_of, seen_or_unknown, write_seen
from vidllm.model.configuration import TINY


def test_statements_are_written_and_joined(tmp_path: Path) -> None:
    seen = seen_of([5, 3, 4, 9, "scene0000_00"]) | Seen(possibly={"scannet": "VGGT saw some"})
    assert seen.rooms == ((3, 5), (9, 9))
    write_seen(tmp_path, seen)
    assert read_seen(tmp_path) == seen
    for scene, known in {
        "scene9004_00": True,
        "scene9006_00": False,
        "scene0000_00": True,
        "scene0001_00": False,
    }.items():
        assert seen.knows(scene) == known
    assert seen.doubt("scene0001_00") == "VGGT saw some" and seen.doubt("scene9006_00") is None
    assert seen_or_unknown(tmp_path / "other").doubt("anything") == "other has no seen.json"


def test_scenes_of_benchmarks_are_found(tmp_path: Path) -> None:
    files = {
        "scanqa.json": json.dumps([{"scene_id": "scene0000_00"}, {"scene_id": "scene0000_00"}]),
        "sqa3d.json": json.dumps({"info": {}, "questions": [{"scene_id": "scene0001_00"}]}),
        "test.jsonl": json.dumps({"id": 0, "scene_name": "41069025"}),
        "open-eqa-v0.json": json.dumps([{"episode_history": "scannet-v0/002-scannet-scene0709_00"}]),
        "nr3d.csv": "assignmentid,scan_id,utterance\n1,scene0004_00,\"the chair, red\"\n2,scene0004_00,it\n",
        "scannetv2_val.txt": "scene0002_00\nscene0003_00",
    }
    wanted = [["scene0000_00"], ["scene0001_00"], ["41069025"], ["scene0709_00"], ["scene0004_00"]]
    wanted += [["scene0002_00", "scene0003_00"]]
    for (name, text), scenes in zip(files.items(), wanted, strict=True):
        (tmp_path / name).write_text(text)
        assert benchmark_scenes(tmp_path / name) == scenes
    (tmp_path / "none.json").write_text("[]")
    with pytest.raises(ValueError, match=r"none\.json: names no scene"):
        benchmark_scenes(tmp_path / "none.json")


def test_a_broken_statement_is_named(tmp_path: Path) -> None:
    for text in ('{"rooms": [[5, 3]]}', '{"rooms": [[1]]}', '{"possibly": {"moon": "x"}}', '{"scenes": "a"}'):
        (tmp_path / "seen.json").write_text(text)
        with pytest.raises(ValueError, match=r"seen\.json: expected"):
            read_seen(tmp_path)


def test_the_shipped_model_has_seen_no_test_room(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = ["scene91000_00", "scene910000_00", "scene0000_00"]
    (tmp_path / "scenes.txt").write_text("\n".join(names))
    assert main(["data", "seen", str(tmp_path / "scenes.txt"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["scenes"], found["seen"], found["possibly"]) == (3, ["scene910000_00"], {})
    assert main(["data", "seen", str(tmp_path / "scenes.txt")]) == 0
    assert "3 scenes; seen in training: 1, possibly: 0" in capsys.readouterr().out
    assert main(["data", "seen", str(tmp_path / "scenes.txt"), "--model", str(tmp_path)]) == 2
    assert "no seen.json" in capsys.readouterr().err
    assert main(["data", "seen", str(tmp_path / "scenes.txt"), "--model", str(tmp_path / "m")]) == 2
    assert "m: not a folder; give the folder of a model" in capsys.readouterr().err
    statement = read_seen(TINY)
    assert (
        statement is not None
        and f"{statement.rooms[0][0]} to {statement.rooms[0][1]}" in (TINY / "README.md").read_text()
    )
