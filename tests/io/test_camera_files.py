"""Every form of camera files is read, and every wrong one is refused in one line that names file and line."""

from __future__ import annotations

import json
import math
import os
import struct
import time

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from vidllm.io.cameras import Lens, PerFrame, read_intrinsics, read_poses

K = np.array([[500.0, 0, 320], [0, 510, 240], [0, 0, 1]])
IN_FILE = K - [[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]]  # pixel centres at whole numbers


def some_poses(count=3):
    poses = np.tile(np.eye(4), (count, 1, 1))
    poses[:, :3, :3] = Rotation.random(count, random_state=1).as_matrix()
    poses[:, :3, 3] = np.random.default_rng(0).normal(size=(count, 3))
    return poses


POSES = some_poses()


def rows_of(matrices, keys=None):
    keys = [""] * len(matrices) if keys is None else keys
    pairs = zip(keys, matrices, strict=True)
    return "\n".join(f"{key} {' '.join(f'{x:.12g}' for x in m.flatten())}".strip() for key, m in pairs)


def tum(keys, poses=POSES):
    turns = Rotation.from_matrix(poses[:, :3, :3]).as_quat()
    return rows_of(np.concatenate([poses[:, :3, 3], turns], 1), keys)


def refused(read, path, *told):
    with pytest.raises(ValueError) as caught:
        read(path)
    message = str(caught.value)
    assert "\n" not in message and path.name in message, message
    for text in told:
        assert text in message, message


# ---- poses --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("tum.txt", "# a comment\r\n" + tum(["0.5", "1.5", "2.25"]).replace("\n", "\r\n")),
        ("tum.csv", tum(["0.5", "1.5", "2.25"]).replace(" ", ",")),
        ("named.csv", "time,qx,qy,qz,qw,tx,ty,tz\n" + "\n".join(
            ",".join(map(repr, (t, *Rotation.from_matrix(p[:3, :3]).as_quat().tolist(), *p[:3, 3].tolist())))
            for t, p in zip((0.5, 1.5, 2.25), POSES, strict=True))),
        ("matrices.txt", rows_of(POSES[:, :3], ["0.5", "1.5", "2.25"])),
        ("whole.txt", rows_of(POSES, ["0.5", "1.5", "2.25"])),
    ],
)  # fmt: skip
def test_tables_with_times(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    found = read_poses(tmp_path / name)
    np.testing.assert_allclose(found.given.matrices, POSES, atol=1e-9)
    assert list(found.given.times_s or ()) == [0.5, 1.5, 2.25] and found.metric


def test_nanoseconds_are_times(tmp_path):
    (tmp_path / "t.txt").write_text(tum(["1403636579763555584", "1403636579813555456", "1403636579863555584"]))
    times = read_poses(tmp_path / "t.txt").given.times_s
    np.testing.assert_allclose(np.array(times) - 1403636579, [0.763555584, 0.813555456, 0.863555584], atol=1e-6)


def test_names_before_matrices(tmp_path):
    (tmp_path / "t.txt").write_text(rows_of(POSES[:, :3], ["rgb/a.png", "rgb/b.png", "rgb/c.png"]))
    found = read_poses(tmp_path / "t.txt").given
    assert list(found.names) == ["a", "b", "c"] and found.times_s is None
    np.testing.assert_allclose(found.matrices, POSES, atol=1e-9)


@pytest.mark.parametrize("shape", [(4, 4), (3, 4), (16,), (12,)])
def test_rows_without_keys_are_said_to_be_counted(tmp_path, shape):
    np.save(tmp_path / "p.npy", POSES[:, :3].reshape(3, *shape) if 12 in (math.prod(shape),) else
            POSES.reshape(3, *shape))  # fmt: skip
    found = read_poses(tmp_path / "p.npy").given
    assert found.counted and list(found.numbers or ()) == [0, 1, 2]
    np.testing.assert_allclose(found.matrices, POSES)


def test_folders_of_matrices(tmp_path):
    for n, pose in enumerate(POSES):
        np.savetxt(tmp_path / f"frame-{n:06d}.pose.txt", pose)
    found = read_poses(tmp_path).given
    assert list(found.names) == ["frame-000000", "frame-000001", "frame-000002"]
    assert list(found.numbers or ()) == [0, 1, 2]
    np.testing.assert_allclose(found.matrices, POSES)
    timed = tmp_path / "timed"
    timed.mkdir()
    for seconds, pose in zip(("9.75", "10.25", "10.5"), POSES, strict=True):
        np.savetxt(timed / f"{seconds}.txt", pose)
    found = read_poses(timed).given
    assert list(found.times_s or ()) == [9.75, 10.25, 10.5]
    np.testing.assert_allclose(found.matrices, POSES)


def transforms(**more):
    frames = [{"file_path": f"images/f_{n}.png", "transform_matrix": (p @ np.diag([1, -1, -1, 1])).tolist()}
              for n, p in enumerate(POSES)]  # fmt: skip
    return {"frames": frames, **more}


def test_transforms_and_unit(tmp_path):
    path = tmp_path / "transforms.json"
    path.write_text(json.dumps(transforms()))
    found = read_poses(tmp_path)  # the folder that holds it
    np.testing.assert_allclose(found.given.matrices, POSES)
    assert found.metric and list(found.given.names) == ["f_0", "f_1", "f_2"]
    path.write_text(json.dumps(transforms(aabb_scale=16)))
    assert read_poses(path).metric is None  # instant-ngp's scripts rescale


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("t.txt", tum(["1", "1", "2"]), ("line 2", "time 1.0", "line 1")),
        ("t.txt", rows_of(POSES[:, :3], ["a", "b", "a"]), ("line 3", "name a")),
        ("t.txt", "1 0 0 0 0 0 0 1\n2 0 0 0 0 0.5 0.5 1", ("line 2", "quaternion of length 1.225")),
        ("t.txt", tum(["1", "2", "3"]) + "\n4 0 0", ("line 4", "3 words")),
        ("t.txt", tum(["1", "2", "nan"]), ("line 3", "time of nan")),
        ("t.txt", tum(["1", "2", "3"]).replace(" ", " x", 9), ("line 1", "expected a number")),
        ("t.txt", rows_of(POSES.transpose(0, 2, 1), ["1", "2", "3"]), ("line 1", "last row", "transposed")),
        ("t.txt", "# nothing\n\n", ("contains no pose",)),
        ("e.csv", "#timestamp,p_RS_R_x [m],p_RS_R_y [m],p_RS_R_z [m],q_RS_w [],q_RS_x [],q_RS_y [],q_RS_z []\n"
         "1403636580838555648,4.6,-1.7,0.8,0.5,0.5,0.5,0.5\n", ("columns timestamp, p_rs_r_x [m]",)),
        ("t.json", json.dumps(transforms()).replace("f_1", "f_0"), ("frame 2", "name f_0")),
        ("t.json", json.dumps(transforms()).replace("[0.0, 0.0, 0.0, 1.0]", "[0, 0, 1, 1]"), ("frame 1", "last row")),
        ("t.json", json.dumps({"frames": [{"transform_matrix": np.eye(4).tolist()}]}), ("cannot be matched",)),
    ],
)  # fmt: skip
def test_wrong_poses_are_named(tmp_path, name, text, told):
    (tmp_path / name).write_text(text)
    refused(read_poses, tmp_path / name, *told)


def test_the_same_line_twice_contradicts_nothing(tmp_path):
    (tmp_path / "t.txt").write_text(tum(["1.5", "2.5", "3.5"]) + "\n" + tum(["1.5", "2.5", "3.5"]))
    assert len(read_poses(tmp_path / "t.txt").given.matrices) == 6


def test_a_bad_last_row_in_a_folder_is_named(tmp_path):
    np.savetxt(tmp_path / "0.txt", POSES[0])
    np.savetxt(tmp_path / "1.txt", POSES[1].T)
    with pytest.raises(ValueError, match=r"1\.txt: line 4: the matrix's last row is .*, expected 0 0 0 1"):
        read_poses(tmp_path)


# ---- intrinsics ---------------------------------------------------------------------------------------------------

YAML = """%YAML:1.0
---
image_width: 640
image_height: 480
camera_matrix: !!opencv-matrix
   rows: 3
   cols: 3
   dt: d
   data: [ 5.0e+02, 0., 319.5, 0., 5.1e+02,
       239.5, 0., 0., 1. ]
distortion_coefficients: !!opencv-matrix
   rows: 1
   cols: 5
   dt: d
   data: [ 0., 0., 0., 0., 0. ]
"""
ORB = "%YAML:1.0\n\nCamera.type: \"PinHole\"\nCamera.fx: 500.0\nCamera.fy: 510.0\n" \
      "Camera.cx: 319.5\nCamera.cy: 239.5\nCamera.width: 640\nCamera.height: 480\n"  # fmt: skip
KALIBR = "cam0:\n  camera_model: pinhole\n  distortion_model: radtan\n  distortion_coeffs: [0.0, 0.0, 0.0, 0.0]\n" \
         "  intrinsics: [500.0, 510.0, 319.5, 239.5]\n  resolution: [640, 480]\n"  # fmt: skip
ROS = "image_width: 640\nimage_height: 480\ncamera_name: c\ndistortion_model: plumb_bob\ncamera_matrix:\n  rows: 3\n" \
      "  cols: 3\n  data: [500, 0, 319.5, 0, 510, 239.5, 0, 0, 1]\n"  # fmt: skip


@pytest.mark.parametrize(
    ("name", "text", "size"),
    [
        ("k.txt", "\n".join(" ".join(map(str, row)) for row in IN_FILE.tolist()), None),
        ("k.txt", "500 510 320 240\n", None),
        ("k.csv", "fx,fy,cx,cy,width,height\n500,510,320,240,640,480\n", (480, 640)),
        ("k.yaml", YAML, (480, 640)),
        ("k.yml", ORB, (480, 640)),
        ("k.yaml", KALIBR, (480, 640)),
        ("k.yaml", ROS, (480, 640)),
        ("k.json", json.dumps({"fx": 500, "fy": 510, "cx": 320, "cy": 240, "width": 640, "height": 480}), (480, 640)),
        ("transforms.json", json.dumps(transforms(fl_x=500, fl_y=510, cx=320, cy=240, w=640, h=480)), (480, 640)),
        ("transforms.json", json.dumps(transforms(fl_x=500, fl_y=510, w=640, h=480)), (480, 640)),
    ],
)
def test_forms_of_intrinsics(tmp_path, name, text, size):
    (tmp_path / name).write_text(text)
    found = read_intrinsics(tmp_path / name)
    np.testing.assert_allclose(np.asarray(found.given), K)
    assert found.size == size


def test_arrays_of_intrinsics(tmp_path):
    np.save(tmp_path / "k.npy", IN_FILE)
    np.testing.assert_allclose(np.asarray(read_intrinsics(tmp_path / "k.npy").given), K)
    np.save(tmp_path / "k.npy", np.asfortranarray(np.stack([IN_FILE] * 4)))
    each = read_intrinsics(tmp_path / "k.npy").given
    assert isinstance(each, PerFrame) and each.counted
    np.testing.assert_allclose(each.matrices, np.stack([K] * 4))
    np.testing.assert_allclose(np.asarray(read_intrinsics("500,510,320,240").given), K)


def test_a_field_of_view_waits_for_the_pictures(tmp_path):
    path = tmp_path / "transforms.json"
    path.write_text(json.dumps(transforms(camera_angle_x=2 * math.atan(320 / 500))))
    lens = read_intrinsics(path).given
    assert isinstance(lens, Lens)
    np.testing.assert_allclose(lens.matrix((480, 640)), [[500, 0, 320], [0, 500, 240], [0, 0, 1]])
    np.testing.assert_allclose(lens.matrix((240, 320))[0, 0], 250)
    path.write_text(json.dumps(transforms(camera_angle_x=2 * math.atan(320 / 500), w=640, h=480, fl_x=700)))
    refused(read_intrinsics, path, "its field of view means 500")


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("k.yaml", YAML + "image_width: 320\n", ("line 16", "image_width again")),
        ("k.yaml", ORB + "Camera.fx: 400.0\n", ("line 9", "Camera.fx again")),
        ("k.yaml", KALIBR + KALIBR.replace("cam0", "cam1"), ("2 cameras",)),
        ("k.yaml", KALIBR.replace("radtan", "equidistant"), ("equidistant", "undistort")),
        ("k.yaml", "a: [1, 2", ("not YAML",)),
        ("k.yaml", "a: " + "[" * 5000, ("not YAML",)),
        ("k.yaml", "camera_matrix: [1, 2]\n", ("2 numbers, expected a 3x3 matrix",)),
        ("k.yaml", "x: 1\n", ("no intrinsics here",)),
        ("k.txt", "500 0 319.5\n0 510 x\n0 0 1", ("line 2",)),
        ("k.txt", "500 0 320 1\n0 510 240 0\n0 0 1 0\n0 0 0 1", ("fourth column",)),
        ("k.csv", "fx,fy,cx\n1,2,3\n", ("columns fx, fy, cx",)),
        ("k.csv", "fx,fy,cx,cy\n1,2,3,4\n5,6,7,8\n", ("without a name",)),
        ("k.csv", "fx,fy,cx,cy,name\n1,2,3,4,a\n5,6,7,8,a\n", ("line 3", "name a")),
        ("k.json", json.dumps(transforms(fl_x=10**300 * 10, cx=1, cy=1)), ("expected a number",)),
        ("k.json", json.dumps(transforms(fl_x=500, cx=1, cy=1, camera_model="OPENCV_FISHEYE")), ("OPENCV_FISHEYE",)),
        ("k.json", json.dumps(transforms(camera_angle_x=4)), ("4 radians",)),
    ],
)
def test_wrong_intrinsics_are_named(tmp_path, name, text, told):
    (tmp_path / name).write_text(text)
    refused(read_intrinsics, tmp_path / name, *told)


def test_distortion_is_told_in_pixels(tmp_path):
    path = tmp_path / "k.yaml"
    path.write_text(YAML.replace("[ 0., 0., 0., 0., 0. ]", "[ 0.1, 0., 0., 0., 0. ]"))
    corner = np.array([320 / 500, 240 / 510])  # the distortion is k1 r^2 times the distance from the middle
    moved = 0.1 * (corner @ corner) * np.hypot(320.5, 240.5)
    with pytest.warns(UserWarning, match=rf"up to {moved:.0f}\.\d pixels, is not modelled"):
        read_intrinsics(path)


# ---- COLMAP -------------------------------------------------------------------------------------------------------


def write_colmap(folder, cameras, images, binary):
    """cameras: (id, model number, model, w, h, params); images: (id, camera-from-world, camera id, name)."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [(i, Rotation.from_matrix(m[:3, :3]).as_quat()[[3, 0, 1, 2]], m[:3, 3], c, n) for i, m, c, n in images]
    if binary:
        told = struct.pack("<Q", len(cameras))
        for i, number, _, w, h, params in cameras:
            told += struct.pack(f"<IiQQ{len(params)}d", i, number, w, h, *params)
        (folder / "cameras.bin").write_bytes(told)
        told = struct.pack("<Q", len(rows))
        for i, q, t, c, name in rows:
            told += struct.pack("<I7dI", i, *q, *t, c) + name.encode() + b"\0"
            told += struct.pack("<Q", 2) + struct.pack("<ddq", 1.0, 2.0, -1) * 2
        (folder / "images.bin").write_bytes(told)
        return
    lines = [f"{i} {model} {w} {h} {' '.join(map(repr, params))}" for i, _, model, w, h, params in cameras]
    (folder / "cameras.txt").write_text("# cameras\n" + "\n".join(lines) + "\n")
    lines = [f"{i} {' '.join(map(repr, (*q.tolist(), *t.tolist())))} {c} {name}\n" for i, q, t, c, name in rows]
    (folder / "images.txt").write_text("# images\n" + "\n".join(lines) + "\n")


IMAGES = [(n + 1, np.linalg.inv(p), 1, f"dir/shot {n}.png") for n, p in enumerate(POSES)]


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize(
    ("number", "model", "parameters"),
    [(0, "SIMPLE_PINHOLE", [500.0, 320.0, 240.0]), (1, "PINHOLE", [500.0, 510.0, 320.0, 240.0]),
     (2, "SIMPLE_RADIAL", [500.0, 320.0, 240.0, 1e-5]), (4, "OPENCV", [500.0, 510.0, 320.0, 240.0, 0, 0, 0, 0])],
)  # fmt: skip
def test_models_of_colmap(tmp_path, binary, number, model, parameters):
    write_colmap(tmp_path / "sparse" / "0", [(1, number, model, 640, 480, parameters)], IMAGES, binary)
    lens = read_intrinsics(tmp_path)
    expected = K.copy()
    expected[1, 1] = 510 if len(parameters) in (4, 8) and model != "SIMPLE_RADIAL" else 500
    np.testing.assert_allclose(np.asarray(lens.given), expected)
    assert lens.size == (480, 640)
    poses = read_poses(tmp_path)
    np.testing.assert_allclose(poses.given.matrices, POSES, atol=1e-9)
    assert list(poses.given.names) == ["shot 0", "shot 1", "shot 2"] and poses.metric is None
    file = tmp_path / "sparse" / "0" / ("images.bin" if binary else "images.txt")
    np.testing.assert_allclose(read_poses(file).given.matrices, POSES, atol=1e-9)


@pytest.mark.parametrize("binary", [False, True])
def test_a_camera_an_image_and_lenses_no_pinhole_stands_for(tmp_path, binary):
    cameras = [(c, 1, "PINHOLE", 640, 480, [500.0 + c, 510.0, 320.0, 240.0]) for c in (1, 2, 3)]
    images = [(i, m, i, name) for i, m, _, name in IMAGES]
    write_colmap(tmp_path, cameras, images, binary)
    each = read_intrinsics(tmp_path).given
    assert isinstance(each, PerFrame) and each.matrices[:, 0, 0].tolist() == [501, 502, 503]
    write_colmap(tmp_path, [(1, 2, "SIMPLE_RADIAL", 640, 480, [500.0, 320.0, 240.0, 0.1])], IMAGES, binary)
    with pytest.warns(UserWarning, match=r"up to 2\d\.\d pixels, is not modelled"):
        read_intrinsics(tmp_path)
    fisheye = (1, 5, "OPENCV_FISHEYE", 640, 480, [500.0, 500.0, 320.0, 240.0, 0, 0, 0, 0])
    write_colmap(tmp_path, [fisheye], IMAGES, binary)
    with pytest.raises(ValueError, match=r"cameras\.\w+: .* OPENCV_FISHEYE, expected a pinhole"):
        read_intrinsics(tmp_path)
    write_colmap(tmp_path, cameras, [(*IMAGES[0][:3], "a.png"), (*IMAGES[1][:3], "a.png")], binary)
    with pytest.raises(ValueError, match=r"images\.\w+: .*another camera for the name a"):
        read_poses(tmp_path)


@pytest.mark.parametrize("name", ["cameras.bin", "images.bin"])
@pytest.mark.parametrize("count", [10**12, 2**64 - 1])
def test_a_count_beyond_the_file_is_refused_at_once(tmp_path, name, count):
    write_colmap(tmp_path, [(1, 1, "PINHOLE", 640, 480, [500.0, 510.0, 320.0, 240.0])], IMAGES, True)
    path = tmp_path / name
    path.write_bytes(struct.pack("<Q", count) + path.read_bytes()[8:])
    begun = time.process_time()
    refused(read_intrinsics if name == "cameras.bin" else read_poses, path, f"{count} ", "announced")
    path.write_bytes(struct.pack("<Q", 1) + b"\0" * 64 + b"n\0" + struct.pack("<Q", count))
    refused(read_intrinsics if name == "cameras.bin" else read_poses, path)
    assert time.process_time() - begun < 1


@pytest.mark.parametrize("shape", ["(1000000000000, 4, 4)", "(-4, -4)", "(4, 4, 'x')", "(4.0, 4)", "4", "()"])
def test_an_array_longer_than_its_file_is_refused_at_once(tmp_path, shape):
    header = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    path = tmp_path / "p.npy"
    path.write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + b"\0" * 100)
    refused(read_poses, path)
    refused(read_intrinsics, path)


def test_pickles_are_not_read(tmp_path):
    np.save(tmp_path / "p.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    refused(read_poses, tmp_path / "p.npy", "not an array of numbers")


def test_fifos_devices_and_missing_files(tmp_path):
    os.mkfifo(tmp_path / "p.txt")
    refused(read_poses, tmp_path / "p.txt", "not a regular file")
    refused(read_intrinsics, tmp_path / "p.txt", "not a regular file")
    refused(read_poses, tmp_path / "nowhere.txt", "no such file")
    with pytest.raises(ValueError, match="no such file"):
        read_poses("x" * 5000)
    with pytest.raises(ValueError, match="not a regular file"):
        read_poses("/dev/zero")
