"""Exports as the programs open them that they are for: original pictures, boxes, films, recordings."""

from __future__ import annotations

import csv
import dataclasses
import json
import sys

import numpy as np
import pytest
from PIL import Image
from test_export import FRAMES, scene

from vidllm.export import EXPORTERS, export_scene
from vidllm.io.files import InputError
from vidllm.io.video import load_frames, original_pictures

BOXES = [{"center": [1.0, 0.5, -1.0], "size": [1.0, 2.0, 0.5], "yaw": 0.3, "score": 0.5, "label": 'a "red", table'},
         {"center": [2.0, 0.0, 0.0], "size": [0.4, 0.4, 0.4], "yaw": 0.0, "label": ""}]  # fmt: skip


def with_originals(**changes):
    """A scene whose original pictures of 56 x 96 pixels hold their own columns; see `processed_from_original`."""
    pictures = np.zeros((FRAMES, 56, 96, 3), np.uint8)
    pictures[..., 0] = np.arange(96)
    return dataclasses.replace(scene(), originals=lambda: iter(pictures), **changes)


def test_original_pictures_are_those_of_the_source(tmp_path):
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (5, 31, 40, 3), dtype=np.uint8)
    for number, rgb in enumerate(pictures):
        Image.fromarray(rgb).save(tmp_path / f"{number}.png")
    frames = load_frames(tmp_path, 3, shorter_side=14, patch_size=14)
    read = list(original_pictures(frames.source, frames.indices.tolist()))
    assert np.array_equal(np.stack(read), pictures[[0, 2, 4]])


def test_colmap_has_the_original_pictures_and_points_on_their_pixels(tmp_path):
    data = with_originals()
    EXPORTERS["colmap"](tmp_path / "c", data)
    assert np.asarray(Image.open(tmp_path / "c" / "images" / "frame_000000.png"))[0, :, 0].tolist() == list(range(96))
    line = (tmp_path / "c" / "sparse" / "0" / "cameras.txt").read_text().splitlines()[1].split()
    assert line[1:4] == ["PINHOLE", "96", "56"]
    assert list(map(float, line[4:])) == pytest.approx([80, 82, 48, 28])  # twice the focal length; 2 * (21 + 3), 2 * 14
    pycolmap = pytest.importorskip("pycolmap", reason="pycolmap is not installed")
    model = pycolmap.Reconstruction(tmp_path / "c" / "sparse" / "0")
    errors = [
        np.linalg.norm(image.project_point(model.points3D[point.point3D_id].xyz) - point.xy)
        for image in model.images.values() for point in image.points2D
    ]  # fmt: skip
    assert len(errors) == int(data.valid.sum()) and max(errors) < 0.01


def test_nerfstudio_has_depth_where_the_original_pictures_show_it(tmp_path):
    data = with_originals()
    EXPORTERS["nerfstudio"](tmp_path / "n", data)
    frame = json.loads((tmp_path / "n" / "transforms.json").read_text())["frames"][1]
    assert (frame["w"], frame["h"], frame["cx"]) == (96, 56, 48)
    depth = np.asarray(Image.open(tmp_path / "n" / frame["depth_file_path"]))
    assert depth.shape == (56, 96) and not depth[:, :6].any() and not depth[:, 90:].any()  # 3 pixels were cut off: 6
    expected = np.repeat(np.repeat(data.depth_m[1], 2, 0), 2, 1)[2:] * 1000
    np.testing.assert_allclose(depth[2:, 6:90], expected, atol=0.51)


def test_a_video_that_has_changed_is_refused(tmp_path):
    few = dataclasses.replace(scene(), originals=lambda: iter(np.zeros((1, 56, 96, 3), np.uint8)))
    other = dataclasses.replace(scene(), originals=lambda: iter(np.zeros((FRAMES, 50, 96, 3), np.uint8)))
    for data, message in ((few, "1 of 4 frames"), (other, "another size")):
        with pytest.raises(InputError, match=message):
            EXPORTERS["colmap"](tmp_path / "c", data)
    assert not list(tmp_path.iterdir())


def test_boxes_as_json_csv_ply_and_in_glb(tmp_path):
    folder, glb = export_scene(tmp_path, scene(), ["boxes", "glb"], BOXES)
    told = json.loads((folder / "boxes.json").read_text())["boxes"]
    assert [box["label"] for box in told] == ['a "red", table', ""] and told[0]["size"] == [1.0, 2.0, 0.5]
    with (folder / "boxes.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows[0]["label"] == 'a "red", table' and float(rows[0]["yaw"]) == 0.3 and rows[1]["score"] == ""
    trimesh = pytest.importorskip("trimesh", reason="trimesh is not installed")
    vertices = [line.split()[:3] for line in (folder / "boxes.ply").read_text().splitlines()[14:30]]
    low = np.array(vertices, float)[8:].min(0)
    assert low == pytest.approx([1.8, -0.2, -0.2])
    names = list(trimesh.load(glb).geometry)
    assert names == ["points", "cameras", '1 a "red", table', "2"]


def test_npz_reads_back(tmp_path):
    data = scene()
    EXPORTERS["npz"](tmp_path / "d.npz", data)
    with np.load(tmp_path / "d.npz", allow_pickle=False) as read:
        assert np.array_equal(read["depth_m"], data.depth_m, equal_nan=True)
        assert np.array_equal(read["extrinsics"], data.extrinsics) and read["original_size"].tolist() == [56, 96]


@pytest.mark.slow
def test_the_film_shows_every_frame_and_a_turn(tmp_path):
    EXPORTERS["mp4"](tmp_path / "a.mp4", scene(), boxes=BOXES)
    frames = load_frames(tmp_path / "a.mp4", None, shorter_side=28)
    assert len(frames) == 2 * FRAMES + 60 and frames.original_size == (426, 640)


def test_rerun_reads_the_recording(tmp_path):
    pytest.importorskip("rerun", reason="rerun-sdk is not installed")
    reader = pytest.importorskip("rerun.chunk", reason="this rerun-sdk has no reader of recordings")
    EXPORTERS["rrd"](tmp_path / "a.rrd", scene(), boxes=BOXES)
    chunks = list(reader.RrdReader(str(tmp_path / "a.rrd")).stream())
    paths = {chunk.entity_path for chunk in chunks}
    assert {"/scene/points", "/scene/boxes", "/scene/camera", "/scene/camera/view/depth"} <= paths
    (boxes,) = [chunk.to_record_batch() for chunk in chunks if chunk.entity_path == "/scene/boxes"]
    half = np.ravel(boxes.column("Boxes3D:half_sizes")[0].as_py()).tolist()
    assert half == pytest.approx([0.5, 1, 0.25, 0.2, 0.2, 0.2])


def test_without_rerun_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "rerun", None)
    with pytest.raises(ValueError, match=r"vidllm\[rerun\]"):
        EXPORTERS["rrd"](tmp_path / "a.rrd", scene())
