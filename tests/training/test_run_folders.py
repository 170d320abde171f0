"""A run folder: what it goes on with, what it refuses, and what stopping a run leaves. On the smallest run, `blind`."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from helpers import micro_config
from micro_start import log_of, quiet
from safetensors.torch import load_file

from vidllm.evaluation.baselines import load_language_only
from vidllm.io.processes import Stopped, folder_lock
from vidllm.model.config_fields import flat
from vidllm.training import language_only, loop, lora
from vidllm.training.config import TrainConfig, changed
from vidllm.training.finetune import FinetuneConfig, finetune
from vidllm.training.language_only import LanguageOnlyConfig, train_language_only
from vidllm.training.resuming import MAY_CHANGE
from vidllm.training.stage1 import Stage1Config
from vidllm_rooms.shards import write_shard


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(language_only, "preset", lambda name: SimpleNamespace(text_config=micro_config().text_config))


@pytest.fixture
def config(rooms_folder, tmp_path):
    return changed(
        LanguageOnlyConfig(), data=str(rooms_folder), out=str(tmp_path / "run"), tokenizer=str(tmp_path / "tokenizer"),
        steps=4, batch=4, save_minutes=0.0, log_every=1, dtype="float32", device="cpu", keep_checkpoints=9,
    )  # fmt: skip


def stopped_at(config, step, signum=signal.SIGTERM):
    """Run until a signal comes in a step."""
    taken = loop.train_step

    def steps(run, number, *processes):
        if number == step:
            os.kill(os.getpid(), signum)
        return taken(run, number, *processes)

    with pytest.MonkeyPatch.context() as patched, pytest.raises(Stopped) as caught:
        patched.setattr(loop, "train_step", steps)
        train_language_only(config, quiet)
    return caught.value.exit_code


def files_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_writes_a_checkpoint_and_the_run_goes_on_as_the_unbroken_one(config, tmp_path, signum, code):
    """No checkpoint but the signal's own; the files of both models are the same bytes, tokenizer_config among them."""
    config = changed(config, save_minutes=60.0)
    whole = train_language_only(changed(config, out=str(tmp_path / "whole")), quiet)
    assert stopped_at(config, 1, signum) == code
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step_0000002.pt"]
    said: list[str] = []
    made = train_language_only(config, said.append)
    assert "step 2 of 4" in said[0]
    assert files_of(made) == files_of(whole) and log_of(config.loop.out) == log_of(tmp_path / "whole")
    assert "is_local" not in json.loads((made / "tokenizer_config.json").read_text())
    assert not [path for path in Path(config.loop.out).rglob(".*")]
    assert load_language_only(Path(config.loop.out)) is not None  # a run's folder stands for its model


def test_other_settings_are_refused_by_name_and_bookkeeping_is_not(config):
    stopped_at(config, 1)
    for changes, words in (
        ({"learning_rate": 0.5, "batch": 2}, r"--learning-rate 0\.001 \(now 0\.5\), --batch 4 \(now 2\)"),
        ({"seed": 1}, r"--seed 0 \(now 1\)"),
        ({"accumulation": 2}, r"processes times --accumulation 1 \(now 2\)"),
        ({"steps": 1}, "2 steps already, --steps asks for 1"),
    ):
        with pytest.raises(ValueError, match=words):
            train_language_only(changed(config, **changes), quiet)
    train_language_only(changed(config, steps=5, log_every=2, keep_checkpoints=1, threads=2), quiet)
    assert log_of(config.loop.out)[-1]["step"] == 4


def test_every_setting_that_may_change_is_one_and_has_a_reason():
    kinds = (LanguageOnlyConfig, TrainConfig, Stage1Config, FinetuneConfig)
    known = {name for kind in kinds for name in flat(kind())}
    assert set(MAY_CHANGE) <= known and all(MAY_CHANGE.values())
    assert not {"learning_rate", "seed", "dtype", "preset", "batch"} & set(MAY_CHANGE)


def test_other_data_are_refused_by_name_a_moved_folder_and_new_shards_are_not(config, rooms_folder, tmp_path):
    stopped_at(config, 0)
    other = tmp_path / "other"
    write_shard(other, [20000, 20001], 4, 56, 70)
    with pytest.raises(ValueError, match=r"rooms_000010000_002_56x70\.safetensors is missing now"):
        train_language_only(changed(config, data=str(other)), quiet)
    moved = tmp_path / "moved"
    moved.mkdir()
    for path in rooms_folder.iterdir():
        (moved / path.name).write_bytes(path.read_bytes())
    first = sorted(moved.iterdir())[0]
    whole = first.read_bytes()
    first.write_bytes(whole[:-8] + bytes(8))
    with pytest.raises(ValueError, match=f"{first.name} is another file now"):
        train_language_only(changed(config, data=str(moved)), quiet)
    first.write_bytes(whole)
    write_shard(moved, [20000, 20001], 4, 56, 70)
    said: list[str] = []
    train_language_only(changed(config, data=str(moved)), said.append)
    assert any("warning: --data: 1 files more" in line for line in said)


def test_another_kind_of_run_is_refused(config, rooms_folder):
    stopped_at(config, 0)
    with pytest.raises(ValueError, match=r"another kind of run, LanguageOnlyConfig \(now TrainConfig\)"):
        other = changed(TrainConfig(), data=str(rooms_folder), out=config.loop.out, device="cpu")
        loop.drive(lambda: None, other, quiet)


def test_damaged_checkpoints_are_named_and_the_older_is_taken(config, tmp_path):
    stopped_at(config, 2)
    folder = tmp_path / "run" / "checkpoints"
    newest = folder / "step_0000003.pt"
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 255  # one byte of a weight: torch itself reads it without a word
    newest.write_bytes(content)
    said: list[str] = []
    train_language_only(config, said.append)
    assert "step 2 of 4" in said[0] and any(str(newest) in line and "damaged" in line for line in said)
    for path in folder.iterdir():
        path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"step_0000004\.pt.*step_0000001\.pt: damaged.*train anew"):
        train_language_only(config, quiet)


def test_a_checkpoint_of_another_run_is_named(config, tmp_path):
    folder = tmp_path / "run" / "checkpoints"
    folder.mkdir(parents=True)
    torch.save({"step": 2, "weights": torch.ones(3)}, folder / "step_0000002.pt")
    with pytest.raises(ValueError, match=r"step_0000002\.pt: not a checkpoint of this run"):
        train_language_only(config, quiet)


@pytest.mark.parametrize("damage", ["cut", "missing", "empty"])
def test_a_half_written_tokenizer_is_made_again(config, tmp_path, damage, caplog):
    stopped_at(config, 0)
    folder = Path(config.tokenizer)
    before = files_of(folder)
    if damage == "missing":
        (folder / "tokenizer_config.json").unlink()
    else:
        text = (folder / "tokenizer.json").read_bytes()
        (folder / "tokenizer.json").write_bytes(text[: len(text) // 2] if damage == "cut" else b"")
    made = train_language_only(config, quiet)
    assert files_of(folder) == before and f"{folder}: a half-written tokenizer" in caplog.text
    assert load_file(made / "model.safetensors")


def test_another_tokenizer_is_refused(config, tmp_path, rooms_folder):
    stopped_at(config, 0)
    from vidllm.training.texts import load_or_build_tokenizer

    load_or_build_tokenizer(tmp_path / "short", sorted(rooms_folder.iterdir())[:1], 400)
    with pytest.raises(ValueError, match=r"not the tokenizer that the run in .* was started with"):
        train_language_only(changed(config, tokenizer=str(tmp_path / "short")), quiet)


def test_one_process_at_a_time(config):
    with folder_lock(config.loop.out), pytest.raises(ValueError, match="another process works in this folder"):
        train_language_only(config, quiet)


def test_a_missing_extra_or_wrong_data_are_said_before_a_folder_is_made(tmp_path, monkeypatch, rooms_folder):
    data = tmp_path / "data.jsonl"
    (tmp_path / "v.mp4").touch()
    data.write_text(json.dumps({"video": "v.mp4", "question": "What is it?", "answer": "a room"}) + "\n")
    out = tmp_path / "out"
    monkeypatch.setattr(lora, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"LoRA needs peft.*vidllm\[train\]"):
        finetune(changed(FinetuneConfig(), data=str(data), out=str(out), lora=True), quiet)
    with pytest.raises(ValueError, match=r"LoRA needs peft"):
        loop.drive(lambda: None, changed(TrainConfig(), data=str(rooms_folder), out=str(out), lora_rank=4), quiet)
    monkeypatch.setattr("vidllm.training.distributed.find_spec", lambda name: None)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match=r"several processes need accelerate.*vidllm\[train\]"):
        train_language_only(changed(LanguageOnlyConfig(), data=str(rooms_folder), out=str(out)), quiet)
    monkeypatch.delenv("WORLD_SIZE")
    with pytest.raises(ValueError, match="no training shards in nowhere"):
        train_language_only(changed(LanguageOnlyConfig(), data="nowhere", out=str(out)), quiet)
    assert not out.exists()
