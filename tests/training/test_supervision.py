"""The interface of supervision: what is built, of which steps, and that weight 0 costs nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from micro_start import save_start, short_run

from vidllm.datasets.shards import LabelSpace, rooms_labels
from vidllm.training.config import Texts, changed, compact, paper
from vidllm.training.stage2 import Run
from vidllm.training.supervision import SUPERVISIONS, wanted
from vidllm_rooms.language.template_questions import template_questions

WEIGHTS = {f"{kind.name}_weight": 0.0 for kind in SUPERVISIONS}


@pytest.fixture(scope="module")
def start(rooms_folder, tmp_path_factory):
    return save_start(tmp_path_factory.mktemp("start"), rooms_folder)


@pytest.fixture
def config(rooms_folder, start, tmp_path):
    return short_run(rooms_folder, start, tmp_path / "run")


def test_each_is_switched_by_its_own_weight(config, start):
    config = changed(config, represent_weight=1.0, represent_from=str(start))
    run = Run.build(config)
    assert [type(each) for each in run.supervision] == list(SUPERVISIONS)
    for kind in SUPERVISIONS:
        without = replace(config.supervision, **{f"{kind.name}_weight": 0.0})
        assert wanted(without, run.data.labels) == [other for other in SUPERVISIONS if other is not kind]
    unnamed = wanted(config.supervision, LabelSpace())
    assert not any(kind.needs_labels for kind in unnamed) and unnamed


def test_the_papers_setting_has_none():
    assert wanted(paper().supervision, rooms_labels()) == wanted(compact().supervision, rooms_labels()) == []


def test_at_weight_0_nothing_is_built_and_no_term_is_left(config):
    run = Run.build(changed(config, **WEIGHTS))
    assert not run.supervision and run.auxiliary is None and run.oracle is None and set(run.modules()) == {"model"}
    rng = np.random.default_rng(0)
    losses = run.losses((run.data.draw(rng, 1, 2, window=True), "window", None), 0, rng)
    assert not {"semantic", "patch_points", "naming", "correspondence", "guide"} & set(losses.terms)


def test_template_questions_have_to_be_handed_in(config):
    with pytest.raises(ValueError, match="those of vidllm_rooms"):
        Run.build(changed(config, plain=2))
    run = Run.build(changed(config, plain=2), template_questions)
    batch = run.data.draw(np.random.default_rng(0), 1, 2, window=True)
    record = batch.records[0]
    boxes = {item["id"]: item["box"] for item in record["objects"]}
    assert len(run.texts.scene(record, boxes, np.random.default_rng(0), Texts(0, 0, 0, plain=2))) == 2
