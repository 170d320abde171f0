"""Twins are parted, others are left alone."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from vidllm.training.models import TWIN_COSINE, part_twins


def test_twins_part_and_others_stay():
    generator = torch.Generator().manual_seed(5)
    table = torch.randn(40, 128, generator=generator)
    table[1] = table[0] + 0.3 * torch.randn(128, generator=generator)  # twins
    before = table.clone()
    assert part_twins(table) == 2
    torch.testing.assert_close(table[2:], before[2:], rtol=0, atol=0)
    told = F.normalize(table, dim=1)
    cosine = (told @ told.T).fill_diagonal_(-1)
    assert cosine.max() < TWIN_COSINE and 0 < cosine[0, 1] < 0.5
    kept = F.cosine_similarity(table[:2], before[:2])
    assert (kept > 0.35).all()  # still partly what they were
    torch.testing.assert_close(table[:2].norm(dim=1), before[:2].norm(dim=1), rtol=0.15, atol=0)
