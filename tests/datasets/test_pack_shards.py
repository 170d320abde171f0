"""Packed scans as training shards: what training reads of them, and which sentences they hold."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scannet_files import write_scene

from vidllm.cli import main
from vidllm.datasets.pack import PackedScenes, PackSettings, pack
from vidllm.datasets.pack_shards import language_of, training_record, write_training_shards
from vidllm.datasets.shards import check_shards
from vidllm.training.data import RoomsData
from vidllm.training.texts import scene_boxes, scene_from_room

SCENES = ["scene0000_00", "scene0001_00", "scene0002_00"]


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root, folder = tmp_path_factory.mktemp("data"), tmp_path_factory.mktemp("packed")
    for name in SCENES:
        write_scene(root, name)
    rows = [
        {"scene_id": scene, "object_id": str(number), "object_name": "chair", "ann_id": "0", "description": "a chair."}
        for scene in SCENES[:2] for number in (3, 99)
    ]  # fmt: skip
    (root / "ScanRefer_filtered_train.json").write_text(json.dumps(rows))
    question = {"scene_id": SCENES[1], "question": "Where?", "question_id": "q", "answers": ["here", "there"],
                "object_ids": [3], "object_names": ["chair"]}  # fmt: skip
    (root / "ScanQA_v1.0_train.json").write_text(json.dumps([question]))
    pack(root, folder, PackSettings(frames=3, shorter_side=14))
    return folder


def test_sentences_keep_their_objects(packed: Path) -> None:
    record = PackedScenes(packed).record(SCENES[1])
    language = language_of(record, "train")
    assert [r.targets for r in language.references] == [(4,)]  # object 99 has no box
    assert language.questions[0].answers == ("here", "there") and language.questions[0].situation is None
    assert all(c.object_id == 4 and c.texts == ("a chair.",) for c in language.captions)
    assert not any(vars(language_of(record, "val")).values())
    boxes = {o["id"]: o["box"] for o in training_record(record, "train")["objects"]}
    known = {o["object_id"] + 1: [*o["box"], 0.0] for o in record["objects"]}
    assert boxes == known and set(boxes) == {4, 8}


def test_training_reads_them(packed: Path, tmp_path: Path) -> None:
    assert write_training_shards(packed, tmp_path / "shards") == 2  # the third scene has no sentence
    check_shards(tmp_path / "shards")
    data = RoomsData(tmp_path / "shards", 14)
    batch = data.draw(np.random.default_rng(0), 2, 2, window=False)
    scene = PackedScenes(packed).tensors(batch.records[0]["seed"])
    assert torch.equal(batch.images[0, 0], scene["rgb"][0].permute(2, 0, 1).float() / 255)
    assert torch.allclose(batch.depth_m[0, 0], scene["depth_mm"][0].float() / 1000, rtol=1e-3)
    assert torch.allclose(batch.extrinsics[0, 0], scene["extrinsics"][0].float())
    assert torch.allclose(batch.intrinsics[0, 1], scene["intrinsics"].float())
    assert not batch.category.any() and not batch.colour.any()
    assert torch.allclose(batch.up.norm(dim=-1), torch.ones(2))
    level = scene_from_room(batch.extrinsics[0])
    assert set(scene_boxes(batch.records[0], level)) == {4, 8}


def test_the_command_keeps_what_is_there(packed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        assert main(["data", "repack", str(packed), "-o", str(tmp_path / "out")]) == 0
        assert capsys.readouterr().out == f"{tmp_path / 'out'}: 2 scenes\n"
    assert main(["data", "repack", str(packed), "-o", str(tmp_path / "out"), "--split", "val"]) == 2
    assert "no scene has a sentence of the split 'val'" in capsys.readouterr().err
