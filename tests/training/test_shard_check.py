"""Damaged shards are named by their header and size alone."""

from __future__ import annotations

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from vidllm.training.shard_check import check_shards, shard_fault


@pytest.fixture
def folder(rooms_folder, tmp_path):
    return shutil.copytree(rooms_folder, tmp_path / "shards")


def test_whole_shards_pass(folder, tmp_path):
    check_shards(folder)
    check_shards(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "damage, told",
    [
        (lambda b: b[:-1], "cut or overwritten"),
        (lambda b: b + b"more", "cut or overwritten"),
        (lambda b: b[:200], "or cut"),
        (lambda b: b"", "or cut"),
        (lambda b: b"junk" * 100, "or cut"),
        (lambda b: b[:8] + b"[" + b[9:], "header cannot be read"),
    ],
)
def test_damage_is_named_with_its_remedy(folder, damage, told):
    path = sorted(folder.iterdir())[0]
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=f"damaged shard of rooms: {path}: .*{told}.*delete and render again"):
        check_shards(folder)


def test_other_safetensors_are_no_shards(folder):
    path = sorted(folder.iterdir())[0]
    tensors = load_file(path)
    save_file(tensors, path)
    assert shard_fault(path) == "it lacks the record of its scenes"
    save_file({"rgb": torch.zeros(1)}, path)
    assert "depth_m, extrinsics, instance, intrinsics" in str(shard_fault(path))


def test_many_are_counted(folder):
    for number in range(7):
        (folder / f"rooms_{number:09d}_016_112x140.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match=r"damaged shards.*; and 2 more"):
        check_shards(folder)
