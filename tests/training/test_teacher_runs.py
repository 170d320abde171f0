"""Our own teachers: what their runs train and leave behind, the texts of frames, and that contrast learns."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from teacher_models import save_teachers
from transformers import CLIPModel

from vidllm.datasets.shards import rooms_labels
from vidllm.model.loading import load_pretrained
from vidllm.training import language_teacher
from vidllm.training.config import changed
from vidllm.training.data import RoomsData
from vidllm.training.language_teacher import (
    END,
    LanguageTeacherConfig,
    LanguageTeacherRun,
    contrastive_loss,
    draw_pairs,
    frame_text,
    geometry_teacher,
    list_text,
    train_language_teacher,
)
from vidllm.training.loop import train_step
from vidllm.training.models import LANGUAGE_HALF
from vidllm.training.stage2 import Run, train
from vidllm.training.teachers import load_geometry_teacher, load_language_teacher


@pytest.fixture(scope="module")
def student(rooms_folder, tmp_path_factory):
    return save_teachers(tmp_path_factory.mktemp("teachers"), sorted(rooms_folder.iterdir()))[2]


@pytest.fixture
def config(rooms_folder, student, tmp_path):
    return changed(
        LanguageTeacherConfig(), data=str(rooms_folder), out=str(tmp_path / "run"), init_from=student,
        steps=4, contrastive_steps=2, warmup_steps=1, image_size=56, depth=2, heads=2, text_depth=1, shards_a_step=2,
        scenes_a_shard=2, clip_images=4, clip_frames=(2,), questions=3, references=2, captions=1, save_minutes=0.0,
        log_every=1, dtype="float32",
    )  # fmt: skip


def quiet(line: str) -> None:
    pass


# ---- geometry -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_geometry_teacher_has_no_adapter_and_no_words(rooms_folder, tmp_path):
    config = changed(
        geometry_teacher(), data=str(rooms_folder), out=str(tmp_path / "run"), steps=1, window_scenes=2,
        window_frames=(2,), save_minutes=0.0, log_every=1, warmup_steps=1, dtype="float32",
    )  # fmt: skip
    run = Run.build(config)
    assert run.model.adapter.exchange is None and run.model.config.adapter.variant == "none"
    folder = train(config, quiet)
    line = json.loads((folder.parent / "log.jsonl").read_text())
    assert line["window_steps"] == 1 and not {"text", "metric", "semantic"} & set(line)
    before, after = run.model.state_dict(), load_pretrained(folder)[0].state_dict()
    moved = {n.split(".")[0] for n, v in after.items() if not torch.equal(v, before[n].half().float())}
    assert not moved & {*LANGUAGE_HALF, "metric_depth"} and {"encoder", "attention", "camera_head"} <= moved
    teacher = load_geometry_teacher(str(folder))
    assert teacher.per_frame and teacher.width == run.model.config.encoder.hidden_size


# ---- language -------------------------------------------------------------------------------------------------------


def test_the_language_teacher_is_clip_then_llava(config):
    folder = train_language_teacher(config, quiet)
    lines = [json.loads(line) for line in (folder.parent / "log.jsonl").read_text().splitlines()]
    assert all("contrast" in line and "text" not in line for line in lines[:2])
    assert all("text" in line and "contrast" not in line for line in lines[2:])
    clip = CLIPModel.from_pretrained(folder)
    teacher = load_language_teacher(str(folder))
    assert teacher.width == clip.config.vision_config.hidden_size == 24 and teacher.grid(56, 70) == (4, 4)
    reader, began = (load_pretrained(place)[0].state_dict() for place in (folder.parent / "reader", config.init_from))
    moved = {n.split(".")[0] for n, v in reader.items() if float((v - began[n]).abs().max()) > 1e-3}
    assert moved <= set(LANGUAGE_HALF) and "projector" in moved


def test_each_phase_trains_its_own_parts(config):
    def loss_of(run, step):
        rng = np.random.default_rng(0)
        return run.losses(run.draw(step, rng), step, rng).total()

    run = LanguageTeacherRun(config)
    loss_of(run, 0).backward()
    assert all(p.grad is None for p in run.language.parameters())
    assert run.clip.text_model.embeddings.token_embedding.weight.grad is not None
    run.clip.zero_grad(set_to_none=True)
    loss_of(run, 2).backward()
    assert any(p.grad is not None for p in run.language.parameters())
    assert run.clip.vision_model.embeddings.patch_embedding.weight.grad is not None
    assert all(p.grad is None for p in run.clip.text_model.parameters())
    for part in ("encoder", "adapter", "attention", "camera_head", "depth_head", "metric_depth"):
        assert all(p.grad is None for p in run.model.get_submodule(part).parameters()), part
    frozen = LanguageTeacherRun(changed(config, tune_tower=False))
    loss_of(frozen, 2).backward()
    assert all(p.grad is None for p in frozen.clip.parameters())


def test_bfloat16_autocast_runs(config):
    run = LanguageTeacherRun(changed(config, dtype="bfloat16"))
    assert [0 < train_step(run, step)["loss"] < 100 for step in (0, 2)] == [True, True]


@pytest.mark.slow
def test_a_resumed_teacher_goes_on_as_the_unbroken_one(config, tmp_path, monkeypatch):
    unbroken = CLIPModel.from_pretrained(train_language_teacher(config, quiet)).state_dict()
    broken = changed(config, out=str(tmp_path / "broken"))
    whole = LanguageTeacherRun.losses

    def killed(run, batch, step, rng):
        if step == 3:
            raise KeyboardInterrupt
        return whole(run, batch, step, rng)

    monkeypatch.setattr(language_teacher.LanguageTeacherRun, "losses", killed)
    with pytest.raises(KeyboardInterrupt):
        train_language_teacher(broken, quiet)
    monkeypatch.undo()
    resumed = CLIPModel.from_pretrained(train_language_teacher(broken, quiet)).state_dict()
    assert all(torch.equal(resumed[name], value) for name, value in unbroken.items())


@pytest.mark.slow
def test_contrast_learns_which_text_belongs_to_which_frame(config):
    run = LanguageTeacherRun(changed(config, contrastive_steps=4, learning_rate=3e-3))
    assert not any(p.requires_grad for p in run.language.parameters())
    pairs = _pairs(run, replace(run.config, shards_a_step=4, text_length=24))
    history = []
    for _ in range(40):
        loss, right = contrastive_loss(run.clip, pairs)
        run.optimizer.zero_grad()
        loss.backward()
        run.optimizer.step()
        history.append((float(loss.detach()), right))
    assert history[-1][0] < 0.3 * history[0][0] and history[-1][1] > 0.8, (history[0], history[-1])


def test_the_phases_have_their_steps(config):
    with pytest.raises(ValueError, match="contrastive_steps"):
        train_language_teacher(changed(config, contrastive_steps=5))
    assert LanguageTeacherConfig().contrastive_steps < LanguageTeacherConfig().loop.steps


# ---- pairs ----------------------------------------------------------------------------------------------------------


def test_a_frames_text_names_what_it_shows(rooms_folder):
    data = RoomsData(rooms_folder)
    said = set()
    for seed in range(12):
        rng = np.random.default_rng(seed)
        batch = data.draw(rng, 2, 1, window=True)
        for b, record in enumerate(batch.records):
            text = frame_text(batch, b, rooms_labels(), rng)
            said.add(text)
            shown = {int(c) for c in batch.category[b, 0] if c > 0}
            names = {rooms_labels().categories[index - 1] for index in shown}
            assert not shown or any(name in text.lower() or name in text for name in names), (text, names)
            assert record["objects"]
    assert len(said) > 8
    things = ((1, "coffee_table", "red"), (2, "bed", "blue"))
    record = {"objects": [dict(zip(("id", "category", "colour"), thing, strict=True)) for thing in things]}
    looks = {1: (5, 1), 2: (6, 2)}
    assert list_text(record, Counter({(5, 1): 1, (6, 2): 4}), looks) == "a blue bed and a red coffee table"
    assert list_text(record, Counter(), looks) == "an empty part of the room"


def test_pairs_are_padded_and_end_where_clip_looks(config):
    run = LanguageTeacherRun(config)
    pairs = _pairs(run, replace(run.config, shards_a_step=2, text_length=12))
    assert pairs.pixels.shape == (4, 3, 56, 56) and pairs.ids.shape[1] <= 12 and len(pairs.texts) == 4
    last = pairs.mask.sum(1) - 1
    assert bool((pairs.ids.gather(1, last[:, None]) == END).all()) and int((pairs.ids == END).sum()) == 4


def test_frames_of_one_text_are_all_right(config):
    run = LanguageTeacherRun(config)
    pairs = _pairs(run, replace(run.config, shards_a_step=2, text_length=12))
    same = replace(pairs, texts=["one"] * 4, ids=pairs.ids[:1].expand(4, -1), mask=pairs.mask[:1].expand(4, -1))
    with torch.no_grad():
        loss, right = contrastive_loss(run.clip, same)
        assert right == 1.0 and float(loss) >= np.log(4) - 1e-4  # nothing tells them apart: the entropy of four


def _pairs(run, config):
    return draw_pairs(run.data, run.texts.tokenizer, np.random.default_rng(0), config)
