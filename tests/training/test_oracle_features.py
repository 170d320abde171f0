"""Fixed vectors of what patches show, and the loss that draws the semantic stream to them."""

from __future__ import annotations

import pytest
import torch

from vidllm.training.supervision.base import AuxiliaryHeads
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


def test_where_only_the_category_is_known_the_nearest_look_is_the_target():
    names = OracleFeatures(64, 5, 4, 3)
    category = torch.tensor([[[3, 1, -1]]])
    shown = names.features(category.clamp(min=0), torch.tensor([[[2, 3, 1]]]), torch.tensor([[[1, 2, 1]]]))
    near = shown + 0.05 * torch.randn(shown.shape, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(names.nearest(near, category)[:, :, :2], shown[:, :, :2])
    near[:, :, 2] += 9  # of which nothing is known
    assert naming_loss(near, shown, category).item() < 0.01
    assert naming_loss(shown + 1, shown, category).item() == pytest.approx(2 / (2 + SHELL_WEIGHT))
    alone = OracleFeatures(64, 5, 1, 1)  # data without colours and materials
    torch.testing.assert_close(alone.nearest(near, category), sum(t[0] for t in alone.tables[1:])
                               + alone.tables[0][category.clamp(min=0)])  # fmt: skip


def test_patches_of_unknown_class_teach_nothing():
    torch.manual_seed(0)
    heads = AuxiliaryHeads(8, 4, 3, 2)
    stream = torch.randn(1, 1, 3, 8, requires_grad=True)
    unknown = torch.full((1, 1, 3), -1)
    loss, figures = heads.semantic_loss(stream, torch.tensor([[[-1, 2, -1]]]), unknown, unknown)
    logits = heads.category(heads.norm(stream))[0, 0, 1]
    torch.testing.assert_close(loss, -logits.log_softmax(-1)[2] / 1.3)  # beside two of weight 0.15
    assert figures == {"patch_category": float(logits.argmax() == 2)}
    loss.backward()
    assert bool((stream.grad[0, 0, [0, 2]] == 0).all()) and bool((stream.grad[0, 0, 1] != 0).any())
