"""Damaged files of every reader of the datasets: a ValueError of one line that names the file, or a value."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from scannet_files import COLOUR_K, DEPTH_K, depth, picture, pose, write_mesh, write_scene

from vidllm.datasets.annotations import (
    read_multi3drefer,
    read_referit3d,
    read_scanqa,
    read_scanrefer,
    read_scene_list,
    read_sqa3d,
)
from vidllm.datasets.scannet import ScanNetScene
from vidllm.datasets.scannet_mesh import read_groups, read_label_map, read_mesh, read_segments
from vidllm.datasets.sens import SensFile, write_sens

Reader = Callable[[Path], Any]
DESCRIPTION = {
    "scene_id": "scene0000_00", "object_id": "3", "object_name": "chair", "ann_id": "0", "description": "a chair",
    "token": ["a", "chair"],
}  # fmt: skip
ANSWER = {
    "scene_id": "scene0000_00", "question_id": 1, "answers": [{"answer": "two"}],
    "position": {"x": 1, "y": 2, "z": 0}, "rotation": {"_x": 0, "_y": 0, "_z": 0, "_w": 1},
}  # fmt: skip


def every_frame(path: Path) -> None:
    file = SensFile(path)
    for frame in range(len(file)):
        file.colour(frame), file.depth_m(frame), file.pose(frame)


def scene_text(path: Path) -> None:
    scene = ScanNetScene(path.parent)
    _ = scene.axis_alignment, scene._written_intrinsics("color"), scene._written_intrinsics("depth")


def sqa3d(path: Path) -> None:
    path.with_name("answers.json").write_text(json.dumps({"annotations": [ANSWER]}))
    read_sqa3d(path, path.with_name("answers.json"))


def sqa3d_answers(path: Path) -> None:
    asked = {"scene_id": "scene0000_00", "question_id": 1, "situation": "I stand.", "question": "How many?"}
    path.with_name("questions.json").write_text(json.dumps({"questions": [asked]}))
    read_sqa3d(path.with_name("questions.json"), path)


def small_mesh() -> bytes:
    path = Path(__file__).with_name("mesh.tmp")
    try:
        write_mesh(path)
        return path.read_bytes()
    finally:
        path.unlink(missing_ok=True)


def as_json(value: Any) -> bytes:
    return json.dumps(value).encode()


NR3D = (
    b"assignmentid,stimulus_id,utterance,scan_id,target_id,tokens,mentions_target_class\n"
    b"1,scene0000_00-chair-2-3-4,the chair,scene0000_00,3,\"['the', 'chair']\",True\n"
)
FILES: dict[str, tuple[Reader, bytes]] = {
    "a_vh_clean_2.ply": (read_mesh, small_mesh()),
    "a.segs.json": (read_segments, as_json({"segIndices": [10, 10, 11]})),
    "a.aggregation.json": (read_groups, as_json({"segGroups": [{"objectId": 3, "label": "chair", "segments": [10]}]})),
    "labels.tsv": (read_label_map, b"id\traw_category\tnyu40id\n1\twall\t1\n2\tchair\t5\n"),
    "scanqa.json": (
        read_scanqa,
        as_json([{"scene_id": "s", "question_id": "q", "question": "How?", "answers": ["two"], "object_ids": [3]}]),
    ),
    "questions.json": (
        sqa3d,
        as_json({"questions": [{"scene_id": "scene0000_00", "question_id": 1, "situation": "a", "question": "b"}]}),
    ),
    "annotations.json": (sqa3d_answers, as_json({"annotations": [ANSWER]})),
    "scanrefer.json": (read_scanrefer, as_json([DESCRIPTION])),
    "multi3drefer.json": (
        read_multi3drefer,
        as_json([{"scene_id": "s", "object_ids": [1], "object_name": "a", "ann_id": 0, "eval_type": "st_w_d",
                  "description": "it"}]),
    ),
    "nr3d.csv": (read_referit3d, NR3D),
    "scenes.txt": (read_scene_list, b"scene0000_00\nscene0001_00"),
}  # fmt: skip
WORDS = (
    b"1000000000", b"-1", b"1" + b"0" * 400, b"9" * 5000, b"NaN", b"Infinity", b"1e999", b"null", b"true", b"[", b"{",
    b'"\\ud800"', b"\xff\xfe", b"\xef\xbb\xbf", b"\0", b"\r", b"<loc>", b'{"[]": 1}', b"{[]: 1}", b"'\\z'", b"--5",
    b"\t", b"list uchar int", b"double", b"property uchar x\n", b"[" * 3000,
)  # fmt: skip


@st.composite
def damage(draw: st.DrawFn) -> Callable[[bytes], bytes]:
    """One to three changes of bytes: cut, flipped, taken out, doubled, or a word written in."""
    steps = draw(
        st.lists(
            st.tuples(
                st.sampled_from(("cut", "flip", "drop", "double", "word", "number")),
                st.floats(0, 1, exclude_max=True),
                st.integers(1, 40),
                st.sampled_from(WORDS),
            ),
            min_size=1,
            max_size=3,
        )
    )
    return lambda whole: _damaged(whole, steps)


def _damaged(whole: bytes, steps: list[tuple[str, float, int, bytes]]) -> bytes:
    for kind, share, length, word in steps:
        at = int(share * len(whole))
        head, part, tail = whole[:at], whole[at : at + length], whole[at + length :]
        if kind == "number":  # a number is written over the next one
            digits = next((i for i in range(at, len(whole)) if whole[i : i + 1].isdigit()), at)
            end = next((i for i in range(digits, len(whole)) if not whole[i : i + 1].isdigit()), len(whole))
            whole = whole[:digits] + word + whole[end:]
        else:
            whole = {
                "cut": head,
                "flip": head + bytes(b ^ (1 << length % 8) for b in part[:1]) + part[1:] + tail,
                "drop": head + tail,
                "double": head + part + part + tail,
                "word": head + word + tail,
            }[kind]
    return whole


def read_or_refuse(reader: Reader, path: Path) -> str | None:
    """The message of the ValueError, None for a value; anything else is a failure of the test."""
    start = time.monotonic()
    try:
        reader(path)
        message = None
    except ValueError as error:
        message = str(error)
        assert path.name in message, message
        assert not isinstance(error, UnicodeError), message
    assert time.monotonic() - start < 10
    return message


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("damaged")


FAST = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    derandomize=True,
)  # fmt: skip


@pytest.mark.parametrize("name", FILES)
@FAST
@given(change=damage())
def test_a_damaged_file_is_named_or_read(name: str, change: Callable[[bytes], bytes], folder: Path) -> None:
    reader, whole = FILES[name]
    path = folder / name
    path.write_bytes(whole)
    assert read_or_refuse(reader, path) is None
    path.write_bytes(change(whole))
    read_or_refuse(reader, path)


@pytest.fixture(scope="module")
def recording(folder: Path) -> bytes:
    write_sens(folder / "whole.sens", ((picture(i), depth(i), pose(i)) for i in range(3)), COLOUR_K, DEPTH_K)
    return (folder / "whole.sens").read_bytes()


@FAST
@given(change=damage())
def test_a_damaged_recording_is_named_or_read(change: Callable[[bytes], bytes], recording: bytes, folder: Path) -> None:
    path = folder / "damaged.sens"
    path.write_bytes(change(recording))
    read_or_refuse(every_frame, path)


@FAST
@given(place=st.floats(0, 1, exclude_max=True), value=st.sampled_from((0, 2**31, 2**32 - 1, 2**63, 2**64 - 1)))
@example(place=0.0, value=2**64 - 1)
def test_a_recording_with_absurd_numbers_is_named(place: float, value: int, recording: bytes, folder: Path) -> None:
    at = int(place * (len(recording) - 8))
    path = folder / "absurd.sens"
    path.write_bytes(recording[:at] + struct.pack("<Q", value) + recording[at + 8 :])
    read_or_refuse(every_frame, path)


@FAST
@given(change=damage())
def test_a_damaged_scene_text_is_named_or_read(change: Callable[[bytes], bytes], folder: Path) -> None:
    scene = folder / "scans" / "scene0000_00"
    if not scene.exists():
        write_scene(folder, sens=False)
    path = scene / "scene0000_00.txt"
    whole = folder / "whole.txt"
    if not whole.exists():
        whole.write_bytes(path.read_bytes())
    path.write_bytes(change(whole.read_bytes()))
    read_or_refuse(scene_text, path)


def header_offset(whole: bytes) -> int:
    """Where the four matrices begin."""
    return 12 + struct.unpack_from("<Q", whole, 4)[0]


def sens_cases(whole: bytes) -> Iterator[tuple[str, bytes, str]]:
    start = header_offset(whole)
    first = start + 256 + 36  # the first frame's head
    sizes = first + 64 + 16
    yield "colour", whole[:sizes] + struct.pack("<Q", 10**6) + bytes(10**6 + 10**5), "bytes of colour and depth"
    yield "count", whole[: first - 8] + struct.pack("<Q", 2**63) + whole[first:], "9223372036854775808 frames in a file"
    yield "side", whole[: start + 264] + struct.pack("<I", 2**31) + whole[start + 268 :], "sizes 2147483648x24"


def test_a_record_that_is_longer_than_its_picture_can_be_is_refused(recording: bytes, folder: Path) -> None:
    for name, content, told in sens_cases(recording):
        path = folder / f"{name}.sens"
        path.write_bytes(content)
        message = read_or_refuse(every_frame, path)
        assert message is not None and told in message


@pytest.mark.parametrize("value", (np.nan, np.inf, 0.0, -30.0))
def test_intrinsics_that_are_no_lens_are_refused(tmp_path: Path, value: float) -> None:
    scene = write_scene(tmp_path, sens=False)
    (scene / "scene0000_00.txt").unlink()
    broken = COLOUR_K.copy()
    broken[0, 0] = value
    write_sens(scene / "scene0000_00.sens", [(picture(0), depth(0), pose(0))], broken, DEPTH_K)
    with pytest.raises(ValueError, match=r"scene0000_00\.sens: expected intrinsics fx 0 cx"):
        _ = ScanNetScene(scene).colour_intrinsics


def test_a_mesh_with_a_vertex_that_is_no_place_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.ply"
    write_mesh(path)
    whole = path.read_bytes()
    body = whole.index(b"end_header\n") + 11
    path.write_bytes(whole[: body + 16] + struct.pack("<f", np.nan) + whole[body + 20 :])
    with pytest.raises(ValueError, match=r"a\.ply: vertex 1 is \[nan"):
        read_mesh(path)


@pytest.mark.parametrize("count", ("1000000000", "9" * 30, "-5", "1.5"))
def test_a_mesh_with_an_absurd_count_is_refused(tmp_path: Path, count: str) -> None:
    path = tmp_path / "a.ply"
    write_mesh(path)
    path.write_bytes(path.read_bytes().replace(b"element vertex 16", b"element vertex " + count.encode()))
    with pytest.raises(ValueError, match=r"a\.ply"):
        read_mesh(path)


@pytest.mark.parametrize(
    ("numbers", "told"),
    [
        ("-1 0 0 0 0 1 0 0 0 0 1 0 0 0 0 1", "got a mirroring"),
        ("2 0 0 0 0 2 0 0 0 0 2 0 0 0 0 1", "got no rigid motion"),
        ("1 0 0 0 0 1 0 0 0 0 1 0 0 0 1 1", "got no rigid motion"),
        ("nan 0 0 0 0 1 0 0 0 0 1 0 0 0 0 1", "16 finite numbers"),
    ],
)
def test_an_alignment_that_is_no_turn_is_refused(tmp_path: Path, numbers: str, told: str) -> None:
    scene = write_scene(tmp_path, sens=False)
    (scene / "scene0000_00.txt").write_text(f"axisAlignment = {numbers}\n")
    with pytest.raises(ValueError, match=rf"scene0000_00\.txt: axisAlignment: .*{told}"):
        _ = ScanNetScene(scene).axis_alignment
