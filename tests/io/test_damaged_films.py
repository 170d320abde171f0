"""Damage, cut ends and joins: frames keep their numbers and times, and what is wrong is said with numbers."""

from __future__ import annotations

import warnings
from pathlib import Path

import av
import numpy as np
import pytest
from films import film, numbers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vidllm.cli import explain
from vidllm.io.files import InputError
from vidllm.io.film_scan import Entry, Scan, _index, _join, _numbers_by_time, scan_film
from vidllm.io.video import iter_frames, load_frames

COUNT = 60


def load(source, num_frames=None):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        frames = load_frames(source, num_frames, shorter_side=84)
    return frames, [str(w.message) for w in caught]


def damage_packet(path: Path, number: int, *, zero: bool) -> int:
    """Overwrite the payload of one packet; the number of the picture it carries."""
    with av.open(str(path)) as container:
        packets = [(p.pos, p.size, p.pts) for p in container.demux(video=0) if p.size]
    position, size, pts = packets[number]
    data = bytearray(path.read_bytes())
    data[position + 4 : position + size] = bytes([0 if zero else 255]) * (size - 4)
    path.write_bytes(data)
    return sorted(t for _, _, t in packets).index(pts)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi"])
@pytest.mark.parametrize("zero", [True, False])
def test_a_damaged_frame_is_named_and_the_others_keep_their_numbers(tmp_path, suffix, zero):
    path = film(tmp_path / f"a{suffix}", list(range(COUNT)))
    lost = damage_packet(path, 30, zero=zero)
    frames, said = load(path)
    assert frames.indices.tolist() == [n for n in range(COUNT) if n != lost]
    assert frames.names == tuple(f"frame_{n:06d}" for n in frames.indices.tolist())
    assert np.allclose(frames.timestamps_s.numpy() * 30, frames.indices.numpy(), atol=0.05)
    assert len(said) == 1 and f"(frame {lost})" in said[0] and "1 of 60" in said[0]
    shown = dict(zip(frames.indices.tolist(), numbers(frames), strict=True))
    assert all(shown[n] == n for n in shown if n < lost or n >= 36)  # frames up to the next key frame are named
    assert f"{lost + 1}-35, up to the next key frame" in said[0]


def test_a_few_frames_are_spread_over_the_whole_ones(tmp_path):
    path = film(tmp_path / "a.mp4", list(range(COUNT)))
    damage_packet(path, 30, zero=True)
    frames, _ = load(path, 7)
    assert len(frames) == 7 and numbers(frames) == frames.indices.tolist()


def test_one_by_one_and_all_at_once_agree_on_a_damaged_film(tmp_path):
    path = film(tmp_path / "a.mp4", list(range(COUNT)))
    damage_packet(path, 30, zero=True)
    with pytest.warns(UserWarning, match="do not decode whole"):
        single = [int(frame.indices[0]) for frame in iter_frames(path, shorter_side=84)]
    assert single == load(path)[0].indices.tolist()


def test_a_packet_that_is_missing_altogether_leaves_its_number_free(tmp_path):
    path = film(tmp_path / "a.ts", list(range(COUNT)))
    data = path.read_bytes()
    with av.open(str(path)) as container:
        positions = [p.pos for p in container.demux(video=0) if p.size]
    path.write_bytes(data[: positions[30]] + data[positions[31] :])
    frames, said = load(path)
    assert len(frames) < COUNT and numbers(frames) == frames.indices.tolist()
    assert len(said) == 1 and "do not decode whole" in said[0]


@pytest.mark.parametrize("suffix", [".ts", ".mkv", ".gif", ".webm"])
def test_a_missing_end_is_said(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    codec = {".gif": ("gif", "rgb8"), ".webm": ("libvpx-vp9", "yuv420p")}.get(suffix)
    if codec is None:
        film(path, list(range(COUNT)))
    else:
        with av.open(str(path), "w") as container:
            stream = container.add_stream(codec[0], rate=30)
            stream.width, stream.height, stream.pix_fmt = 64, 48, codec[1]
            noise = np.random.default_rng(0).integers(0, 256, (20, 48, 64, 3), dtype=np.uint8)
            for array in noise:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(array, format="rgb24")))
            container.mux(stream.encode(None))
    assert load(path)[1] == []
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * 0.6) // 188 * 188 + 100])
    frames, said = load(path)
    assert 1 < len(frames) < COUNT and len(said) == 1 and "damaged or cut video" in said[0]
    assert suffix == ".gif" or "frames" in said[0]


def test_joined_recordings_run_on_with_one_message(tmp_path):
    one = film(tmp_path / "one.ts", list(range(20))).read_bytes()
    two = film(tmp_path / "two.ts", list(range(30))).read_bytes()
    (tmp_path / "a.ts").write_bytes(one + two + one)
    frames, said = load(tmp_path / "a.ts")
    assert numbers(frames) == [*range(20), *range(30), *range(20)]
    assert np.allclose(frames.timestamps_s.numpy() * 30, np.arange(70), atol=0.1)
    assert frames.indices.tolist() == list(range(70))
    assert len(said) == 1 and "start again 2 times" in said[0]
    assert load(tmp_path / "a.ts", 8)[0].indices.tolist() == [0, 10, 20, 30, 39, 49, 59, 69]


def test_a_change_of_size_is_refused_by_name(tmp_path):
    one = film(tmp_path / "one.ts", list(range(10))).read_bytes()
    with av.open(str(tmp_path / "two.ts"), "w") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = 160, 112, "yuv420p"
        for _ in range(10):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((112, 160, 3), np.uint8), format="rgb24")))
        container.mux(stream.encode(None))
    (tmp_path / "a.ts").write_bytes(one + (tmp_path / "two.ts").read_bytes())
    with pytest.raises(InputError, match=r"frame_000000 is 128x96, frame_000010 is 160x112"):
        load(tmp_path / "a.ts")


def test_tags_that_are_not_utf8(tmp_path):
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        container.metadata["title"] = "XXXXXXXX"
        stream = container.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.metadata["rotate"] = "YYYYYYYY"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")))
        container.mux(stream.encode(None))
    path.write_bytes(path.read_bytes().replace(b"XXXXXXXX", b"caf\xe9 abc").replace(b"YYYYYYYY", b"caf\xe9 xyz"))
    frames, said = load(path)
    assert len(frames) == 1 and said == []


def test_absurd_sizes_in_a_header_read_as_damage(tmp_path):
    path = film(tmp_path / "a.mp4", list(range(10)))
    data = bytearray(path.read_bytes())
    at = data.index(b"stts") + 8
    data[at : at + 4] = b"\xff" * 4
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"a\.mp4: not a readable video") as caught:
        load(path)
    assert "a.mp4" in explain(caught.value) and "memory" not in explain(caught.value)
    assert "out of memory" in explain(RuntimeError("DefaultCPUAllocator: can't allocate memory: 1 TB"))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(6, 30), min_size=1, max_size=5), st.integers(1, 3000), st.integers(0, 10**6))
def test_joined_times_run_on_by_one_frame(parts, step, begin):
    entries = [Entry(begin + step * i, begin + step * i, i == 0, False) for n in parts for i in range(n)]
    scan = Scan(entries=list(entries), rate=30.0)
    _join(scan, float(step))
    _index(scan)
    assert scan.pts == [entries[0].pts + step * i for i in range(sum(parts))]


@given(st.sets(st.integers(0, 300), min_size=8), st.integers(2, 4000))
def test_numbers_by_time_are_those_of_the_frames_that_are_left(kept, step):
    left = sorted(kept)
    found = _numbers_by_time([step * n for n in left])
    steps = np.diff(left)
    if np.median(steps) == 1:
        assert found == [n - left[0] for n in left]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return film(tmp_path_factory.mktemp("film") / "a.mp4", list(range(24)))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(position=st.integers(0, 5000), value=st.integers(0, 255), keep=st.integers(1, 6000))
def test_any_damage_is_an_input_error_or_frames_under_their_numbers(whole, position, value, keep):
    data = bytearray(whole.read_bytes())
    data[position % len(data)] = value
    path = whole.with_name("b.mp4")
    path.write_bytes(data[: max(keep, len(data) // 2)])
    try:
        frames, _ = load(path, 6)
    except InputError as error:
        assert "b.mp4" in str(error) and "\n" not in str(error)
    else:
        assert frames.indices.tolist() == sorted(set(frames.indices.tolist()))


def test_a_whole_film_is_reached_by_seeking(tmp_path):
    assert scan_film(film(tmp_path / "a.ts", list(range(30)))).allows_seeking()
