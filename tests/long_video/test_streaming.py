"""Scenes that grow: streaming ends at the windowed reconstruction, and every step of it can be asked."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from small_model import noise_clip, save_small_model

import vidllm
from vidllm.cli import main
from vidllm.io.video import write_video
from vidllm.long_video.streaming import FrameMaps, LongScene
from vidllm.model.priors import KnownLength, KnownScale

QUESTION = "How many chairs are there?"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return vidllm.load(save_small_model(tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module")
def steps(model):
    return list(model.stream(noise_clip(13), window=5, overlap=2))


@pytest.fixture(scope="module")
def scene(model):
    return model.reconstruct(noise_clip(13), 13, window=5, overlap=2)


def test_streaming_ends_at_the_windowed_reconstruction(steps, scene):
    last = steps[-1]
    assert isinstance(scene, LongScene) and [len(step) for step in steps] == [5, 8, 11, 13]
    assert torch.equal(last.extrinsics, scene.extrinsics) and torch.equal(last.depth, scene.depth)
    assert torch.equal(last.scene_from_world, scene.scene_from_world) and last.scale == scene.scale
    assert last.ask(QUESTION, max_new_tokens=6) == scene.ask(QUESTION, max_new_tokens=6)
    assert last.ground("the red chair", several=False) == scene.ground("the red chair", several=False)


def test_every_step_can_be_asked_when_the_stream_has_gone_on(model, steps):
    alone = model.reconstruct(noise_clip(13)[:5], 5)
    assert not isinstance(alone, LongScene)
    first = steps[0]  # a window that is the whole: the present path, to the last bit
    assert torch.equal(first.depth, alone.depth) and torch.equal(first.extrinsics, alone.extrinsics)
    assert torch.equal(first.frames.images, alone.frames.images) and first.frames.names == alone.frames.names
    assert first.scale == alone.scale and first.summary().keys() == alone.summary().keys()
    assert first.summary()["median_depth"] == pytest.approx(alone.summary()["median_depth"], rel=0.1)
    assert first.ask(QUESTION, max_new_tokens=6) == alone.ask(QUESTION, max_new_tokens=6)
    assert first.ground("the red chair") == alone.ground("the red chair")
    assert torch.allclose(first.points, alone.points)


def test_shapes_and_frames_of_a_long_scene(scene):
    assert scene.depth.shape == (13, 56, 70) and scene.extrinsics.shape == (13, 4, 4)
    assert torch.allclose(scene.extrinsics[0], torch.eye(4), atol=1e-6)
    assert torch.equal(scene.frames.images, torch.from_numpy(noise_clip(13)).permute(0, 3, 1, 2) / 255)
    assert scene.frames.indices.tolist() == list(range(13)) and len(scene.residuals) == 3
    assert scene.geometry.depth_m.shape == (1, 13, 56, 70) and scene.points.shape == (13 * 56 * 70, 3)
    assert scene.summary()["frames"] == 13 and scene.summary()["processed_size"] == [56, 70]


def test_a_long_scene_is_written_as_any_other(scene, tmp_path):
    paths = scene.save(tmp_path / "out", boxes=scene.ground("the red chair", several=False))
    assert [p.name for p in paths] == [
        "depth", "cameras.json", "trajectory.txt", "points.ply", "overview.png", "vidllm_scene.json",
        "vidllm_scene.safetensors",
    ]  # fmt: skip
    assert len((tmp_path / "out" / "trajectory.txt").read_text().split("\n")) >= 13


def test_windows_are_used_unasked_above_the_limit_only(model, monkeypatch):
    monkeypatch.setattr(model.model.config.windows, "whole_up_to", 6)
    told = []
    assert isinstance(model.reconstruct(noise_clip(13), 13, progress=told.append), LongScene)
    assert told == [4, 6, 8, 10, 12, 13]  # windows of the model's default of 4 frames, 2 shared
    assert not isinstance(model.reconstruct(noise_clip(13), 6), LongScene)
    assert not isinstance(model.reconstruct(noise_clip(6), 13), LongScene)  # fewer frames than were asked for


def test_a_live_source_is_taken_as_it_comes(model):
    taken = []
    live = (taken.append(i) or frame for i, frame in enumerate(noise_clip(40)))
    stream = model.stream(live, window=4, overlap=2, keep_maps=False)
    scene = next(stream)
    assert len(taken) == 4 and scene.ask(QUESTION, max_new_tokens=2) is not None
    assert len(next(stream)) == 6 and len(taken) == 6
    with pytest.raises(ValueError, match="keep_maps"):
        _ = scene.depth
    assert scene.summary()["median_depth"] > 0


def test_bad_input_is_refused(model):
    with pytest.raises(ValueError, match="overlap by at least 2"):
        model.stream(noise_clip(13), window=5, overlap=1)
    with pytest.raises(ValueError, match="cannot overlap"):
        model.reconstruct(noise_clip(13), 13, window=5, overlap=5)
    with pytest.raises(ValueError, match="no frame"):
        list(model.stream(iter([])))
    known = KnownScale(length=KnownLength(13, (3.0, 3.0), (30.0, 20.0), 2.0))
    with pytest.raises(ValueError, match="frames are 0 to 12"):
        model.reconstruct(noise_clip(13), 13, known, window=5, overlap=2)


def test_maps_grow_on_disk_and_what_was_read_stays():
    maps = FrameMaps()
    maps.add(depth=np.ones((2, 3, 4), np.float32))
    early = maps.read("depth", 2)
    maps.add(depth=np.full((1, 3, 4), 2, np.float32))
    assert maps.read("depth", 3)[2, 0, 0] == 2 and early.shape == (2, 3, 4) and float(early.sum()) == 24


@pytest.mark.slow
def test_the_command_line_takes_windows(tmp_path, capsys):
    folder, film = save_small_model(tmp_path / "model"), tmp_path / "walk.mp4"
    write_video(film, noise_clip(9))
    options = ["--model", str(folder), "--frames", "9", "--window", "4"]
    assert main(["reconstruct", str(film), "-o", str(tmp_path / "out"), "--format", "tum", *options]) == 0
    said = capsys.readouterr()
    assert said.out.startswith("frames        9 at 70x56") and "frames 9/9" in said.err
    assert main(["ask", str(film), QUESTION, *options, "--overlap", "1"]) == 2
    assert "overlap by at least 2" in capsys.readouterr().err
