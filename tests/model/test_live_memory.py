"""Bytes counted on tensors without storage are those of a real run; the paper's size fits a 24 GB GPU with 4 bits."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from helpers import micro_config

from vidllm.model.configuration import preset
from vidllm.model.cost import Extent, extent_of
from vidllm.model.live_memory import Kernels, LiveBytes, memory, shortened, vision_memory
from vidllm.model.modeling import VidLLMForConditionalGeneration
from vidllm.model.summary import build_on_meta


def test_bytes_live_and_die():
    with LiveBytes() as bytes_:
        a = torch.zeros(1000)
        b = a[:10] + 1
        assert (bytes_.live, bytes_.peak) == (4040, 4040)  # a view has no bytes of its own
        del a
        bytes_.restart()
        c = b.double()
    assert (bytes_.live, bytes_.peak, len(c)) == (120, 120, 10)


@torch.no_grad()
def test_shapes_alone_need_what_a_real_run_needs():
    config = preset("tiny")
    real, found = VidLLMForConditionalGeneration(config), []
    for network, kernels in ((build_on_meta(config), Kernels()), (real, nullcontext())):
        model = network.eval().bfloat16()
        pixels = torch.rand(1, 2, 3, 56, 70, device=next(model.parameters()).device, dtype=torch.bfloat16)
        with kernels, LiveBytes([*model.parameters(), *model.buffers(), pixels]) as bytes_:
            features = model.see(pixels)
            model.relative_depth(model.locate(features), features.image_size)
        found.append(bytes_.peak)
    assert found[0] == pytest.approx(found[1], rel=0.02)


@pytest.mark.slow
def test_a_shorter_model_needs_as_much():
    config = micro_config()
    config.encoder.depth = config.attention.depth = 9
    config.encoder.tap_layers = config.dense_head.tap_layers = (2, 4, 6, 8)
    assert shortened(config).encoder.depth == 8
    config.encoder.tap_layers = config.dense_head.tap_layers = (1, 4, 5, 8)
    short = shortened(config)
    assert (short.encoder.depth, short.encoder.tap_layers, short.attention.depth) == (7, (1, 3, 4, 6), 7)
    extent = Extent(4, 28, 42)
    assert vision_memory(short, extent) == vision_memory(config, extent)


@pytest.mark.slow
def test_frames_bound_the_memory_of_the_video():
    config = preset("tiny")
    one, two = (vision_memory(config, Extent(frames, 56, 70)) for frames in (8, 16))
    assert [row.name for row in one] == [row.name for row in two]
    assert 1.9 < two[1].peak / one[1].peak < 2.1  # attention: nothing grows with the square of frames
    assert two[2].peak < 1.5 * one[2].peak  # the head takes 8 frames at a time


@pytest.mark.slow
def test_the_papers_size_with_four_bits_stays_under_24_gigabytes():
    config = preset("paper")
    extent = extent_of(config, 32)
    small = dict(memory(config, extent, "int4"))
    assert small["peak of the whole"] < 12e9
    assert small["weights: language model, int4"] == pytest.approx(4.2e9, rel=0.02)
    assert list(small)[-1] == "peak of the whole"
    assert replace(extent, frames=2).patches == 2 * 37 * 49
