"""PQ and HLG films look as the SDR original, interlaced ones as progressive ones."""

from __future__ import annotations

from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from PIL import Image

from vidllm.io.film_frames import HLG, PQ, tone_map
from vidllm.io.film_scan import Scan
from vidllm.io.video import load_frames

BT2020_FROM_709 = np.array(
    [[0.627404, 0.329283, 0.043313], [0.069097, 0.919540, 0.011362], [0.016391, 0.088013, 0.895595]]
)


def pq_signal(nits):
    power = (nits / 10000) ** (2610 / 16384)
    return ((3424 / 4096 + 2413 / 128 * power) / (1 + 2392 / 128 * power)) ** (2523 / 32)


def hlg_signal(nits):
    """Display light to signal: the inverse OOTF of a display of 1000 cd/m2, then the OETF."""
    luma = np.maximum(nits @ [0.2627, 0.6780, 0.0593], 1e-6)[..., None]
    scene = nits / 1000 * (luma / 1000) ** (1 / 1.2 - 1)
    logarithm = 0.17883277 * np.log(np.maximum(12 * scene - 0.28466892, 1e-9)) + 0.55991073
    return np.where(scene <= 1 / 12, np.sqrt(3 * scene), logarithm)


def hdr_signal(sdr, transfer, gamma):
    """SDR pictures in [0, 1] as an HDR signal, SDR white at 203 cd/m2."""
    nits = 203 * (sdr**gamma @ BT2020_FROM_709.T)
    return (pq_signal if transfer == PQ else hlg_signal)(nits)


def write_hdr(path, signal, transfer):
    """A 10-bit film (F, H, W, 3) with BT.2020's matrix and tags."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=30)
        stream.height, stream.width = signal.shape[1:3]
        stream.pix_fmt = "yuv444p10le"
        context = stream.codec_context
        context.color_primaries, context.color_trc, context.colorspace, context.color_range = 9, transfer, 9, 1
        for number, rgb in enumerate(signal):
            luma = rgb @ [0.2627, 0.6780, 0.0593]
            planes = (64 + 876 * luma, *(512 + 896 * (rgb[..., c] - luma) / s for c, s in ((2, 1.8814), (0, 1.4746))))
            frame = av.VideoFrame(stream.width, stream.height, "yuv444p10le")
            for plane, values in zip(frame.planes, planes, strict=True):
                rows = np.zeros((plane.height, plane.line_size // 2), np.uint16)
                rows[:, : values.shape[1]] = values.round().clip(0, 1023)
                plane.update(rows.tobytes())
            frame.colorspace, frame.color_range = 9, 1
            frame.pts, frame.time_base = number, Fraction(1, 30)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


@pytest.fixture(scope="module")
def original():
    coarse = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((160, 120), Image.Resampling.BICUBIC)).copy()
    smooth[:30] = np.linspace(0, 255, 160).round()[None, :, None]
    return np.stack([smooth] * 2)


@pytest.mark.parametrize("transfer", [PQ, HLG])
@pytest.mark.parametrize("gamma", [2.2, 2.4])
def test_hdr_film_is_the_sdr_original(tmp_path, original, transfer, gamma):
    write_hdr(tmp_path / "a.mkv", hdr_signal(original / 255, transfer, gamma), transfer)
    seen = load_frames(tmp_path / "a.mkv", None, shorter_side=112)
    meant = load_frames(original, None, shorter_side=112)
    assert float((seen.images - meant.images).abs().mean()) < 0.02


@pytest.mark.parametrize("transfer", [PQ, HLG])
def test_tone_map_is_monotone_and_keeps_black_grey_and_hue(transfer):
    grey = np.linspace(0, 65535, 4096).astype(np.uint16)[None, :, None].repeat(3, -1)
    mapped = tone_map(grey, transfer)
    assert (np.diff(mapped[0].astype(int), axis=0) >= 0).all()
    assert mapped[0, 0].max() == 0 and mapped[0, -1].min() >= 253
    assert np.ptp(mapped.astype(int), axis=-1).max() <= 1
    lamp = hdr_signal(np.array([[[1.0, 0.8, 0.3]]]) * 1.5, transfer, 2.3)
    bright = tone_map((lamp * 65535).round().astype(np.uint16), transfer)[0, 0] / 255
    assert np.allclose(bright / bright[0], [1, 0.8, 0.3], atol=0.02)


def test_sdr_film_in_ten_bits_is_left_alone(tmp_path, original):
    write_hdr(tmp_path / "a.mkv", original / 255, 1)
    seen = load_frames(tmp_path / "a.mkv", None, shorter_side=112)
    assert float((seen.images - load_frames(original, None, shorter_side=112).images).abs().mean()) < 0.02


def moving(tick: int) -> np.ndarray:
    image = np.full((96, 128, 3), 60, np.uint8)
    image[16:80, 8 + 3 * tick : 40 + 3 * tick] = 220
    return image


@pytest.fixture(scope="module")
def interlaced(tmp_path_factory):
    """16 frames whose even rows show tick 2 i and whose odd rows tick 2 i + 1."""
    path = tmp_path_factory.mktemp("interlaced") / "a.ts"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg2video", rate=25)
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
        stream.options = {"g": "6", "b": "4000000"}
        stream.codec_context.flags |= 0x20000000 | 0x40000  # interlaced motion and DCT
        for number in range(12):
            woven = moving(2 * number)
            woven[1::2] = moving(2 * number + 1)[1::2]
            frame = av.VideoFrame.from_ndarray(woven, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def test_interlaced_film_is_one_field_without_combing(interlaced):
    seen = load_frames(interlaced, None, shorter_side=84)
    fields = [load_frames(np.stack([moving(2 * n + k) for n in range(12)]), None, shorter_side=84) for k in (0, 1)]
    errors = [float((seen.images - field.images).abs().mean()) for field in fields]
    assert min(errors) < 0.005 < max(errors)


def test_interlaced_frames_are_the_same_however_they_are_reached(interlaced, monkeypatch):
    whole, some = (load_frames(interlaced, count, shorter_side=84) for count in (None, 4))
    assert torch.equal(whole.images[some.indices], some.images)
    monkeypatch.setattr(Scan, "allows_seeking", lambda self: False)
    assert torch.equal(load_frames(interlaced, None, shorter_side=84).images, whole.images)
