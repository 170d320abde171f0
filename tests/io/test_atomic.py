"""Outputs appear whole; what killed processes left goes, what living ones write stays; permissions; full disks."""

from __future__ import annotations

import os
import resource
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from vidllm.cli.reading import writable_folder
from vidllm.io import atomic
from vidllm.io.atomic import (
    OutputError,
    atomic_folder,
    atomic_path,
    clear_leftovers,
    clear_leftovers_of,
    remove_folder,
    temporary_beside,
)

WRITES = """
import os, signal, sys, time
from pathlib import Path
from vidllm.io.atomic import atomic_folder, atomic_path
place, how = Path(sys.argv[1]), sys.argv[2]
with (atomic_folder if how == "folder" else atomic_path)(place) as part:
    (part / "a" if how == "folder" else part.with_name(".tmpO1xvYt")).write_text("half")
    print("writing", flush=True)
    time.sleep(60)
"""


def start_writing(place: Path, how: str) -> subprocess.Popen[str]:
    child = subprocess.Popen([sys.executable, "-c", WRITES, str(place), how], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None and child.stdout.readline() == "writing\n"
    return child


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("how", ["file", "folder"])
def test_what_a_killed_process_left_goes_and_what_a_living_one_writes_stays(tmp_path, how):
    child = start_writing(tmp_path / "scans" / "out.x", how)
    try:
        clear_leftovers_of(tmp_path)
        assert len(names(tmp_path / "scans")) == 1
        os.kill(child.pid, signal.SIGKILL)
        while Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
            time.sleep(0.01)
        clear_leftovers_of(tmp_path)  # a zombie writes no more
        assert names(tmp_path / "scans") == []
    finally:
        child.kill()
        child.wait()
        child.stdout.close()


def test_the_next_write_into_a_folder_clears_it(tmp_path):
    child = start_writing(tmp_path / "a", "file")
    child.kill()
    child.wait()
    child.stdout.close()
    with atomic_path(tmp_path / "b") as part:
        part.write_text("whole")
    assert names(tmp_path) == ["b"]


def test_a_command_clears_where_it_is_about_to_write(tmp_path):
    children = [start_writing(tmp_path / "out" / "scans" / "s", "folder"), start_writing(tmp_path / "out.x", "file")]
    for child in children:
        child.kill()
        child.wait()
        child.stdout.close()
    writable_folder(str(tmp_path / "out"))
    assert names(tmp_path) == ["out"] and names(tmp_path / "out" / "scans") == []


def test_a_number_used_again_a_foreign_machine_and_files_of_the_user(tmp_path, monkeypatch):
    ours = temporary_beside(tmp_path / "a")
    again = ours.with_name(ours.name.replace(f"-{os.getpid()}-", f"-{os.getpid()}-1"))  # this number, another start
    monkeypatch.setattr(atomic, "_host", lambda: "abcdef")
    foreign, old = temporary_beside(tmp_path / "b"), temporary_beside(tmp_path / "c")
    monkeypatch.undo()
    theirs = tmp_path / ".mine.part"
    for path in (ours, again, foreign, old, theirs):
        path.mkdir()
    os.utime(old, (0, 0))
    clear_leftovers(tmp_path)
    assert sorted(names(tmp_path)) == sorted(path.name for path in (ours, foreign, theirs))


def test_permissions_are_what_the_umask_leaves(tmp_path):
    before = os.umask(0o027)
    try:
        with atomic_path(tmp_path / "a.safetensors") as part:
            save_file({"x": torch.ones(2)}, part)  # for the owner alone, as safetensors writes
        with atomic_folder(tmp_path / "out") as folder:
            save_file({"x": torch.ones(2)}, folder / "b.safetensors")
    finally:
        os.umask(before)
    for name in ("a.safetensors", "out/b.safetensors"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o640


@pytest.mark.parametrize("library", ["python", "torch", "safetensors"])
def test_a_full_disk_names_the_path_whatever_library_writes(tmp_path, library):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    values = torch.zeros(100_000)
    with pytest.raises(OutputError, match=r"big\.bin: cannot write") as caught:
        resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, before[1]))
        try:
            with atomic_path(tmp_path / "big.bin") as part:
                if library == "python":
                    part.write_bytes(bytes(400_000))
                elif library == "torch":
                    torch.save(values, part)
                else:
                    save_file({"x": values}, part)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "\n" not in str(caught.value) and ".part" not in str(caught.value) and names(tmp_path) == []


def test_an_error_about_another_file_is_not_an_error_of_writing(tmp_path):
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "a"):
        Path("/nowhere/at/all").read_bytes()


def test_a_folder_that_is_there_is_filled_from_inside(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with atomic_folder(".") as part:  # it has no name, and its parent may not be writable
        assert part.parent == tmp_path
        (part / "a").write_text("1")
    assert names(tmp_path) == ["a"]
    (tmp_path / "gone").mkdir()
    remove_folder("gone")
    assert names(tmp_path) == ["a"]
