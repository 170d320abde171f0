"""Bags of ROS and MCAP: pictures, intrinsics, depth and poses through /tf, written by the formats' own libraries."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image
from recordings import millimetres, quaternions
from scipy.spatial.transform import Rotation
from test_captures import points_of

from vidllm.io.captures import open_capture
from vidllm.io.video import load_frames
from vidllm_rooms.shards import render_scene

rosbag2 = pytest.importorskip("rosbags.rosbag2", reason="bags need rosbags (extra rosbag)")
from rosbags.typesys import Stores, get_typestore  # noqa: E402

STORE = get_typestore(Stores.ROS2_HUMBLE)
OPTICAL = np.eye(4)  # of a camera on a body that looks along x with z up
OPTICAL[:3, :3], OPTICAL[:3, 3] = [[0, 0, 1], [-1, 0, 0], [0, -1, 0]], [0.1, 0.02, 0.3]


def kind(name, *values):
    return STORE.types[name](*values)


def header(seconds, frame):
    stamp = kind("builtin_interfaces/msg/Time", int(seconds), round((seconds - int(seconds)) * 1e9))
    return kind("std_msgs/msg/Header", stamp, frame)


def transform(seconds, parent, child, pose):
    place = kind("geometry_msgs/msg/Vector3", *pose[:3, 3].tolist())
    turn = kind("geometry_msgs/msg/Quaternion", *quaternions(pose[None])[0].tolist())
    moved = kind("geometry_msgs/msg/Transform", place, turn)
    return kind("geometry_msgs/msg/TransformStamped", header(seconds, parent), child, moved)


def packed(array, form="PNG"):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, form)
    return buffer.getvalue()


def messages(room, seconds, *, raw, depth_frame="camera_optical", lost=()):
    """(topic, seconds, message) of a camera on a robot that drives."""
    poses = np.linalg.inv(room.extrinsics)
    k = room.intrinsics[0].astype(np.float64).copy()
    k[:2, 2] -= 0.5
    height, width = room.depth_m.shape[1:]
    region = kind("sensor_msgs/msg/RegionOfInterest", 0, 0, 0, 0, False)
    yield "/tf_static", seconds[0], kind("tf2_msgs/msg/TFMessage", [
        transform(0, "base_link", "camera_optical", OPTICAL)])  # fmt: skip
    for n, time in enumerate(seconds):
        yield "/cam/camera_info", time, kind(
            "sensor_msgs/msg/CameraInfo", header(time, "camera_optical"), height, width, "plumb_bob", np.zeros(5),
            k.ravel(), np.eye(3).ravel(), np.hstack([k, np.zeros((3, 1))]).ravel(), 0, 0, region)  # fmt: skip
        base = poses[n] @ np.linalg.inv(OPTICAL)
        if n not in lost:
            yield "/tf", time, kind("tf2_msgs/msg/TFMessage", [transform(time, "odom", "base_link", base)])
        depth, head = room.depth_m[n], header(time + 0.004, depth_frame)
        if raw:
            rgb = np.zeros((height, 3 * width + 10), np.uint8)  # padded rows
            rgb[:, : 3 * width] = room.rgb[n][..., ::-1].reshape(height, -1)
            yield "/cam/image_raw", time, kind("sensor_msgs/msg/Image", header(time, "camera_optical"), height, width,
                                               "bgr8", 0, 3 * width + 10, rgb.ravel())  # fmt: skip
            yield "/depth/image", time, kind("sensor_msgs/msg/Image", head, height, width, "32FC1", 0, 4 * width,
                                             depth.astype("<f4").view(np.uint8).ravel())  # fmt: skip
        else:
            jpeg = np.frombuffer(packed(room.rgb[n], "JPEG"), np.uint8)
            yield "/cam/image_raw/compressed", time, kind(
                "sensor_msgs/msg/CompressedImage", header(time, "camera_optical"), "rgb8; jpeg compressed bgr8", jpeg)
            png = np.frombuffer(bytes(12) + packed(millimetres(depth)), np.uint8)
            yield "/depth/compressedDepth", time, kind("sensor_msgs/msg/CompressedImage", head,
                                                       "16UC1; compressedDepth png", png)  # fmt: skip


def write_bag(folder, storage, given):
    plugin = getattr(rosbag2.StoragePlugin, storage)
    with rosbag2.Writer(folder, version=9, storage_plugin=plugin) as writer:
        connections = {}
        for topic, time, message in given:
            name = message.__msgtype__
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, name, typestore=STORE)
            writer.write(connections[topic], round(time * 1e9), STORE.serialize_cdr(message, name))
    return folder


@pytest.fixture(scope="module")
def room():
    made = render_scene(10000, 4, 56, 70)[0]
    made.intrinsics[:] = made.intrinsics[0]
    return made


SECONDS = [1_700_000_000.0 + 0.1 * n for n in range(4)]


@pytest.mark.parametrize(("storage", "raw"), [("SQLITE3", True), ("MCAP", False)])
def test_a_robots_bag_reads_back_to_the_same_points(tmp_path, room, storage, raw):
    bag = write_bag(tmp_path / "bag", storage, messages(room, SECONDS, raw=raw))
    for place in (bag, next(f for f in bag.iterdir() if f.suffix in (".mcap", ".db3"))):
        capture = open_capture(place)
        assert capture.usable == [0, 1, 2, 3] and capture.up == (0.0, 0.0, 1.0)
        for n in (0, 3):
            depth = capture.depth(n)
            found = points_of(depth, capture.intrinsics_of(n, depth.shape), capture.poses[n])
            true = points_of(room.depth_m[n], room.intrinsics[n], np.linalg.inv(room.extrinsics[n]))
            assert np.abs(found - true).max() < 1e-3
            assert np.abs(np.asarray(capture.picture(n), float) - room.rgb[n]).mean() < (0.1 if raw else 10)
    frames = load_frames(bag, 2, shorter_side=28)
    assert frames.clock_start_s == pytest.approx(SECONDS[0], abs=1e-6)
    np.testing.assert_allclose(frames.timestamps_s.numpy(), [0, 0.3], atol=1e-6)


def test_poses_between_two_are_interpolated_and_gaps_are_lost(tmp_path, room):
    between = write_bag(tmp_path / "a", "MCAP", messages(room, SECONDS, raw=True, lost=(1,)))
    capture = open_capture(between)
    a, b = (np.linalg.inv(room.extrinsics[n]) @ np.linalg.inv(OPTICAL) for n in (0, 2))
    middle = np.eye(4)
    turn = Rotation.from_matrix(a[:3, :3].T @ b[:3, :3]).as_rotvec() / 2
    middle[:3, :3], middle[:3, 3] = a[:3, :3] @ Rotation.from_rotvec(turn).as_matrix(), (a[:3, 3] + b[:3, 3]) / 2
    np.testing.assert_allclose(capture.poses[1], middle @ OPTICAL, atol=1e-6)
    far = write_bag(tmp_path / "b", "MCAP", messages(room, [1.0, 1.5, 2.0, 2.5], raw=True, lost=(1,)))
    assert open_capture(far).usable == [0, 2, 3]


def test_what_a_bag_lacks_is_said(tmp_path, room, monkeypatch):
    given = list(messages(room, SECONDS, raw=True, depth_frame="depth_optical"))
    with pytest.warns(UserWarning, match="not in the frame of the pictures"):
        assert not open_capture(write_bag(tmp_path / "a", "MCAP", given)).depths
    still = [one for one in given if one[0] not in ("/tf", "/depth/image")]
    assert open_capture(write_bag(tmp_path / "b", "MCAP", still)).poses is None
    with pytest.raises(ValueError, match=r"no topic of sensor_msgs Image .*; it holds sensor_msgs/msg/CameraInfo"):
        open_capture(write_bag(tmp_path / "c", "MCAP", [one for one in given if one[0] == "/cam/camera_info"]))
    file = next((tmp_path / "b").glob("*.mcap"))
    file.write_bytes(file.read_bytes()[:3000])
    with pytest.raises(ValueError, match="damaged or another kind of file"):
        open_capture(file)
    monkeypatch.setitem(__import__("sys").modules, "rosbags.highlevel", None)
    with pytest.raises(ValueError, match=r"pip install 'vidllm\[rosbag\]'"):
        open_capture(tmp_path / "a")


def test_an_mcap_of_its_own_library_is_read(tmp_path, room):
    """Foxglove's writer, in place of rosbags' own: schemas and CDR messages are the same."""
    writers = pytest.importorskip("mcap.writer", reason="the package mcap writes the file")
    schemas, channels = {}, {}
    with (tmp_path / "scan.mcap").open("wb") as file:
        writer = writers.Writer(file)
        writer.start("ros2")
        for topic, time, message in messages(room, SECONDS, raw=False):
            name = message.__msgtype__
            if topic not in channels:
                text = STORE.generate_msgdef(name, ros_version=2)[0]
                schemas[name] = schemas.get(name) or writer.register_schema(name, "ros2msg", text.encode())
                channels[topic] = writer.register_channel(topic, "cdr", schemas[name])
            at = round(time * 1e9)
            writer.add_message(channels[topic], at, bytes(STORE.serialize_cdr(message, name)), at)
        writer.finish()
    capture = open_capture(tmp_path / "scan.mcap")
    np.testing.assert_allclose(capture.poses, np.linalg.inv(room.extrinsics), atol=1e-6)
    assert np.abs(capture.depth(2) - room.depth_m[2]).max() < 1e-3
