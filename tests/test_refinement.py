"""Refined scenes: asked for in every way, known cameras kept, metres measured anew, and better on a room never seen."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
import torch
from small_model import noise_clip, save_small_model

import vidllm
from vidllm.cli import main
from vidllm.evaluation.reconstruction_metrics import pose_errors
from vidllm.geometry.rotations import rotation_angle_deg
from vidllm.io.cameras.given import GivenCameras
from vidllm.io.video import write_video
from vidllm.model.loading import load_pretrained
from vidllm.model.priors import KnownScale
from vidllm_rooms.shards import SIZES, render_scene


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_small_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def model(folder):
    return vidllm.load(folder)


@pytest.fixture(scope="module")
def rendered():
    return render_scene(10003, 4, 56, 70)[0]


@pytest.mark.slow
def test_a_room_never_seen_gets_better_cameras():
    clip, _ = render_scene(1001, 8, *SIZES[1001 % len(SIZES)])
    model, truth = vidllm.load(), torch.from_numpy(clip.extrinsics).float()
    (turn, place), (turn_after, place_after) = (
        (float(e.median()) for e in pose_errors(model.reconstruct(clip.rgb, refine=refine).extrinsics, truth))
        for refine in (False, True)
    )
    assert turn_after < 0.6 * turn and place_after < 0.9 * place


def test_off_unless_asked_for_or_configured(folder, model, rendered):
    plain, refined = model.reconstruct(rendered.rgb), model.reconstruct(rendered.rgb, refine=True)
    assert not torch.equal(plain.extrinsics, refined.extrinsics) and not torch.equal(plain.depth, refined.depth)
    configured = vidllm.load(folder, refine=True)
    assert torch.equal(configured.reconstruct(rendered.rgb).extrinsics, refined.extrinsics)
    assert torch.equal(configured.reconstruct(rendered.rgb, refine=False).extrinsics, plain.extrinsics)
    torch.testing.assert_close(refined.extrinsics[0], torch.eye(4))
    assert refined.ask("how many chairs are there?", max_new_tokens=2) is not None


def test_the_configuration_is_saved_with_the_model(folder, tmp_path):
    model, processor = load_pretrained(folder)
    model.config.refine = True
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    assert vidllm.load(tmp_path).refine and not vidllm.load(tmp_path, refine=False).refine


@pytest.mark.slow
def test_known_cameras_stay(model, rendered):
    k, poses = rendered.intrinsics[0], np.linalg.inv(rendered.extrinsics)
    with_k = model.reconstruct(rendered.rgb, refine=True, cameras=GivenCameras(intrinsics=k))
    np.testing.assert_allclose(with_k.intrinsics[0], k, rtol=1e-5)
    with_poses = model.reconstruct(rendered.rgb, refine=True, cameras=GivenCameras(poses=poses))
    true = rendered.extrinsics @ np.linalg.inv(rendered.extrinsics[0])
    np.testing.assert_allclose(with_poses.extrinsics, true, atol=1e-4)


def test_metres_are_those_of_the_metric_depth_model_for_the_new_focal_length(model, rendered):
    images = model.reconstruct(rendered.rgb).frames.images[None]
    with torch.inference_mode():
        features = model.model.encode(images)
        geometry = model.model.encode_scene(images, refine=True, features=features).geometry
        metric, _ = model.model.predict_metric_depth(features, geometry.intrinsics)
    torch.testing.assert_close(geometry.metric_depth_m, metric)
    ratio = (metric / geometry.depth_m).flatten(2).median(-1).values
    assert abs(float(ratio.median()) - 1) < 0.1


def test_a_known_scale_goes_before(model, rendered):
    scene = model.reconstruct(rendered.rgb, refine=True, known=KnownScale(camera_height_m=1.4))
    again = model.reconstruct(rendered.rgb, refine=True, known=KnownScale(camera_height_m=2.8))
    torch.testing.assert_close(again.depth, 2 * scene.depth)


@pytest.mark.slow
def test_windows_are_refined_each_by_itself():
    model = vidllm.load()
    clip = render_scene(10001, 9, 112, 140)[0].rgb
    plain = model.reconstruct(clip, 9, window=5, overlap=2)
    refined = model.reconstruct(clip, 9, window=5, overlap=2, refine=True)
    assert len(refined) == 9 and bool(refined.extrinsics.isfinite().all())
    assert not torch.equal(plain.extrinsics, refined.extrinsics)
    last = list(model.stream(clip, window=5, overlap=2, refine=True))[-1]
    assert torch.equal(last.extrinsics, refined.extrinsics)


@pytest.mark.slow
def test_on_the_command_line(folder, rendered, tmp_path, capsys):
    write_video(tmp_path / "room.mp4", rendered.rgb)
    told = []
    for option in ("--refine", "--no-refine"):
        command = ["reconstruct", str(tmp_path / "room.mp4"), "--model", str(folder), "--format", "cameras", "--json"]
        assert main([*command, "-o", str(tmp_path / option[2:]), option]) == 0
        told.append(json.loads(capsys.readouterr().out)["camera_path_length"])
    assert told[0] != told[1]


def test_frames_that_do_not_agree_are_told_in_one_line(folder, tmp_path, capsys):
    write_video(tmp_path / "noise.mp4", noise_clip(4))
    command = ["reconstruct", str(tmp_path / "noise.mp4"), "--model", str(folder), "--format", "cameras", "--refine"]
    assert main([*command, "-o", str(tmp_path / "out")]) == 0
    told = [line for line in capsys.readouterr().err.splitlines() if "do not agree after refinement" in line]
    assert len(told) == 1 and told[0].startswith("vidllm: warning: ")


@pytest.mark.slow
def test_a_walk_forth_and_back_ends_where_it_began():
    clip = render_scene(10001, 12, 112, 140)[0].rgb
    clip = np.concatenate([clip, clip[-2::-1]])
    scene = vidllm.load().reconstruct(clip, len(clip), window=6, overlap=2, refine=True)
    first, last = scene.extrinsics[[0, -1]].double()
    path = float(torch.linalg.inv(scene.extrinsics.double())[:, :3, 3].diff(dim=0).norm(dim=-1).sum())
    assert scene.loops >= 1 and scene.summary()["loops"] == scene.loops
    assert float(rotation_angle_deg(first[:3, :3], last[:3, :3])) < 3
    assert float(torch.linalg.inv(last)[:3, 3].norm()) < 0.05 * path
    # patches lie where the moved depth and cameras put them
    assert scene.ask("How many chairs are there?", max_new_tokens=2) is not None
    points, patches = scene.points, scene._prefix.patch_positions[0, scene._prefix.patch_mask[0]]
    nearest = torch.cdist(patches, points[:: len(points) // 20000]).amin(1)
    assert float(nearest.quantile(0.9)) < 0.3


@pytest.mark.slow
def test_whether_frames_agree_is_told_and_saved(rendered, tmp_path):
    model = vidllm.load()
    assert model.reconstruct(rendered.rgb).summary()["frames_agree"] is None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        scene = model.reconstruct(rendered.rgb, refine=True)
    told = scene.summary()
    assert told["frames_agree"] is scene.frames_agree and isinstance(scene.frames_agree, bool)
    assert (scene.frames_agree is False) == any("do not agree after refinement" in w for w in told["warnings"])
    assert (scene.frames_agree is False) == any("do not agree" in str(w.message) for w in caught)
    scene.save(tmp_path / "saved", ("scene",))
    assert vidllm.load_scene(tmp_path / "saved", model).frames_agree is scene.frames_agree
