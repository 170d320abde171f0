"""Decoded frames as ordinary pictures: interlaced ones deinterlaced, PQ (HDR10) and HLG ones as 8-bit BT.709.

1. Signal to light: PQ's curve gives cd/m2 (BT.2100 table 4). HLG's inverse OETF gives scene light, and the OOTF
   with gamma 1.2 the light of a display of 1000 cd/m2 (BT.2100 table 5).
2. Light of 203 cd/m2 is the white of an SDR video (BT.2408).
3. BT.2020 or P3 primaries to BT.709 by a matrix in linear light; colours outside are clipped.
4. Highlights: below 0.96 of white nothing changes; above it the largest component m becomes
   0.96 + 0.04 t / (1 + t) with t = (m - 0.96) / 0.04, and the other two keep their ratio to it, so that a lamp
   keeps its colour.
5. Light to SDR signal with a gamma of 2.3, between sRGB's 2.2 and BT.1886's 2.4: videos are made for either, and
   the result is within 0.012 of both.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import av
import av.filter
import numpy as np
from jaxtyping import Float, UInt8

PQ, HLG = 16, 18  # transfer characteristics, ITU-T H.273
WHITE_CD_M2 = 203.0
SDR_GAMMA = 2.3
_HLG_PEAK_CD_M2, _HLG_GAMMA = 1000.0, 1.2
_KNEE = 0.96
_ROWS = 8  # rows at a time, so that they stay in the processor's cache
_LUMA_2020 = np.array([0.2627, 0.6780, 0.0593], np.float32)
_BT709_FROM = {
    9: np.array([[1.660491, -0.587641, -0.072850], [-0.124550, 1.132900, -0.008349], [-0.018151, -0.100579, 1.118730]]),
    12: np.array([[1.224940, -0.224940, 0.0], [-0.042057, 1.042057, 0.0], [-0.019638, -0.078636, 1.098274]]),
    1: np.eye(3),
}  # primaries of H.273: BT.2020, P3 with D65, BT.709


def is_hdr(transfer: int) -> bool:
    """Whether a transfer characteristic (H.273) is PQ or HLG."""
    return transfer in (PQ, HLG)


def sdr_picture(frame: Any, transfer: int, primaries: int) -> UInt8[np.ndarray, "H W 3"]:
    """The SDR picture of a decoded PQ or HLG frame (`av.VideoFrame`); unknown primaries are taken for BT.2020."""
    matrix = 9 if frame.colorspace in (2, 9, 10) else frame.colorspace  # unspecified counts as BT.2020
    other = 5 if matrix == 1 else 1  # older PyAV heeds the one only beside another; RGB has none
    signal = frame.to_ndarray(format="rgb48le", src_colorspace=matrix, dst_colorspace=other)
    return tone_map(signal, transfer, primaries)


def tone_map(signal: Any, transfer: int, primaries: int = 9) -> UInt8[np.ndarray, "H W 3"]:
    """Map a PQ or HLG signal `(H, W, 3)`, uint16 over its full range, to an SDR picture, as the module describes."""
    matrix = _BT709_FROM.get(primaries, _BT709_FROM[9]).astype(np.float32)
    curve, encode = _light_curve(transfer), _sdr_curve()
    out = np.empty(signal.shape, np.uint8)
    for start in range(0, len(signal), _ROWS):
        rows = np.ascontiguousarray(signal[start : start + _ROWS].reshape(-1, 3).T)
        light = matrix @ _display_light(curve[rows], transfer)
        light *= _compression(light.max(0))
        np.clip(light, 0, 1, out=light)
        codes = (np.sqrt(light, out=light) * 65535 + 0.5).astype(np.uint16)
        out[start : start + _ROWS] = encode[codes].T.reshape(-1, *signal.shape[1:])
    return out


def _display_light(light: Float[np.ndarray, "3 N"], transfer: int) -> Float[np.ndarray, "3 N"]:
    """Light of a display in units of SDR white: HLG's scene light through the OOTF, PQ as it is."""
    if transfer == HLG:
        light *= (_LUMA_2020 @ light) ** np.float32(_HLG_GAMMA - 1) * np.float32(_HLG_PEAK_CD_M2 / WHITE_CD_M2)
    return light


def _compression(largest: Float[np.ndarray, " N"]) -> Float[np.ndarray, " N"] | float:
    """The factor that brings each pixel's largest component below 1 (step 4 of the module)."""
    if float(largest.max()) <= _KNEE:
        return 1.0
    excess = np.maximum(largest - _KNEE, 0) / (1 - _KNEE)
    return np.where(excess > 0, (_KNEE + (1 - _KNEE) * excess / (1 + excess)) / np.maximum(largest, _KNEE), 1)


@cache
def _light_curve(transfer: int) -> Float[np.ndarray, " 65536"]:
    """Light for each 16-bit signal: PQ in units of SDR white, HLG as scene light in [0, 1]."""
    signal = np.linspace(0, 1, 65536)
    if transfer == HLG:
        a, b, c = 0.17883277, 0.28466892, 0.55991073
        return np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12).astype(np.float32)
    m1, m2, c1, c2, c3 = 2610 / 16384, 2523 / 32, 3424 / 4096, 2413 / 128, 2392 / 128
    power = signal ** (1 / m2)
    return (10000 / WHITE_CD_M2 * (np.maximum(power - c1, 0) / (c2 - c3 * power)) ** (1 / m1)).astype(np.float32)


@cache
def _sdr_curve() -> UInt8[np.ndarray, " 65536"]:
    """The 8-bit signal for each 16-bit square root of light."""
    return (np.linspace(0, 1, 65536) ** (2 / SDR_GAMMA) * 255).round().astype(np.uint8)


# ---- interlaced frames ---------------------------------------------------------------------------------------------


def deinterlaced(
    frame: av.VideoFrame, before: Callable[[], av.VideoFrame | None], after: Callable[[], av.VideoFrame | None]
) -> av.VideoFrame:
    """The picture of a frame's first field, the lines of the other field interpolated; other frames unchanged.

    The neighbours in presentation order are asked for only where the frame is interlaced; None at the ends of a video.
    """
    if not frame.interlaced_frame:
        return frame
    neighbours = [before(), frame, after()]
    graph = av.filter.Graph()
    source = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base)
    graph.link_nodes(source, graph.add("bwdif", "mode=send_frame:deint=all"), graph.add("buffersink")).configure()
    for neighbour in neighbours:
        if neighbour is not None and _alike(neighbour, frame):
            graph.push(neighbour)
    graph.push(None)
    wanted = 0 if neighbours[0] is None or not _alike(neighbours[0], frame) else 1
    for _ in range(wanted):
        graph.pull()
    picture = graph.pull()
    assert isinstance(picture, av.VideoFrame)
    return picture


def _alike(one: av.VideoFrame, other: av.VideoFrame) -> bool:
    return (one.width, one.height, one.format.name) == (other.width, other.height, other.format.name)
