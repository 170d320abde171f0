"""Operations counted by formula are those that torch's own counter meets; parameters and bytes are the model's."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from helpers import micro_config, micro_model, video
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from vidllm.model.configuration import preset
from vidllm.model.cost import (
    QUESTION_TOKENS,
    Extent,
    adapter_flops,
    cache_bytes,
    costs,
    extent_of,
    grounding_flops,
    language_bytes,
    visual_tokens,
)
from vidllm.model.cross_task_adapter import VARIANTS, CrossTaskAdapter
from vidllm.model.generation import cache_of, run_language_model
from vidllm.model.grounding import GroundingDecoder
from vidllm.model.modeling import VidLLMForConditionalGeneration
from vidllm.model.summary import parts, total


def counted(run):
    """Operations of a call by torch's counter; attention written out, because it does not know the CPU's kernel."""
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        result = run()
    return counter.get_total_flops(), result


def test_every_part_costs_what_torch_counts():
    config = preset("tiny")
    extent = extent_of(config, 2)
    told = {row.name: row.flops for row in costs(config, extent)}
    model = VidLLMForConditionalGeneration(config).eval().requires_grad_(False)
    pixels, known = torch.rand(1, 2, 3, extent.height, extent.width), torch.eye(3).expand(1, 2, 3, 3)
    encoder, seen = counted(lambda: model.encoder(pixels))
    adapter, _ = counted(lambda: model.adapter(seen.tokens))
    whole = model.see(pixels)
    attention, cameras = counted(lambda: model.locate(whole))
    depth, _ = counted(lambda: model.relative_depth(cameras, whole.image_size))
    metric, _ = counted(lambda: model.measure(whole, known))
    assert encoder == told["encoder"] and adapter == told["cross-task adapter"]
    assert attention == told["frame attention"] + told["global attention"] + told["camera and gravity heads"]
    assert depth == told["depth head"] and metric == told["metric depth model"]


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("per_frame", [False, True])
def test_every_variant_of_the_adapter(variant, per_frame):
    config = micro_config(adapter={"variant": variant, "bridge_per_frame": per_frame, "fuse_streams": True})
    adapter = CrossTaskAdapter(config.adapter, 24)
    found, _ = counted(lambda: adapter(torch.rand(1, 3, 6, 24)))
    assert found == adapter_flops(config, Extent(3, 28, 42))


def test_the_language_model_and_the_lift():
    model = micro_model()
    config, extent = model.config, Extent(3, 28, 42)
    images = video()
    geometry, prefix = model.encode_scene(images)
    seen = prefix.tokens.shape[1]
    told = {row.name: row.flops for row in costs(config, extent, seen)}
    features = model.see(images)
    assert counted(lambda: model.lift(features, geometry))[0] == told["lift and projector"] + rotation(extent)
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


@pytest.mark.parametrize("patches", [4, 30])
def test_the_grounding_decoder(patches):
    config = micro_config()
    decoder = GroundingDecoder(config.grounding, 24, 32)
    mask = torch.ones(1, patches, dtype=torch.bool)
    features, places, expressions = torch.rand(1, patches, 24), torch.rand(1, patches, 3), torch.rand(1, 2, 32)
    found, _ = counted(lambda: decoder(features, places, mask, expressions))
    assert found == pytest.approx(grounding_flops(config, patches, 2), rel=0.01)


@pytest.mark.parametrize("name", ["tiny", "compact", "paper"])
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
