"""Whatever bytes a camera file holds, a reader returns cameras or raises a ValueError of one line that names it."""

from __future__ import annotations

import io
import struct
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vidllm.io.cameras import read_intrinsics, read_poses

NAMES = ("a.txt", "a.csv", "a.npy", "a.yaml", "a.json", "cameras.bin", "images.bin", "cameras.txt", "images.txt")
NUMBERS = st.one_of(
    st.floats(), st.integers(-(10**20), 10**20),
    st.sampled_from(["nan", "-inf", "1e400", "x", "", "0", "1", "0x1", "1_0"]),
)  # fmt: skip


def _npy(array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def _camera(model, width, height, parameters):
    return struct.pack("<IiQQ", 1, model, width, height) + struct.pack(f"<{len(parameters)}d", *parameters)


SEEDS = [
    b"1 0 0 0 0 0 0 1\n2 0 0 0 0 0 0 1\n",
    b"name,tx,ty,tz,qx,qy,qz,qw\na,0,0,0,0,0,0,1\n",
    b"500 0 320\n0 500 240\n0 0 1\n",
    b"fx,fy,cx,cy,width,height\n500,500,320,240,640,480\n",
    _npy(np.tile(np.eye(4), (2, 1, 1))), _npy(np.eye(3)), _npy(np.array([500.0, 500, 320, 240])),
    b"%YAML:1.0\n---\nimage_width: 640\nimage_height: 480\ncamera_matrix: !!opencv-matrix\n   rows: 3\n   cols: 3\n"
    b"   dt: d\n   data: [5e2, 0., 320., 0., 5e2, 240., 0., 0., 1.]\n",
    b'{"fl_x": 500, "fl_y": 500, "cx": 320, "cy": 240, "w": 640, "h": 480, "frames": [{"file_path": "a.png", '
    b'"transform_matrix": [[1,0,0,0],[0,1,0,0],[0,0,1,0],[0,0,0,1]]}]}',
    b'{"frames": [{"name": "a", "timestamp_s": 0, "intrinsics_original": [[1,0,1],[0,1,1],[0,0,1]], '
    b'"scene_from_camera": [[1,0,0,0],[0,1,0,0],[0,0,1,0],[0,0,0,1]]}]}',
    struct.pack("<Q", 1) + _camera(1, 640, 480, (500, 500, 320, 240)),
    struct.pack("<Q", 1) + struct.pack("<I7dI", 1, 1, 0, 0, 0, 0, 0, 0, 1) + b"a.png\0" + struct.pack("<Q", 0),
    b"1 PINHOLE 640 480 500 500 320 240\n", b"1 1 0 0 0 0 0 0 1 a.png\n\n",
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


def check(folder: Path, name: str, content: bytes) -> None:
    for other in folder.iterdir():
        other.unlink()
    (folder / name).write_bytes(content)
    for read in (read_intrinsics, read_poses):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            try:
                read(folder / name)
            except ValueError as error:
                assert type(error) is ValueError, repr(error)
                assert "\n" not in str(error) and str(folder) in str(error), str(error)


@settings(max_examples=150, deadline=None)
@given(name=st.sampled_from(NAMES), content=st.binary(max_size=300))
def test_random_bytes(folder, name, content):
    check(folder, name, content)


@settings(max_examples=300, deadline=None)
@given(name=st.sampled_from(NAMES), seed=st.sampled_from(SEEDS), data=st.data())
def test_damaged_files(folder, name, seed, data):
    content = bytearray(seed)
    for _ in range(data.draw(st.integers(0, 3))):
        at = data.draw(st.integers(0, len(content)))
        content[at : at + data.draw(st.integers(0, 9))] = data.draw(st.binary(max_size=9))
    check(folder, name, bytes(content))


@settings(max_examples=200, deadline=None)
@given(
    name=st.sampled_from([n for n in NAMES if n.endswith((".txt", ".csv", ".yaml"))]),
    rows=st.lists(st.lists(NUMBERS, max_size=17), max_size=4), separator=st.sampled_from([" ", ",", ": ", "\t"]),
)  # fmt: skip
def test_random_lines(folder, name, rows, separator):
    check(folder, name, "\n".join(separator.join(map(str, row)) for row in rows).encode())


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.floats(), st.integers(-(10**400), 10**400), st.text(max_size=5)),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.sampled_from(
        ["frames", "transform_matrix", "file_path", "fl_x", "fl_y", "cx", "cy", "w", "h", "k1", "name", "timestamp_s",
         "intrinsics_original", "scene_from_camera", "original_size", "camera_angle_x", "camera_model", "fx", "K",
         "camera_matrix", "data", "resolution", "intrinsics", "applied_scale"]), inner, max_size=6)),
    max_leaves=12,
)  # fmt: skip


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(name=st.sampled_from(["a.json", "a.yaml"]), value=JSON)
def test_random_values_under_known_names(folder, name, value):
    import json

    check(folder, name, json.dumps(value).encode())
