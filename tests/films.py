"""Small films whose every picture says its number, for tests of reading."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch

from vidllm.io.frames import Frames

WIDTH, HEIGHT, BITS = 128, 96, 8


def picture(number: int) -> np.ndarray:
    """A grey picture whose top half carries `number` in binary, bright bars for ones."""
    image = np.full((HEIGHT, WIDTH, 3), 90, np.uint8)
    for bit in range(BITS):
        image[: HEIGHT // 2, bit * 16 : bit * 16 + 16] = 230 if number >> bit & 1 else 20
    return image


def number_of(image: torch.Tensor) -> int:
    """Read the bars of a processed frame `(3, H, W)`."""
    row = image[:, image.shape[1] // 4].mean(0)
    centres = ((torch.arange(BITS) + 0.5) / BITS * row.shape[0]).long()
    return sum(int(row[c] > 0.5) << bit for bit, c in enumerate(centres.tolist()))


def numbers(frames: Frames) -> list[int]:
    return [number_of(image) for image in frames.images]


def film(path: Path, ticks: list[int], *, gop: int = 12, audio: bool = False, **kw) -> Path:
    """Write pictures 0, 1, ... at `ticks` thirtieths of a second, with B-frames and optionally sound."""
    with av.open(str(path), "w", **kw) as container:
        stream = container.add_stream("libx264" if path.suffix != ".avi" else "mpeg4", rate=30)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.options = {"g": str(gop), "preset": "ultrafast", "bf": "2"} if path.suffix != ".avi" else {"g": str(gop)}
        if audio:
            add_silence(container, seconds=ticks[-1] / 30)
        for number, tick in enumerate(ticks):
            frame = av.VideoFrame.from_ndarray(picture(number), format="rgb24")
            frame.pts, frame.time_base = tick, Fraction(1, 30)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def add_silence(container: av.container.OutputContainer, seconds: float) -> None:
    stream = container.add_stream("aac", rate=16000, layout="mono")
    for start in range(0, int(seconds * 16000) + 1024, 1024):
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 16000, start, Fraction(1, 16000)
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))
