"""Outputs to the current folder and into folders that exist."""

from __future__ import annotations

import pytest

from vidllm.io.atomic import OutputError, atomic_folder, atomic_path


@pytest.mark.parametrize("name", [".", "..", "sub/..", "old", "new"])
def test_any_way_of_naming_a_folder_is_written(tmp_path, monkeypatch, name):
    here = tmp_path / "here"
    (here / "old").mkdir(parents=True)
    (here / "sub").mkdir()
    (here / "old" / "kept").write_text("k")
    monkeypatch.chdir(here)
    with atomic_folder(name) as part:
        (part / "a").mkdir()
        (part / "a" / "b.txt").write_text("x")
    assert (here / name / "a" / "b.txt").read_text() == "x" and (here / "old" / "kept").exists()
    assert not [path for path in tmp_path.rglob("*") if ".part" in path.name]


def test_a_failure_leaves_the_current_folder_as_it_was(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RuntimeError), atomic_folder(".") as part:
        (part / "a").write_text("x")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", [".", "sub"])
def test_a_folder_in_the_place_of_a_file_is_said(tmp_path, monkeypatch, name):
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OutputError, match="folder"), atomic_path(name):
        pass


def test_another_process_may_make_the_folder_in_the_meantime(tmp_path, monkeypatch):
    out = tmp_path / "out"
    with atomic_folder(out) as part:
        (part / "a").write_text("new")
        out.mkdir()
        (out / "a").write_text("old")
        (out / "b").write_text("other")
        monkeypatch.setattr(type(out), "exists", lambda self: False)  # seen before it was there
    assert {file.name: file.read_text() for file in out.iterdir()} == {"a": "new", "b": "other"}
    assert [file.name for file in tmp_path.iterdir()] == ["out"]
