"""Pickled tensors and sharded checkpoints: tensors come back, code never runs, torch's advice is never shown."""

from __future__ import annotations

import os
import pickle
import pickletools
import shutil
import traceback
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch.distributed.checkpoint import FileSystemWriter, load, save
from torch.distributed.checkpoint.metadata import BytesStorageMetadata

from vidllm.io.sharded_tensors import TensorsReader, read_metadata
from vidllm.io.tensors import load_pickled, load_pickled_tensors
from vidllm.io.weight_files import open_checkpoint


class Planted:
    """Unpickling it makes a folder."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


def refused(call: Callable[[], Any], file: Path) -> str:
    with pytest.raises(ValueError) as caught:
        call()
    line = str(caught.value)
    assert str(file) in line and "\n" not in line and "weights_only" not in line, line
    shown = "".join(traceback.format_exception(caught.value))
    assert "weights_only" not in shown and "Weights only" not in shown
    return line


@pytest.mark.parametrize("zipped", [True, False])
def test_tensors_come_back_and_code_does_not_run(tmp_path, zipped):
    file, mark = tmp_path / "x.pt", tmp_path / "ran"
    torch.save({"model": {"a": torch.arange(3.0)}, "step": 3}, file, _use_new_zipfile_serialization=zipped)
    assert load_pickled(file)["step"] == 3
    assert load_pickled_tensors(file)["a"].tolist() == [0, 1, 2]
    torch.save({"a": torch.zeros(2), "b": Planted(mark)}, file, _use_new_zipfile_serialization=zipped)
    assert "refused" in refused(lambda: load_pickled(file), file)
    assert not mark.exists()


def test_what_is_no_file_of_tensors_is_refused_by_name(tmp_path):
    mark, file = tmp_path / "ran", tmp_path / "x.bin"
    torch.save({"a": torch.arange(300.0)}, tmp_path / "good.pt")
    good = (tmp_path / "good.pt").read_bytes()
    torch.save({"a": torch.zeros(1).expand(10**9)}, tmp_path / "expanded.pt")
    with zipfile.ZipFile(tmp_path / "good.pt") as stored, zipfile.ZipFile(
        tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED
    ) as bomb:
        for name in stored.namelist():
            bomb.writestr(name, stored.read(name))
    cases = [b"", b"no tensors", good[:200], good[:-30], pickle.dumps(Planted(mark)), pickle.dumps([1, 2]),
             (tmp_path / "expanded.pt").read_bytes(), (tmp_path / "bomb.pt").read_bytes()]  # fmt: skip
    for content in cases:
        file.write_bytes(content)
        refused(lambda: load_pickled_tensors(file), file)
    for value in ({"args": 1}, 7, [torch.zeros(1)]):
        torch.save(value, file)
        refused(lambda: load_pickled_tensors(file), file)
    assert not mark.exists()


def test_names_of_wrappers_are_left_out(tmp_path):
    value = torch.zeros(2)
    for given, plain in [
        (["module.a.weight", "module.b"], ["a.weight", "b"]),
        (["_orig_mod.a.weight", "_orig_mod.b"], ["a.weight", "b"]),
        (["module._orig_mod.a", "module._orig_mod.b"], ["a", "b"]),
        (["_orig_mod.module.a"], ["a"]),
        (["layers.0._orig_mod.a", "b"], ["layers.0.a", "b"]),
        (["layers.0._fsdp_wrapped_module._checkpoint_wrapped_module.a"], ["layers.0.a"]),
        (["module.a", "b"], ["module.a", "b"]),  # a module of that name
    ]:
        save_file({name: value.clone() for name in given}, tmp_path / "model.safetensors")
        torch.save({name: value for name in given}, tmp_path / "model.pt")
        for place in (tmp_path / "model.safetensors", tmp_path / "model.pt"):
            checkpoint = open_checkpoint(place)
            for found in (checkpoint.tensors(), checkpoint.shapes()):
                assert sorted(name for name, _ in found) == sorted(plain)
    torch.save({"_orig_mod.a": value, "a": value}, tmp_path / "model.pt")
    with pytest.raises(ValueError, match=r"model\.pt: some weights are there twice"):
        list(open_checkpoint(tmp_path / "model.pt").tensors())


@pytest.fixture
def sharded(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one process is meant
        save({"a": torch.arange(12.0).view(4, 3), "b": torch.ones((), dtype=torch.bfloat16)},
             storage_writer=FileSystemWriter(tmp_path / "step"))  # fmt: skip
    return tmp_path / "step"


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_a_sharded_checkpoint_comes_back(sharded):
    wanted = {"a": torch.zeros(4, 3), "b": torch.zeros((), dtype=torch.bfloat16)}
    load(wanted, storage_reader=TensorsReader(sharded))
    assert wanted["a"].flatten().tolist() == list(range(12)) and wanted["b"] == 1


def test_planted_metadata_do_not_run(sharded, tmp_path):
    file, mark = sharded / ".metadata", tmp_path / "ran"
    honest = read_metadata(sharded)

    def says(value: Any) -> str:
        file.write_bytes(pickle.dumps(value))
        return refused(lambda: read_metadata(sharded), file)

    assert "refused" in says(Planted(mark)) and "mkdir" in says(Planted(mark))
    honest.planner_data = {"a": Planted(mark)}
    assert "refused" in says(honest)
    honest.planner_data = None
    honest.state_dict_metadata["c"] = BytesStorageMetadata()  # torch unpickles such entries without a guard
    assert "refused" in says(honest)
    del honest.state_dict_metadata["c"]
    index, info = next(iter(honest.storage_data.items()))
    for change in ({"relative_path": "../other"}, {"relative_path": "/etc/passwd"}, {"offset": -1}, {"length": 10**15},
                   {"transform_descriptors": ["zstd"]}, {"relative_path": "nowhere.distcp"}):  # fmt: skip
        honest.storage_data[index] = type(info)(**{**vars(info), **change})
        says(honest)
    assert not mark.exists()


def test_flipped_bytes_of_metadata_are_read_or_refused_by_name(sharded):
    file = sharded / ".metadata"
    content = file.read_bytes()
    for place in range(0, len(content), 2):
        flipped = bytearray(content)
        flipped[place] ^= 0x41
        file.write_bytes(bytes(flipped))
        try:
            read_metadata(sharded)
        except ValueError as error:
            assert str(file) in str(error)
    for length in range(0, len(content), 100):
        file.write_bytes(content[:length])
        refused(lambda: read_metadata(sharded), file)
    shutil.rmtree(sharded)
    with pytest.raises(ValueError, match="does not exist"):
        read_metadata(sharded)


def test_metadata_need_no_more_opcodes_than_are_admitted(sharded):
    """A torch that writes metadata otherwise shows itself here, not in a user's folder."""
    found = read_metadata(sharded)
    assert set(found.state_dict_metadata) == {"a", "b"}
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        (sharded / ".metadata").write_bytes(pickle.dumps(found, protocol))
        assert read_metadata(sharded).state_dict_metadata == found.state_dict_metadata
    assert list(pickletools.genops(pickle.dumps(found)))
