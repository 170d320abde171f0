"""Recordings as people have them: what is read, checked on rendered rooms and against other readers' formulas."""

from __future__ import annotations

import json
import shutil
import sys
import tarfile
import warnings
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image
from recordings import FLIP, WORLDS, WRITERS, poses_in, save_png, write_exr, write_record3d_exr
from scipy.spatial.transform import Rotation

from vidllm.io.cameras.depth import read_depth_file
from vidllm.io.captures import open_capture
from vidllm.io.frames import joined
from vidllm.io.video import load_frames, original_pictures
from vidllm_rooms.shards import render_scene


@pytest.fixture(scope="module")
def room():
    return render_scene(10000, 4, 56, 70)[0]


@pytest.fixture
def written(request, tmp_path, room):
    """(form, folder) of a recording."""
    return request.param, WRITERS[request.param](tmp_path / "scan", room)


every = pytest.mark.parametrize("written", list(WRITERS), indirect=True)


def points_of(depth, k, pose):
    """Points (h,w,3) in the world of every pixel of a depth map."""
    v, u = np.mgrid[: depth.shape[0], : depth.shape[1]] + 0.5
    rays = np.stack([u, v, np.ones_like(u)], -1) @ np.linalg.inv(k).T
    return (rays * depth[..., None]) @ pose[:3, :3].T + pose[:3, 3]


# ---- what is read ------------------------------------------------------------------------------------------------


@every
def test_a_rendered_room_reads_back_to_the_same_points(written, room):
    """Axes, intrinsics, poses and depth together: every point within 1 mm; up is the room's."""
    form, folder = written
    capture = open_capture(folder)
    poses, world = poses_in(room, form)
    assert len(capture) == len(room.rgb) == len(capture.usable)
    for n in range(len(capture)):
        depth = capture.depth(n)
        found = points_of(depth, capture.intrinsics_of(n, depth.shape), capture.poses[n])
        true = points_of(room.depth_m[n], room.intrinsics[n], poses[n])
        assert np.abs(found - true)[room.depth_m[n] > 0].max() < 1e-3
        assert np.abs(np.asarray(capture.picture(n), float) - room.rgb[n]).mean() < 10  # JPEG or H.264
    if form in ("polycam", "stray", "arkitscenes"):
        assert np.allclose(capture.up, world[:3, :3] @ [0, 0, 1], atol=1e-6)
    else:
        assert capture.up is None


@every
def test_poses_agree_with_the_formulas_of_nerfstudio(written):
    """Its readers give OpenGL cameras in worlds of their own: motions between frames are the same."""
    form, folder = written
    if form == "record3d":  # record3d_utils.py
        rows = np.array(json.loads((folder / "metadata").read_text())["poses"])
        theirs = np.tile(np.eye(4), (len(rows), 1, 1))
        theirs[:, :3, :3], theirs[:, :3, 3] = Rotation.from_quat(rows[:, :4]).as_matrix(), rows[:, 4:]
    elif form == "polycam":  # polycam_utils.py
        told = [json.loads(f.read_text()) for f in sorted((folder / "keyframes/corrected_cameras").iterdir())]
        theirs = np.array([[[one[f"t_{i}{j}"] for j in range(4)] for i in (2, 0, 1)] + [[0, 0, 0, 1]] for one in told])
    elif form == "arkitscenes":  # arkitscenes_dataparser.py
        rows, theirs = np.loadtxt(folder / "41069021_frames/lowres_wide.traj"), []
        for row in rows:
            extrinsics = np.eye(4)
            extrinsics[:3, :3], extrinsics[:3, 3] = Rotation.from_rotvec(row[1:4]).as_matrix(), row[4:]
            pose = np.linalg.inv(extrinsics)
            pose[0:3, 1:3] *= -1
            pose = pose[np.array([1, 0, 2, 3]), :]
            pose[2, :] *= -1
            theirs.append(pose)
    elif form == "transforms":
        theirs = [frame["transform_matrix"] for frame in json.loads((folder / "transforms.json").read_text())["frames"]]
    else:
        pytest.skip("nerfstudio reads no recording of Stray Scanner")
    theirs = np.array(theirs)
    ours = open_capture(folder).poses @ FLIP
    for n in range(1, len(ours)):
        motion = np.linalg.inv(theirs[0]) @ theirs[n]
        np.testing.assert_allclose(np.linalg.inv(ours[0]) @ ours[n], motion, atol=1e-6)


@every
def test_an_archive_reads_as_its_folder(written, tmp_path):
    form, folder = written
    file = tmp_path / ("scan.r3d" if form == "record3d" else "scan.zip")
    with zipfile.ZipFile(file, "w") as archive:
        for path in sorted(folder.rglob("*")):
            archive.write(path, path.relative_to(folder if form == "record3d" else folder.parent))
    one, other = open_capture(folder), open_capture(file)
    assert one.form == other.form and list(one.names) == list(other.names)
    np.testing.assert_array_equal(one.poses, other.poses)
    np.testing.assert_array_equal(one.depth(1), other.depth(1))
    if form == "polycam":
        with tarfile.open(tmp_path / "scan.tar.gz", "w:gz") as tar:
            tar.add(folder, "scan")
        np.testing.assert_array_equal(open_capture(tmp_path / "scan.tar.gz").poses, one.poses)


@every
def test_frames_are_sampled_and_their_cameras_found(written, room):
    """Through the reader of videos: frames, K of the original pictures, depth at the processed pixels."""
    _, folder = written
    frames = load_frames(folder, 3, shorter_side=28)
    assert frames.indices.tolist() == [0, 2, 3] and frames.original_size == (56, 70)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        known = open_capture(folder).cameras.for_frames(frames)
    back = frames.original_intrinsics(known.intrinsics[0].double()).numpy()
    np.testing.assert_allclose(back, room.intrinsics[[0, 2, 3]], atol=1e-4)
    true = np.linalg.inv(room.extrinsics[0])
    np.testing.assert_allclose(known.extrinsics[0].numpy(), room.extrinsics[[0, 2, 3]] @ true, atol=1e-5)
    assert known.depth.shape == (1, 3, *frames.images.shape[-2:]) and known.metric
    sampled = room.depth_m[2][1::2, 1::2][:, 3:31]  # 35 pixels across, of which the middle 28 are used
    assert np.abs(known.depth[0, 1].numpy() - sampled).max() < 1e-3
    pictures = list(original_pictures(folder, [2, 3]))
    assert len(pictures) == 2 and np.abs(pictures[0].astype(float) - room.rgb[2]).mean() < 10


@every
def test_cameras_of_the_used_frames_need_no_files(written):
    """As arrays, whole and for a window of the frames, they are what the recording tells."""
    _, folder = written
    frames, told = load_frames(folder, 3, shorter_side=28), open_capture(folder).cameras
    parts = (frames, None), (joined(list(frames.singly())[1:]), 1)
    alone, known = told.of(frames), [vars(told.for_frames(*part)) for part in parts]
    shutil.rmtree(folder)
    for part, wanted in zip(parts, known, strict=True):
        found = vars(alone.for_frames(*part))
        for name, value in wanted.items():
            if isinstance(value, torch.Tensor):
                torch.testing.assert_close(found[name], value, rtol=0, atol=1e-6)
            else:
                assert found[name] == value, name


def test_stray_scanner_without_intrinsics_of_each_frame(tmp_path, room):
    from recordings import write_stray

    capture = open_capture(write_stray(tmp_path / "scan", room, per_frame=False))
    np.testing.assert_allclose(capture.intrinsics_of(2, (56, 70)), room.intrinsics[0], atol=1e-5)
    assert open_capture(tmp_path / "scan").chosen(None, per_second=30) == [0, 2, 3]


def test_the_intrinsics_of_a_smaller_picture_are_scaled(tmp_path, room):
    folder = WRITERS["record3d"](tmp_path / "scan", room)
    told = json.loads((folder / "metadata").read_text())
    del told["perFrameIntrinsicCoeffs"]
    told |= {"w": 140, "h": 112, "K": (np.diag([2, 2, 1]) @ room.intrinsics[0]).T.ravel().tolist()}
    (folder / "metadata").write_text(json.dumps(told))
    np.testing.assert_allclose(open_capture(folder).intrinsics_of(0, (56, 70)), room.intrinsics[0], atol=1e-4)


def test_pixels_of_low_confidence_have_no_depth(tmp_path, room):
    folder = WRITERS["polycam"](tmp_path / "scan", room)
    mask = np.full((56, 70), 255, np.uint8)
    mask[:, :35] = 0
    file = sorted((folder / "keyframes/confidence").iterdir())[1]
    save_png(file, mask)
    depth = open_capture(folder).depth(1)
    assert not depth[:, :35].any() and np.abs(depth[:, 35:] - room.depth_m[1][:, 35:]).max() < 1e-3


def test_record3ds_depth_as_exr_is_that_of_its_r3d(tmp_path, room):
    capture = open_capture(write_record3d_exr(tmp_path / "exr", room))
    assert capture.form == "Record3D"
    for n in range(4):
        np.testing.assert_array_equal(capture.depth(n), np.maximum(room.depth_m[n], 0))
    told = WRITERS["transforms"](tmp_path / "scan", room) / "transforms.json"
    told.write_text(told.read_text().replace("depth/frame_00001.png", "depth/1.exr"))
    write_exr(tmp_path / "scan/depth/1.exr", Z=room.depth_m[1])
    np.testing.assert_array_equal(open_capture(tmp_path / "scan").depth(1), np.maximum(room.depth_m[1], 0))


@pytest.mark.parametrize(
    ("channels", "spoil", "message"),
    [
        ("R", lambda content: b"", "damaged or another kind of file"),
        ("R", lambda content: content[:-200], "damaged or another kind of file"),
        ("R", lambda content: content.replace(np.int32([69, 55]).tobytes(), np.int32([10**6] * 2).tobytes(), 1),
         "a depth map of 1000001x1000001 pixels"),
        ("QW", lambda content: content, "no channel of depth among Q, W"),
    ],
)  # fmt: skip
def test_a_damaged_exr_is_one_line(tmp_path, room, capsys, channels, spoil, message):
    file = tmp_path / "0.exr"
    write_exr(file, **dict.fromkeys(channels, room.depth_m[0]))
    file.write_bytes(spoil(file.read_bytes()))
    with pytest.raises(ValueError, match=message) as caught:
        read_depth_file(file)
    assert "\n" not in str(caught.value) and str(file) in str(caught.value) and not capsys.readouterr().out


def test_exr_without_its_library_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "OpenEXR", None)
    with pytest.raises(ValueError, match=r"needs OpenEXR: pip install 'vidllm\[exr\]'; or convert it to .npy"):
        read_depth_file(tmp_path / "0.exr")


def test_tum_frames_are_matched_by_time(tmp_path, room):
    poses = np.linalg.inv(room.extrinsics)
    turns = Rotation.from_matrix(poses[:, :3, :3]).as_quat()
    lists = {"rgb.txt": ["# time file"], "depth.txt": [], "groundtruth.txt": []}
    for n, time in enumerate((1.0, 1.1, 1.2, 1.3)):
        save_png(tmp_path / "rgb" / f"{time:.6f}.png", room.rgb[n])
        save_png(tmp_path / "depth" / f"{time + 0.005:.6f}.png", (room.depth_m[n] * 5000).round().astype(np.uint16))
        lists["rgb.txt"].append(f"{time:.6f} rgb/{time:.6f}.png")
        lists["depth.txt"].append(f"{time + 0.005:.6f} depth/{time + 0.005:.6f}.png")
        if n != 2:
            numbers = " ".join(f"{x:.7f}" for x in (*poses[n, :3, 3], *turns[n]))
            lists["groundtruth.txt"].append(f"{time - 0.01:.4f} {numbers}")
    for name, lines in lists.items():
        (tmp_path / name).write_text("\n".join(lines))
    capture = open_capture(tmp_path)
    assert capture.usable == [0, 1, 3] and capture.intrinsics is None
    np.testing.assert_allclose(capture.poses[3], poses[3], atol=1e-6)
    assert np.abs(capture.depth(3) - room.depth_m[3]).max() < 2e-4


# ---- what is wrong is said in one line ---------------------------------------------------------------------------


def test_frames_without_tracking_are_left_out_and_told(tmp_path, room):
    folder = WRITERS["polycam"](tmp_path / "scan", room)
    files = sorted((folder / "keyframes/corrected_cameras").iterdir())
    for lost in (files[1:2], files):
        for file in lost:
            file.write_text(file.read_text().replace('"t_03": ', '"t_03": NaN, "was": '))
        if len(lost) == 1:
            capture = open_capture(folder)
            assert capture.usable == [0, 2, 3] and load_frames(folder, None).indices.tolist() == [0, 2, 3]
            with pytest.warns(UserWarning, match="1 of 4 frames have no pose"):
                capture.cameras.for_frames(load_frames(folder, 2))
    with pytest.raises(ValueError, match="tracking was lost in all 4 frames"):
        open_capture(folder)


def test_the_front_cameras_poses_are_none(tmp_path, room):
    folder = WRITERS["record3d"](tmp_path / "scan", room)
    told = json.loads((folder / "metadata").read_text())
    told["poses"] = [[0, 0, 0, 1, 0, 0, 0]] * 4
    (folder / "metadata").write_text(json.dumps(told))
    assert open_capture(folder).poses is None


@pytest.mark.parametrize(
    ("form", "break_it", "message"),
    [
        ("record3d", lambda f: (f / "rgbd/2.jpg").unlink(), r"1 of 4 frames lack a picture \(.*2.jpg\)"),
        ("record3d", lambda f: (f / "rgbd/2.depth").write_bytes(b"bvx$"), "2.depth: "),
        ("record3d", lambda f: (f / "metadata").write_text('{"poses": [[1]], "K": []}'), "not a list of rows of 7"),
        ("polycam", lambda f: next((f / "keyframes/corrected_cameras").iterdir()).unlink(), "1 of 4 frames lack a cam"),
        ("polycam", lambda f: save_png(sorted((f / "keyframes/confidence").iterdir())[2], np.zeros((5, 5), np.uint8)),
         r"confidence of \(5, 5\) beside depth"),
        ("stray", lambda f: (f / "odometry.csv").write_text("timestamp, frame\n1, 0\n"), "no column x"),
        ("stray", lambda f: (f / "odometry.csv").write_text((f / "odometry.csv").read_text().replace("000002,", "7,")),
         "frames are not numbered 0, 1, 2"),
        ("arkitscenes", lambda f: next(f.glob("*/*/*.pincam")).unlink(), "1 of 4 frames lack a .pincam"),
        ("arkitscenes", lambda f: (f / "41069021_frames/lowres_wide.traj").write_text("1 2 3"), "line 1: 3 words"),
        ("transforms", lambda f: (f / "images/frame_00001.png").unlink(), "1 of 4 frames lack a picture"),
        ("transforms", lambda f: (f / "depth/frame_00001.png").unlink(), "1 of 4 frames lack a depth map"),
        ("transforms", lambda f: (f / "transforms.json").write_text(
            (f / "transforms.json").read_text().replace("images/frame_00001", "../frame_00001")), "not in this folder"),
    ],
)  # fmt: skip
def test_what_is_broken_is_named(tmp_path, room, form, break_it, message):
    folder = WRITERS[form](tmp_path / "scan", room)
    break_it(folder)
    with pytest.raises(ValueError, match=message) as caught:
        open_capture(folder).depth(2)
    assert "\n" not in str(caught.value)


def test_depth_of_another_shape_is_refused(tmp_path, room):
    folder = WRITERS["transforms"](tmp_path / "scan", room)
    save_png(folder / "depth/frame_00000.png", np.ones((70, 56), np.uint16))
    frames = load_frames(folder, 2, shorter_side=28)
    with pytest.raises(ValueError, match="depth of 56x70 pixels does not have the aspect ratio of the pictures"):
        open_capture(folder).cameras.for_frames(frames)


def archive_with(path, *members, link=None):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, content)
        if link:
            info = zipfile.ZipInfo(link)
            info.external_attr = 0o120777 << 16
            archive.writestr(info, "/etc/passwd")
    return path


def test_archives_are_unpacked_safely(tmp_path):
    outside = tmp_path / "out.txt"
    for name in ("../out.txt", str(outside), "a/../../out.txt", "..\\out.txt", "c:out.txt"):
        with pytest.raises(ValueError, match="leads out of the archive"):
            open_capture(archive_with(tmp_path / "a.zip", ("metadata", "{}"), (name, "x")))
    with pytest.raises(ValueError, match="is a link, a device or encrypted"):
        open_capture(archive_with(tmp_path / "a.zip", link="rgbd"))
    with pytest.raises(ValueError, match="unpacks to over 20 times its size"):
        open_capture(archive_with(tmp_path / "a.zip", ("rgbd/0.depth", bytes(300 * 2**20))))
    with pytest.raises(ValueError, match="an archive without a recording"):
        open_capture(archive_with(tmp_path / "a.zip", ("holiday/a.txt", "x")))
    (tmp_path / "a.zip").write_bytes((tmp_path / "a.zip").read_bytes()[:40])
    with pytest.raises(ValueError, match="not a readable archive"):
        open_capture(tmp_path / "a.zip")
    (tmp_path / "link").symlink_to("/etc")
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.add(tmp_path / "link", "rgbd")
    with pytest.raises(ValueError, match="is a link or a device"):
        open_capture(tmp_path / "a.tar")
    assert not outside.exists()


def test_what_is_unpacked_goes_with_the_recording(tmp_path, room, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    folder = WRITERS["polycam"](tmp_path / "scan", room)
    shutil.make_archive(str(tmp_path / "packed"), "zip", folder)
    capture = open_capture(tmp_path / "packed.zip")
    assert capture.held is open_capture(tmp_path / "packed.zip").held  # unpacked once
    (held,) = tmp_path.glob("vidllm-capture-*")
    assert held.is_dir()
    from vidllm.io.captures.archives import _unpack

    _unpack.cache_clear()
    del capture
    assert not held.exists()


def test_other_sources_are_none(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    assert open_capture(tmp_path) is None and open_capture(tmp_path / "a.png") is None
    assert WORLDS["bag"] is not None
