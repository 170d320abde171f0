"""Frames are exactly the ones asked for, and the pixel map leads back, whatever the container does."""

from __future__ import annotations

import warnings
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from films import HEIGHT, WIDTH, add_silence, film, number_of, numbers, picture
from PIL import Image

from vidllm.io import film as film_reader
from vidllm.io.atomic import OutputError
from vidllm.io.files import InputError
from vidllm.io.film_scan import Scan, open_film
from vidllm.io.frames import frame_spec, joined, sampled_indices
from vidllm.io.video import iter_frames, load_frames, write_video


def set_display_matrix(path: Path, a: int, b: int, c: int, d: int) -> Path:
    """Write the matrix (a, b; c, d) into the track header of an MP4 file."""
    data = path.read_bytes()
    start = data.index(b"tkhd") + 44
    matrix = np.array([a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30], ">i4").tobytes()
    path.write_bytes(data[:start] + matrix + data[start + len(matrix) :])
    return path


def load(source, num_frames=32, **kw):
    return load_frames(source, num_frames, shorter_side=kw.pop("shorter_side", 84), **kw)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi", ".ts"])
@pytest.mark.parametrize("wanted", [1, 5, 32, None])
def test_frames_are_exactly_the_uniform_ones(tmp_path, suffix, wanted):
    path = film(tmp_path / f"a{suffix}", list(range(100)))
    frames = load(path, wanted)
    expected = sampled_indices(100, wanted).tolist()
    assert numbers(frames) == expected == frames.indices.tolist()
    assert torch.allclose(frames.timestamps_s, torch.tensor(expected, dtype=torch.float64) / 30, atol=2e-3)
    assert frames.images.shape == (len(expected), 3, 84, 112)
    assert frames.images.dtype == torch.float32


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_seeking_and_sequential_decoding_agree(tmp_path, suffix, monkeypatch):
    path = film(tmp_path / f"a{suffix}", list(range(120)), gop=15)
    calls = []
    original = film_reader._Cursor.seek
    monkeypatch.setattr(film_reader._Cursor, "seek", lambda *a: (calls.append(a[1]), original(*a))[1])
    seeking = load(path, 5)
    assert len(calls) == 5
    monkeypatch.setattr(Scan, "allows_seeking", lambda self: False)
    sequential = load(path, 5)
    assert torch.equal(seeking.images, sequential.images)
    assert torch.equal(seeking.indices, sequential.indices)
    assert torch.allclose(seeking.timestamps_s, sequential.timestamps_s)


def test_a_failed_seek_falls_back_to_decoding_from_the_start(tmp_path, monkeypatch):
    path = film(tmp_path / "a.mp4", list(range(60)))

    def broken(*_):
        raise film_reader.SeekFailedError

    monkeypatch.setattr(film_reader._Cursor, "seek", broken)
    assert numbers(load(path, 4)) == [0, 20, 39, 59]


def test_stream_without_timestamps(tmp_path):
    path = film(tmp_path / "a.h264", list(range(40)), format="h264")
    assert numbers(load(path, 4)) == [0, 13, 26, 39]


def test_variable_frame_rate_keeps_identity_and_times(tmp_path):
    ticks = [0, 1, 2, 10, 11, 40, 41, 42, 43, 90]
    frames = load(film(tmp_path / "a.mp4", ticks), 4)
    assert numbers(frames) == [0, 3, 6, 9]
    assert torch.allclose(frames.timestamps_s * 30, torch.tensor([0, 10, 41, 90.0]).double(), atol=0.05)


@pytest.mark.parametrize(
    ("matrix", "shown"),
    [
        ((1, 0, 0, 1), lambda image: image),
        ((0, -1, 1, 0), lambda image: np.rot90(image)),
        ((-1, 0, 0, -1), lambda image: np.rot90(image, 2)),
        ((0, 1, -1, 0), lambda image: np.rot90(image, -1)),
        ((-1, 0, 0, 1), lambda image: image[:, ::-1]),
        ((0, 1, 1, 0), lambda image: image.transpose(1, 0, 2)),
    ],
)
def test_display_matrix(tmp_path, matrix, shown):
    frames = load(set_display_matrix(film(tmp_path / "a.mp4", list(range(3))), *matrix), 3)
    upright = shown(picture(2)).astype(np.float32) / 255
    assert frames.original_size == upright.shape[:2]
    uv = torch.tensor([[8.5, 70.5], [30.5, 20.5], [60.5, 60.5], [90.5, 30.5]])
    processed = frames.from_original(uv)
    for (u, v), (pu, pv) in zip(uv.int().tolist(), processed.int().tolist(), strict=True):
        assert frames.images[2, :, pv, pu].mean() == pytest.approx(upright[v, u].mean(), abs=0.06)


@pytest.mark.parametrize(("degrees", "turns"), [("0", 0), ("90", -1), ("180", 2), ("270", 1)])
def test_rotate_tag_of_older_files(tmp_path, degrees, turns):
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.metadata["rotate"] = degrees
        container.mux(stream.encode(av.VideoFrame.from_ndarray(picture(5), format="rgb24")))
        container.mux(stream.encode(None))
    container, stream = open_film(path)
    with container:
        frame = next(container.decode(stream))
        array, transposed = film_reader.upright(frame.to_ndarray(format="rgb24"), frame, stream)
    shown = np.rot90(picture(5), turns)
    assert array.shape == shown.shape and transposed == bool(turns % 2)
    assert np.abs(array.astype(int) - shown).mean() < 6


def test_audio_track_is_ignored(tmp_path):
    frames = load(film(tmp_path / "a.mp4", list(range(30)), audio=True), 3)
    assert numbers(frames) == [0, 14, 29]


def test_one_frame_video(tmp_path):
    assert numbers(load(film(tmp_path / "a.mp4", [0]))) == [0]


def test_square_pixels_are_restored(tmp_path):
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(2, 1)
        container.mux(stream.encode(av.VideoFrame.from_ndarray(picture(1), format="rgb24")))
        container.mux(stream.encode(None))
    frames = load(path)
    assert frames.images.shape[-2:] == (84, 224)
    assert frames.original_size == (HEIGHT, WIDTH)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi"])
def test_cut_video_gives_its_frames_and_warns(tmp_path, suffix):
    options = {"movflags": "faststart"} if suffix == ".mp4" else {}
    whole = film(tmp_path / f"a{suffix}", list(range(200)), options=options)
    data = whole.read_bytes()
    cut = tmp_path / f"b{suffix}"
    cut.write_bytes(data[: int(len(data) * 0.6)])
    with pytest.warns(UserWarning, match="cut video"):
        frames = load(cut, None)
    assert 20 < len(frames) < 200
    assert numbers(frames) == list(range(len(frames)))


def test_whole_video_does_not_warn(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(load(film(tmp_path / "a.mkv", list(range(90)), audio=True), 2)) == 2


def test_cut_before_the_index_is_an_error(tmp_path):
    path = film(tmp_path / "a.mp4", list(range(30)))
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(InputError, match=r"a\.mp4"):
        load(path)


def test_no_video_inside(tmp_path):
    (tmp_path / "text.mp4").write_text("this is not a film\n" * 50)
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "list.mp4").write_text("#EXTM3U\n#EXTINF:1,\nother.ts\n#EXT-X-ENDLIST\n")
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        add_silence(container, 0.5)
    for name in ("text.mp4", "empty.mp4", "list.mp4", "sound.mp4", "missing.mp4"):
        with pytest.raises(InputError, match=name) as caught:
            load(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_folder_is_sorted_naturally(tmp_path):
    for number in (0, 1, 2, 9, 10, 11, 100):
        Image.fromarray(picture(number)).save(tmp_path / f"frame{number}.png")
    (tmp_path / "notes.txt").write_text("x")
    frames = load(tmp_path)
    assert numbers(frames) == [0, 1, 2, 9, 10, 11, 100]
    assert frames.names[-1] == "frame100.png"
    assert numbers(load(tmp_path, 3)) == [0, 9, 100]


def test_folder_of_different_sizes_names_both(tmp_path):
    Image.fromarray(picture(0)).save(tmp_path / "a.png")
    Image.fromarray(picture(1)[:, :100]).save(tmp_path / "b.png")
    with pytest.raises(ValueError, match=r"a\.png is 128x96, b\.png is 100x96"):
        load(tmp_path)


def test_empty_folder_and_broken_pictures(tmp_path):
    with pytest.raises(InputError, match="no picture"):
        load(tmp_path)
    (tmp_path / "a.png").write_bytes(b"not a picture")
    with pytest.raises(InputError, match=r"a\.png"):
        load(tmp_path)
    Image.fromarray(np.zeros((20, 20), np.uint16)).save(tmp_path / "a.png")
    with pytest.raises(InputError, match="16-bit"):
        load(tmp_path / "a.png")


def test_exif_orientation(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned clockwise
    Image.fromarray(picture(3)).save(tmp_path / "a.jpg", exif=exif)
    assert load(tmp_path / "a.jpg").original_size == (WIDTH, HEIGHT)


def test_arrays_tensors_and_lists_agree(tmp_path):
    array = np.stack([picture(n) for n in range(6)])
    Image.fromarray(array[3]).save(tmp_path / "3.png")
    reference = load(array, 4)
    assert numbers(reference) == sampled_indices(6, 4).tolist()
    assert torch.equal(load(array / np.float32(255), 4).images, reference.images)
    assert torch.equal(load(torch.from_numpy(array).permute(0, 3, 1, 2), 4).images, reference.images)
    mixed = [array[0], Image.fromarray(array[1]), torch.from_numpy(array[2]).permute(2, 0, 1), str(tmp_path / "3.png")]
    assert torch.equal(load(mixed).images, load(array[:4]).images)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((20, 20, 3), np.uint8), "expected shape"),
        (np.zeros((2, 20, 20, 4), np.uint8), r"\(20, 20, 4\)"),
        (np.zeros((0, 20, 20, 3), np.uint8), "no frame"),
        (np.zeros((2, 20, 20, 3), np.int64), "int64"),
        (np.full((2, 20, 20, 3), np.nan), "NaN"),
        (np.full((2, 20, 20, 3), 200.0), "divide by 255"),
        (np.full((2, 20, 20, 3), -0.5), r"\[0, 1\]"),
        ([], "no frame"),
    ],
)
def test_wrong_arrays_are_refused(array, message):
    with pytest.raises(InputError, match=message):
        load(array)


@pytest.mark.parametrize("options", [{"num_frames": 0}, {"shorter_side": 10}, {"resize": "squash"}])
def test_wrong_options_are_refused(options):
    with pytest.raises((ValueError, TypeError), match=r"num_frames|shorter_side|resize"):
        load_frames(np.zeros((1, 20, 20, 3), np.uint8), **options)


@pytest.mark.parametrize("resize", ["shorter_side", "longer_side"])
@pytest.mark.parametrize("size", [(96, 128), (128, 96), (10, 10), (333, 517), (2000, 30), (14, 14)])
def test_pixel_map_round_trip_and_patches(size, resize):
    array = np.zeros((1, *size, 3), np.uint8)
    frames = load(array, resize=resize)
    height, width = frames.images.shape[-2:]
    assert height % 14 == 0 and width % 14 == 0 and min(height, width) >= 14
    uv = torch.rand(50, 2) * torch.tensor([size[1], size[0]])
    assert torch.allclose(frames.to_original(frames.from_original(uv)), uv, atol=1e-4 * max(size))
    assert frames.affine.shape == (3, 3)
    centre = frames.from_original(torch.tensor([size[1] / 2, size[0] / 2]))
    assert torch.allclose(centre, torch.tensor([width / 2, height / 2]), atol=0.51)


def test_pixel_map_is_where_the_picture_went():
    y, x = np.mgrid[:300, :400]
    ramp = np.stack([x / 399, y / 299, 0 * x], -1)[None].astype(np.float32)
    frames = load(ramp)
    uv = torch.tensor([[20.5, 30.5], [55.5, 41.5], [90.5, 60.5]])
    original = frames.to_original(uv)
    for (u, v), (u0, v0) in zip(uv.int().tolist(), original.tolist(), strict=True):
        assert frames.images[0, 0, v, u] == pytest.approx((u0 - 0.5) / 399, abs=0.004)
        assert frames.images[0, 1, v, u] == pytest.approx((v0 - 0.5) / 299, abs=0.004)


def test_original_intrinsics_project_to_original_pixels():
    frames = load(np.zeros((1, 333, 517, 3), np.uint8))
    intrinsics = torch.tensor([[100.0, 0, 60], [0, 100, 42], [0, 0, 1]])
    ray = torch.tensor([0.1, -0.2, 1.0])
    processed, original = intrinsics @ ray, frames.original_intrinsics(intrinsics) @ ray
    assert torch.allclose(frames.to_original(processed[:2]), original[:2], atol=1e-3)


def test_paper_and_vggt_sizes():
    assert frame_spec((480, 640)).size == (518, 686)
    assert frame_spec((480, 640), resize="longer_side").size == (392, 518)
    assert frame_spec((640, 480)).size == (686, 518)


def test_8k_picture(tmp_path):
    Image.new("RGB", (7680, 4320), (10, 200, 30)).save(tmp_path / "a.bmp")
    frames = load(tmp_path / "a.bmp", shorter_side=518)
    assert frames.images.shape == (1, 3, 518, 910)
    assert frames.images[0, 1].mean() == pytest.approx(200 / 255, abs=1e-3)


def test_strip_picture_is_refused_with_a_remedy():
    with pytest.raises(InputError, match="longer_side"):
        load(np.zeros((1, 2, 20000, 3), np.uint8), shorter_side=518)


def test_written_video_reads_back(tmp_path):
    path = tmp_path / "made" / "a.mp4"
    write_video(path, np.stack([picture(n) for n in range(20)]), fps=7.5)
    frames = load(path, None)
    assert numbers(frames) == list(range(20))
    assert frames.timestamps_s[-1].item() == pytest.approx(19 / 7.5, abs=1e-3)
    assert [f.name for f in path.parent.iterdir()] == ["a.mp4"]


def test_write_video_refuses_wrong_input(tmp_path):
    with pytest.raises(ValueError, match="even sides"):
        write_video(tmp_path / "a.mp4", np.zeros((2, 15, 20, 3), np.uint8))
    with pytest.raises(ValueError, match="uint8"):
        write_video(tmp_path / "a.mp4", np.zeros((2, 16, 20, 3), np.float32))
    (tmp_path / "file").touch()
    with pytest.raises(OutputError):
        write_video(tmp_path / "file" / "a.mp4", np.zeros((2, 16, 20, 3), np.uint8))


def one_by_one(source, num_frames=None):
    return joined(list(iter_frames(source, num_frames, shorter_side=84)))


@pytest.mark.parametrize("num_frames", [None, 7])
@pytest.mark.parametrize("seekable", [True, False])
def test_frames_one_by_one_are_those_of_loading_all_at_once(tmp_path, monkeypatch, num_frames, seekable):
    if not seekable:
        monkeypatch.setattr(Scan, "allows_seeking", lambda self: False)
    path = film(tmp_path / "a.mp4", list(range(30)))
    ours, whole = one_by_one(path, num_frames), load(path, num_frames)
    assert torch.equal(ours.images, whole.images) and torch.equal(ours.timestamps_s, whole.timestamps_s)
    assert torch.equal(ours.indices, whole.indices) and ours.names == whole.names
    assert torch.equal(ours.affine, whole.affine) and ours.original_size == whole.original_size


def test_a_film_that_cannot_be_sought_on_is_decoded_on_without_repeating(tmp_path, monkeypatch):
    path, original = film(tmp_path / "a.mp4", list(range(30))), film_reader._Cursor.frame
    calls = []

    def fails_later(cursor, number):
        calls.append(number)
        if len(calls) == 5:
            raise film_reader.SeekFailedError
        return original(cursor, number)

    monkeypatch.setattr(film_reader._Cursor, "frame", fails_later)
    assert one_by_one(path).indices.tolist() == list(range(30))


def test_an_iterator_is_read_as_far_as_it_is_asked_for():
    taken = []
    pictures = (taken.append(n) or picture(n) for n in range(100))
    frames = iter_frames(pictures, shorter_side=84)
    assert [number_of(next(frames).images[0]) for _ in range(3)] == [0, 1, 2] and len(taken) == 3
    with pytest.raises(InputError, match="no known length"):
        iter_frames(iter([]), 5)


def test_what_cannot_be_read_one_by_one_is_told(tmp_path):
    (tmp_path / "empty.mp4").touch()
    for source, message in ((tmp_path / "none.mp4", "no such file"), (tmp_path / "empty.mp4", "empty")):
        with pytest.raises(InputError, match=message):
            list(iter_frames(source))
    with pytest.raises(InputError, match="frame_000000 is 8x8"):
        list(iter_frames([np.zeros((8, 8, 3), np.uint8), np.zeros((8, 9, 3), np.uint8)], shorter_side=14))
