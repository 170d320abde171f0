"""Batches drawn ahead are those drawn in turn; runs that stop by the clock let the rate fall by it."""

from __future__ import annotations

import pickle
import threading
from dataclasses import replace
from queue import Queue

import numpy as np
import pytest
import torch

from vidllm.datasets.shards import Shard
from vidllm.model.text import build_tokenizer
from vidllm.training.config import RunConfig, changed, tiny_test
from vidllm.training.data import ClipDraw, RoomsData
from vidllm.training.progress import Clock
from vidllm.training.stage2 import StepDraw
from vidllm.training.texts import TextMaker, corpus
from vidllm.training.trainable import Ahead
from vidllm_rooms.language.template_questions import template_questions


def draw(step, rng):
    return step, rng.random(), threading.current_thread().name


@pytest.mark.parametrize("threads", [0, 3])
def test_the_same_batch_and_the_same_generator_with_and_without_threads(threads):
    ahead = Ahead(draw, threads)
    for step in range(4):
        ahead.want([(step + n, [5, step + n]) for n in range(3)])
        (told, number, thread), rng = ahead.take(step, [5, step])
        expected = np.random.default_rng([5, step])
        assert (told, number) == (step, expected.random()) and rng.random() == expected.random()
        assert thread.startswith("batches") is (threads > 0)


def test_the_next_batches_are_drawn_while_a_step_is_computed():
    drawn = Queue()
    ahead = Ahead(lambda step, rng: drawn.put(step), 2)
    ahead.want([(step, [5, step]) for step in range(4)])
    ahead.take(0, [5, 0])
    assert sorted(drawn.get(timeout=30) for _ in range(4)) == [0, 1, 2, 3]  # nothing was taken or wanted meanwhile
    ahead.close()


def test_what_draws_is_sent_to_other_processes(rooms_folder):
    """Stage 1's and 2's drawers, pickled, draw the batches of the run: that is what ``--workers`` sends."""
    data = RoomsData(rooms_folder)
    records = [record for path in data.paths for record in Shard(path).records]
    speaks = changed(tiny_test(), language_start=0, language_share=1.0, plain=2, places=2)
    stage2 = StepDraw(speaks, data, None, 56, TextMaker(build_tokenizer(corpus(records), 600), template_questions))
    for drawer in (ClipDraw(data, 3, 4, (2,)), stage2):
        data.draw(np.random.default_rng(0), 1, 2, window=True)  # opened files stay behind
        ours, theirs = (d(1, np.random.default_rng(7)) for d in (drawer, pickle.loads(pickle.dumps(drawer))))
        if drawer is stage2:
            (ours, kind, texts), (theirs, same, others) = ours, theirs
            assert kind == same and torch.equal(texts.input_ids, others.input_ids) and texts.input_ids.any()
        assert torch.equal(ours.images, theirs.images) and ours.places == theirs.places


def test_what_goes_wrong_in_a_draw_is_raised_where_it_is_taken():
    def broken(step, rng):
        raise ValueError("no shards")

    ahead = Ahead(broken, 1)
    ahead.want([(0, [1])])
    with pytest.raises(ValueError, match="no shards"):
        ahead.take(0, [1])


def test_the_rate_falls_with_the_time_that_a_run_has():
    config = changed(RunConfig(), steps=10**6, minutes=10.0, decay_fraction=0.5, warmup_steps=1, final_fraction=0.0)
    rates = [config.learning_rate(100, spent) / config.optimiser.learning_rate for spent in (0.0, 0.5, 0.75, 1.0, 1.2)]
    assert rates == pytest.approx([1.0, 1.0, 0.5, 0.0, 0.0])
    assert Clock(replace(config.loop, minutes=0.0), 0).spent() == 0.0 and Clock(config.loop, 0).spent() < 0.01
