"""Frames are chosen so that neighbours overlap: more of a walk, the default number of a still camera."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from small_model import save_small_model
from torch.nn import functional as F

import vidllm
from vidllm.geometry.picture_motion import small_pictures
from vidllm.io.video import load_frames, write_video
from vidllm.long_video.frame_choice import LEAST_OVERLAP, choose_frames, overlapping


def panorama() -> torch.Tensor:
    """A strip picture (3,96,1920) with detail at every size."""
    generator = torch.Generator().manual_seed(3)
    strip = torch.zeros(1, 3, 96, 1920)
    for cells in (2, 4, 8, 16):
        noise = torch.rand(1, 3, cells, 20 * cells, generator=generator)
        strip += F.interpolate(noise, (96, 1920), mode="bicubic") / cells**0.5
    return (strip / strip.max()).clamp(0, 1)[0]


def pan(frames: int, travel: float) -> np.ndarray:
    """A film (F,96,128,3) that pans over ``travel`` widths of the view."""
    strip = (panorama() * 255).byte().permute(1, 2, 0).numpy()
    starts = np.linspace(0, travel * 128, frames).round().astype(int)
    return np.stack([strip[:, s : s + 128] for s in starts])


def test_a_pan_is_taken_as_often_as_it_takes_to_overlap():
    film = pan(60, 6.0)
    pictures = small_pictures(torch.from_numpy(film).permute(0, 3, 1, 2) / 255)
    chosen = list(overlapping(pictures.split(1)))
    assert chosen[0] == 0 and chosen[-1] == 59 and sorted(set(chosen)) == chosen
    shares = 1 - np.diff(np.linspace(0, 6.0, 60)[chosen])
    assert shares.min() >= LEAST_OVERLAP - 0.03 and np.median(shares) <= LEAST_OVERLAP + 0.12


@pytest.mark.parametrize("film", [pan(1, 0.0), pan(2, 1.0), np.repeat(pan(1, 0.0), 29, 0)])
def test_short_sources_and_still_cameras_give_the_default_number_evenly(film):
    assert choose_frames(film, 8, 100) == 8


def test_above_the_most_there_is_a_warning():
    with pytest.warns(UserWarning, match="taking 10 of them"):
        chosen = choose_frames(pan(60, 6.0), 8, 10)
    assert len(chosen) == 10 and chosen[0] == 0 and chosen[-1] == 59


def test_of_a_film_six_candidates_a_second(tmp_path):
    write_video(tmp_path / "pan.mp4", pan(90, 4.0), fps=30)
    chosen = choose_frames(tmp_path / "pan.mp4", 8, 100)
    assert 12 <= len(chosen) <= 19 and chosen[0] == 0 and chosen[-1] == 89
    frames = load_frames(tmp_path / "pan.mp4", chosen, shorter_side=56)
    assert frames.indices.tolist() == chosen
    assert frames.timestamps_s.tolist() == pytest.approx([i / 30 for i in chosen])


def test_of_a_folder_every_picture_is_a_candidate(tmp_path):
    for i, picture in enumerate(pan(30, 3.0)):
        Image.fromarray(picture).save(tmp_path / f"{i:03d}.png")
    chosen = choose_frames(tmp_path, 4, 100)
    assert load_frames(tmp_path, chosen, shorter_side=56).names == tuple(f"{i:03d}.png" for i in chosen)


def test_reconstruct_chooses_unless_a_number_is_given(tmp_path):
    model = vidllm.load(save_small_model(tmp_path / "model"))
    film = pan(40, 3.0)
    scene = model.reconstruct(film)
    assert scene.frames.indices.tolist() == choose_frames(film, model.processor.image_processor.num_frames, 192)
    assert len(scene) > model.processor.image_processor.num_frames
    assert len(model.reconstruct(film, 4)) == 4
