"""The submission to EASI: its names, percent, the archive, and a wrong benchmark."""

from __future__ import annotations

import importlib.util
import json
import sys
import zipfile
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "integrations" / "easi" / "submission.py"
_spec = importlib.util.spec_from_file_location("easi_submission", SCRIPT)
assert _spec is not None and _spec.loader is not None
easi = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(easi)

KINDS = ("object_counting", *(f"object_rel_direction_{level}" for level in ("easy", "medium", "hard")))


def write(path: Path, rows: list[dict[str, object]]) -> str:
    path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


def test_names_are_those_of_the_leaderboard() -> None:
    names = {
        ("vsi", "object_abs_distance_mra"): "object_abs_distance",
        ("vsi", "route_planning_accuracy"): "route_planning_accuracy",
        ("mmsi", "Attribute (Appr.)"): "attr_appr_accuracy", ("mmsi", "Motion (Cam.)"): "motion_cam_accuracy",
        ("mmsi", "MSR"): "msr_accuracy", ("mmsi", "Positional Relationship (Cam.\u2013Obj.)"): "pos_cam_obj_accuracy",
        ("3dsr", "location_next_to_accuracy"): "location_next_to", ("3dsr", "height_accuracy"): None,
    }  # fmt: skip
    assert {given: easi.part_name(*given) for given in names} == names


def test_both_files_from_one_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    rows = [
        {"id": i, "question_type": kind, "ground_truth": "4" if kind == KINDS[0] else "A", "pruned": i >= 4}
        for i, kind in enumerate(KINDS * 2)
    ]
    references = write(tmp_path / "test.jsonl", rows)
    predictions = write(
        tmp_path / "p.jsonl", [{"id": i, "prediction": "4" if i % 4 == 0 else "AB"[i // 4]} for i in range(8)]
    )
    command = ["submission", "--model", "us/small", "--type", "finetuned", "--precision", "float32"]
    monkeypatch.setattr(
        sys, "argv", [*command, "--benchmark", "vsi", predictions, references, "-o", str(tmp_path / "out")]
    )
    easi.main()
    payload = json.loads((tmp_path / "out" / "easi_results.json").read_text())
    assert payload == json.loads(capsys.readouterr().out)
    assert payload["scores"] == {"vsi_bench": 75.0, "vsi_debiased": 100.0}
    assert payload["subScores"]["vsi_bench"] == {"object_counting": 100.0, "object_rel_direction_accuracy": 50.0}
    with zipfile.ZipFile(tmp_path / "out" / "easi_results.zip") as archive:
        assert archive.namelist() == ["small/vsi_bench_results.json", "small/vsi_bench_samples.jsonl"]
        first = json.loads(archive.read("small/vsi_bench_samples.jsonl").splitlines()[0])
        assert first == {"id": "0", "prediction": "4", "grade": 1.0, "task": "object_counting"}
    monkeypatch.setattr(sys, "argv", [*command, "--benchmark", "moon", predictions, references, "-o", str(tmp_path)])
    with pytest.raises(SystemExit, match="2"):
        easi.main()
    assert "expected one of vsi, mmsi, 3dsr, spar, received 'moon'" in capsys.readouterr().err
