"""Folders and files of pictures: the order of names, files of several pictures, and nothing passed over in silence."""

from __future__ import annotations

import io
import os
import time
import warnings

import pytest
import torch
from films import numbers, picture
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vidllm.cli import main
from vidllm.io import pictures
from vidllm.io.files import InputError
from vidllm.io.frames import MAX_PATCHES
from vidllm.io.pictures import natural_order
from vidllm.io.video import iter_frames, load_frames


def load(source, num_frames=None):
    return load_frames(source, num_frames, shorter_side=84)


def save_all(path, count=6, **options):
    first, *others = [Image.fromarray(picture(n)) for n in range(count)]
    first.save(path, save_all=True, append_images=others, **options)
    return path


def in_order(names):
    return [names[i] for i in natural_order(names)]


@pytest.mark.parametrize(
    "names",
    [
        ["0.1.png", "0.15.png", "0.2.png", "0.25.png", "1.0.png", "10.5.png"],
        ["-2.png", "-1.png", "0.png", "1.png"],
        ["1e-05.png", "0.001.png", "0.1.png"],
        ["1305031452.79.png", "1305031452.8235.png"],
        ["rgb_0.1.png", "rgb_0.15.png", "rgb_0.2.png"],
        ["frame-1.png", "frame-2.png", "frame-10.png"],
        ["1.8.png", "1.9.png", "1.10.png", "1.11.png"],
        ["frame_9.png", "frame_10.png", "other_1.png"],
        ["12-00-05.png", "12-00-10.png", "12-01-00.png"],
        ["2 cats.png", "10 cats.png"],
    ],
)
def test_order_of_names(names):
    assert in_order(names[::-1]) == names == in_order(names)


@given(st.sets(st.floats(-1e6, 1e12, allow_nan=False, allow_subnormal=False), min_size=1, max_size=20))
def test_names_as_python_writes_floats_are_sorted_by_value(values):
    ordered = sorted(set(map(float, values)))
    names = [f"{value}.png" for value in ordered]
    unsigned = {value + 0.0 for value in ordered}  # -0.0 and 0.0 are one time
    if len(unsigned) == len(ordered):
        assert in_order(names[::-1]) == names


@given(st.sets(st.integers(0, 10**20), min_size=1), st.sampled_from(["", "frame_", "a b", "x.y-"]))
def test_whole_numbers_are_sorted_by_value(values, prefix):
    names = [f"{prefix}{value}.jpg" for value in sorted(values)]
    assert in_order(names[::-1]) == names


@pytest.mark.parametrize(
    ("name", "options", "times"),
    [
        ("a.webp", {"lossless": True, "duration": 100}, [0.1 * n for n in range(6)]),
        ("a.png", {"duration": 100}, [0.1 * n for n in range(6)]),
        ("a.gif", {"duration": 100}, [0.1 * n for n in range(6)]),
        ("a.tiff", {}, list(range(6))),
    ],
)
def test_every_picture_of_a_file_is_a_frame(tmp_path, name, options, times):
    frames = load(save_all(tmp_path / name, **options))
    assert numbers(frames) == list(range(6)) == frames.indices.tolist()
    assert torch.allclose(frames.timestamps_s, torch.tensor(times, dtype=torch.float64), atol=1e-6)
    assert numbers(load(tmp_path / name, 3)) == [0, 2, 5]
    assert [int(one.indices[0]) for one in iter_frames(tmp_path / name, shorter_side=84)] == list(range(6))


def test_both_pictures_of_a_stereo_photograph_are_frames(tmp_path):
    assert numbers(load(save_all(tmp_path / "a.mpo", 2))) == [0, 1]


def test_a_file_of_several_in_a_folder_is_said(tmp_path):
    save_all(tmp_path / "a.webp", duration=100)
    Image.fromarray(picture(7)).save(tmp_path / "b.png")
    with pytest.warns(UserWarning, match=r"a\.webp: holds 6 pictures"):
        assert len(load(tmp_path)) == 2


def test_a_thumbnail_behind_a_photograph_is_no_frame(tmp_path):
    small = Image.fromarray(picture(1)).resize((32, 24))
    Image.fromarray(picture(3)).save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[small])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert numbers(load(tmp_path / "a.jpg")) == [3] and numbers(load(tmp_path)) == [3]


def test_pil_pictures_are_turned_upright_as_files_are(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(picture(3)).save(tmp_path / "a.png", exif=exif)
    with Image.open(tmp_path / "a.png") as image:
        assert torch.equal(load([image]).images, load(tmp_path / "a.png").images)
        assert load(image).original_size == (128, 96) and image.size == (128, 96)


def test_pictures_of_unread_kinds_are_named(tmp_path, monkeypatch):
    Image.fromarray(picture(0)).save(tmp_path / "0.png")
    (tmp_path / "1.dng").write_bytes(b"raw")
    with pytest.raises(InputError, match=r"1\.dng"):
        load(tmp_path)
    Image.fromarray(picture(1)).save(tmp_path / "1.png")  # the camera's own copy of 1.dng
    assert numbers(load(tmp_path)) == [0, 1]
    monkeypatch.setattr(pictures, "IMAGE_SUFFIXES", pictures.IMAGE_SUFFIXES - {".heic"})
    monkeypatch.setattr(pictures, "UNREAD_SUFFIXES", pictures.UNREAD_SUFFIXES | {".heic"})
    monkeypatch.setattr(pictures, "UNREAD_HEIF", frozenset({".heic"}))
    (tmp_path / "2.HEIC").write_bytes(b"\0\0\0\x18ftypheic")
    for source in (tmp_path, tmp_path / "2.HEIC", [tmp_path / "2.HEIC"]):
        with pytest.raises(InputError, match=r"2\.HEIC.*pillow-heif"):
            load(source)


@pytest.mark.skipif(".avif" not in pictures.IMAGE_SUFFIXES, reason="this Pillow reads no AVIF")
def test_avif(tmp_path):
    Image.fromarray(picture(5)).save(tmp_path / "a.avif", quality=90)
    assert numbers(load(tmp_path)) == [5] == numbers(load(tmp_path / "a.avif"))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_pipes_and_devices_are_refused_at_once(tmp_path):
    Image.fromarray(picture(0)).save(tmp_path / "0.png")
    os.mkfifo(tmp_path / "9.png")
    for source in (tmp_path, tmp_path / "9.png", [tmp_path / "9.png"], "/dev/zero"):
        with pytest.raises(InputError, match=r"9\.png|/dev/zero"):
            load(source)
    (tmp_path / "9.png").unlink()
    (tmp_path / "9.png").symlink_to("/dev/zero")
    with pytest.raises(InputError, match="not a file"):
        load(tmp_path)


@pytest.mark.parametrize(
    "source", [io.BytesIO(b"x"), b"film", None, 3, {"a": 1}, "https://host/a.mp4", "file:///a.mp4", "", [io.BytesIO()]]
)
def test_what_is_no_source_is_said_in_one_line(source):
    with pytest.raises(InputError) as caught:
        load(source)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 200


def test_a_url_on_the_command_line(capsys):
    assert main(["ask", "https://host/a.mp4", "what is this?"]) == 2
    assert "download" in capsys.readouterr().err


@pytest.mark.parametrize("size", [(1, 2000), (2000, 1)])
def test_strips_are_refused_within_a_second(tmp_path, size):
    Image.new("RGB", size).save(tmp_path / "a.png")
    begin = time.monotonic()
    for side in (84, 518):
        with pytest.raises(InputError, match=f"at most {MAX_PATCHES}"):
            load_frames(tmp_path / "a.png", shorter_side=side)
    assert time.monotonic() - begin < 1


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_a_damaged_file_of_several_is_named(tmp_path):
    data = save_all(tmp_path / "a.tiff").read_bytes()
    (tmp_path / "a.tiff").write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match=r"a\.tiff"):
        load(tmp_path / "a.tiff")


# ---- JPEG decoded at the size that is needed ---------------------------------------------------------------------


def test_a_large_jpeg_is_decoded_small_and_its_pixels_stay_where_they_are(tmp_path, monkeypatch):
    """As decoded whole within a few grey values, with the same map to the original pixels; turned ones too."""
    big = Image.fromarray(picture(3)).resize((1344, 1008), Image.Resampling.BICUBIC)
    exif = Image.Exif()
    exif[pictures.ORIENTATION] = 6
    big.save(tmp_path / "plain.jpg", quality=95)
    big.save(tmp_path / "turned.jpg", quality=95, exif=exif)
    for name in ("plain.jpg", "turned.jpg"):
        small, size = pictures.open_for(tmp_path / name, lambda size: (84, 112) if size[0] < size[1] else (112, 84))
        assert sorted(small.size) == [252, 336] and sorted(size) == [1008, 1344]  # a quarter: more than twice 84
        read = load(tmp_path / name)
        monkeypatch.setattr(pictures, "DRAFT_GAP", 1e9)
        whole = load(tmp_path / name)
        monkeypatch.undo()
        assert read.original_size == whole.original_size and torch.equal(read.affine, whole.affine)
        assert float((read.images - whole.images).abs().mean()) * 255 < 2
    odd = big.crop((0, 0, 1343, 1008))
    odd.save(tmp_path / "odd.jpg")
    assert pictures.open_for(tmp_path / "odd.jpg", lambda _: (84, 112))[0].size == (1343, 1008)  # no whole half


def test_what_is_rgb_and_upright_is_not_copied():
    image = Image.new("RGB", (4, 4))
    assert pictures.to_rgb(image, "it") is image and pictures.to_rgb(image.convert("L"), "it").mode == "RGB"
