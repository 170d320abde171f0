"""Fixed vectors of what patches show, and the loss that draws the semantic stream to them."""

from __future__ import annotations

import pytest
import torch

from vidllm.training.supervision.geometry import SHELL_WEIGHT, OracleFeatures, naming_loss


def test_the_vectors_are_the_same_for_every_run_and_tell_names_apart():
    one, two = OracleFeatures(64, 46, 13, 17), OracleFeatures(64, 46, 13, 17)
    category = torch.arange(46).view(1, 1, 46)
    zero = torch.zeros_like(category)
    features = one.features(category, zero, zero)
    torch.testing.assert_close(features, two.features(category, zero, zero))
    distance = torch.cdist(features[0, 0], features[0, 0]) + 99 * torch.eye(46)
    assert distance.min() > 3  # of a typical 0.7 * sqrt(2 * 64) = 7.9


def test_a_feature_is_the_sum_of_its_names():
    names = OracleFeatures(16, 4, 3, 2)
    index = torch.tensor([[[2]]]), torch.tensor([[[1]]]), torch.tensor([[[1]]])
    torch.testing.assert_close(
        names.features(*index)[0, 0, 0], names.tables[0][2] + names.tables[1][1] + names.tables[2][1]
    )


def test_objects_weigh_more_than_the_shell():
    named = torch.zeros(1, 1, 2, 8)
    category = torch.tensor([[[0, 3]]])
    wrong_shell = torch.tensor([[[[1.0] * 8, [0.0] * 8]]])
    wrong_thing = wrong_shell.flip(2)
    assert naming_loss(wrong_shell, named, category).item() == pytest.approx(SHELL_WEIGHT / (1 + SHELL_WEIGHT))
    assert naming_loss(wrong_thing, named, category).item() == pytest.approx(1 / (1 + SHELL_WEIGHT))
    assert naming_loss(named, named, category).item() == 0
