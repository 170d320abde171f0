"""Scenes: three forms of frames, two sizes of pictures, aligned boxes, and what is missing or broken by name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from scannet_files import (
    OBJECTS,
    TURN,
    depth,
    picture,
    pose,
    vertices,
    write_posed_images,
    write_scene,
    write_sens_reader_export,
)

from vidllm.datasets.scannet import ScanNetScene


def test_recording(tmp_path: Path) -> None:
    scene = ScanNetScene(write_scene(tmp_path))
    assert len(scene) == 6 and len(scene) - len(scene.posed) == 1
    assert scene.uniform_frames(3).tolist() == [0, 3, 5]  # of 0 1 3 4 5
    assert scene.uniform_frames(99).tolist() == [0, 1, 3, 4, 5]
    np.testing.assert_allclose(scene.pose(1), pose(1), rtol=1e-6)
    np.testing.assert_allclose(scene.colour_intrinsics, [[30, 0, 16], [0, 30, 12], [0, 0, 1]])  # centres at +0.5
    np.testing.assert_allclose(scene.depth_intrinsics, [[15, 0, 8], [0, 15, 6], [0, 0, 1]])


def test_posed_images_without_intrinsics(tmp_path: Path) -> None:
    folder = write_scene(tmp_path, sens=False)
    write_posed_images(tmp_path / "posed_images" / "scene0000_00")
    scene = ScanNetScene(folder)
    assert list(scene.source.names) == ["00000", "00010", "00020", "00030"]
    assert len(scene) - len(scene.posed) == 1 and scene.uniform_frames(None).tolist() == [0, 2, 3]  # a NaN pose
    np.testing.assert_allclose(scene.colour_intrinsics, [[30, 0, 16], [0, 30, 12], [0, 0, 1]])  # of SCENE.txt
    np.testing.assert_array_equal(np.rint(scene.depth_m(2) * 1000), depth(2))
    assert np.abs(scene.colour(3).astype(int) - picture(3)).mean() < 3
    alone = ScanNetScene(tmp_path / "posed_images" / "scene0000_00")
    assert len(alone) == 4
    with pytest.raises(ValueError, match=r"no colour intrinsics .*SCENE.txt"):
        _ = alone.colour_intrinsics
    np.savetxt(tmp_path / "posed_images" / "scene0000_00" / "intrinsic.txt", np.diag([30.0, 30, 1, 1]) + _centre())
    alone = ScanNetScene(tmp_path / "posed_images" / "scene0000_00")
    with pytest.warns(UserWarning, match="no depth intrinsics; colour's, scaled to 16x12"):
        np.testing.assert_allclose(alone.depth_intrinsics, [[15, 0, 8], [0, 15, 6], [0, 0, 1]])


def _centre() -> np.ndarray:
    matrix = np.zeros((4, 4))
    matrix[0, 2], matrix[1, 2] = 15.5, 11.5
    return matrix


def test_sens_reader_export_sorts_by_number(tmp_path: Path) -> None:
    folder = write_scene(tmp_path, sens=False)
    write_sens_reader_export(folder)
    scene = ScanNetScene(folder)
    assert list(scene.source.names) == [str(i) for i in range(12)]
    np.testing.assert_allclose(scene.pose(10), pose(10))
    np.testing.assert_allclose(scene.depth_intrinsics[:2, 2], [8, 6])


def test_depth_on_the_colour_grid(tmp_path: Path) -> None:
    """Half the size and half the focal length: each depth pixel covers two by two colour pixels."""
    scene = ScanNetScene(write_scene(tmp_path))
    expected = np.kron(depth(1), np.ones((2, 2))) / 1000
    np.testing.assert_allclose(scene.depth_on_colour(1, expected.shape), expected, rtol=1e-6)


def test_depth_outside_the_depth_picture_is_none(tmp_path: Path) -> None:
    """Half the focal length: the depth picture reaches the middle half of each side."""
    scene = ScanNetScene(write_scene(tmp_path))
    height, width = scene.depth_m(1).shape
    grid = scene.depth_on_colour(1, (height, width), scene.depth_intrinsics * np.array([[0.5], [0.5], [1]]) + [
        [0, 0, width / 4], [0, 0, height / 4], [0, 0, 0]])  # fmt: skip
    assert grid[height // 4 : -height // 4, width // 4 : -width // 4].all()
    assert np.count_nonzero(grid) == height * width // 4


def test_boxes_in_the_aligned_frame(tmp_path: Path) -> None:
    scene = ScanNetScene(write_scene(tmp_path))
    np.testing.assert_allclose(scene.axis_alignment, TURN)
    for number, (label, low, size) in OBJECTS.items():
        item = {item.object_id: item for item in scene.instances}[number]
        centre = TURN[:3, :3] @ (np.array(low) + np.array(size) / 2) + TURN[:3, 3]
        assert item.label == label and item.vertices == 8 and item.nyu40 is None
        assert item.box is not None
        np.testing.assert_allclose(item.box, [*centre, size[1], size[0], size[2]], atol=1e-6)
    np.testing.assert_allclose(scene.aligned_vertices(), vertices() @ TURN[:3, :3].T + TURN[:3, 3], atol=1e-6)
    assert [item.object_id for item in scene.instances] == [3, 7]


def test_label_map_and_text_ids(tmp_path: Path) -> None:
    folder = write_scene(tmp_path)
    (tmp_path / "scannetv2-labels.combined.tsv").write_text(
        "id\traw_category\tcategory\tcount\tnyu40id\n2\tchair\tchair\t4357\t5\n"
    )
    path = folder / "scene0000_00.aggregation.json"
    groups = json.loads(path.read_text())
    groups["segGroups"][0]["objectId"] = "3"
    groups["segGroups"][0]["segments"] = ["10", 11]
    groups["segGroups"].append({"objectId": 9, "label": "ghost", "segments": [99]})
    path.write_text(json.dumps(groups))
    scene = ScanNetScene(folder)
    chair, other, ghost = scene.instances
    assert (chair.object_id, chair.nyu40, chair.vertices) == (3, 5, 8) and other.nyu40 is None
    assert (ghost.object_id, ghost.box, ghost.vertices) == (9, None, 0)


def test_test_scenes_have_no_alignment(tmp_path: Path) -> None:
    folder = write_scene(tmp_path)
    text = folder / "scene0000_00.txt"
    text.write_text("colorHeight = 24\n")
    np.testing.assert_array_equal(ScanNetScene(folder).axis_alignment, np.eye(4))
    text.write_text("axisAlignment = 1 0 0\n")
    with pytest.raises(ValueError, match=r"scene0000_00.txt: axisAlignment: expected 16 finite numbers, got '1 0 0'"):
        _ = ScanNetScene(folder).axis_alignment
    text.unlink()
    with pytest.raises(ValueError, match=r"scene0000_00.txt: does not exist"):
        _ = ScanNetScene(folder).axis_alignment


def test_nothing_is_read_before_it_is_asked(tmp_path: Path) -> None:
    folder = write_scene(tmp_path)
    for path in folder.iterdir():
        if path.suffix != ".txt":
            path.write_bytes(b"broken")
    scene = ScanNetScene(folder)
    assert scene.axis_alignment.shape == (4, 4)
    with pytest.raises(ValueError, match="sens"):
        len(scene)


def test_missing_and_broken_files_are_named(tmp_path: Path) -> None:
    folder = write_scene(tmp_path)
    mesh, segments = (folder / f"scene0000_00_vh_clean_2{end}" for end in (".ply", ".0.010000.segs.json"))
    whole = mesh.read_bytes()
    mesh.write_bytes(whole[:-20])
    with pytest.raises(ValueError, match=r"_vh_clean_2.ply: 4 faces need 52 bytes .* the file ends at"):
        _ = ScanNetScene(folder).instances
    mesh.write_bytes(whole)
    segments.write_text(json.dumps({"segIndices": [1, 2]}))
    with pytest.raises(ValueError, match=r"segs.json: 2 segments for the 16 vertices"):
        _ = ScanNetScene(folder).instances
    segments.write_text('{"segIndices": [1, ')
    with pytest.raises(ValueError, match=r"segs.json: not JSON at character 20"):
        _ = ScanNetScene(folder).instances
    mesh.unlink()
    with pytest.raises(ValueError, match=r"_vh_clean_2.ply: does not exist"):
        _ = ScanNetScene(folder).instances


def test_frames_missing_or_lost_are_named(tmp_path: Path) -> None:
    folder = write_scene(tmp_path, sens=False)
    with pytest.raises(ValueError, match=r"no frames \(scene0000_00.sens, color/ or posed_images"):
        _ = ScanNetScene(folder).source
    posed = tmp_path / "posed_images" / "scene0000_00"
    write_posed_images(posed, 2, lost=(0, 1))
    with pytest.raises(ValueError, match="none of its 2 frames has a finite pose"):
        ScanNetScene(folder).uniform_frames(2)
    (posed / "00010.txt").write_text("1 0 0\nx")
    with pytest.raises(ValueError, match=r"00010.txt: expected a matrix of numbers"):
        ScanNetScene(folder).pose(1)
    (posed / "00010.txt").unlink()
    with pytest.raises(ValueError, match=r"00010.txt: does not exist"):
        ScanNetScene(folder).pose(1)
    (posed / "00010.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"00010.png: not a readable depth picture"):
        ScanNetScene(folder).depth_m(1)
    with pytest.raises(ValueError, match="no such folder"):
        ScanNetScene(tmp_path / "scans" / "scene0001_00")
    shutil.rmtree(posed)


def test_intrinsics_of_another_size_are_refused(tmp_path: Path) -> None:
    folder = write_scene(tmp_path, sens=False)
    write_sens_reader_export(folder, 2)
    full = np.diag([1170.0, 1170, 1, 1])
    full[:2, 2] = 647.75, 483.75
    np.savetxt(folder / "intrinsic" / "intrinsic_color.txt", full)
    with pytest.raises(ValueError, match=r"color intrinsics have their centre at \[648.2, 484.2\].*were they resized"):
        _ = ScanNetScene(folder).colour_intrinsics
