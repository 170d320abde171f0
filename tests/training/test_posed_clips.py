"""Real clips as a share of training: what is read, what is refused, and that mirrored windows stay true."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image
from recordings import WRITERS

from vidllm.cli import main
from vidllm.datasets.shards import LabelSpace
from vidllm.detection.fusion import Detected
from vidllm.geometry.cameras import project, unproject
from vidllm.io.captures import open_capture
from vidllm.training.posed_clips import PosedClips, shown
from vidllm_rooms.shards import render_scene

NAMES = LabelSpace(("bed", "chair", "monitor", "table"), ("red",), ("wood", "wool"))
K = [[40.0, 0, 23.5], [0, 40.0, 15.5], [0, 0, 1]]  # a picture of 48 x 32, its middle at integer centres


def pose(x, turn):
    c, s = math.cos(turn), math.sin(turn)
    return [[c, 0, s, -x], [0, 1, 0, 0], [-s, 0, c, 0]]


def write_clip(folder, frames=6, *, poses=True, depths=None, meta=None):
    """A wall two metres away, seen by a camera that moves right and turns."""
    (folder / "rgb").mkdir(parents=True)
    (folder / "depth").mkdir()
    entries = []
    for i in range(frames):
        name = f"{i:05d}"
        w2c = np.array(pose(0.1 * i, 0.05 * i))
        entries.append({"file": name, "K": K, "w2c": w2c.tolist() if poses else None})
        Image.fromarray(np.full((32, 48, 3), 20 * i, np.uint8)).save(folder / "rgb" / f"{name}.png")
        v, u = np.mgrid[0:32:2, 0:48:2] + 0.5
        rays = np.stack([(u - 23.5) / 40, (v - 15.5) / 40, np.ones_like(u)], -1) @ w2c[:, :3]
        metres = (2 - (-w2c[:, :3].T @ w2c[:, 3])[2]) / rays[..., 2]
        if depths is None or i in depths:
            Image.fromarray((metres * 1000).astype(np.uint16)).save(folder / "depth" / f"{name}.png")
    (folder / "cameras.json").write_text(json.dumps({"frames": entries}))
    if meta is not None:
        (folder / "meta.json").write_text(json.dumps(meta))
    return folder


def test_every_window_agrees_with_itself(tmp_path):
    write_clip(tmp_path / "a", meta={"up": [0, -2, 0]})
    clips = PosedClips(tmp_path, NAMES)
    for seed in range(6):
        batch = clips.draw(np.random.default_rng(seed), 3, 2, 28)
        assert batch.images.shape[:3] == (3, 2, 3) and batch.images.shape[-2] == 28 and not batch.named
        assert torch.allclose(batch.up, torch.tensor([0.0, -1.0, 0.0]).expand(3, 3), atol=1e-6)
        points = unproject(batch.depth_m, batch.intrinsics, batch.extrinsics[:, :, :3])
        assert torch.allclose(points[..., 2], torch.full(points.shape[:-1], 2.0), atol=0.05)  # the wall
        uv, z = project(points[:, :1].flatten(2, 3), batch.intrinsics[:, 1:], batch.extrinsics[:, 1:, :3])
        assert bool((z > 1).all()) and float(uv.isfinite().float().mean()) == 1.0


def test_most_windows_show_whole_pictures(tmp_path):
    """A model that does not see the zoom predicts the mean over the zooms: it must be near that of whole pictures."""
    batch = PosedClips(write_clip(tmp_path / "a"), NAMES).draw(np.random.default_rng(0), 64, 1, 28)
    zoom = batch.intrinsics[:, 0, 0, 0] / (40 * 28 / 32)
    assert 0.6 < float((zoom < 1.001).float().mean()) < 0.9 and 1.0 < float(zoom.mean()) < 1.08


def test_frames_without_poses_are_single_and_up_may_be_unknown(tmp_path):
    clip = write_clip(tmp_path / "a", 3, poses=False)
    batch = PosedClips(clip, NAMES).draw(np.random.default_rng(0), 2, 3, 28)
    assert batch.images.shape[:2] == (6, 1) and bool(batch.up.isnan().all())
    assert torch.equal(batch.extrinsics, torch.eye(4).expand(6, 1, 4, 4))


def test_frames_without_depth_go_beside_others(tmp_path):
    clips = PosedClips(write_clip(tmp_path / "a", depths=(2,)), NAMES)
    batch = clips.draw(np.random.default_rng(1), 8, 2, 28)
    known = (batch.depth_m > 0).flatten(2).any(-1)
    assert bool(known.any(1).all()) and not bool(known.all())


def test_what_is_wrong_is_said_in_one_line(tmp_path):
    with pytest.raises(ValueError, match="no such folder"):
        PosedClips(tmp_path / "missing", NAMES)
    with pytest.raises(ValueError, match="no clip there"):
        PosedClips(tmp_path, NAMES)
    with pytest.raises(ValueError, match="no frame has a depth map"):
        PosedClips(write_clip(tmp_path / "b", depths=()), NAMES)
    clip = write_clip(tmp_path / "c", meta={"up": [0, 0, 0]})
    with pytest.raises(ValueError, match=r'meta.json: "up" is \[0, 0, 0\]; expected three numbers'):
        open_capture(clip)
    (clip / "meta.json").unlink()
    entries = json.loads((clip / "cameras.json").read_text())
    for key, value, told in (
        ("w2c", [[2, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]], "is not a rigid transform"),
        ("w2c", [[1, 2], [3]], "is not a 3x4 matrix of numbers"),
        ("K", None, 'needs "K"'),
        ("file", "none", "rgb/ has no such picture"),
    ):
        wrong = json.loads(json.dumps(entries))
        wrong["frames"][1][key] = value
        (clip / "cameras.json").write_text(json.dumps(wrong))
        with pytest.raises(ValueError, match=told):
            open_capture(clip)


def test_depth_of_another_shape_is_refused(tmp_path):
    clip = write_clip(tmp_path / "a", 1)
    Image.fromarray(np.ones((30, 20), np.uint16)).save(clip / "depth" / "00000.png")
    with pytest.raises(ValueError, match="align depth to the pictures"):
        PosedClips(clip, NAMES).draw(np.random.default_rng(0), 1, 1, 28)


def test_the_other_layout_reads_as_the_same_clip(tmp_path):
    clip = write_clip(tmp_path / "a")
    before = open_capture(clip)
    (clip / "cameras.json").unlink()
    assert open_capture(clip) is None
    (clip / "intrinsics.json").write_text(json.dumps({"fx": 40.0, "fy": 40.0, "cx": 23.5, "cy": 15.5}))
    lines = ["# name r00 ..."]
    for name, pose in zip(before.names, before.poses, strict=True):
        lines.append(" ".join([name.removesuffix(".png"), *map(str, pose[:3].ravel().tolist())]))
    (clip / "poses_c2w.txt").write_text("\n".join(lines))
    after = open_capture(clip)
    np.testing.assert_allclose(after.poses, before.poses, atol=1e-9)
    np.testing.assert_array_equal(after.intrinsics, before.intrinsics)
    np.testing.assert_array_equal(after.depth(2), before.depth(2))
    (clip / "poses_c2w.txt").write_text("00000 1 2 3")
    with pytest.raises(ValueError, match=r"poses_c2w.txt: line 1: expected a name and 12 numbers"):
        open_capture(clip)


@pytest.mark.parametrize("form", ["polycam", "stray", "transforms", "arkitscenes"])
def test_recordings_of_phones_are_clips(tmp_path, form):
    """Points of one frame lie where the next one sees them, as in a rendered room."""
    room = render_scene(10000, 4, 56, 70)[0]
    WRITERS[form](tmp_path / "clips" / "scan", room)
    batch = PosedClips(tmp_path / "clips", NAMES).draw(np.random.default_rng(2), 1, 2, 28)
    points = unproject(batch.depth_m, batch.intrinsics, batch.extrinsics[:, :, :3])[:, :1].flatten(2, 3)
    uv, z = project(points, batch.intrinsics[:, 1:], batch.extrinsics[:, 1:, :3])
    column, row = (uv[0, 0].floor().long()[:, i] for i in (0, 1))
    height, width = batch.depth_m.shape[-2:]
    seen = (z[0, 0] > 0) & (column >= 0) & (column < width) & (row >= 0) & (row < height)
    there = batch.depth_m[0, 1][row[seen], column[seen]]
    assert int(seen.sum()) > 100 and float(((there / z[0, 0][seen]) - 1).abs().median()) < 0.03
    assert bool(batch.up.isfinite().all()) == (form != "transforms")


def label(clip, **frames):
    """``labels.json`` of boxes (name, x, y, width, height) by frame number."""
    rows = {f"{n[1:]}.png": [{"category": b[0], "bbox": list(b[1:])} for b in boxes] for n, boxes in frames.items()}
    (clip / "labels.json").write_text(json.dumps({"frames": rows}))


def test_patches_in_the_middle_of_boxes_have_the_category():
    """A table of 20 x 10 with a monitor of 10 x 5 before it: the middle 0.6, and nothing around the monitor."""
    classes = shown([((10.0, 10.0, 20.0, 15.0), 3), ((5.0, 5.0, 25.0, 15.0), 4)], (20, 30))
    wanted = torch.full((20, 30), -1)
    wanted[7:13, 9:21] = 4
    wanted[10:15, 10:20] = -1
    wanted[11:14, 12:18] = 3
    assert torch.equal(classes, wanted)


def test_labels_follow_crops_and_mirroring(tmp_path):
    """Patches with the category are those whose centres the middle of the box covers."""
    clip = write_clip(tmp_path / "a", 1)
    picture = np.zeros((32, 48, 3), np.uint8)
    picture[6:26, 5:20] = 255  # what the middle of the box covers
    Image.fromarray(picture).save(clip / "rgb" / "00000.png")
    label(clip, n00000=[("Armchair", 0, 0, 25, 32), ("person", 30, 20, 10, 10)])
    clips = PosedClips(clip, NAMES)
    sides = set()
    for seed in range(8):
        batch = clips.draw(np.random.default_rng(seed), 1, 1, 28)
        height, width = batch.images.shape[-2:]
        bright = batch.images[0, 0, 0, 7::14, 7::14].flatten()
        category = batch.category[0, 0]
        assert batch.named and len(category) == height // 14 * (width // 14)
        sure = (bright < 0.02) | (bright > 0.98)
        assert torch.equal(category[sure] == 2, bright[sure] > 0.5) and set(category.tolist()) <= {-1, 2}
        assert bool((batch.colour == -1).all()) and bool((batch.material == -1).all())
        sides.add(bool((category.view(height // 14, -1)[:, -1] == 2).any()))
    assert sides == {True, False}  # mirrored or not


def test_names_are_taken_to_those_of_the_data_or_left_out(tmp_path):
    clip = write_clip(tmp_path / "a", 3)
    label(clip, n00000=[("computer monitor", 0, 0, 9, 9), ("Chair", 9, 9, 9, 9)], n00002=[("person", 0, 0, 9, 9)])
    clips = PosedClips(clip, NAMES)
    assert clips.told() == (
        "real clips: 1, median depth 2.00 m (a) to 2.00 m (a); 2 frames have labels; taken: computer monitor "
        "as monitor; left out, unlike all names of the data: person"
    )
    assert clips.boxes[str(clip)] == {0: [((0, 0, 9, 9), 3), ((9, 9, 18, 18), 2)], 2: [((0, 0, 9, 9), -1)]}
    (clip / "labels.json").unlink()
    write_clip(tmp_path / "b", meta={"depth": {"scale_to_metres": 0.0002}})  # of maps in millimetres
    assert PosedClips(tmp_path, NAMES).told() == "real clips: 2, median depth 0.40 m (b) to 2.00 m (a)"


def test_a_detector_labels_every_clip_that_has_no_labels(tmp_path, monkeypatch, capsys):
    """From the command to the patches: everything that the pictures show is a bed."""
    label(write_clip(tmp_path / "a", 1), n00000=[])
    write_clip(tmp_path / "b", 2)
    monkeypatch.setattr(
        "vidllm.detection.detectors.load_detector",
        lambda place, device: lambda picture, names: [Detected(names.index("bed"), 0.5, (-9.0, -9.0, 99.0, 99.0))],
    )
    assert main(["data", "label", str(tmp_path), "--detector", "d", "--least", "0.5", "--names", "lamp,bed"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said == [f"{tmp_path}/a/labels.json: kept", f"{tmp_path}/b/labels.json: 2 boxes in 2 frames"]
    batch = PosedClips(tmp_path / "b", NAMES).draw(np.random.default_rng(0), 1, 2, 28)
    assert batch.named and bool((batch.category == 1).any())
