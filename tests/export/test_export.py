"""What is written reads back, means what the format's convention says, and appears whole or not at all."""

from __future__ import annotations

import dataclasses
import json
import struct

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont
from scipy.spatial.transform import Rotation

from vidllm.export import EXPORTERS, FILE_NAMES, OutputError, SceneData, atomic_folder, atomic_path, export_scene
from vidllm.export.box_drawing import box_colour, boxes_array, corners_of, draw_boxes, draw_tags, project_edges
from vidllm.export.cameras import quaternions
from vidllm.export.depth_png import colour_depth, colour_map, depth_range, read_depth_png, write_depth_png
from vidllm.export.geometry import LONG_FRAMES, VOXEL_M
from vidllm.export.pictures import _draw_plan, overview
from vidllm.export.points import write_points
from vidllm.io.cameras import read_poses

FRAMES, HEIGHT, WIDTH = 4, 28, 42
SCENE_FROM_CAMERA = np.array([[0, 0, 1], [-1, 0, 0], [0, -1, 0]], np.float64)  # a level first camera


def random_rotation(rng):
    return Rotation.random(random_state=rng).as_matrix()


def scene(seed=0, names=()):
    rng = np.random.default_rng(seed)
    depth = rng.uniform(1, 4, (FRAMES, HEIGHT, WIDTH)).astype(np.float32)
    depth[:, 0, 0], depth[:, 0, 1], depth[:, 0, 2] = 0, np.nan, -1
    extrinsics = np.tile(np.eye(4), (FRAMES, 1, 1))
    for index in range(1, FRAMES):
        extrinsics[index, :3, :3], extrinsics[index, :3, 3] = random_rotation(rng), rng.normal(size=3)
    intrinsics = np.tile(np.array([[40.0, 0, 21], [0, 41, 14], [0, 0, 1]]), (FRAMES, 1, 1))
    intrinsics[:, 0, 0] += np.arange(FRAMES)
    scene_from_world = np.eye(4)
    scene_from_world[:3, :3] = SCENE_FROM_CAMERA
    return SceneData(
        rgb=rng.integers(0, 255, (FRAMES, HEIGHT, WIDTH, 3), dtype=np.uint8),
        depth_m=depth,
        extrinsics=extrinsics,
        intrinsics=intrinsics,
        scene_from_world=scene_from_world,
        timestamps_s=np.arange(FRAMES) * 0.25,
        processed_from_original=np.array([[0.5, 0, -3], [0, 0.5, 0], [0, 0, 1]]),
        original_size=(56, 96),
        confidence=rng.uniform(0, 1, (FRAMES, HEIGHT, WIDTH)),
        names=names,
    )


def first_frame(data):
    names = ("rgb", "depth_m", "extrinsics", "intrinsics", "timestamps_s")
    return dataclasses.replace(data, **{name: getattr(data, name)[:1] for name in names}, confidence=None)


def image_size(path):
    with Image.open(path) as image:
        return image.size


# ---- points -------------------------------------------------------------------------------------------------------


def test_points_project_back_to_their_pixels_and_depth():
    data = scene()
    samples = data.samples(stride=3)
    pose = data.camera_from_scene[samples.frame]
    camera = (pose[:, :3, :3] @ samples.xyz[..., None])[..., 0] + pose[:, :3, 3]
    pixel = (data.intrinsics[samples.frame] @ camera[..., None])[..., 0]
    np.testing.assert_allclose(pixel[:, :2] / pixel[:, 2:], samples.uv, atol=1e-3)
    column, row = np.floor(samples.uv).astype(int).T
    np.testing.assert_allclose(camera[:, 2], data.depth_m[samples.frame, row, column], rtol=1e-5)
    assert np.array_equal(samples.rgb, data.rgb[samples.frame, row, column])


def test_points_leave_out_what_is_invalid():
    data = scene()
    assert len(data.points()[0]) == FRAMES * (HEIGHT * WIDTH - 3)
    assert len(data.points()[0]) == data.valid.sum()
    for limit in (10, 500, 10**6):
        assert len(data.points(data.stride_for(limit))[0]) <= limit
    with pytest.raises(ValueError, match="stride"):
        data.points(0)


def test_a_long_scene_has_one_point_a_voxel():
    """Frames that show the same again add nothing; voxels grow until the points are few enough."""
    short = scene()
    assert np.array_equal(short.cloud()[0], short.points()[0])  # not long
    times = LONG_FRAMES // FRAMES + 1
    arrays = {name: np.tile(getattr(short, name), (times, *[1] * (getattr(short, name).ndim - 1)))
              for name in ("rgb", "depth_m", "extrinsics", "intrinsics", "timestamps_s", "confidence")}  # fmt: skip
    long = dataclasses.replace(short, names=(), **arrays)
    xyz, rgb = long.cloud()
    voxels = np.unique(np.floor(short.points()[0] / VOXEL_M), axis=0)
    assert len(xyz) == len(voxels) < len(long.points()[0]) / times + 1
    colours = {tuple(point): tuple(colour) for point, colour in zip(*(a.tolist() for a in short.points()), strict=True)}
    assert all(colours[tuple(point)] == tuple(colour) for point, colour in zip(xyz.tolist(), rgb.tolist(), strict=True))
    few = long.cloud(500)[0]
    sizes = [len(np.unique(np.floor(short.points()[0] / (VOXEL_M * 2**n)), axis=0)) for n in range(12)]
    assert len(few) <= 500 and len(few) == next(n for n in sizes if n <= 500)


def test_level_first_camera_looks_along_x_with_z_up():
    data = first_frame(scene())
    data.depth_m[:] = 2.0
    xyz, _ = data.points()
    np.testing.assert_allclose(xyz[:, 0], 2.0, atol=1e-6)
    assert xyz[0, 2] > 0 > xyz[-1, 2]  # the first pixel is up and left
    assert xyz[0, 1] > 0 > xyz[-1, 1]


def test_scene_data_refuses_shapes_that_disagree():
    with pytest.raises(ValueError, match="intrinsics: expected shape"):
        dataclasses.replace(scene(), intrinsics=np.eye(3)[None])
    with pytest.raises(ValueError, match="names"):
        dataclasses.replace(scene(), names=("a",))


def test_file_stems_are_safe_and_unique():
    assert scene(names=("a/x.jpg", "b/y.jpg", "z", "w.png")).file_stems() == ["x", "y", "z", "w"]
    assert scene(names=("a/x.jpg", "b/x.jpg", "z", "w")).file_stems()[1] == "frame_000001"
    for name in ("x\ny.png", "x y.png", "x\ty.png", "x\x00y", "x\u2028y", "x\xa0y.png", "caf\udce9.png", ".png"):
        assert scene(names=(name, "y", "z", "w")).file_stems()[0] == "frame_000000"


# ---- formats ------------------------------------------------------------------------------------------------------


def read_points(path):
    head, _, body = path.read_bytes().partition(b"end_header\n")
    assert head.startswith(b"ply\nformat binary_little_endian 1.0\n")
    assert b"property float z\nproperty uchar red\nproperty uchar green\nproperty uchar blue\n" in head
    vertices = np.frombuffer(body, [("xyz", "<f4", 3), ("rgb", "u1", 3)])
    assert b"element vertex %d\n" % len(vertices) in head
    return vertices["xyz"], vertices["rgb"]


def test_ply_round_trip(tmp_path):
    data = scene()
    EXPORTERS["ply"](tmp_path / "a.ply", data)
    xyz, rgb = read_points(tmp_path / "a.ply")
    assert np.array_equal(xyz, data.points()[0]) and np.array_equal(rgb, data.points()[1])
    write_points(tmp_path / "none.ply", xyz[:0], rgb[:0])
    assert len(read_points(tmp_path / "none.ply")[0]) == 0


def test_quaternions_round_trip():
    rng = np.random.default_rng(0)
    half_turns = [np.diag([1.0, -1, -1]), np.diag([-1.0, 1, -1]), np.diag([-1.0, -1, 1]), np.eye(3)]
    for rotation in [*half_turns, *(random_rotation(rng) for _ in range(20))]:
        quaternion = quaternions(rotation[None])[0]
        assert quaternion[3] >= 0 and np.linalg.norm(quaternion) == pytest.approx(1)
        np.testing.assert_allclose(Rotation.from_quat(quaternion).as_matrix(), rotation, atol=1e-12)


def test_tum_round_trip(tmp_path):
    data = scene()
    EXPORTERS["tum"](tmp_path / "a.txt", data)
    given = read_poses(tmp_path / "a.txt").given
    np.testing.assert_allclose(given.times_s, data.timestamps_s)
    np.testing.assert_allclose(given.matrices, data.scene_from_camera, atol=2e-6)


def test_depth_round_trip_and_limits(tmp_path):
    data = scene()
    EXPORTERS["depth"](tmp_path / "depth", data)
    back = read_depth_png(tmp_path / "depth" / "frame_000002.png")
    expected = np.where(data.valid[2], data.depth_m[2], 0)
    np.testing.assert_allclose(back, expected, atol=0.00051)
    assert image_size(tmp_path / "depth" / "frame_000002_colour.png") == (WIDTH, HEIGHT)
    write_depth_png(tmp_path / "far.png", np.array([[100.0, np.inf, 0.0004, 1.0]], np.float32))
    np.testing.assert_allclose(read_depth_png(tmp_path / "far.png"), [[65.535, 0, 0, 1]])
    Image.new("RGB", (2, 2)).save(tmp_path / "rgb.png")
    with pytest.raises(ValueError, match="16-bit"):
        read_depth_png(tmp_path / "rgb.png")


def test_depth_colours():
    ends = colour_map(np.array([-1.0, 0.0, 1.0, 2.0])).astype(int)
    assert np.array_equal(ends[0], ends[1]) and np.array_equal(ends[2], ends[3])
    near, far = colour_depth(np.array([[1.0, 3.0]]), 1.0, 3.0)[0].astype(int)
    assert near[0] > near[2] and far[2] > far[0]
    assert depth_range(np.zeros((2, 2))) == (0.0, 1.0)
    assert depth_range(np.ones((2, 2)))[1] > 1.0


def test_cameras_json(tmp_path):
    data = scene(names=("a.png", "b.png", "c.png", "d.png"))
    EXPORTERS["cameras"](tmp_path / "c.json", data)
    content = json.loads((tmp_path / "c.json").read_text())
    frame = content["frames"][1]
    assert frame["name"] == "b.png" and content["units"] == "m"
    np.testing.assert_allclose(frame["extrinsics"], data.extrinsics[1])
    ray = np.array([0.1, 0.2, 1.0])
    processed, original = np.array(frame["intrinsics"]) @ ray, np.array(frame["intrinsics_original"]) @ ray
    np.testing.assert_allclose(data.processed_from_original @ original, processed)


def read_colmap(folder):
    def rows(name):
        return [line.split() for line in (folder / "sparse/0" / name).read_text().split("\n") if line[:1] != "#"][:-1]

    return rows("cameras.txt"), rows("images.txt"), rows("points3D.txt")


def test_colmap_model_reprojects(tmp_path):
    data = scene()
    EXPORTERS["colmap"](tmp_path / "m", data, max_points=300)
    cameras, images, points = read_colmap(tmp_path / "m")
    assert len(cameras) == FRAMES and len(images) == 2 * FRAMES and 0 < len(points) <= 300
    for point in points[:: len(points) // 20]:
        xyz, (image_id, observation) = np.array(point[1:4], float), map(int, point[8:10])
        head, observed = images[2 * image_id - 2], images[2 * image_id - 1]
        turn = Rotation.from_quat(np.array(head[2:5] + head[1:2], float)).as_matrix()
        camera = turn @ xyz + np.array(head[5:8], float)
        fx, fy, cx, cy = map(float, cameras[int(head[8]) - 1][4:])
        u, v, point_id = observed[3 * observation : 3 * observation + 3]
        assert point_id == point[0]
        assert fx * camera[0] / camera[2] + cx == pytest.approx(float(u), abs=2e-3)
        assert fy * camera[1] / camera[2] + cy == pytest.approx(float(v), abs=2e-3)
    assert image_size(tmp_path / "m/images" / images[0][9]) == (WIDTH, HEIGHT)


def test_colmap_keeps_the_empty_line_of_a_frame_without_points(tmp_path):
    data = scene()
    data.depth_m[1] = 0
    EXPORTERS["colmap"](tmp_path / "m", data)
    assert [len(row) > 0 for row in read_colmap(tmp_path / "m")[1]] == [True, True, True, False] + [True] * 4


def test_nerfstudio_reprojects_with_opengl_axes(tmp_path):
    data = scene()
    EXPORTERS["nerfstudio"](tmp_path / "n", data)
    content = json.loads((tmp_path / "n/transforms.json").read_text())
    samples = data.samples(7)
    for number, frame in enumerate(content["frames"]):
        mine = samples.frame == number
        to_camera = np.linalg.inv(np.array(frame["transform_matrix"]))
        x, y, z = (samples.xyz[mine] @ to_camera[:3, :3].T + to_camera[:3, 3]).T
        assert (z < 0).all()
        np.testing.assert_allclose(frame["fl_x"] * x / -z + frame["cx"], samples.uv[mine, 0], atol=2e-3)
        np.testing.assert_allclose(frame["fl_y"] * -y / -z + frame["cy"], samples.uv[mine, 1], atol=2e-3)
        assert (tmp_path / "n" / frame["file_path"]).is_file()
        assert read_depth_png(tmp_path / "n" / frame["depth_file_path"]).shape == (HEIGHT, WIDTH)
    assert len(read_points(tmp_path / "n" / content["ply_file_path"])[0]) == len(data.points()[0])


def read_glb(path):
    raw = path.read_bytes()
    magic, version, size = struct.unpack_from("<4sII", raw)
    assert (magic, version, size) == (b"glTF", 2, len(raw))
    length, kind = struct.unpack_from("<I4s", raw, 12)
    assert kind == b"JSON" and length % 4 == 0
    assert struct.unpack_from("<I4s", raw, 20 + length) == (len(raw) - 28 - length, b"BIN\0")
    return json.loads(raw[20 : 20 + length]), raw[28 + length :]


def test_glb_is_y_up_and_linear(tmp_path):
    data = scene()
    EXPORTERS["glb"](tmp_path / "a.glb", data)
    content, binary = read_glb(tmp_path / "a.glb")
    xyz, rgb = data.points()
    arrays = []
    for accessor in content["accessors"]:
        view = content["bufferViews"][accessor["bufferView"]]
        kind = {5126: "<f4", 5123: "<u2"}[accessor["componentType"]]
        raw = binary[view["byteOffset"] : view["byteOffset"] + view["byteLength"]]
        arrays.append(np.frombuffer(raw, kind).reshape(accessor["count"], -1))
    np.testing.assert_allclose(arrays[0], np.stack([xyz[:, 0], xyz[:, 2], -xyz[:, 1]], -1), atol=1e-6)
    np.testing.assert_allclose(content["accessors"][0]["max"], arrays[0].max(0))
    np.testing.assert_allclose(255 * (arrays[1][:, :3] / 65535) ** (1 / 2.2), rgb, atol=9)
    assert [mesh["name"] for mesh in content["meshes"]] == ["points", "cameras"]
    assert len(arrays[2]) == FRAMES * 16


def test_several_formats_under_their_names(tmp_path):
    paths = export_scene(tmp_path / "out", scene(), ["ply", "tum", "cameras", "depth", "ply"])
    assert [p.name for p in paths] == [FILE_NAMES[name] for name in ("ply", "tum", "cameras", "depth")]
    assert all(p.exists() for p in paths)
    assert set(FILE_NAMES) == set(EXPORTERS)
    with pytest.raises(ValueError, match="unknown export format xyz; choose from ply"):
        export_scene(tmp_path, scene(), ["xyz"])


# ---- atomicity ----------------------------------------------------------------------------------------------------


def test_failure_leaves_the_old_file_and_nothing_else(tmp_path):
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(RuntimeError), atomic_path(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert target.read_text() == "old" and [f.name for f in tmp_path.iterdir()] == ["a.txt"]
    with atomic_path(target) as temporary:
        temporary.write_text("new")
        assert target.read_text() == "old"
    assert target.read_text() == "new" and [f.name for f in tmp_path.iterdir()] == ["a.txt"]


def test_operating_system_errors_name_path_and_reason(tmp_path):
    with (
        pytest.raises(OutputError, match=r"a\.bin: cannot write \(No space left") as caught,
        atomic_path(tmp_path / "a.bin"),
    ):
        raise OSError(28, "No space left on device")
    assert "\n" not in str(caught.value)
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot write"):
        EXPORTERS["ply"](tmp_path / "file" / "a.ply", scene())
    with pytest.raises(OutputError), atomic_path(tmp_path / "nothing-written"):
        pass
    assert [f.name for f in tmp_path.iterdir()] == ["file"]


def test_folder_appears_whole_or_not_at_all(tmp_path):
    with pytest.raises(RuntimeError), atomic_folder(tmp_path / "out") as folder:
        (folder / "a").write_text("1")
        raise RuntimeError
    assert not list(tmp_path.iterdir())
    with atomic_folder(tmp_path / "out") as folder:
        (folder / "sub").mkdir()
        (folder / "sub" / "a").write_text("1")
    (tmp_path / "out" / "kept").write_text("mine")
    with atomic_folder(tmp_path / "out") as folder:
        (folder / "sub").mkdir()
        (folder / "sub" / "a").write_text("2")
    assert (tmp_path / "out/sub/a").read_text() == "2" and (tmp_path / "out/kept").read_text() == "mine"
    assert [f.name for f in tmp_path.iterdir()] == ["out"]
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="in the way"), atomic_folder(tmp_path / "file"):
        pass
    assert (tmp_path / "file").read_text() == "x"


# ---- pictures -----------------------------------------------------------------------------------------------------


def test_box_corners_turn_about_z():
    corners = corners_of([{"center": [1, 2, 3], "size": [4, 2, 1], "yaw": np.pi / 2}])[0]
    np.testing.assert_allclose(corners.min(0), [0, 0, 2.5], atol=1e-12)
    np.testing.assert_allclose(corners.max(0), [2, 4, 3.5], atol=1e-12)
    np.testing.assert_allclose(corners[1] - corners[0], [0, 4, 0], atol=1e-12)  # the box's own x axis
    assert boxes_array([]).shape == (0, 7)
    with pytest.raises(ValueError, match="7 finite"):
        boxes_array([[1, 2, 3]])


INTRINSICS = np.array([[100.0, 0, 100], [0, 100, 80], [0, 0, 1]])
CAMERA_FROM_SCENE = np.eye(4)
CAMERA_FROM_SCENE[:3, :3] = SCENE_FROM_CAMERA.T


def test_box_is_drawn_where_it_projects():
    drawn = np.array(draw_boxes(Image.new("RGB", (200, 160)), [[2.5, 0, 0, 1, 1, 1, 0]], INTRINSICS, CAMERA_FROM_SCENE))
    coloured = (drawn == box_colour(0)).all(-1)
    near = 100 * 0.5 / 2  # half the near face's side in pixels
    assert coloured[80, int(100 - near) - 1 : int(100 - near) + 2].any()
    assert coloured[80, int(100 + near) - 1 : int(100 + near) + 2].any()
    assert coloured[int(80 + near) - 1 : int(80 + near) + 2, 100].any()
    assert not coloured[80, 95:106].any() and not coloured[:, : int(100 - near) - 2].any()


def test_no_label_covers_another():
    """Four at one point: each plate has the area that it has alone."""
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 0, 255)]
    tags = [((50, 90), "a table", colour) for colour in colours]

    def areas(drawn):
        picture = Image.new("RGB", (200, 120))
        draw_tags(ImageDraw.Draw(picture), drawn, ImageFont.load_default(size=12), picture.size)
        return [int((np.asarray(picture) == colour).all(-1).sum()) for colour in colours]

    assert areas(tags) == [area for tag in tags for area in areas([tag]) if area]


def test_boxes_behind_or_around_the_camera_are_clipped():
    behind, around = corners_of(np.array([[-3.0, 0, 0, 1, 1, 1, 0], [0, 0, 0, 4, 2, 2, 0]]))
    assert project_edges(behind, INTRINSICS, CAMERA_FROM_SCENE) == []
    segments = np.array(project_edges(around, INTRINSICS, CAMERA_FROM_SCENE))
    assert len(segments) == 8 and np.isfinite(segments).all()  # the far face and the four edges that lead to it
    blank = Image.new("RGB", (200, 160))
    assert np.array_equal(draw_boxes(blank, [[-3.0, 0, 0, 1, 1, 1, 0]], INTRINSICS, CAMERA_FROM_SCENE), blank)
    assert (np.array(draw_boxes(blank, [[0, 0, 0, 4, 2, 2, 0]], INTRINSICS, CAMERA_FROM_SCENE)) > 0).any()


def test_overview_of_every_kind_of_scene(tmp_path):
    data = scene()
    boxes = [
        {"center": [2, 0, 0], "size": [1, 1, 1], "yaw": 0.4, "label": "chair"},
        {"center": [1, 1, 0], "size": [0.5] * 3, "yaw": 0},
    ]
    export_scene(tmp_path, data, ["overview"], boxes)
    with Image.open(tmp_path / "overview.png") as image:
        picture = np.array(image)
    assert picture.shape[1] == 1280
    for number in range(2):
        assert (picture == box_colour(number)).all(-1).sum() > 100
    without = np.array(overview(data))
    assert not (without == box_colour(1)).all(-1).any()
    nothing = first_frame(data)
    nothing.depth_m[:] = 0
    assert overview(nothing).width == 1280


def test_plan_puts_left_of_the_first_camera_on_the_left():
    data = first_frame(scene())
    data.depth_m[:], data.rgb[:] = 2.0, 128
    data.rgb[:, :, : WIDTH // 4] = (0, 255, 0)
    data.rgb[:, :, -WIDTH // 4 :] = (0, 0, 255)
    plan = np.array(_draw_plan(data, [], 600))
    green, blue = ((plan == colour).all(-1).nonzero()[1] for colour in ((0, 255, 0), (0, 0, 255)))
    assert green.size and blue.size and green.max() < blue.min()
