"""Recordings: what is written is read again, at any frame; what is cut or damaged is named."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from scannet_files import COLOUR_K, DEPTH_K, depth, picture, pose, write_recording

from vidllm.datasets.sens import SensFile, whole_centres, write_sens


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    path = tmp_path / "scene.sens"
    write_recording(path, 5, lost=(3,))
    return path


def test_round_trip_in_any_order(recording: Path) -> None:
    file = SensFile(recording)
    assert len(file) == 5
    assert file.header.colour_size == (24, 32) and file.header.depth_size == (12, 16)
    assert (file.header.colour_codec, file.header.depth_codec) == ("jpeg", "zlib_ushort")
    np.testing.assert_allclose(file.header.intrinsic_color, COLOUR_K)
    np.testing.assert_allclose(file.header.intrinsic_depth, DEPTH_K)
    for frame in (4, 0, 2):
        np.testing.assert_array_equal(np.rint(file.depth_m(frame) * 1000), depth(frame))
        assert np.abs(file.colour(frame).astype(int) - picture(frame)).mean() < 3
        np.testing.assert_allclose(file.pose(frame), pose(frame), rtol=1e-6)
    assert not np.isfinite(file.pose(3)).any()
    assert (np.diff(file.index.times_us) > 0).all()


def test_layout_is_the_official_one(recording: Path) -> None:
    """The bytes, field by field, as ScanNet's description has them."""
    raw = recording.read_bytes()
    version, length = struct.unpack_from("<IQ", raw)
    at = 12 + length
    assert version == 4 and raw[12:at] == b"StructureSensor"
    assert struct.unpack_from("<f", raw, at)[0] == 30.0  # intrinsic_color first
    assert struct.unpack_from("<f", raw, at + 128)[0] == 15.0  # intrinsic_depth third
    at += 256
    assert struct.unpack_from("<2i4IfQ", raw, at) == (2, 1, 32, 24, 16, 12, 1000.0, 5)
    at += 36
    for _ in range(5):
        colour, packed = struct.unpack_from("<2Q", raw, at + 80)
        assert raw[at + 96 : at + 98] == b"\xff\xd8"
        at += 96 + colour + packed
    assert raw[at:] == struct.pack("<Q", 0)


def test_index_reads_no_payload(recording: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import vidllm.datasets.sens as module

    read = module._read
    counts: list[int] = []
    monkeypatch.setattr(module, "_read", lambda file, count, *rest: counts.append(count) or read(file, count, *rest))
    file = SensFile(recording)
    assert file.index.poses.shape == (5, 4, 4)
    assert counts.count(96) == 5 and max(counts) == 292


def test_cut_anywhere_is_named(recording: Path, tmp_path: Path) -> None:
    raw = recording.read_bytes()
    index = SensFile(recording).index
    payload = int(index.offsets[2]) + 10
    cases = {8: "header", 200: "header", int(index.offsets[1]) - 50: "frame 1", payload: "frame 2"}
    for size, what in cases.items():
        path = tmp_path / f"cut{size}.sens"
        path.write_bytes(raw[:size])
        with pytest.raises(ValueError, match=rf"cut{size}\.sens: {what}.*byte {size}; the file is cut"):
            _ = SensFile(path).index


def test_damaged_payload_is_named(recording: Path, tmp_path: Path) -> None:
    index = SensFile(recording).index
    raw = bytearray(recording.read_bytes())
    start, (colour, packed) = int(index.offsets[1]), index.sizes[1]
    raw[start : start + colour + packed] = bytes(int(colour + packed))
    path = tmp_path / "damaged.sens"
    path.write_bytes(bytes(raw))
    with pytest.raises(ValueError, match=rf"damaged.sens: frame 1, byte {start}: unreadable jpeg"):
        SensFile(path).colour(1)
    with pytest.raises(ValueError, match=rf"frame 1, byte {start + colour}: unreadable zlib depth"):
        SensFile(path).depth_m(1)
    assert SensFile(path).colour(0).shape == (24, 32, 3)


def test_codecs(recording: Path, tmp_path: Path) -> None:
    raw = bytearray(recording.read_bytes())
    at = raw.index(struct.pack("<2i4I", 2, 1, 32, 24, 16, 12))

    def with_codecs(colour: int, deep: int) -> SensFile:
        raw[at : at + 8] = struct.pack("<2i", colour, deep)
        path = tmp_path / f"codec{colour}{deep}.sens"
        path.write_bytes(bytes(raw))
        return SensFile(path)

    with pytest.raises(ValueError, match=r"frame 0: raw colour: expected 2304 bytes for \(24, 32, 3\)"):
        with_codecs(0, 1).colour(0)
    with pytest.raises(ValueError, match="colour codec unknown is not one of raw, png, jpeg"):
        with_codecs(-1, 1).colour(0)
    with pytest.raises(ValueError, match="depth codec occi_ushort is not one of"):
        with_codecs(2, 2).depth_m(0)
    with pytest.raises(ValueError, match="frame 0: depth: expected 384 bytes"):
        with_codecs(2, 0).depth_m(0)


def test_raw_frames_are_read(tmp_path: Path) -> None:
    head = struct.pack("<IQ", 4, 0) + np.eye(4, dtype="<f4").tobytes() * 4
    head += struct.pack("<2i4IfQ", 0, 0, 32, 24, 16, 12, 500.0, 1)
    body = np.eye(4, dtype="<f4").tobytes() + struct.pack("<4Q", 0, 0, 2304, 384)
    path = tmp_path / "raw.sens"
    path.write_bytes(head + body + picture(1).tobytes() + depth(1).astype("<u2").tobytes())
    np.testing.assert_array_equal(SensFile(path).colour(0), picture(1))
    np.testing.assert_allclose(SensFile(path).depth_m(0), depth(1) / 500, rtol=1e-6)


def test_other_files_and_frames_are_refused(recording: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.sens"
    other.write_bytes(b"\x03" + recording.read_bytes()[1:])
    with pytest.raises(ValueError, match="version 4, got version 3"):
        SensFile(other)
    with pytest.raises(ValueError, match="no frame 5; expected 0 to 4"):
        SensFile(recording).colour(5)
    with pytest.raises(ValueError, match=r"none\.sens: does not exist"):
        SensFile(tmp_path / "none.sens")


def test_writer_refuses_and_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "bad.sens"
    good = (picture(0), depth(0), pose(0))
    bad = {
        "expected uint8": (picture(0).astype(float), depth(0), pose(0)),
        "expected uint16": (picture(0), depth(0).astype(int), pose(0)),
        "4x4 world_from_camera": (picture(0), depth(0), np.eye(3)),
        "frame 1 is": (picture(0)[:10], depth(0), pose(0)),
    }
    for message, frame in bad.items():
        with pytest.raises(ValueError, match=message):
            write_sens(path, [good, frame], COLOUR_K, DEPTH_K)
    with pytest.raises(ValueError, match="at least one frame"):
        write_sens(path, [], COLOUR_K, DEPTH_K)
    assert list(tmp_path.iterdir()) == []


def test_pixel_centres_of_the_files() -> None:
    ours = np.array([[30.0, 0, 16], [0, 30, 12], [0, 0, 1]])
    np.testing.assert_array_equal(whole_centres(ours), COLOUR_K)
