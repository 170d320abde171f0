"""Known parameter counts: VGGT-1B's and LLaMA-7B's shapes, built without allocating them."""

from __future__ import annotations

import time

from vidllm.model.configuration import PRESETS, preset
from vidllm.model.modeling import VidLLMForConditionalGeneration
from vidllm.model.summary import build_on_meta, parts, total


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
