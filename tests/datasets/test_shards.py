"""Training shards: their label space, and damage, which header and size alone show."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from vidllm.datasets.shards import LabelSpace, Shard, check_shards, rooms_labels, save_shard, shard_fault
from vidllm.training.data import RoomsData
from vidllm_rooms.world.catalogue import LABELS


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
    with pytest.raises(ValueError, match=f"damaged training shard: {path}: .*{told}.*delete it, and render or pack"):
        check_shards(folder)


def test_other_safetensors_are_no_shards(folder):
    path = sorted(folder.iterdir())[0]
    tensors = load_file(path)
    save_file(tensors, path)
    assert shard_fault(path) == "it lacks the record of its scenes"
    save_file({"rgb": torch.zeros(1)}, path)
    assert "depth_m, extrinsics, intrinsics" in str(shard_fault(path))


def test_many_are_counted(folder):
    for number in range(7):
        (folder / f"rooms_{number:09d}_016_112x140.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match=r"damaged training shards.*; and 2 more"):
        check_shards(folder)


def test_shards_without_names_have_those_of_the_rooms(folder):
    path = sorted(folder.iterdir())[0]
    assert Shard(path).labels == rooms_labels() == LABELS  # those of the rooms' catalogue
    with safe_open(str(path), framework="pt") as file:
        scenes = file.metadata()["scenes"]
    save_file(load_file(path), path, metadata={"scenes": scenes})
    assert Shard(path).labels == rooms_labels()


def test_a_folder_has_one_label_space(folder):
    first, second = sorted(folder.iterdir())
    shard = Shard(second)
    tensors = {name: value for name, value in load_file(second).items() if name != "instance"}
    save_shard(second, tensors, shard.records, LabelSpace(("sofa",)))
    with pytest.raises(ValueError, match=f"(?:{second}|{first}) has other object names"):
        for seed in range(20):
            RoomsData(folder).draw(np.random.default_rng(seed), 1, 2, window=True)
    save_shard(second, tensors, shard.records, LabelSpace())
    assert RoomsData(folder).labels == LABELS  # a scan names nothing and may lie beside rooms
    save_shard(second, tensors, shard.records, LabelSpace(("sofa",)))
    first.unlink()
    data = RoomsData(folder)
    batch = data.draw(np.random.default_rng(0), 1, 2, window=True)
    assert data.labels.sizes == (2, 1, 1) and not batch.category.any() and not batch.material.any()
