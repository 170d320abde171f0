"""Baselines without a video, and the choice among given boxes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vidllm.evaluation.baselines import load_language_only, most_frequent, nearest_to
from vidllm.evaluation.predicting import Helpers
from vidllm.model.grounding import decode_choice


def test_the_most_frequent_text_and_the_first_among_equals():
    assert most_frequent(["b", "a", "b", "a", "c"]) == "a"
    with pytest.raises(ValueError, match="no annotated text"):
        most_frequent([])


def test_the_nearest_box_is_by_its_centre():
    boxes = np.array([[0, 0, 0, 9, 9, 9], [2, 0, 0, 0.1, 0.1, 0.1]], float)
    assert nearest_to((1.5, 0.0, 0.0), boxes) == 1 and nearest_to((0.5, 0.0, 0.0), boxes) == 0


def test_the_language_only_model_describes_without_looking():
    blind = load_language_only()
    assert blind is not None
    assert Helpers(blind).language_only_caption == Helpers(blind).language_only_caption != ""
    questions = [("How many chairs are there?", None), ("What color is the bed?", None)]
    assert len(blind.answers(questions)) == 2


def test_a_choice_follows_the_rules_of_the_decoder():
    boxes = torch.tensor([[0.0, 0, 0, 1, 1, 1, 0], [5, 0, 0, 1, 1, 1, 0], [9, 0, 0, 1, 1, 1, 0]])
    logits = torch.tensor([0.0, 3.0, 2.5])
    best = decode_choice(logits, torch.tensor(-5.0), boxes, multiple=False)
    assert [number for number, _ in best] == [1]
    several = decode_choice(logits, torch.tensor(-5.0), boxes, multiple=True)
    assert [number for number, _ in several] == [1, 2]
    assert decode_choice(logits, torch.tensor(9.0), boxes, multiple=True) == []
    assert len(decode_choice(logits, torch.tensor(9.0), boxes, multiple=False)) == 1


def test_choosing_in_a_scene_names_a_candidate(small):
    scene = small.reconstruct(np.random.default_rng(0).integers(0, 256, (2, 56, 70, 3), dtype=np.uint8))
    boxes = [[1.0, 0.0, 0.0, 1.0, 1.0, 1.0, 0.0], [3.0, 1.0, 0.0, 1.0, 1.0, 1.0, 0.3]]
    ((number, score),) = scene.choose("the red chair", boxes)
    assert number in (0, 1) and 0 <= score <= 1
    with pytest.raises(ValueError, match="at least one candidate"):
        scene.choose("the red chair", [])
