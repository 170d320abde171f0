"""Places along three fixed directions: read back exactly, and only of nouns that have one place."""

from __future__ import annotations

import pytest
import torch

from vidllm.training.supervision.words import COSINE_A_METRE, directions, read_positions, text_positions_loss


def test_a_stream_made_of_its_place_tells_it():
    axes = directions(64)[:, :3]
    torch.testing.assert_close(directions(64).T @ directions(64), torch.eye(12), atol=1e-5, rtol=0)
    place = torch.tensor([2.0, -1.5, 0.5])
    rest = torch.randn(64, generator=torch.Generator().manual_seed(0))
    rest = rest - axes @ (axes.T @ rest)  # what it shows, beside where
    along = axes @ place * COSINE_A_METRE
    stream = 30 * (along + rest / rest.norm() * (1 - along.square().sum()).sqrt())
    torch.testing.assert_close(read_positions(stream), place, atol=1e-4, rtol=1e-4)


def test_a_noun_s_place_is_the_middle_of_what_it_means():
    positions = torch.tensor([[[1.0, 0.0, 0.0], [1.0, 1.0, 0.0], [1.0, 5.0, 0.0]]])
    stream = torch.zeros(1, 2, 64)
    axes = directions(64)[:, :3]
    across = axes @ torch.tensor([1.0, 0.5, 0.0]) * COSINE_A_METRE
    rest = torch.linalg.qr(torch.cat([axes, torch.ones(64, 1)], 1)).Q[:, 3]
    stream[0, 1] = across + rest * (1 - across.square().sum()).sqrt()
    rows, places = torch.tensor([0]), torch.tensor([1])
    two = torch.tensor([[True, True, False]])
    assert text_positions_loss(stream, rows, places, two, positions) == pytest.approx(0.0, abs=1e-4)
    for scattered in (torch.tensor([[True, True, True]]), torch.zeros(1, 3, dtype=torch.bool)):
        assert text_positions_loss(stream, rows, places, scattered, positions) == 0.0
