"""Varied pictures: another camera's look, the same scene."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from micro_start import save_start, short_run

from vidllm.training.config import changed
from vidllm.training.pictures import augment
from vidllm.training.stage2 import Run


class Seen(Exception):
    """What was to be seen has come."""


def _keeper(shown: list[torch.Tensor]):
    def see(images: torch.Tensor) -> None:
        shown.append(images)
        raise Seen

    return see


def _images() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(12, 4, 3, 6, 8, generator=generator)
    return torch.nn.functional.interpolate(coarse.flatten(0, 1), (42, 56), mode="bilinear").view(12, 4, 3, 42, 56)


def test_seeds_repeat_and_the_share_is_kept():
    images = _images()
    first, again, other = (augment(images, 0.5, torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    same = [torch.equal(a, b) for a, b in zip(first, images, strict=True)]
    assert 2 <= sum(same) <= 10
    assert torch.equal(augment(images, 0.0, torch.Generator()), images)


def test_what_is_seen_stays_where_it_is():
    images = _images()
    varied = augment(images, 1.0, torch.Generator().manual_seed(3))
    assert varied.min() >= 0 and varied.max() <= 1
    for scene, other in zip(images, varied, strict=True):
        assert not torch.equal(scene, other)
        for frame, shown in zip(scene.mean(1), other.mean(1), strict=True):
            match = torch.corrcoef(torch.stack([frame.flatten(), shown.flatten()]))[0, 1]
            mirrored = torch.corrcoef(torch.stack([frame.flip(-1).flatten(), shown.flatten()]))[0, 1]
            assert match > 0.75 and match > mirrored + 0.2


def test_a_scene_has_one_white_balance():
    grey = torch.full((6, 8, 3, 28, 28), 0.4)
    shown = augment(grey, 1.0, torch.Generator().manual_seed(4)).mean((-1, -2))
    ratio = shown[..., 0] / shown[..., 2]
    assert (ratio.std(1) < 0.02).all() and ratio.mean(1).std() > 0.03


def test_seeing_steps_see_varied_pictures(rooms_folder, tmp_path, monkeypatch):
    start = save_start(tmp_path / "start", rooms_folder)
    shown = []
    for share in (0.0, 1.0):
        run = Run.build(changed(short_run(rooms_folder, start, tmp_path / str(share)), vary_share=share))
        batch, kind, texts = run.draw(0, np.random.default_rng(0))
        assert kind == "window"
        monkeypatch.setattr(run.model, "encode", _keeper(shown))
        with pytest.raises(Seen):
            run.losses((batch, kind, texts), 0, np.random.default_rng(0))
        assert torch.equal(shown[-1], batch.images) == (share == 0)
