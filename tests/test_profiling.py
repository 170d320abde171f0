"""What a size costs: known parameter counts, operations of real runs and by formula, bytes of real runs."""

from __future__ import annotations

import time
from contextlib import nullcontext
from dataclasses import replace
from functools import cache

import pytest
import torch
from helpers import micro_config, micro_model, video
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from vidllm.model.generation import cache_of, run_language_model
from vidllm.model.huggingface import VidLLMForConditionalGeneration
from vidllm.model.presets import PRESETS, preset
from vidllm.profiling import (
    QUESTION_TOKENS,
    Extent,
    Kernels,
    LiveBytes,
    build_on_meta,
    cache_bytes,
    costs,
    extent_of,
    language_bytes,
    memory,
    parts,
    shortened,
    total,
    vision_memory,
    visual_tokens,
)


def counted(run):
    """Operations of a call by torch's counter; attention written out, because it does not know the CPU's kernel."""
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        result = run()
    return counter.get_total_flops(), result


# ---- parameters


@cache
def counts(name):
    return {part.name: part.parameters for part in parts(preset(name))}


def test_the_papers_size_has_the_shapes_of_its_parts():
    began = time.monotonic()
    known = counts("paper")
    assert time.monotonic() - began < 20
    assert known["encoder"] == 304_372_736  # DINOv2-L with registers as DINOv2 publishes it
    assert known["frame attention"] == known["global attention"] == 302_364_672  # VGGT-1B's blocks
    assert known["camera head"] == 216_174_610
    assert known["depth head"] == 32_654_562
    assert known["point head"] == 32_654_628
    assert known["language model"] == 6_738_415_616  # LLaMA-7B


def test_the_compact_size_shares_the_papers_geometry():
    compact, paper = counts("compact"), counts("paper")
    assert compact["language model"] == 596_049_920  # Qwen3-0.6B, tied table counted once
    assert all(compact[name] == paper[name] for name in ("encoder", "frame attention", "camera head", "depth head"))


def test_the_parts_are_the_whole_and_nothing_is_allocated():
    for name in PRESETS:
        model = build_on_meta(preset(name))
        assert {p.device.type for p in model.parameters()} == {"meta"}
        assert total(parts(preset(name))) == sum(p.numel() for p in model.parameters())


def test_the_meta_model_is_the_real_one():
    real = VidLLMForConditionalGeneration(preset("tiny"))
    assert total(parts(preset("tiny"))) == sum(p.numel() for p in real.parameters())


def test_a_part_left_out_counts_nothing():
    config = preset("tiny")
    config.dense_head.point_head = False
    config.metric_depth.enabled = False
    rows = {part.name: part for part in parts(config)}
    for name in ("point head", "metric depth model"):
        assert (rows[name].parameters, rows[name].form) == (0, "left out")


# ---- operations


def test_operations_at_the_papers_size_are_those_of_the_formulas():
    """Encoder and global blocks worked out by hand: qkv and projection 8 C^2, MLP 16 C^2, attention 4 n C a token."""
    config = preset("paper")
    told = {row.name: row.flops for row in costs(config, extent_of(config, 2))}
    width, patches = 1024, 2 * 37 * 49
    frame = patches // 2 + 5
    embed = 2 * patches * 3 * 14**2 * width
    assert told["encoder"] == embed + 24 * 2 * frame * (24 * width**2 + 4 * frame * width)
    tokens = patches + 2 * (1 + 4 + 16)
    assert told["global attention"] == 24 * tokens * (24 * width**2 + 4 * tokens * width)


def test_every_part_costs_what_torch_counts():
    config = preset("tiny")
    extent = extent_of(config, 2)
    told = {row.name: row.flops for row in costs(config, extent)}
    model = VidLLMForConditionalGeneration(config).eval().requires_grad_(False)
    pixels, known = torch.rand(1, 2, 3, extent.height, extent.width), torch.eye(3).expand(1, 2, 3, 3)
    encoder, seen = counted(lambda: model.encoder(pixels))
    adapter, _ = counted(lambda: model.adapter(seen.tokens))
    whole = model.encode(pixels)
    attention, cameras = counted(lambda: model.predict_cameras(whole))
    depth, _ = counted(lambda: model.predict_depth(cameras, whole.image_size))
    metric, _ = counted(lambda: model.predict_metric_depth(whole, known))
    assert encoder == told["encoder"] and adapter == told["cross-task adapter"]
    assert attention == told["frame attention"] + told["global attention"] + told["camera and gravity heads"]
    assert depth == told["depth head"] and metric == told["metric depth model"]


def test_the_language_model_and_the_lift():
    model = micro_model()
    config, extent = model.config, Extent(3, 28, 42)
    images = video()
    found = model.encode_scene(images)
    geometry, prefix = found.geometry, found.prefix
    seen = prefix.tokens.shape[1]
    told = {row.name: row.flops for row in costs(config, extent, seen)}
    features = model.encode(images)
    assert counted(lambda: model.build_visual_tokens(features, geometry))[0] == told["lift and projector"] + rotation(
        extent
    )
    lm = model.language_model
    first, out = counted(lambda: run_language_model(lm, inputs_embeds=prefix.tokens, use_cache=True, logits_to_keep=1))
    assert first == told["language model: scene"]
    question = torch.zeros(1, QUESTION_TOKENS, dtype=torch.long)
    cache = cache_of(out)
    asked, _ = counted(lambda: run_language_model(lm, input_ids=question, cache=cache, use_cache=True))
    assert asked == told["language model: question"]
    token, _ = counted(lambda: run_language_model(lm, input_ids=question[:, :1], cache=cache))
    assert token == told["language model: token"]


def rotation(extent):
    """Points turned into the world and into the level frame: 3 x 3 products, which the formulas leave out."""
    return 2 * 2 * 9 * extent.patches


@pytest.mark.parametrize("name", ["tiny", *(pytest.param(n, marks=pytest.mark.slow) for n in ("compact", "paper"))])
def test_the_parameters_are_the_models(name):
    config = preset(name)
    assert sum(row.parameters for row in costs(config, extent_of(config))) == total(parts(config))


def test_the_size_is_what_the_reader_makes_of_a_video():
    extent = extent_of(preset("paper"))
    assert (extent.frames, extent.height, extent.width, extent.grid) == (32, 518, 686, (37, 49))
    longer = preset("paper")
    longer.resize = "longer_side"
    assert extent_of(longer, 2).grid == (28, 37)
    assert visual_tokens(preset("paper"), extent) == 2560 + 16
    assert visual_tokens(preset("paper"), replace(extent, frames=1)) == 37 * 49 + 16
    with pytest.raises(ValueError, match="at least 1 frame"):
        extent_of(preset("tiny"), 0)


def test_bytes_of_the_language_model():
    config = preset("paper")
    whole, inner = 6_738_415_616, 32 * (4 * 4096**2 + 3 * 4096 * 11008)
    assert language_bytes(config, "bfloat16") == 2 * whole
    assert language_bytes(config, "int8") == inner + 2 * (whole - inner)
    assert language_bytes(config, "int4") == inner * 9 // 16 + 2 * (whole - inner)
    assert cache_bytes(config, 1000) == 1000 * 2 * 32 * 4096 * 2
    assert cache_bytes(preset("compact"), 1) == 2 * 28 * 8 * 128 * 2  # 8 of 16 heads have keys of their own
    with pytest.raises(ValueError, match="unknown dtype 'int3'"):
        language_bytes(config, "int3")


# ---- bytes


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
            features = model.encode(pixels)
            model.predict_depth(model.predict_cameras(features), features.image_size)
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
